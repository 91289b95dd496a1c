"""Where the time of one of our own trackers goes."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fartrack.engines.base import Engine, Floats
from fartrack.geometry import Image
from fartrack.model.cost import search_macs
from fartrack.tracking.tracker import SearchRegion, State, Tracker

BESIDE = " beside"
"""Behind the name of a stage that ran in another thread than the frame."""


@dataclass(frozen=True)
class Staged:
    """Sums over some frames.

    Attributes:
        frames: their number.
        whole: milliseconds of all updates.
        crop: of these, those to cut out the search window.
        network: those of the search passes.
        templates: those of encoding templates.
        beside: milliseconds of encoding templates in another thread, while frames went on.
        memory: template tokens attended to.
        macs: multiply-adds of the search passes, one a frame.
    """

    frames: int = 0
    whole: float = 0.0
    crop: float = 0.0
    network: float = 0.0
    templates: float = 0.0
    beside: float = 0.0
    memory: int = 0
    macs: int = 0

    @property
    def rest(self) -> float:
        """Milliseconds of everything else: decoding of tokens, bookkeeping, cutting out templates, and waiting for
        those that are encoded beside."""
        return self.whole - self.crop - self.network - self.templates

    def __add__(self, other: Staged) -> Staged:
        """The sums over both."""
        return Staged(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


class Stopwatch:
    """Adds up times by name, whatever thread they are spent in."""

    def __init__(self) -> None:
        """Start at zero; this thread is the one in which frames are tracked."""
        self._lock, self._owner = threading.Lock(), threading.get_ident()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time spent in here; that of another thread goes to ``name`` + ``BESIDE``."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - begin
            if threading.get_ident() != self._owner:
                name += BESIDE
            with self._lock:
                self._seconds[name] += seconds

    def ms(self, name: str) -> float:
        """Milliseconds so far."""
        with self._lock:
            return 1000 * self._seconds[name]


class TimedEngine:
    """An engine whose calls are timed: ``network`` and ``templates``."""

    def __init__(self, engine: Engine, watch: Stopwatch) -> None:
        """``engine`` does the work."""
        self._engine, self._watch = engine, watch
        self.config = engine.config

    def __getattr__(self, name: str) -> Any:
        """Whatever else the engine has."""
        return getattr(self._engine, name)

    def encode_templates(self, crops: Image, identities: NDArray[np.int64]) -> Floats:
        """See :class:`fartrack.engines.base.Engine`."""
        with self._watch.measure("templates"):
            return self._engine.encode_templates(crops, identities)

    def search(self, crops: Image, trajectory: NDArray[np.int64], kv_cache: Floats) -> Floats:
        """See :class:`fartrack.engines.base.Engine`."""
        with self._watch.measure("network"):
            return self._engine.search(crops, trajectory, kv_cache)

    def search_scored(self, crops: Image, trajectory: NDArray[np.int64], kv_cache: Floats) -> tuple[Floats, Floats]:
        """See :class:`fartrack.engines.base.Engine`."""
        with self._watch.measure("network"):
            return self._engine.search_scored(crops, trajectory, kv_cache)


def stage_times(tracker: Tracker, frames: Iterable[Callable[[], Image]]) -> Staged:
    """Track frames, each of which is got by a call that is not timed; the tracker is as before afterwards."""
    watch, config = Stopwatch(), tracker.engine.config
    engine, look = tracker.engine, tracker.search_region
    side = config.search_size // config.patch
    whole, count, memory, macs = 0.0, 0, 0, 0

    def timed_look(state: State, frame: Image) -> SearchRegion:
        nonlocal side
        with watch.measure("crop"):
            seen = look(state, frame)
        side = seen.crop.shape[0] // config.patch
        return seen

    tracker.engine = TimedEngine(engine, watch)
    tracker.search_region = timed_look  # type: ignore[method-assign]
    try:
        for get in frames:
            frame, state = get(), tracker.state
            begin = time.perf_counter()
            tracker.update(frame)
            whole += time.perf_counter() - begin
            tokens = attended(state)  # only now, since it waits for templates under way
            count, memory, macs = count + 1, memory + tokens, macs + search_macs(config, tokens, side)
        attended(tracker.state)
    finally:
        tracker.engine = engine
        del tracker.search_region
    crop, network, templates = (watch.ms(name) for name in ("crop", "network", "templates"))
    return Staged(count, 1000 * whole, crop, network, templates, watch.ms("templates" + BESIDE), memory, macs)


def attended(state: State | None) -> int:
    """Template tokens that the search pass after a state attends to; waits until they are there."""
    return 0 if state is None else state.memory.kv_cache.shape[-2]
