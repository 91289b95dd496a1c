"""Ablations at a small equal budget: every row is trained from the same weights for the same time, then tracks.

python -m benchmarks.ablations DATA VAL --start WEIGHTS --runs DIR [--seconds 60] [--seeds 3] [--jobs 2] [--only GROUP]

DATA is a folder of prepared data, VAL one of sequences (NAME.mp4 beside NAME.txt). Every run uses one thread, and its
time is CPU time, so that other work beside it changes little. A finished run is not run again, so the command goes on
where it was stopped. It ends with the table as Markdown.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.progress import Progress

from benchmarks.ablations.rows import RECIPE, ROWS, Row
from benchmarks.ablations.variants import DeepToShallow, delete_layers
from fartrack.config import from_dict
from fartrack.datasets.sequences import packed_sequences
from fartrack.evaluate.metrics import PLAIN, means, measure
from fartrack.files import write_whole
from fartrack.model.encoder import FARTrack
from fartrack.model.init_weights import start_from
from fartrack.tracking.settings import TrackerSettings
from fartrack.train.recipe import Recipe
from fartrack.train.state import CHECKPOINT, load_checkpoint


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested tables, those of ``changes`` laid over ``base``."""
    result = dict(base)
    for name, value in changes.items():
        result[name] = merged(result.get(name, {}), value) if isinstance(value, dict) else value
    return result


def run_one(row: Row, seed: int, data: Path, val: Path, start: Path, run: Path, seconds: float, frames: int) -> None:
    """Train and measure one run, and leave ``result.json`` in its folder."""
    torch.set_num_threads(1)
    # The rate is constant and the averaged weights are what is measured, so that time alone ends a run.
    recipe = from_dict(Recipe, {**merged(RECIPE, row.changes), "seed": seed, "decay": 0, "steps": 10**6})
    deleted: tuple[int, ...] = ()
    if issubclass(row.trainer, DeepToShallow):  # layers fade over a share of the steps, whose number has to be known
        deleted = row.trainer.delete
        recipe = replace(recipe, steps=steps_in(seconds, row, recipe, data, start, run / "probe"))
    clock = time.process_time()
    signal.signal(signal.SIGPROF, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    row.trainer(recipe, data, run / "train", start=start, workers=0, save_every=10**9).train()
    signal.setitimer(signal.ITIMER_PROF, 0)
    taken = time.process_time() - clock

    checkpoint = load_checkpoint(run / "train" / CHECKPOINT)
    network = FARTrack(replace(recipe.model, depth=row.depth or recipe.model.depth - len(deleted)))
    start_from(network, delete_layers(checkpoint.part("ema"), deleted))
    tracker = row.trainer.make_tracker(network, TrackerSettings(**{"interval": 10, **row.settings}))
    measured = []
    for sequence in packed_sequences(val):
        boxes = [sequence.boxes[0].tolist()]
        for index, frame in enumerate(sequence.frames()):
            if index == min(frames, len(sequence.boxes)):
                break
            if index == 0:
                tracker.init(frame, sequence.boxes[0])
            else:
                boxes.append(list(tracker.update(frame).box))
        measured.append(measure(np.array(boxes), sequence.boxes[: len(boxes)], None, PLAIN))
    result = {"ao": means(measured)["ao"].mean, "steps": checkpoint.step, "samples": checkpoint.samples}
    result |= {"seconds": round(taken, 1), "group": row.group, "name": row.name, "seed": seed}
    write_whole(run / "result.json", json.dumps(result, indent=1))


def steps_in(seconds: float, row: Row, recipe: Recipe, data: Path, start: Path, run: Path, probed: int = 8) -> int:
    """How many steps of a row fit into a CPU time."""
    clock = time.process_time()
    row.trainer(replace(recipe, steps=probed), data, run, start=start, workers=0).train()
    return max(round(seconds / ((time.process_time() - clock) / probed)), 2)


def report(results: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    """The table as Markdown: mean and sample deviation over seeds, and the paper's figure."""
    lines = []
    for group in dict.fromkeys(row.group for row in ROWS):
        lines += [f"\n**{group}**\n", "| | AO, mean ± deviation (seeds) | samples | paper |", "|---|---|---|---|"]
        for row in (row for row in ROWS if row.group == group):
            found = results.get((group, row.name), [])
            if not found:
                continue
            values = [result["ao"] for result in found]
            deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            samples = round(statistics.mean(result["samples"] for result in found))
            measured = f"{statistics.mean(values):.3f}{deviation} ({len(values)})"
            lines.append(f"| {row.name} | {measured} | {samples:,} | {row.paper} |")
    return "\n".join(lines)


def main(
    data: Path,
    val: Path,
    start: Annotated[Path, typer.Option(help="weights that every row starts from")],
    runs: Annotated[Path, typer.Option(help="folder that the runs go to")],
    seconds: float = 60,
    seeds: int = 3,
    jobs: Annotated[int, typer.Option(help="runs at once; 0 only prints the table of those that are finished")] = 2,
    frames: Annotated[int, typer.Option(help="frames of each sequence that are tracked")] = 30,
    only: Annotated[str | None, typer.Option(help="groups, separated by commas")] = None,
    one: Annotated[str | None, typer.Option(hidden=True, help="a run of this process: number of the row, seed")] = None,
) -> None:
    def folder(row: Row, seed: int) -> Path:
        same = next(
            other for other in ROWS if replace(row, group=other.group, name=other.name, paper=other.paper) == other
        )
        return runs / f"{ROWS.index(same):02d}-{seed}"  # what stands in several groups is run once

    if one:
        number, seed = map(int, one.split(","))
        row = ROWS[number]
        run_one(row, seed, data, val, start, folder(row, seed), seconds * row.time, frames)
        return
    groups = only.split(",") if only else [row.group for row in ROWS]
    chosen = [(row, seed) for seed in range(seeds) for row in ROWS if row.group in groups]
    folders = {folder(row, seed): (row, seed) for row, seed in chosen}
    waiting = [job for place, job in folders.items() if not (place / "result.json").exists()]

    def launch(job: tuple[Row, int]) -> None:
        row, seed = job
        shutil.rmtree(folder(row, seed), ignore_errors=True)
        command = [sys.executable, "-m", "benchmarks.ablations", str(data), str(val)]
        command += ["--start", str(start), "--runs", str(runs)]
        command += ["--seconds", str(seconds), "--frames", str(frames), "--one", f"{ROWS.index(row)},{seed}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{row.name}, seed {seed}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        progress.advance(task)

    if jobs:
        with Progress() as progress, ThreadPoolExecutor(jobs) as pool:
            task = progress.add_task("ablations", total=len(waiting))
            list(pool.map(launch, waiting))
    results: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row, seed in chosen:
        path = folder(row, seed) / "result.json"
        if path.exists():
            results.setdefault((row.group, row.name), []).append(json.loads(path.read_text()))
    print(report(results))


if __name__ == "__main__":
    typer.run(main)
