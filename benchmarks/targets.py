"""The cost of many targets: N boxes of a frame in one network call.

python benchmarks/targets.py [--model pico] [--engine onnxruntime] [--threads 1] [--counts 1,2,4,8,16,32] [--json FILE]

On the demo clip, boxes in a grid over the frame are tracked for some frames. The numbers of targets take turns, so that
other work on the machine affects all alike. Before the timing, five templates of each target are taken, as in a long
video.
"""

import json
import statistics
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track as progress
from rich.table import Table

from fartrack import MultiTracker, load
from fartrack.demo import demo_frames
from fartrack.model.cost import search_macs


def main(
    model: str = "pico",
    engine: str = "onnxruntime",
    threads: Annotated[int, typer.Option(help="of one network call")] = 1,
    counts: Annotated[str, typer.Option(help="numbers of targets, separated by commas")] = "1,2,4,8,16,32",
    rounds: Annotated[int, typer.Option(help="turns of every number")] = 5,
    frames: Annotated[int, typer.Option(help="frames of a turn")] = 4,
    output: Annotated[Path | None, typer.Option("--json", help="raw times")] = None,
) -> None:
    """Print the milliseconds of a frame, and of a target, by the number of targets."""
    tracker = load(model, engine=engine, threads=threads, interval=2)
    clip = [image for image, _ in islice(demo_frames(), 16)]
    height, width = clip[0].shape[:2]
    numbers = [int(count) for count in counts.split(",")]
    many = {}
    for count in numbers:
        many[count] = MultiTracker(tracker)
        columns = int(np.ceil(np.sqrt(count)))
        for i in range(count):
            x, y = (i % columns + 0.5) / columns * width, (i // columns + 0.5) / columns * height
            many[count].add(clip[0], (x - 30, y - 30, 60, 60))
        for image in clip[1:12]:  # every second frame gives a template, until there are five
            many[count].update(image)
    tracker.settings = replace(tracker.settings, interval=10**9)  # none is taken during the timing
    rows = {count: [state.memory.kv_cache.shape[-2] for state in many[count].states.values()] for count in numbers}
    times: dict[int, list[float]] = {count: [] for count in numbers}
    for turn in progress(range(rounds), "tracking", transient=True):
        for count in numbers if turn % 2 == 0 else numbers[::-1]:
            for image in clip[12 : 12 + frames]:
                clock = time.perf_counter()
                many[count].update(image)
                times[count].append(1e3 * (time.perf_counter() - clock))
    table = Table("targets", "ms a frame", "ms a target", "of one alone", "GMAC a target", title=f"{model}, {engine}")
    alone = statistics.median(times[numbers[0]]) / numbers[0]
    for count in numbers:
        frame = statistics.median(times[count])
        macs = search_macs(tracker.engine.config, round(statistics.mean(rows[count]))) / 1e9
        table.add_row(str(count), f"{frame:.1f}", f"{frame / count:.2f}", f"{frame / count / alone:.2f}", f"{macs:.2f}")
    Console().print(table)
    if output:
        output.write_text(json.dumps({"model": model, "engine": engine, "threads": threads, "ms": times}))


if __name__ == "__main__":
    typer.run(main)
