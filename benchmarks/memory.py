"""Memory and time per frame of a long video: neither may grow with the number of frames.

python benchmarks/memory.py [--model pico] [--engine onnxruntime] [--threads N]

The demo clip is rendered once and played forward and backward. A row has the median time of the last 100 frames.
Exit code 1 if memory grew by more than 5 MB between the frame on which the template memory is full and the last.
"""

import resource
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track as progress
from rich.table import Table

from fartrack import load
from fartrack.demo import demo_frames
from fartrack.geometry import Image

MARKS = (200, 500, 1_000, 2_000, 5_000, 10_000)
FULL = 500
ALLOWED_MB = 5.0
STATM, STATUS = Path("/proc/self/statm"), Path("/proc/self/status")


def current_mb() -> float | None:
    """The memory that the process holds now; None where the system does not tell."""
    if not STATM.exists():
        return None
    return int(STATM.read_text().split()[1]) * resource.getpagesize() / 2**20


def peak_mb() -> float | None:
    """The most memory that the process has held; None where the system does not tell.

    Not ``ru_maxrss``, which on Linux counts the memory of the parent too.
    """
    if not STATUS.exists():
        return None
    return next(int(line.split()[1]) / 1024 for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))


def forward_and_backward(images: list[Image]) -> Iterator[Image]:
    """Frames without end and without a jump, starting with the second of the clip."""
    while True:
        yield from images[1:]
        yield from images[-2::-1]


def main(
    model: str = "pico",
    engine: str = "onnxruntime",
    threads: Annotated[int | None, typer.Option(help="threads of one network call")] = None,
) -> None:
    clip = list(demo_frames())
    images = [image for image, _ in clip]
    tracker = load(model, engine=engine, threads=threads)
    tracker.init(*clip[0])
    frames = forward_and_backward(images)
    rows, times = [], deque(maxlen=100)
    for number in progress(range(2, MARKS[-1] + 1), "tracking", transient=True):
        image = next(frames)
        clock = time.perf_counter()
        tracker.update(image)
        times.append(1e3 * (time.perf_counter() - clock))
        if number in MARKS:
            median = statistics.median(times)
            rows.append((number, peak_mb(), current_mb(), len(tracker.state.memory.history), median))

    console = Console()
    columns = ("frames", "peak MB", "current MB", "templates held", "ms a frame")
    table = Table(*columns, title=f"{model}, {engine}")
    for number, peak, current, templates, median in rows:
        now = "unknown" if current is None else f"{current:.1f}"
        table.add_row(str(number), f"{peak:.1f}", now, str(templates), f"{median:.1f}")
    console.print(table)
    first, last = rows[MARKS.index(FULL)], rows[-1]
    grown = max(after - before for before, after in zip(first[1:3], last[1:3], strict=True) if before is not None)
    console.print(f"from {first[0]} to {last[0]} frames memory grew by {grown:.1f} MB; {ALLOWED_MB:g} MB are allowed")
    sys.exit(grown > ALLOWED_MB)


if __name__ == "__main__":
    typer.run(main)
