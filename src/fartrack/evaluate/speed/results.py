"""What was measured, what it comes to, and the tables and the JSON that say so."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from fartrack.errors import FartrackError
from fartrack.evaluate.speed.footage import Size
from fartrack.evaluate.speed.machine import Machine
from fartrack.evaluate.speed.stages import Staged
from fartrack.evaluate.speed.workers import LEAD_IN
from fartrack.evaluate.tables import new_table, print_paragraphs
from fartrack.geometry import FloatArray

LEAST_BUSY = 0.95
"""Processors that a tracker keeps busy if nothing is in its way: its first thread is always at work."""


@dataclass(frozen=True)
class Plan:
    """How much is timed.

    Attributes:
        rounds: in each of which every tracker has its turn.
        frames: of one turn that are counted; ``LEAD_IN`` more come before them.
        warm_up: frames before the first round; by default enough for five templates, 20 frames apart.
    """

    rounds: int = 5
    frames: int = 30
    warm_up: int = 100

    def __post_init__(self) -> None:
        """Check that there is something to do."""
        if self.rounds < 1 or self.frames < 1 or self.warm_up < 0:
            raise FartrackError("rounds and frames must be 1 or more, and warm_up 0 or more.")


class Spread(NamedTuple):
    """The median of some values and the quartiles below and above it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float] | FloatArray) -> Spread:
        """That of at least one value."""
        return cls(*(float(value) for value in np.percentile(values, (50, 25, 75))))

    def text(self, digits: int = 2) -> str:
        """For a table."""
        return f"{self.median:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


@dataclass(frozen=True, eq=False)
class Run:
    """One tracker with one number of threads on frames of one size. Times are milliseconds.

    Attributes:
        tracker: its name.
        threads: of the tracker, and processors that it was kept to if ``pinned``.
        size: width and height of the frames.
        pinned: whether the system kept it to so many processors.
        first_box: to open the tracker, to take the target, and for the first update.
        rounds: every counted frame of every round: the whole of ``update``, decoding excluded.
        busy: processors that were busy with the frames of each round, on average.
        peak_mb: the most memory that its process held, in MB; None where the system does not tell.
        staged: sums over the stage bursts; None for trackers that are not ours.
    """

    tracker: str
    threads: int
    size: Size
    pinned: bool
    first_box: list[float]
    rounds: list[list[float]]
    busy: list[float]
    peak_mb: float | None
    staged: Staged | None

    @property
    def frame(self) -> Spread:
        """Of all frames."""
        return Spread.of(np.concatenate(self.rounds))

    @property
    def p95(self) -> float:
        """What 95 % of the frames keep under."""
        return float(np.percentile(np.concatenate(self.rounds), 95))

    @property
    def fps(self) -> float:
        """Frames a second: all frames over their total time."""
        return 1000 / float(np.concatenate(self.rounds).mean())

    @property
    def processors(self) -> float:
        """How many were busy with it: the median of the rounds."""
        return float(np.median(self.busy))

    def ratio(self, first: Run) -> Spread:
        """How many times as long as ``first`` it takes: of the rounds, each by the medians of its frames."""
        pairs = zip(self.rounds, first.rounds, strict=True)
        return Spread.of([float(np.median(ours) / np.median(base)) for ours, base in pairs])


class Turn(NamedTuple):
    """Who was at work: burst ``kind`` is ``warm-up``, ``burst`` or ``staged``."""

    kind: str
    round: int
    tracker: str
    threads: int
    size: Size


@dataclass(frozen=True, eq=False)
class Speed:
    """All that a benchmark found.

    Attributes:
        machine: on which.
        plan: how much was timed.
        clip: the clip's name.
        frames: in it, played forth and back.
        decoding: milliseconds to decode one; None for the demo, which is rendered.
        trackers: name → what the tracker is, as :meth:`TrackerSpec.identity` has it. Ratios are to the first.
        runs: size by size, in the order of the trackers, then of the threads.
        turns: in the order in which they took place.
    """

    machine: Machine
    plan: Plan
    clip: str
    frames: int
    decoding: float | None
    trackers: Mapping[str, Any]
    runs: list[Run]
    turns: list[Turn]

    def first(self, run: Run) -> Run:
        """The run that another's ratio is to: the first tracker's, with the same threads and size."""
        return next(each for each in self.runs if (each.threads, each.size) == (run.threads, run.size))

    def stages(self, run: Run) -> dict[str, float]:
        """Milliseconds a frame of each stage, on average; none for trackers that are not ours.

        ``templates beside`` is what another thread did meanwhile, and is no part of the frame's time.
        """
        if run.staged is None:
            return {}
        staged, names = run.staged, ("crop", "network", "templates", "rest", "whole")
        found = {} if self.decoding is None else {"decoding": self.decoding}
        found |= {name: getattr(staged, name) / staged.frames for name in names}
        if staged.beside:
            found["templates beside"] = staged.beside / staged.frames
        return found

    def roofline(self, run: Run) -> float | None:
        """The rate of the network's multiply-adds over the best rate of plain products of matrices; None where there
        is none."""
        if run.staged is None or run.staged.network == 0:
            return None
        return 2 * run.staged.macs / (run.staged.network / 1000) / (1e9 * self.machine.gflops[run.threads])


# --- JSON -------------------------------------------------------------------------------------------------


def to_json(speed: Speed) -> str:
    """The raw figures and what they come to; times are milliseconds."""
    runs = []
    for run in speed.runs:
        summary = {
            "ms": run.frame._asdict(),
            "p95": run.p95,
            "fps": run.fps,
            "processors": run.processors,
            "ratio": run.ratio(speed.first(run))._asdict(),
            "first_box_ms": sum(run.first_box),
        }
        record = asdict(run) | {"first_box": dict(zip(("open", "init", "update"), run.first_box, strict=True))}
        if run.staged is not None:
            summary["stages_ms"] = speed.stages(run)
            summary["template_tokens"] = run.staged.memory / run.staged.frames
            summary["search_macs"] = run.staged.macs / run.staged.frames
            summary["roofline"] = speed.roofline(run)
        runs.append(record | {"summary": summary})
    found = {
        "machine": asdict(speed.machine),
        "plan": asdict(speed.plan) | {"lead_in": LEAD_IN},
        "clip": {"name": speed.clip, "frames": speed.frames, "decoding": speed.decoding},
        "trackers": dict(speed.trackers),
        "runs": runs,
        "turns": [turn._asdict() for turn in speed.turns],
    }
    return json.dumps(found, indent=1) + "\n"


# --- tables -----------------------------------------------------------------------------------------------


def print_speed(speed: Speed) -> None:
    """Print the machine, a table of each size, and where the time of our own trackers goes."""
    machine, plan = speed.machine, speed.plan
    rates = ", ".join(f"{rate:.0f} GFLOP/s with {threads_text(count)}" for count, rate in machine.gflops.items())
    load = "" if machine.load is None else f"; load before the start {machine.load:.1f}"
    libraries = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    print_paragraphs(
        f"{machine.processor}, {machine.cores} logical processors{load}\n"
        f"products of matrices {rates}; copying {machine.copy_gbs:.1f} GB/s\n{libraries}",
        f"{speed.clip}, {speed.frames} frames forth and back; {plan.rounds} rounds of {plan.frames} frames in turn "
        f"after {plan.warm_up} to warm up; milliseconds a frame without decoding: median [quartiles]",
        *_doubts(speed),
    )
    for size in dict.fromkeys(run.size for run in speed.runs):
        print_paragraphs(size_text(size), _frame_table(speed, [run for run in speed.runs if run.size == size]))
    if ours := [run for run in speed.runs if run.staged is not None]:
        print_paragraphs(
            "Where the time goes: mean milliseconds a frame, in bursts of their own; what the network has to do",
            _stage_table(speed, ours),
        )


def _doubts(speed: Speed) -> Iterator[str]:
    """Why the figures may be worse than they should be."""
    if not all(run.pinned for run in speed.runs):
        yield "Processes were not kept to processors, for the system does not do that."
    if slowed := dict.fromkeys(run.tracker for run in speed.runs if run.processors < LEAST_BUSY):
        yield f"Less than one processor was busy with {', '.join(slowed)}: other work was in the way, or they wait."


def _frame_table(speed: Speed, runs: list[Run]) -> Table:
    ratio = [f"times {next(iter(speed.trackers))}"] if len(speed.trackers) > 1 else []
    columns = ["threads", "ms a frame", "95 % under", "FPS", *ratio, "busy processors", "first box, ms", "peak MB"]
    table = new_table("tracker", *columns)
    for run in runs:
        cells = [str(run.threads), run.frame.text(), f"{run.p95:.2f}", f"{run.fps:.1f}"]
        cells += [run.ratio(speed.first(run)).text()] if ratio else []
        cells += [f"{run.processors:.2f}", f"{sum(run.first_box):.0f}"]
        cells += ["" if run.peak_mb is None else f"{run.peak_mb:.0f}"]
        table.add_row(run.tracker, *cells)
    return table


def _stage_table(speed: Speed, runs: list[Run]) -> Table:
    names = list(dict.fromkeys(name for run in runs for name in speed.stages(run)))
    columns = ["threads", "frames", *names, "template tokens", "M multiply-adds", "share of the best rate"]
    table = new_table("tracker", *columns)
    for run in runs:
        assert run.staged is not None
        stages, share, count = speed.stages(run), speed.roofline(run), run.staged.frames
        cells = [f"{stages[name]:.2f}" if name in stages else "" for name in names]
        cells += [f"{run.staged.memory / count:.0f}", f"{run.staged.macs / count / 1e6:.0f}"]
        cells += ["" if share is None else f"{share:.0%}"]
        table.add_row(run.tracker, str(run.threads), size_text(run.size), *cells)
    return table


def threads_text(count: int) -> str:
    """Such as ``2 threads``."""
    return f"{count} thread{'s' * (count > 1)}"


def size_text(size: Size) -> str:
    """Such as ``640×360``."""
    return f"{size[0]}×{size[1]}"
