"""Where the time of a frame goes: the search passes, the template encoder, and everything else.

python benchmarks/stages.py [--model pico] [--engine onnxruntime] [--threads 1] [--frames 120]

Tracks the demo clip with timers around the engine's calls, and compares the rate of the network's multiply-adds with
the best rate of a plain matrix product on the same machine.
"""

import os
import sys
import time
from collections import defaultdict
from functools import wraps
from itertools import islice
from typing import Annotated, Any

import numpy as np
import typer

from fartrack import load
from fartrack.demo import demo_frames
from fartrack.engines.base import Engine
from fartrack.evaluate.tables import new_table, print_paragraphs
from fartrack.model.cost import search_macs


class TimedEngine:
    """An engine that adds up the seconds of its calls by method, and the multiply-adds of its search passes."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.macs = engine, 0.0
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.engine, name)
        if not callable(found):
            return found

        @wraps(found)
        def timed(*inputs: Any) -> Any:
            start = time.perf_counter()
            result = found(*inputs)
            self.seconds[name] += time.perf_counter() - start
            if name.startswith("search"):
                crops, _, memory = inputs
                rows, columns = (side // self.engine.config.patch for side in crops.shape[1:3])
                self.macs += len(crops) * search_macs(self.engine.config, memory.shape[-2], rows * columns)
            return result

        return timed


def best_product_rate(seconds: float = 0.5) -> float:
    """The best rate of a float32 matrix product, in multiply-adds per second."""
    a, b = np.ones((1024, 1024), np.float32), np.ones((1024, 1024), np.float32)
    end, best = time.perf_counter() + seconds, float("inf")
    while time.perf_counter() < end:
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 1024**3 / best


def main(
    model: str = "pico",
    engine: str = "onnxruntime",
    threads: Annotated[int, typer.Option(help="of one network call")] = 1,
    frames: Annotated[int, typer.Option(help="tracked with the clock running, after 60 others")] = 120,
) -> None:
    if os.environ.get("OMP_NUM_THREADS") != str(threads):  # read when NumPy is loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "OMP_NUM_THREADS": str(threads)})
    tracker = load(model, engine=engine, threads=threads)
    clip = list(islice(demo_frames(), 60 + frames))
    tracker.init(*clip[0])
    for image, _ in clip[1:60]:
        tracker.update(image)
    tracker.engine = timed = TimedEngine(tracker.engine)
    start = time.perf_counter()
    for image, _ in clip[60:]:
        tracker.update(image)
    whole, count = time.perf_counter() - start, len(clip) - 60
    search = sum(seconds for name, seconds in timed.seconds.items() if name.startswith("search"))
    table = new_table("ms per frame", model)
    table.add_row("search passes", f"{1000 * search / count:.2f}")
    table.add_row("crops, decoding, bookkeeping", f"{1000 * (whole - search) / count:.2f}")
    for name, seconds in timed.seconds.items():
        if not name.startswith("search"):
            table.add_row(name, f"{1000 * seconds / count:.2f}")
    table.add_row("million multiply-adds per frame", f"{timed.macs / count / 1e6:.0f}")
    table.add_row("share of the best matrix product", f"{timed.macs / search / best_product_rate():.0%}")
    print_paragraphs(table)


if __name__ == "__main__":
    typer.run(main)
