"""AO, SR50, SR75 and time a frame of a model over a folder of packed sequences (NAME.mp4 beside NAME.txt).

python benchmarks/accuracy.py DIR [--model pico] [--engine onnxruntime] [--threads N] [--interval N] ...
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track as progress
from rich.table import Table

from fartrack.engines import open_engine
from fartrack.evaluate.metrics import score_sequences
from fartrack.evaluate.runner import run_sequence
from fartrack.evaluate.sequences import packed_sequences
from fartrack.tracker import Tracker, TrackerSettings
from fartrack.weights import open_package


def main(
    folder: Path,
    model: str = "pico",
    engine: str = "onnxruntime",
    threads: Annotated[int | None, typer.Option(help="threads of one network call")] = None,
    templates: int = TrackerSettings.templates,
    interval: int = TrackerSettings.interval,
    template_score: float = TrackerSettings.template_score,
    retention: float = TrackerSettings.retention,
    per_sequence: bool = True,
) -> None:
    settings = TrackerSettings(
        templates=templates, interval=interval, template_score=template_score, retention=retention
    )
    tracker = Tracker(open_engine(open_package(model), engine, threads), settings)
    results = [run_sequence(tracker, s) for s in progress(packed_sequences(folder), "tracking", transient=True)]
    console = Console()
    if per_sequence:
        table = Table(
            "sequence",
            "frames",
            "AO",
            "SR50",
            "SR75",
            "mean score",
            "ms a frame",
            title=f"{model} on {folder}",
        )
        for r in results:
            values = (r.ious.mean(), (r.ious > 0.5).mean(), (r.ious > 0.75).mean(), r.scores[1:].mean())
            ms = 1000 * r.seconds / max(len(r.boxes) - 1, 1)
            table.add_row(r.name, str(len(r.boxes)), *(f"{v:.3f}" for v in values), f"{ms:.1f}")
        console.print(table)
    scores = score_sequences([r.ious for r in results])
    ms = 1000 * sum(r.seconds for r in results) / sum(len(r.boxes) - 1 for r in results)
    console.print(
        f"{scores.sequences} sequences, 95 % intervals over them: AO {scores.ao}  SR50 {scores.sr50}  "
        f"SR75 {scores.sr75}  {ms:.1f} ms a frame without decoding",
        soft_wrap=True,
        markup=False,
    )


if __name__ == "__main__":
    typer.run(main)
