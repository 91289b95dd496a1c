"""What the machine is, and what it can do at best."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from fartrack.cpu import processor_name
from fartrack.engines.onnxruntime import ort
from fartrack.evaluate.speed.workers import Worker, processors
from fartrack.version import __version__

PRODUCTS = ((212, 192, 768), (1024, 1024, 1024))
"""Rows, depth and columns of the products of matrices: one of a network's layers, and a large one."""

COPIED = 2**27
"""Bytes of the array that is copied: more than caches hold."""

SECONDS = 0.5
"""How long each of these is repeated."""


@dataclass(frozen=True)
class Machine:
    """The machine and the libraries.

    Attributes:
        processor: its name.
        cores: logical processors that this process may use.
        load: processes that were running before, on average over a minute; None if the system does not tell.
        gflops: threads → the best rate of products of matrices in single precision, 10⁹ operations a second.
        copy_gbs: 10⁹ bytes a second, read and written together, of copying a large array with one thread.
        versions: of Python and the libraries.
    """

    processor: str
    cores: int
    load: float | None
    gflops: dict[int, float]
    copy_gbs: float
    versions: dict[str, str]


class Rates:
    """Measures what a process can do at best."""

    def gflops(self) -> float:
        """The best rate of a product of float32 matrices, in 10⁹ floating-point operations a second."""
        rng = np.random.default_rng(0)
        found = []
        for rows, depth, columns in PRODUCTS:
            a, b = (rng.random(shape, np.float32) for shape in ((rows, depth), (depth, columns)))
            out = np.empty((rows, columns), np.float32)
            best = _best(partial(np.matmul, a, b, out=out))
            found.append(2e-9 * rows * depth * columns / best)
        return max(found)

    def copy_gbs(self) -> float:
        """The best rate of copying a large array, in 10⁹ bytes a second, those read and those written together."""
        source, target = np.ones(COPIED, np.uint8), np.ones(COPIED, np.uint8)
        return 2e-9 * COPIED / _best(partial(np.copyto, target, source))


def _best(call: Callable[[], object]) -> float:
    """Seconds of the fastest call."""
    end, best = time.perf_counter() + SECONDS, float("inf")
    while time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begin)
    return best


def inspect(threads: list[int]) -> Machine:
    """Measure this machine, with each number of threads in a process of its own, as trackers have them.

    Raises:
        FartrackError: such a process fails.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    rates = {}
    copying = 0.0
    for count in threads:
        with Worker("machine", Rates, count) as worker:
            rates[count] = float(worker.ask("gflops"))
            copying = copying or float(worker.ask("copy_gbs"))
    versions = {"fartrack": __version__, "python": platform.python_version(), "numpy": np.__version__}
    versions |= {"onnxruntime": ort.__version__, "opencv": cv2.__version__}
    return Machine(processor_name(), len(processors()), load, rates, copying, versions)
