"""Ten trackers at once, in threads and in forked processes, over a long video: same boxes, flat memory.

python benchmarks/soak.py [--frames 10000] [--model pico-fast]

Five threads of this process share one model, each with a tracker of its own; five forked processes get theirs from
before the fork. All see the demo clip played forth and back. Exit code 1 if any differs from a tracker alone over the
first 300 frames, or if a process grows by more than 10 MB after the tenth part of the frames.
"""

from __future__ import annotations

import copy
import multiprocessing
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from multiprocessing.connection import Connection
from typing import Annotated

import typer

import fartrack
from benchmarks.memory import current_mb, forward_and_backward
from fartrack.demo import demo_frames
from fartrack.geometry import Box, Image
from fartrack.tracking.tracker import Tracker

COUNT, COMPARED = 5, 300


def follow(tracker: Tracker, clip: list[tuple[Image, Box]], frames: int) -> tuple[list[Box], list[float]]:
    """The first boxes, and this process's megabytes after each tenth of the frames."""
    tracker.init(*clip[0])
    boxes, memory = [], []
    for number, image in enumerate(islice(forward_and_backward([image for image, _ in clip]), frames), 1):
        track = tracker.update(image)
        if number <= COMPARED:
            boxes.append(track.box)
        if number % (frames // 10) == 0:
            memory.append(current_mb() or 0.0)
    return boxes, memory


def answer(pipe: Connection, tracker: Tracker, clip: list[tuple[Image, Box]], frames: int) -> None:
    """What a forked process does."""
    pipe.send(follow(tracker, clip, frames))


def main(frames: Annotated[int, typer.Option(min=1000)] = 10_000, model: str = "pico-fast") -> None:
    clip, tracker = list(demo_frames()), fartrack.load(model, threads=1)
    expected, _ = follow(copy.deepcopy(tracker), clip, 1000)
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe() for _ in range(COUNT)]
    processes = [context.Process(target=answer, args=(theirs, tracker, clip, frames)) for _, theirs in pipes]
    for process in processes:
        process.start()
    with ThreadPoolExecutor(COUNT) as pool:
        threads = list(pool.map(lambda own: follow(own, clip, frames), [copy.deepcopy(tracker) for _ in range(COUNT)]))
    forked = [ours.recv() for ours, _ in pipes]
    for process in processes:
        process.join()
    same = sum(boxes[:COMPARED] == expected for boxes, _ in [*threads, *forked])
    print(f"{model}, {frames} frames each: the same boxes as alone in {same} of {2 * COUNT} trackers")
    grown = []
    for name, runs in (("five threads of one process", threads[:1]), ("a forked process", forked)):
        for _, memory in runs:
            grown.append(memory[-1] - memory[0])
            print(f"{name}: MB after each tenth " + " ".join(f"{value:.0f}" for value in memory))
    sys.exit(same < 2 * COUNT or max(grown) > 10)


if __name__ == "__main__":
    typer.run(main)
