"""Running trackers over sequences, one pass each, and keeping their results.

Raw results are at ``RESULTS/BENCHMARK/TRACKER``: for each sequence ``NAME.txt`` (a line ``x,y,w,h`` per frame, pixels),
``NAME_time.txt`` (seconds of each update) and ``NAME_score.txt``. ``tracker.json`` identifies the tracker, so
that a run resumes where it stopped and never mixes the results of two models or settings.
"""

import json
import math
import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fartrack.datasets.layouts import read_boxes, read_text
from fartrack.datasets.sequences import Sequence
from fartrack.errors import FartrackError
from fartrack.evaluate.benchmarks import Benchmark
from fartrack.evaluate.metrics import measure
from fartrack.evaluate.trackers import AnyTracker, TrackerSpec, as_track, error_text
from fartrack.files import write_whole
from fartrack.geometry import FloatArray
from fartrack.processes import process_pool


@dataclass(frozen=True, eq=False)
class Result:
    """One tracker's run over one sequence."""

    name: str  # of the sequence
    boxes: FloatArray  # (frames, 4) x, y, w, h in pixels; the first is the given one
    scores: FloatArray  # (frames,) 1 on the first, NaN where the tracker gives none
    seconds: FloatArray  # (frames,) of each ``update``, without decoding; 0 on the first, NaN if unknown


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A tracker's results on the sequences of a benchmark, in their order; at most ``jobs`` trackers ran at once while
    it was timed, itself included."""

    tracker: str
    benchmark: Benchmark
    results: list[Result]
    jobs: int = 1

    @property
    def fps(self) -> float:
        """Frames per second of all updates together, without decoding; NaN if the times are unknown."""
        seconds = sum(float(result.seconds.sum()) for result in self.results)
        return sum(len(result.boxes) - 1 for result in self.results) / seconds if seconds > 0 else math.nan

    @cached_property
    def table(self) -> dict[str, dict[str, float]]:
        """Sequence → its measures by name; empty for one without a frame to score."""
        rules = self.benchmark.rules
        pairs = zip(self.benchmark.sequences, self.results, strict=True)
        return {s.name: measure(r.boxes, s.boxes, s.size if rules.clip else None, rules) for s, r in pairs}


def run_sequence(tracker: AnyTracker, sequence: Sequence, report: Callable[[int], None] | None = None) -> Result:
    """Track a sequence from its first ground-truth box to its end; ``report`` is called with 1 after each frame.
    FartrackError if a frame cannot be read, one is missing, or the tracker fails (the frame is named)."""
    boxes, scores, seconds = [sequence.boxes[0].tolist()], [1.0], [0.0]
    for index, frame in zip(range(sequence.length), sequence.frames(), strict=False):
        start = time.perf_counter()
        try:
            track = as_track(tracker.update(frame)) if index else tracker.init(frame, sequence.boxes[0].copy())
        except Exception as error:  # whatever a user's class may raise
            raise FartrackError(f"The tracker failed on {sequence.name}, frame {index}: {error_text(error)}") from error
        if index:
            seconds.append(time.perf_counter() - start)
            boxes.append(list(track.box))
            scores.append(track.score)
        if report:
            report(1)
    if len(boxes) < sequence.length:
        raise FartrackError(
            f"{sequence.name} has {len(boxes)} frames, but {sequence.length} lines of ground truth; download it again."
        )
    return Result(sequence.name, np.array(boxes), np.array(scores), np.array(seconds))


def save_result(folder: Path, result: Result) -> None:
    """Write a result; its boxes are written last, so that they mark it as complete."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{result.name}_time.txt", "".join(f"{value:.6f}\n" for value in result.seconds))
    write_whole(folder / f"{result.name}_score.txt", "".join(f"{value:.6f}\n" for value in result.scores))
    lines = (",".join(f"{value:.4f}" for value in box) for box in result.boxes.tolist())
    write_whole(folder / f"{result.name}.txt", "".join(f"{line}\n" for line in lines))


def load_result(folder: Path, sequence: Sequence) -> Result | None:
    """The saved result of a sequence; None if there is none, or one that is broken or of another sequence."""
    try:
        boxes = read_boxes(folder / f"{sequence.name}.txt")
        seconds, scores = (
            np.array(read_text(folder / f"{sequence.name}_{kind}.txt").split(), np.float64)
            for kind in ("time", "score")
        )
    except ValueError:  # FartrackError is one
        return None
    complete = len(boxes) == len(seconds) == len(scores) == sequence.length and bool(np.isfinite(boxes).all())
    same = complete and np.abs(boxes[0] - sequence.boxes[0]).max() < 1e-3
    return Result(sequence.name, boxes, scores, seconds) if same else None


def load_published(folder: Path, sequence: Sequence) -> Result:
    """A published result, ``NAME.txt`` with a line ``x, y, w, h`` per frame; FartrackError if it is broken."""
    path = folder / f"{sequence.name}.txt"
    boxes = read_boxes(path)
    if len(boxes) != sequence.length:
        raise FartrackError(f"{path} has {len(boxes)} lines for the {sequence.length} frames; give one per frame.")
    # Some count pixels as the benchmark's own files do, which may start at one; the given box shows it.
    apart = [np.abs(boxes[0, :2] - origin - sequence.boxes[0, :2]).max() for origin in (0.0, sequence.origin)]
    boxes[:, :2] -= sequence.origin if apart[1] < apart[0] else 0.0
    boxes[~np.isfinite(boxes).all(-1)] = 0  # some write NaN where the target is lost
    unknown = np.full(len(boxes), math.nan)
    return Result(sequence.name, boxes, unknown, unknown)


def claim(folder: Path, tracker: str, identity: Mapping[str, Any], jobs: int) -> int:
    """Make a folder that of the tracker with this name and :meth:`TrackerSpec.identity`; FartrackError if it holds
    results of another. ``jobs`` processes at once will add results, 0 if none will be added. Returns the most at once
    with which any result in the folder was timed."""
    path, found = folder / "tracker.json", {}
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


@dataclass(frozen=True, eq=False)
class Job:
    """One sequence for one tracker, and the folder of the result."""

    tracker: str
    spec: TrackerSpec
    sequence: Sequence
    folder: Path


def evaluate(
    trackers: Mapping[str, TrackerSpec],
    benchmark: Benchmark,
    results: Path,
    jobs: int = 1,
    report: Callable[[int, int], None] = lambda done, total: None,
    left_out: Callable[[str, FartrackError], None] | None = None,
) -> list[Evaluation]:
    """Results of several trackers on the same sequences; those that ``results`` already holds are not run again.

    Where published results lack sequences, all trackers are compared on those that they have. Trackers run in ``jobs``
    processes at once, so a program that calls this needs ``if __name__ == "__main__":``. ``report`` is called now and
    then with the frames done and the frames to do.

    Finished results are kept where FartrackError is raised: a tracker cannot be opened or fails, a sequence cannot be
    read, the folder holds results of another model or other settings, or a process dies. With ``left_out``, which is
    called with a tracker's name and its error, that tracker is left out and the others go on, if there are any.
    """
    for folder in (spec.published for spec in trackers.values() if spec.published):
        kept = [s for s in benchmark.sequences if (folder / f"{s.name}.txt").is_file()]
        if not kept:
            name = min((s.name for s in benchmark.sequences), default="NAME")
            raise FartrackError(
                f"{folder} holds no results of the sequences left to compare; give one of {name}.txt …."
            )
        benchmark = replace(benchmark, sequences=kept)
    folders = {name: spec.published or results / benchmark.name / name for name, spec in trackers.items()}
    waiting: list[Job] = []
    most, errors = dict.fromkeys(trackers, 1), dict[str, FartrackError]()

    def fail(name: str, error: FartrackError) -> None:
        errors.setdefault(name, error)
        if left_out is None or len(errors) == len(trackers):
            raise error
        left_out(name, error)

    for name, spec in trackers.items():
        if spec.published is None:
            missing = [s for s in benchmark.sequences if load_result(folders[name], s) is None]
            try:
                most[name] = claim(folders[name], name, spec.identity(), jobs if missing else 0)
            except FartrackError as error:
                fail(name, error)
            else:
                waiting += [Job(name, spec, sequence, folders[name]) for sequence in missing]
    run_jobs(waiting, jobs, report, fail)
    evaluations = []
    for name, folder in folders.items():
        if name in errors:
            continue
        load = load_published if trackers[name].published else load_result
        found = [result for sequence in benchmark.sequences if (result := load(folder, sequence))]
        if len(found) < len(benchmark.sequences):
            raise FartrackError(f"Results in {folder} vanished or changed during the run; run again to go on.")
        evaluations.append(Evaluation(name, benchmark, found, most[name]))
    return evaluations


def run_jobs(
    jobs: list[Job],
    processes: int,
    report: Callable[[int, int], None],
    fail: Callable[[str, FartrackError], None],
) -> None:
    """Run jobs in order, so many at once; ``report`` and the errors are those of :func:`evaluate`. ``fail`` is called
    with the name of a tracker and its first error, and may raise it; else its other jobs are not begun."""
    total = sum(job.sequence.length for job in jobs)
    report(0, total)
    if not jobs:
        return
    done = multiprocessing.get_context("spawn").Value("Q")
    futures, failed = dict[Future[None], Job](), set[str]()
    try:
        with process_pool(min(processes, len(jobs)), _share, done) as pool:
            for job in jobs:
                futures[pool.submit(_run_job, job)] = job
            running = set(futures)
            while running:
                _, running = wait(futures, timeout=0.2, return_when=FIRST_EXCEPTION)
                report(done.value, total)
                for future, job in futures.items():  # in order: the first error is told
                    if not future.done() or job.tracker in failed:
                        continue
                    try:
                        future.result()
                    except FartrackError as error:
                        fail(job.tracker, error)
                        failed.add(job.tracker)
                        for other in (other for other, its in futures.items() if its.tracker == job.tracker):
                            other.cancel()
    except BrokenProcessPool:
        others = {future: job for future, job in futures.items() if job.tracker not in failed}
        lost = [job for future, job in others.items() if not future.done() or future.exception()]
        names = " or ".join(f"{job.tracker} tracked {job.sequence.name}" for job in lost[:processes])
        raise FartrackError(
            f"A process ended by itself while {names}; if memory is short give fewer --jobs, and run again to go on."
        ) from None


_done: Any = None
"""In a process that runs jobs: the shared number of frames done."""


def _share(done: Any) -> None:
    global _done
    _done = done


def _count(frames: int) -> None:
    with _done.get_lock():
        _done.value += frames


def _run_job(job: Job) -> None:
    try:
        save_result(job.folder, run_sequence(_open_once(job.spec), job.sequence, _count))
    except Exception as error:
        raise FartrackError(f"{job.tracker}: {error_text(error)}") from None


@lru_cache(maxsize=1)
def _open_once(spec: TrackerSpec) -> AnyTracker:
    if spec.threads is not None:
        cv2.setNumThreads(spec.threads)
    return spec.open()
