"""Which engine is the fastest on this machine: measured once for a model and a number of threads, then remembered."""

from __future__ import annotations

import json
import os
import statistics
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from fartrack.cpu import cpuinfo, processor_name
from fartrack.engines.base import EngineName, open_engine
from fartrack.errors import FartrackError
from fartrack.packages import Package
from fartrack.tracking.templates import join_rows

CANDIDATES: tuple[EngineName, ...] = ("onnxruntime", "openvino")
"""PyTorch is not among them: it is the reference, and slower."""

ROUNDS, CALLS = 5, 4
"""Engines take turns, so that a machine that is busy for a moment is so for all."""


def fastest_engine(package: Package, threads: int | None = None) -> EngineName:
    """The installed engine that runs a model fastest.

    Where only one is installed, nothing is measured. Else it takes about a second, once: the answer is kept in a file
    of the user's cache folder, under the processor, the versions, the model's shape and ``threads``.
    """
    versions = installed()
    if len(versions) < 2:
        return CANDIDATES[0]
    # Virtual machines of one name may have different instructions.
    machine = f"{processor_name()} {cpuinfo('flags')} {os.cpu_count()}"
    key = f"{machine} {versions} {package.config} threads={threads}"
    remembered = recall()
    if remembered.get(key) in versions:
        return remembered[key]
    found = measure(package, versions, threads)
    remember({**remembered, key: found})
    return found


def installed() -> dict[EngineName, str]:
    """The candidates that are installed, and their versions."""
    found: dict[EngineName, str] = {}
    for name in CANDIDATES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def measure(package: Package, names: dict[EngineName, str], threads: int | None) -> EngineName:
    """The engine with the least median time of a search against a full set of templates; those that do not work here
    are passed over."""
    config = package.config
    templates = np.zeros((config.templates, config.template_size, config.template_size, 3), np.uint8)
    crop = np.zeros((1, config.search_size, config.search_size, 3), np.uint8)
    tokens = np.zeros((1, 4 * config.trajectory), np.int64)
    engines = {}
    for name in names:
        try:
            engines[name] = open_engine(package, name, threads)
        except FartrackError:
            continue
    times: dict[EngineName, list[float]] = {name: [] for name in engines}
    rows = {
        name: join_rows(engine.memorise(templates, np.zeros(len(templates), np.int64)))[None]
        for name, engine in engines.items()
    }
    for _ in range(ROUNDS):
        for name, engine in engines.items():
            for _ in range(CALLS):
                clock = time.perf_counter()
                engine.search(crop, tokens, rows[name])
                times[name].append(time.perf_counter() - clock)
    return min(times, key=lambda name: statistics.median(times[name]), default=CANDIDATES[0])


def memory_file() -> Path:
    """Where the answers are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    return Path(base) / "fartrack" / "engines.json"


def recall() -> dict[str, EngineName]:
    """The answers kept; none if there is no readable file of them."""
    try:
        kept = json.loads(memory_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def remember(answers: dict[str, EngineName]) -> None:
    """Keep the answers, if the cache folder can be written."""
    path = memory_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(answers, indent=1), encoding="utf-8")
        part.replace(path)
    except OSError:
        return
