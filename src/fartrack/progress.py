"""Progress on stderr: a bar on a terminal; elsewhere, as in a log file, a plain line now and then."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

EVERY = 30.0
"""Seconds between two plain lines, at least."""

console = Console(stderr=True, highlight=False)


class Meter:
    """How much is done and how fast."""

    def __init__(self, what: str, total: int | None, unit: str = "FPS", *, done: int = 0, live: bool = True) -> None:
        """``total`` is expected, None if that is unknown; ``done`` was done before. Unless ``live``, nothing is drawn
        between two counts, since that takes time from what is timed, and no speed is shown."""
        description = TextColumn("{task.description}", markup=False)  # brackets in a path are no markup
        speed = TextColumn(f"{{task.fields[speed]:.0f}} {unit}" if live else "")
        columns = (description, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), speed)
        self._plain = not console.is_terminal
        self._progress = Progress(*columns, console=console, transient=True, auto_refresh=live, disable=self._plain)
        self._task = self._progress.add_task(what, total=total, completed=done, speed=0.0)
        self._clock = self._said = time.perf_counter()
        self._what, self._total, self._unit, self._live = what, total, unit, live
        self.frames = self._start = done

    def __enter__(self) -> Meter:
        """Start the clock and show the bar."""
        self._clock = self._said = time.perf_counter()
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        self._progress.stop()

    @property
    def fps(self) -> float:
        """Frames per second so far, everything included."""
        return (self.frames - self._start) / max(time.perf_counter() - self._clock, 1e-9)

    def count(self) -> None:
        """One frame more is done."""
        self.reach(self.frames + 1)

    def reach(self, frames: int, total: int | None = None, what: str | None = None) -> None:
        """So many frames are done, of ``total`` and of ``what`` if these are known only now."""
        self.frames, self._total, self._what = frames, total or self._total, what or self._what
        state: dict[str, Any] = {"completed": frames, "total": self._total, "description": self._what}
        self._progress.update(self._task, refresh=not self._live, speed=self.fps, **state)
        if self._plain and time.perf_counter() - self._said >= EVERY:
            self._said = time.perf_counter()
            of = f" of {self._total}" if self._total else ""
            speed = f", {self.fps:.3g} {self._unit}" if self._live else ""
            print(f"{self._what}: {frames}{of}{speed}", file=console.file, flush=True)

    def report(self, paths: Iterable[Path | None]) -> None:
        """Say how many frames were tracked, how fast, and what was saved."""
        print(f"tracked {self.frames} frames, {self.fps:.0f} FPS with reading and writing")
        for path in paths:
            if path is not None:
                print(f"saved {path}")


def progress(items: Iterable[T], what: str) -> Iterator[T]:
    """The items, with their progress."""
    with Meter(what, len(items) if isinstance(items, Sized) else None, "a second") as meter:
        for item in items:
            yield item
            meter.count()
