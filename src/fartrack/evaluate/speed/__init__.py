"""Speed, measured so that it can be trusted: trackers take turns, each in a process and on processors of its own.

Every tracker with every number of threads lives in a process of its own, and only one of all works at any time. In
every round each has a short burst of the same frames, in an order that is reversed from round to round, so that what
the machine does meanwhile hits all alike; ratios are taken within a round.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from operator import add
from pathlib import Path

from numpy.typing import ArrayLike

from fartrack.errors import FartrackError
from fartrack.evaluate.peers import RAW, TrackerSpec
from fartrack.evaluate.speed.footage import Film, Size, parse_sizes, record
from fartrack.evaluate.speed.machine import Machine, inspect
from fartrack.evaluate.speed.results import Plan, Run, Speed, Spread, Turn, print_speed, to_json
from fartrack.evaluate.speed.stages import Staged
from fartrack.evaluate.speed.workers import Subject, Worker, processors

__all__ = [
    "Machine",
    "Plan",
    "Run",
    "Speed",
    "Spread",
    "Staged",
    "Turn",
    "bench",
    "parse_sizes",
    "parse_threads",
    "print_speed",
    "to_json",
]

Report = Callable[[int, int], None]


def bench(
    trackers: Mapping[str, TrackerSpec],
    clip: str | None = None,
    box: ArrayLike | None = None,
    *,
    threads: Sequence[int] = (1,),
    sizes: Sequence[Size] = (),
    plan: Plan | None = None,
    report: Report | None = None,
) -> Speed:
    """Time trackers on the same frames.

    Trackers run in processes of their own, so a program that calls this needs the usual
    ``if __name__ == "__main__":``.

    Args:
        trackers: name → what it is, whatever its number of threads.
        clip: a video file or a folder of pictures; None for the demo clip.
        box: of the target on the clip's first frame, x, y, w, h in its pixels; the demo clip has its own.
        threads: each tracker runs with each of these numbers.
        sizes: width and height that frames are resized to; none for the clip's own.
        plan: how much is timed.
        report: called between bursts with those done and those to be done.

    Raises:
        FartrackError: a tracker cannot be opened or fails, or is one of published results; the clip or the box cannot
            be used; or there are more threads than processors.
    """
    plan, counts, cores = plan or Plan(), list(dict.fromkeys(threads)), len(processors())
    for count in counts:
        if not 1 <= count <= cores:
            raise FartrackError(f"threads is {count}; this machine has {cores} processors, give 1 to {cores}.")
    for name, spec in trackers.items():
        if spec.spec.startswith(RAW):
            raise FartrackError(f"{name} is published results, which have no speed here; name a tracker that runs.")
    identities = {name: spec.identity() for name, spec in trackers.items()}
    for identity in identities.values():
        del identity["threads"]  # each has all of those numbers
    with tempfile.TemporaryDirectory(prefix="fartrack-bench-") as folder:
        footage = record(Path(folder), clip, box, sizes)
        machine = inspect(counts)
        course = Course(plan, len(footage.films) * len(trackers) * len(counts), report or (lambda done, total: None))
        runs = []
        for film in footage.films:
            with ExitStack() as stack:
                entrants = [
                    stack.enter_context(Entrant(name, replace(spec, threads=count), film))
                    for name, spec in trackers.items()
                    for count in counts
                ]
                runs += course.run(entrants)
    return Speed(machine, plan, footage.name, footage.films[0].count, footage.decoding, identities, runs, course.turns)


class Entrant(Worker):
    """A tracker in its process, and what it has done so far."""

    def __init__(self, name: str, spec: TrackerSpec, film: Film) -> None:
        """Open the tracker; the errors are :class:`Subject`'s."""
        assert spec.threads is not None
        super().__init__(name, partial(Subject, spec, film), spec.threads)
        self.name, self.threads, self.size = name, spec.threads, film.size
        self.first_box, self.pinned, self.ours = self.ask("about")
        self.rounds: list[list[float]] = []
        self.busy: list[float] = []
        self.staged: list[Staged] = []

    def finish(self) -> Run:
        """What it comes to."""
        staged = reduce(add, self.staged) if self.staged else None
        about = (self.name, self.threads, self.size, self.pinned, self.first_box)
        return Run(*about, self.rounds, self.busy, self.ask("peak_mb"), staged)


@dataclass
class Course:
    """Lets entrants take turns.

    Attributes:
        plan: how much each does.
        entrants: that will come, all sizes together.
        report: see :func:`bench`.
        turns: so far.
    """

    plan: Plan
    entrants: int
    report: Report
    turns: list[Turn] = field(default_factory=list)

    def run(self, entrants: list[Entrant]) -> list[Run]:
        """Warm up, the rounds, then rounds of staged bursts for our own trackers."""
        plan = self.plan
        ours = [entrant for entrant in entrants if entrant.ours]
        turns = len(entrants) * (1 + plan.rounds) + len(ours) * plan.rounds
        total = turns * self.entrants // len(entrants)
        for entrant in entrants:
            self._turn("warm-up", 0, entrant, total)
            entrant.ask("burst", plan.warm_up)
        for number in range(plan.rounds):
            for entrant in entrants[:: -1 if number % 2 else 1]:
                self._turn("burst", number, entrant, total)
                times, busy = entrant.ask("burst", plan.frames)
                entrant.rounds.append(times)
                entrant.busy.append(busy)
        for number in range(plan.rounds):
            for entrant in ours[:: -1 if number % 2 else 1]:
                self._turn("staged", number, entrant, total)
                entrant.staged.append(entrant.ask("staged", plan.frames))
        self.report(len(self.turns), total)
        return [entrant.finish() for entrant in entrants]

    def _turn(self, kind: str, number: int, entrant: Entrant, total: int) -> None:
        self.report(len(self.turns), total)
        self.turns.append(Turn(kind, number, entrant.name, entrant.threads, entrant.size))


def parse_threads(text: str) -> list[int]:
    """Numbers of threads such as ``1,2``, every one once.

    Raises:
        FartrackError: one is no whole number of 1 or more.
    """
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not part.isdecimal() or int(part) < 1:
            raise FartrackError(f"The number of threads {part!r} is none; give whole numbers, such as 1,2.")
    return list(dict.fromkeys(map(int, parts)))
