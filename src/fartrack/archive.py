"""Whole archives: many videos on the processes of one machine, or over a Ray cluster (extra ``ray``).

A manifest beside the results has a line of JSON for each video that is finished, so that a run goes on where it
stopped: with the digest of all that its result depends on, its frames and seconds, and what went wrong, if anything.
"""

import hashlib
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2

from fartrack.api import load
from fartrack.errors import FartrackError
from fartrack.files import read_json_lines
from fartrack.processes import process_pool
from fartrack.targets import Target, check_targets, read_archive
from fartrack.tracking.multi import TargetTracker
from fartrack.tracking.tracker import Tracker
from fartrack.version import __version__
from fartrack.video import frames_from_source, open_sinks

MANIFEST = "manifest.jsonl"
Row = Future[dict[str, Any]]
"""What will be a video's line of the manifest."""

ATTEMPTS = 3
"""How often a video is tried whose process ends by itself, as where memory is short."""


@dataclass(frozen=True, eq=False)
class Job:
    """One video: its path within the archive and on disk, its targets, its outputs by format (``video`` is the
    annotated one), and how trackers are loaded (see :func:`fartrack.api.load`)."""

    name: str
    path: Path
    targets: list[Target]
    outputs: dict[str, Path]
    options: tuple[tuple[str, Any], ...]

    @property
    def digest(self) -> str:
        """Of what the result depends on: version, the video's size and time of change, targets, outputs, options."""
        about = self.path.stat() if self.path.is_file() else None
        state = (about.st_size, about.st_mtime_ns) if about else ()
        targets, outputs = [asdict(target) for target in self.targets], {k: p.name for k, p in self.outputs.items()}
        parts = [__version__, self.name, state, targets, outputs, self.options]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def archive_jobs(
    videos: Path, targets: Path, output: Path, formats: Sequence[str], options: dict[str, Any]
) -> list[Job]:
    """The videos of an archive that have targets; FartrackError for a file of targets that cannot be used, or a video
    outside the folder."""
    jobs = []
    for name, wanted in read_archive(targets).items():
        path = Path(os.path.normpath(name))
        if path.is_absolute() or path.parts[:1] == ("..",):
            raise FartrackError(f"{targets} names the video {name}; give its path within {videos}.")
        outputs = {kind: output / f"{path}.{'mp4' if kind == 'video' else kind}" for kind in formats}
        jobs.append(Job(str(path), videos / path, wanted, outputs, tuple(sorted(options.items()))))
    return jobs


def track_job(job: Job) -> dict[str, Any]:
    """Track a video and write its outputs → its line of the manifest. What a damaged video holds is kept."""
    clock, frames, errors = time.perf_counter(), 0, list[str]()
    try:
        for path in job.outputs.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            for left in path.parent.glob(f".{path.name}.*.part"):  # by a process that was killed
                left.unlink()
        begin = min(anchor.frame for target in job.targets for anchor in target.anchors)
        with frames_from_source(job.path, start=begin) as source:
            height, width = source.first.image.shape[:2]
            check_targets(job.targets, width, height)
            follower = TargetTracker(_open_once(job.options), job.targets)
            about = {"settings": asdict(_open_once(job.options).settings)}
            with open_sinks(source, targets=job.targets, about=about, **job.outputs) as sinks:
                try:
                    for frame in source:
                        sinks.write(frame, follower.update(frame.index, frame.image))
                        frames += 1
                    errors += [f"It ends before frame {a.frame}, which has a box." for a in follower.unreached()]
                except FartrackError as error:
                    if not frames or error in sinks.errors:
                        raise
                    errors.append(str(error))
                sinks.close()
    except (FartrackError, OSError, MemoryError) as error:
        errors.append(str(error) or type(error).__name__)
    seconds = round(time.perf_counter() - clock, 3)
    return {"video": job.name, "frames": frames, "seconds": seconds, "error": " ".join(errors) or None}


@lru_cache(maxsize=1)
def _open_once(options: tuple[tuple[str, Any], ...]) -> Tracker:
    cv2.setNumThreads(1)
    return load(**dict(options))


def run_archive(
    jobs: Sequence[Job],
    output: Path,
    submit: Callable[[Job], Row],
    width: int,
    retry: bool = False,
    report: Callable[[int, int], None] = lambda done, frames: None,
) -> list[dict[str, Any]]:
    """Track what the manifest in ``output`` does not hold yet, ``width`` videos at once → the lines of all videos.

    ``submit`` (see :func:`processes` and :func:`ray_cluster`) begins one, and again if its process ends by itself. With
    ``retry``, those that failed are tracked again. ``report`` is told the videos and frames done by this run.
    """
    output.mkdir(parents=True, exist_ok=True)
    manifest, plan = output / MANIFEST, {job.digest: job for job in jobs}
    rows = {row["digest"]: row for row in read_json_lines(manifest)}

    def finished(digest: str) -> bool:
        row = rows.get(digest, {"error": None, "video": None})
        if row["error"]:
            return not retry
        return row["video"] is not None and all(path.exists() for path in plan[digest].outputs.values())

    waiting, attempts = [digest for digest in plan if not finished(digest)], Counter[str]()
    running: dict[Row, str] = {}
    done = frames = 0
    whole = not manifest.exists() or manifest.read_bytes()[-1:] in (b"", b"\n")
    with manifest.open("a", encoding="utf-8") as file:
        file.write("" if whole else "\n")  # the last line was cut short
        while waiting or running:
            while waiting and len(running) < width:
                digest = waiting.pop(0)
                attempts[digest] += 1
                running[submit(plan[digest])] = digest
            for future in wait(running, 1.0, FIRST_COMPLETED).done:
                digest = running.pop(future)
                try:
                    row = future.result()
                except Exception as error:  # of the pool or of Ray: its process ended; or a fault of ours
                    if attempts[digest] < ATTEMPTS:
                        waiting.append(digest)
                        continue
                    reason = (
                        f"Its process failed {ATTEMPTS} times ({type(error).__name__}); if memory is short, take fewer."
                    )
                    row = {"video": plan[digest].name, "frames": 0, "seconds": 0.0, "error": reason}
                rows[digest] = row = {**row, "digest": digest}
                file.write(json.dumps(row) + "\n")
                file.flush()
                done, frames = done + 1, frames + row["frames"]
            report(done, frames)
    return [rows[digest] for digest in plan]


@contextmanager
def processes(count: int) -> Iterator[Callable[[Job], Row]]:
    """What begins a job in one of so many processes of this machine; a pool that a dying process broke is replaced."""
    with ExitStack() as stack:
        pool = stack.enter_context(process_pool(count))

        def submit(job: Job) -> Row:
            nonlocal pool
            with suppress(BrokenProcessPool):
                return pool.submit(track_job, job)
            pool = stack.enter_context(process_pool(count))
            return pool.submit(track_job, job)

        yield submit


@contextmanager
def ray_cluster(address: str) -> Iterator[tuple[Callable[[Job], Row], int]]:
    """What begins a job on a Ray cluster (``auto``: the one that runs here), and its processors. All its nodes see the
    same folders. Nothing is sent to Ray's makers by this process. FartrackError if there is no such cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    try:
        host, _, port = address.rpartition(":")
        if host:  # Ray would wait for minutes
            socket.create_connection((host, int(port)), timeout=5).close()
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise FartrackError(
            f"There is no Ray cluster at {address} ({reason}); begin one with ray start --head."
        ) from None
    try:
        remote = ray.remote(max_retries=0)(track_job)  # it is begun again here
        yield lambda job: remote.remote(job).future(), max(int(ray.cluster_resources().get("CPU", 1)), 1)
    finally:
        ray.shutdown()
