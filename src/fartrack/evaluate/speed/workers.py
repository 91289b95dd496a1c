"""Processes that hold one tracker each, with so many threads on so many processors, and work when they are asked."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import cv2

from fartrack.errors import FartrackError
from fartrack.evaluate.peers import TrackerSpec, as_track
from fartrack.evaluate.speed.footage import Film
from fartrack.evaluate.speed.stages import Staged, stage_times
from fartrack.tracking.tracker import Tracker

LEAD_IN = 3
"""Frames at the start of every burst that are not counted: the caches hold what worked before."""

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Environment variables by which numerical libraries, when they are loaded, learn how many threads they may have."""

PINS = hasattr(os, "sched_setaffinity")
"""Whether the system can keep a process to some processors."""


def processors() -> list[int]:
    """The numbers of the logical processors that this process may use; the first of every core come first."""
    if not PINS:
        return list(range(os.cpu_count() or 1))
    taken: Counter[str] = Counter()
    ranks = {}
    for number in sorted(os.sched_getaffinity(0)):
        core = str(number)
        with suppress(OSError):
            core = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list").read_text()
        ranks[number] = taken[core]
        taken[core] += 1
    return sorted(ranks, key=lambda number: (ranks[number], number))


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Processes started in here are born with ``threads`` threads a library, on as many processors."""
    before = {name: os.environ.get(name) for name in THREADS}
    allowed = os.sched_getaffinity(0) if PINS else set()
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    try:
        if PINS:
            with suppress(OSError):  # the child sees whether it worked
                os.sched_setaffinity(0, processors()[:threads])
        yield
    finally:
        if PINS:
            with suppress(OSError):
                os.sched_setaffinity(0, allowed)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Worker:
    """An object in a process of its own. It works only while :meth:`ask` waits for it."""

    def __init__(self, name: str, make: Callable[[], Any], threads: int) -> None:
        """Start the process, and wait until the object is there.

        Args:
            name: that errors begin with.
            make: makes the object, there; must be fit for pickling.
            threads: of each library; and processors, where the system can pin processes.

        Raises:
            FartrackError: the object cannot be made.
        """
        self._name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        self._process = context.Process(target=serve, args=(far_end, make, threads), daemon=True)
        with limited(threads):
            self._process.start()
        far_end.close()
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, method: str, *arguments: Any) -> Any:
        """What a method of the object returns.

        Raises:
            FartrackError: the method raised something, or the process is gone.
        """
        with suppress(OSError):  # that the process is gone shows when its answer is read
            self._pipe.send((method, arguments))
        return self._answer()

    def _answer(self) -> Any:
        try:
            good, answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            raise FartrackError(
                f"{self._name}: the process ended by itself (exit code {self._process.exitcode}); if memory is short "
                "compare fewer trackers at once."
            ) from None
        if not good:
            raise FartrackError(f"{self._name}: {answer}")
        return answer

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.terminate()
        self._process.join()

    def __enter__(self) -> Self:
        """Return the worker itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.close()


def serve(pipe: Connection, make: Callable[[], Any], threads: int) -> None:
    """The process of a :class:`Worker`: makes the object, then calls its methods as they are asked for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this one
    cv2.setNumThreads(threads)
    subject: Any = None
    answer: tuple[bool, Any]
    while True:
        try:
            if subject is None:
                subject, answer = make(), (True, None)
            else:
                method, arguments = pipe.recv()
                answer = (True, getattr(subject, method)(*arguments))
            settle()
        except EOFError:
            return
        except FartrackError as error:
            answer = (False, str(error))
        except Exception as error:  # whatever a user's class may raise
            answer = (False, f"{type(error).__name__}: {error}")
        try:
            pipe.send(answer)
        except BrokenPipeError:  # the parent was killed
            return


def settle() -> None:
    """Wait until this process is at rest, a second at most: threads may still spin or encode a template."""
    end = time.perf_counter() + 1
    while time.perf_counter() < end:
        busy = time.process_time()
        time.sleep(0.01)
        if time.process_time() - busy < 0.001:
            return


class Subject:
    """A tracker at work on a film.

    Attributes:
        first_box: milliseconds to open the tracker, to take the target, and for the first update. By then its module
            and its engine's library are loaded, and its files are in the system's cache.
        pinned: whether the process is kept to as many processors as the tracker has threads.
        ours: whether its stages can be timed.
    """

    def __init__(self, spec: TrackerSpec, film: Film) -> None:
        """Open the tracker and give it the target.

        Raises:
            FartrackError: it cannot be opened, or what its first update returns is no box.
        """
        self.pinned = PINS and len(os.sched_getaffinity(0)) == spec.threads
        identity = spec.identity()  # which also loads the module of a class
        if "engine" in identity:
            with suppress(ImportError):  # open() has the sentence for it
                importlib.import_module(f"fartrack.engines.{identity['engine']}")
        self._film, self._number = film, 0
        first = film.frame(0)
        clocks = [time.perf_counter()]
        self._tracker = spec.open()
        clocks.append(time.perf_counter())
        self._tracker.init(first, film.box.copy())
        clocks.append(time.perf_counter())
        second = self._next()
        begin = time.perf_counter()
        found = self._tracker.update(second)
        update = time.perf_counter() - begin
        as_track(found)
        self.first_box = [1000 * value for value in (clocks[1] - clocks[0], clocks[2] - clocks[1], update)]
        self.ours = isinstance(self._tracker, Tracker)

    def about(self) -> tuple[list[float], bool, bool]:
        """``first_box``, ``pinned`` and ``ours``."""
        return self.first_box, self.pinned, self.ours

    def burst(self, frames: int) -> tuple[list[float], float]:
        """Track the next frames, after ``LEAD_IN`` others.

        Returns:
            The milliseconds of each; and how many processors were busy with them, on average.
        """
        for _ in range(LEAD_IN):
            self._tracker.update(self._next())
        times, work = [], 0.0
        for _ in range(frames):
            frame = self._next()
            used = time.process_time()
            begin = time.perf_counter()
            self._tracker.update(frame)
            times.append(1000 * (time.perf_counter() - begin))
            work += time.process_time() - used
        return times, 1000 * work / sum(times) if times else 0.0

    def staged(self, frames: int) -> Staged:
        """As :meth:`burst`, with the times of the stages. Only for our own trackers."""
        self.burst(0)
        assert isinstance(self._tracker, Tracker)
        return stage_times(self._tracker, [self._next] * frames)

    def peak_mb(self) -> float | None:
        """See :func:`peak_mb`."""
        return peak_mb()

    def _next(self) -> Any:
        self._number += 1
        return self._film.frame(self._number)


def peak_mb() -> float | None:
    """The most memory that this process has held so far, in MB (2²⁰ bytes); None where the system does not tell.

    Linux counts what a process had before it became another program, thus the parent's memory, into ``ru_maxrss``.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, others kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
