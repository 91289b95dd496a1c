"""Running trackers over sequences, one pass from the first frame on, and keeping what they found.

Raw results lie at ``RESULTS/BENCHMARK/TRACKER``: of each sequence ``NAME.txt`` (``x,y,w,h`` a line, pixels, the image's
corner at 0), ``NAME_time.txt`` (seconds of each update) and ``NAME_score.txt``. ``tracker.json`` beside them says of
what they are, so that a run goes on where it was stopped and never mixes the results of two models or settings.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np

from fartrack.datasets.sequences import Sequence, read_boxes
from fartrack.errors import FartrackError
from fartrack.evaluate.benchmarks import Benchmark
from fartrack.evaluate.metrics import measure, overlaps
from fartrack.evaluate.peers import RAW, AnyTracker, TrackerSpec, as_track
from fartrack.files import write_whole
from fartrack.geometry import FloatArray

RECORD = "tracker.json"
REPORT_EVERY = 10
"""Frames between two signs of life of a worker."""


@dataclass(frozen=True, eq=False)
class Result:
    """One tracker's run over one sequence.

    Attributes:
        name: of the sequence.
        boxes: ``(frames, 4)`` x, y, w, h in pixels; the first is the one that was given.
        scores: ``(frames,)``; 1 on the first, NaN where the tracker gives none.
        seconds: ``(frames,)`` spent in each ``update``, decoding excluded; 0 on the first, NaN if it is not known.
    """

    name: str
    boxes: FloatArray
    scores: FloatArray
    seconds: FloatArray

    def ious(self, sequence: Sequence) -> FloatArray:
        """IoU of each scored frame of the sequence that was tracked; see :func:`fartrack.evaluate.metrics.overlaps`."""
        return overlaps(self.boxes, sequence.boxes)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One tracker's results on a benchmark.

    Attributes:
        tracker: its name in this run.
        benchmark: its rules and the sequences that are compared.
        results: one for each of those sequences, in their order.
        jobs: the most trackers that ran at once while this one was timed, itself included.
    """

    tracker: str
    benchmark: Benchmark
    results: list[Result]
    jobs: int = 1

    @property
    def fps(self) -> float:
        """Frames per second of all updates together, decoding excluded; NaN if the times are not known."""
        seconds = sum(float(result.seconds.sum()) for result in self.results)
        return sum(len(result.boxes) - 1 for result in self.results) / seconds if seconds > 0 else math.nan

    def table(self) -> dict[str, dict[str, float]]:
        """Sequence → its measures by name; empty for one that has no frame to score."""
        return self._table

    @cached_property
    def _table(self) -> dict[str, dict[str, float]]:
        rules = self.benchmark.rules
        pairs = zip(self.benchmark.sequences, self.results, strict=True)
        return {s.name: measure(r.boxes, s.boxes, s.size if rules.clip else None, rules) for s, r in pairs}


def run_sequence(tracker: AnyTracker, sequence: Sequence, report: Callable[[int], None] | None = None) -> Result:
    """Track a sequence whose first ground-truth box is given.

    Args:
        tracker: started anew by ``init``.
        sequence: what is tracked, to its end.
        report: called now and then with the number of frames done since the last call.

    Raises:
        FartrackError: a frame cannot be read, one is missing, or the tracker fails (the frame is named).
    """
    boxes, scores, seconds = [sequence.boxes[0].tolist()], [1.0], [0.0]
    for index, frame in zip(range(sequence.length), sequence.frames(), strict=False):
        start = time.perf_counter()
        try:
            track = as_track(tracker.update(frame)) if index else tracker.init(frame, sequence.boxes[0].copy())
        except Exception as error:  # whatever a user's class may raise
            kind = "" if isinstance(error, FartrackError) else f"{type(error).__name__}: "
            raise FartrackError(f"The tracker failed on {sequence.name}, frame {index}: {kind}{error}") from error
        if index:
            seconds.append(time.perf_counter() - start)
            boxes.append(list(track.box))
            scores.append(track.score)
        if report and index % REPORT_EVERY == REPORT_EVERY - 1:
            report(REPORT_EVERY)
    if len(boxes) < sequence.length:
        raise FartrackError(
            f"{sequence.name} has {len(boxes)} frames, but {sequence.length} lines of ground truth; download it again."
        )
    if report:
        report(len(boxes) % REPORT_EVERY)
    return Result(sequence.name, np.array(boxes), np.array(scores), np.array(seconds))


# --- what is kept -----------------------------------------------------------------------------------------


def save_result(folder: Path, result: Result) -> None:
    """Keep a result; its boxes, written last, show that it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{result.name}_time.txt", "".join(f"{value:.6f}\n" for value in result.seconds))
    write_whole(folder / f"{result.name}_score.txt", "".join(f"{value:.6f}\n" for value in result.scores))
    rows = (",".join(f"{value:.4f}" for value in box) for box in result.boxes.tolist())
    write_whole(folder / f"{result.name}.txt", "".join(f"{row}\n" for row in rows))


def load_result(folder: Path, sequence: Sequence) -> Result | None:
    """The kept result of a sequence; None if there is none, or one that is broken or of another sequence."""
    try:
        boxes = read_boxes(folder / f"{sequence.name}.txt")
        seconds, scores = (
            np.array((folder / f"{sequence.name}_{kind}.txt").read_text().split(), np.float64)
            for kind in ("time", "score")
        )
    except (FartrackError, OSError, ValueError):
        return None
    whole = len(boxes) == len(seconds) == len(scores) == sequence.length and bool(np.isfinite(boxes).all())
    if not whole or np.abs(boxes[0] - sequence.boxes[0]).max() > 1e-3:
        return None
    return Result(sequence.name, boxes, scores, seconds)


def load_published(folder: Path, sequence: Sequence) -> Result | None:
    """A tracker's published result, ``NAME.txt`` of ``x, y, w, h`` a line; None if there is none for this sequence.

    Raises:
        FartrackError: the file is broken, or has not one line a frame.
    """
    path = folder / f"{sequence.name}.txt"
    if not path.exists():
        return None
    boxes = read_boxes(path)
    if len(boxes) != sequence.length:
        raise FartrackError(f"{path} has {len(boxes)} lines for the {sequence.length} frames; give one a frame.")
    # Some publish in the pixels of the benchmark's own files, which may count from one; the given box shows it.
    apart = [np.abs(boxes[0, :2] - origin - sequence.boxes[0, :2]).max() for origin in (0.0, sequence.origin)]
    boxes[:, :2] -= sequence.origin if apart[1] < apart[0] else 0.0
    boxes[~np.isfinite(boxes).all(-1)] = 0  # how some write that the target is lost
    unknown = np.full(len(boxes), math.nan)
    return Result(sequence.name, boxes, unknown, unknown)


def claim(folder: Path, tracker: str, identity: Mapping[str, Any], jobs: int) -> int:
    """Make a folder that of one tracker's results, or see that it is so already.

    Args:
        folder: of one benchmark and tracker.
        tracker: its name.
        identity: see :meth:`TrackerSpec.identity`.
        jobs: processes at once with which results will be added; 0 if none will.

    Returns:
        The most processes at once with which any result in the folder is timed.

    Raises:
        FartrackError: it holds results of another model or other settings.
    """
    path, found = folder / RECORD, {}
    with suppress(OSError, ValueError, TypeError):
        found = dict(json.loads(path.read_text()))
    known = found.get("identity")
    if known != identity and any(folder.glob("*.txt")):
        keys = [key for key in identity if not isinstance(known, dict) or known.get(key) != identity[key]]
        raise FartrackError(
            f"{folder} holds results of another {tracker} (not the same: {', '.join(keys)}); give this one a name, as "
            f"NAME={tracker}, or another --results, or remove that folder."
        )
    most = max(int(found.get("jobs", 1)) if known == identity else 1, jobs)
    if jobs:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({"identity": identity, "jobs": most}, indent=1) + "\n")
    return most


# --- all trackers over all sequences ----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Job:
    """One sequence for one tracker, and the folder that the result goes to."""

    tracker: str
    spec: TrackerSpec
    sequence: Sequence
    folder: Path


def evaluate(
    trackers: Mapping[str, TrackerSpec],
    benchmark: Benchmark,
    results: Path,
    jobs: int = 1,
    report: Callable[[int, int], None] | None = None,
) -> list[Evaluation]:
    """Results of several trackers on the same sequences; what an earlier run left in ``results`` is not run again.

    Where published results lack sequences, all trackers are compared on those that they have. Trackers run in processes
    of their own, so a program that calls this needs the usual ``if __name__ == "__main__":``.

    Args:
        trackers: name → what it is.
        benchmark: the sequences and their rules.
        results: folder that the raw results go to.
        jobs: processes at once; with more than one, trackers are timed while others run.
        report: called now and then with the frames done and those that were to be done.

    Raises:
        FartrackError: a tracker cannot be opened or fails, a sequence cannot be read, results of another model or
            other settings are in the way, or a process ended by itself. What was finished is kept.
    """
    for spec in trackers.values():
        if spec.spec.startswith(RAW):
            benchmark = _published_part(benchmark, Path(spec.spec.removeprefix(RAW)))
    waiting: deque[Job] = deque()
    most: dict[str, int] = {}
    for name, spec in trackers.items():
        if not spec.spec.startswith(RAW):
            folder = results / benchmark.name / name
            missing = [s for s in benchmark.sequences if load_result(folder, s) is None]
            most[name] = claim(folder, name, spec.identity(), jobs if missing else 0)
            waiting.extend(Job(name, spec, sequence, folder) for sequence in missing)
    run_jobs(waiting, jobs, report or (lambda done, total: None))
    evaluations = []
    for name, spec in trackers.items():
        if spec.spec.startswith(RAW):
            folder, load = Path(spec.spec.removeprefix(RAW)), load_published
        else:
            folder, load = results / benchmark.name / name, load_result
        found = [load(folder, sequence) for sequence in benchmark.sequences]
        kept = [result for result in found if result is not None]
        if len(kept) < len(found):
            raise FartrackError(f"Results in {folder} vanished or changed during the run; run again to go on.")
        evaluations.append(Evaluation(name, benchmark, kept, most.get(name, 1)))
    return evaluations


def _published_part(benchmark: Benchmark, folder: Path) -> Benchmark:
    """The benchmark with those sequences only of which a folder has published results."""
    kept = [s for s in benchmark.sequences if (folder / f"{s.name}.txt").is_file()]
    if not kept:
        names = f"{benchmark.sequences[0].name}.txt" if benchmark.sequences else "NAME.txt"
        raise FartrackError(f"{folder} holds no results of the sequences left to compare; give a folder of {names} ….")
    return replace(benchmark, sequences=kept)


def run_jobs(waiting: deque[Job], jobs: int, report: Callable[[int, int], None]) -> None:
    """Take jobs from the left and run them in so many processes; ``report`` and the errors are :func:`evaluate`'s.

    Each process has a pipe to this one: jobs go one way; the frames done, None at the end of a job, or a sentence that
    says what went wrong come back. Its breaking shows either side that the other is gone.
    """
    context = multiprocessing.get_context("spawn")
    done, total = 0, sum(job.sequence.length for job in waiting)
    workers: dict[Connection, tuple[BaseProcess, Job]] = {}  # by our end of the pipe

    def hand_out(pipe: Connection, process: BaseProcess) -> None:
        if waiting:
            workers[pipe] = process, waiting.popleft()
            with suppress(OSError):  # that the process is gone shows when its answer is read
                pipe.send(workers[pipe][1])
        else:
            del workers[pipe]
            pipe.close()
            process.join()

    report(done, total)
    try:
        for _ in range(min(jobs, len(waiting))):
            pipe, far_end = context.Pipe()
            process = context.Process(target=work, args=(far_end,), daemon=True)
            process.start()
            far_end.close()
            hand_out(pipe, process)
        while workers:
            for pipe in cast(list[Connection], wait(list(workers))):
                worker, job = workers[pipe]
                try:
                    message = pipe.recv()
                except (EOFError, OSError):
                    worker.join()
                    raise FartrackError(
                        f"A process ended by itself (exit code {worker.exitcode}) while {job.tracker} tracked "
                        f"{job.sequence.name}; if memory is short give fewer --jobs, and run again to go on."
                    ) from None
                if isinstance(message, str):
                    raise FartrackError(f"{job.tracker}: {message}")
                if message is None:
                    hand_out(pipe, worker)
                else:
                    done += message
                    report(done, total)
    finally:
        for worker, _ in workers.values():
            worker.terminate()
            worker.join()


def work(pipe: Connection) -> None:
    """A process that tracks one sequence after the other; see :func:`run_jobs`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this one
    opened: tuple[TrackerSpec, AnyTracker] | None = None
    while True:
        try:
            job: Job = pipe.recv()
        except EOFError:
            return
        try:
            if opened is None or opened[0] != job.spec:
                if job.spec.threads is not None:
                    cv2.setNumThreads(job.spec.threads)
                opened = job.spec, job.spec.open()
            save_result(job.folder, run_sequence(opened[1], job.sequence, pipe.send))
            message = None
        except BrokenPipeError:  # the parent was killed
            return
        except FartrackError as error:
            message = str(error)
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
        pipe.send(message)
