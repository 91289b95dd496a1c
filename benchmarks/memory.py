"""Memory of tracking an endless video: it must not grow with the number of frames.

python benchmarks/memory.py [--model pico] [--engine onnxruntime] [--threads N]

The demo clip is rendered once and played forth and back. Exit code 1 if memory grew by more than 5 MB between the
first and the last row.
"""

import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track as progress
from rich.table import Table

from fartrack import load
from fartrack.demo import render_clip
from fartrack.geometry import Image

MARKS = (200, 1_000, 5_000)
ALLOWED_MB = 5.0
STATM = Path("/proc/self/statm")


def peak_mb() -> float:
    """The most memory that the process has held so far."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, others kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def current_mb() -> float | None:
    """The memory that the process holds now, None where the system does not tell."""
    if not STATM.exists():
        return None
    return int(STATM.read_text().split()[1]) * resource.getpagesize() / 2**20


def forth_and_back(images: list[Image]) -> Iterator[Image]:
    """Frames without end, the second of the clip first, without a jump."""
    while True:
        yield from images[1:]
        yield from images[-2::-1]


def main(
    model: str = "pico",
    engine: str = "onnxruntime",
    threads: Annotated[int | None, typer.Option(help="threads of one network call")] = None,
) -> None:
    clip = list(render_clip())
    images = [image for image, _ in clip]
    tracker = load(model, engine=engine, threads=threads)
    tracker.init(*clip[0])
    frames = forth_and_back(images)
    rows = []
    for number in progress(range(2, MARKS[-1] + 1), "tracking", transient=True):
        tracker.update(next(frames))
        if number in MARKS:
            rows.append((number, peak_mb(), current_mb(), len(tracker.state.memory.history)))

    console = Console()
    table = Table("frames", "peak MB", "current MB", "templates held", title=f"{model}, {engine}")
    for number, peak, current, templates in rows:
        table.add_row(str(number), f"{peak:.1f}", "unknown" if current is None else f"{current:.1f}", str(templates))
    console.print(table)
    first, last = rows[0], rows[-1]
    grown = max(after - before for before, after in zip(first[1:3], last[1:3], strict=True) if before is not None)
    console.print(f"from {first[0]} to {last[0]} frames memory grew by {grown:.1f} MB; {ALLOWED_MB:g} MB are allowed")
    sys.exit(grown > ALLOWED_MB)


if __name__ == "__main__":
    typer.run(main)
