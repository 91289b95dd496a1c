"""Ablations at a small equal budget: every row is trained from the same weights for the same time, then tracks.

python benchmarks/ablations.py DATA VAL --start WEIGHTS --runs DIR [--seconds 60] [--seeds 3] [--jobs 2] [--only GROUP]

DATA is a folder of prepared data, VAL one of sequences (NAME.mp4 beside NAME.txt). Every run uses one thread, and its
time is counted by the processor, so that other work beside it changes nothing. A run that is finished is not run again,
so the command goes on where it was stopped. It ends with the table as Markdown.
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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress

if TYPE_CHECKING:
    from fartrack.train.recipe import Recipe

RECIPE: dict[str, Any] = {
    "sets": 6,
    "templates": [1, 2, 3],
    "learning_rate": 1e-4,
    "new_learning_rate": 2e-4,
    "warmup": 0,
    "ema": 0.98,
    "model": {"depth": 6, "attention": "cached", "search_size": 112, "template_size": 64},
    "sampling": {"searches": 2},
}
"""What the rows have in common: six cached layers on crops of half the usual side, so that a minute teaches much."""

PHASE3 = {"share": 0.7, "frames": 12, "clips": 2, "synthetic": 0.4}
TAPS = {"first": 3, "weight": 0.1}
JOINT = {"attention": "joint", "identities": 2}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        group: rows of a group are compared with one another, and share their start weights.
        name: what is different.
        changes: to ``RECIPE``, table by table.
        settings: of the tracker that is measured.
        depth: the exit that is measured; None for the last.
        time: share of the others' time that it trains.
        paper: the paper's figure beside it, if it has one.
    """

    group: str
    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    depth: int | None = None
    time: float = 1.0
    paper: str = ""


def sparse(retention: float, **more: Any) -> dict[str, Any]:
    """Changes and settings of a row of phase 3."""
    settings = {"retention": retention, **more}
    return {"changes": {"rollout": {**PHASE3, "tracker": {"interval": 4, **settings}}}, "settings": settings}


ROWS = [
    Row("depth", "cut to 4 layers", {"model": {"depth": 4}}),
    # The others give four networks at once, of 3, 4, 5 and 6 layers.
    Row("depth", "cut to 4 layers, a quarter of the time", {"model": {"depth": 4}}, time=0.25),
    Row("depth", "layer by layer", {"distill": TAPS}, depth=4, paper="69.9 (10 of 15 layers)"),
    Row(
        "depth",
        "deep to shallow (layers 1 and 3 deleted)",
        {"distill": {"scheme": "deep-to-shallow", "delete": [1, 3], "weight": 0.1}},
        paper="67.8 (10 of 15 layers)",
    ),
    Row("depth", "layer by layer without KL", {"distill": {**TAPS, "weight": 0}}, depth=4, paper="collapses"),
    Row(
        "depth",
        "layer by layer, KL alone on the inner layers",
        {"distill": {**TAPS, "supervised": False}},
        depth=4,
        paper="drops",
    ),
    Row(
        "depth", "layer by layer, search features", {"distill": {**TAPS, "features": "search"}}, depth=4, paper="drops"
    ),
    Row("depth", "layer by layer, joint attention", {"distill": TAPS, "model": JOINT}, depth=4),
    Row(
        "depth",
        "layer by layer, joint attention, template features",
        {"distill": {**TAPS, "features": "template"}, "model": JOINT},
        depth=4,
        paper="drops",
    ),
    Row("sparsity", "no phase 3, 100 %", {}, {}, paper="70.0"),
    Row("sparsity", "no phase 3, 75 %", {}, {"retention": 0.75}),
    Row("sparsity", "sequence-level, 100 %", **sparse(1.0), paper="70.0"),
    Row("sparsity", "sequence-level, 75 %", **sparse(0.75), paper="70.6"),
    Row("sparsity", "sequence-level, 50 %", **sparse(0.5), paper="68.3"),
    Row("sparsity", "sequence-level, 25 %", **sparse(0.25), paper="67.3"),
    Row("sparsity", "sequence-level, 10 %", **sparse(0.1), paper="62.3"),
    Row("sparsity", "run-time, 75 %", **sparse(0.75, sparsification="runtime"), paper="69.5"),
    Row("sparsity", "adaptive, about 75 %", **sparse(0.75, adaptive=True)),
    Row(
        "sparsity",
        "all phases at once, 75 %",
        {"distill": TAPS, "rollout": {**PHASE3, "share": 0.3, "tracker": {"interval": 4, "retention": 0.75}}},
        {"retention": 0.75},
    ),
    *(Row("templates", f"{n} template{'s' * (n > 1)}", {"templates": [n]}, {"templates": n}) for n in (1, 2, 3, 5)),
    *(Row("trajectory", f"{n} past boxes", {"model": {"trajectory": n}}) for n in (0, 1, 3, 7)),
    Row("attention", "cached", {}),
    Row("attention", "joint", {"model": JOINT}),
    Row("minutes", "the recipe", {}),
    Row("minutes", "without the dense helper", {"loss": {"dense": 0}}),
    Row("minutes", "one-hot targets", {"loss": {"smoothing": 0}}),
    Row("minutes", "without cross-entropy", {"loss": {"cross_entropy": 0}}),
    Row("minutes", "without SIoU", {"loss": {"siou": 0}}),
    Row("minutes", "without L1", {"loss": {"l1": 0}}),
    Row("minutes", "one search crop a set", {"sets": 12, "sampling": {"searches": 1}}),
    Row("minutes", "half of the search tokens", {"stages": [{"share": 0.7, "keep": 0.5}]}),
    Row("minutes", "without copy-paste", {"sampling": {"paste": 0, "distractor": 0, "occluder": 0}}),
    Row("minutes", "without unlabelled regions", {"sampling": {"regions": 0}}),
    Row("minutes", "without clips", {"sampling": {"clips": 0}}),
    Row("minutes", "without stills", {"sampling": {"stills": 0, "regions": 0}}),
]


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested tables, those of ``changes`` laid over ``base``."""
    result = dict(base)
    for name, value in changes.items():
        result[name] = merged(result.get(name, {}), value) if isinstance(value, dict) else value
    return result


def run_one(row: Row, seed: int, data: Path, val: Path, start: Path, run: Path, seconds: float, frames: int) -> None:
    """Train and measure one run, and leave ``result.json`` in its folder."""
    import torch

    torch.set_num_threads(1)
    from fartrack.datasets.sequences import packed_sequences
    from fartrack.engines.torch import TorchEngine
    from fartrack.evaluate.metrics import PLAIN, means, measure
    from fartrack.model.encoder import FARTrack
    from fartrack.model.init_weights import start_from, without_layers
    from fartrack.tracking.tracker import Tracker, TrackerSettings
    from fartrack.train.loop import CHECKPOINT, train
    from fartrack.train.recipe import Recipe
    from fartrack.train.state import load_checkpoint

    values = merged(RECIPE, row.changes)
    model = values["model"]
    sizes = {"search_size": model["search_size"], "template_size": model["template_size"]}
    values["stages"] = [{**sizes, **stage} for stage in values.get("stages", [])]
    # The rate is constant and the averaged weights are what is measured, so that time alone ends a run.
    recipe = Recipe.from_dict({**values, "seed": seed, "decay": 0, "steps": 10**6})
    if recipe.distill.delete:  # layers fade over the first half of the steps, whose number has to be known
        recipe = replace(recipe, steps=steps_in(seconds, recipe, data, start, run / "probe"))
    clock = time.process_time()
    signal.signal(signal.SIGPROF, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    train(recipe, data, run / "train", start=start, workers=0, save_every=10**9)
    signal.setitimer(signal.ITIMER_PROF, 0)
    taken = time.process_time() - clock
    steps = load_checkpoint(run / "train" / CHECKPOINT).step

    average = load_checkpoint(run / "train" / CHECKPOINT).part("ema")
    average = without_layers(average, recipe.distill.delete)
    depth = row.depth or recipe.model.depth - len(recipe.distill.delete)
    network = FARTrack(replace(recipe.model, depth=depth))
    start_from(network, average)
    tracker = Tracker(TorchEngine(network), TrackerSettings(**{"interval": 10, **row.settings}))
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
        measured.append(measure(boxes, sequence.boxes[: len(boxes)], None, PLAIN))
    result = {
        "ao": means(measured)["ao"].mean,
        "steps": steps,
        "samples": recipe.samples(steps),
        "seconds": round(taken, 1),
    }
    (run / "result.part").write_text(json.dumps({**result, "row": asdict(row), "seed": seed}, indent=1))
    (run / "result.part").replace(run / "result.json")


def steps_in(seconds: float, recipe: "Recipe", data: Path, start: Path, run: Path, probed: int = 8) -> int:
    """How many steps of a recipe fit into a time of the processor."""
    from fartrack.train.loop import train

    clock = time.process_time()
    train(replace(recipe, steps=probed), data, run, start=start, workers=0)
    return max(round(seconds / ((time.process_time() - clock) / probed)), 2)


def report(results: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    """The table as Markdown: mean and spread (sample deviation) over seeds, and the paper's figure."""
    lines = []
    for group in dict.fromkeys(row.group for row in ROWS):
        lines += [f"\n**{group}**\n", "| | AO, mean ± deviation (seeds) | samples | paper |", "|---|---|---|---|"]
        for row in (row for row in ROWS if row.group == group):
            found = results.get((group, row.name), [])
            if not found:
                continue
            values = [result["ao"] for result in found]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            samples = round(statistics.mean(result["samples"] for result in found))
            measured = f"{statistics.mean(values):.3f}{spread} ({len(values)})"
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
        command = [sys.executable, __file__, str(data), str(val), "--start", str(start), "--runs", str(runs)]
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
