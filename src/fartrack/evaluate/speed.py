"""Timing trackers side by side on the same frames.

Each tracker, with each number of threads, has a process of its own that is pinned to as many cores as it has threads,
and only one of them works at a time. In every round each has a short turn, in an order that is reversed from round to
round, so that whatever else the machine does affects all of them alike. Ratios are taken within a round.
"""

import json
import os
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike

from fartrack.cpu import processor_name
from fartrack.demo import CLIP, demo_frames
from fartrack.engines.onnxruntime import ort
from fartrack.errors import FartrackError
from fartrack.evaluate.tables import new_table, print_paragraphs
from fartrack.evaluate.trackers import TrackerSpec, as_track, error_text
from fartrack.geometry import FloatArray, Image, check_box
from fartrack.processes import process_pool
from fartrack.version import __version__
from fartrack.video.sources import frames_from_source

Size = tuple[int, int]

MAX_FRAMES, MAX_BYTES = 150, 2**30
"""Limits on the frames taken from a clip, and on their bytes in all sizes together."""

UNCOUNTED = 3
"""Frames at the start of a turn that are not counted: the caches hold the data of the tracker before."""

PAUSE = 0.05
"""Seconds after a turn, in which background threads come to rest."""

THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Environment variables that limit the threads of numerical libraries when they are loaded."""


@dataclass(frozen=True, eq=False)
class Film:
    """A clip in one size: the file of its frames, uint8 BGR ``(count, height, width, 3)``, at least two, and the
    target's box on the first, ``(4,)`` x, y, w, h in pixels."""

    path: Path
    size: Size
    count: int
    box: FloatArray

    def frame(self, number: int) -> Image:
        """A frame of the film played forward and backward without end, read anew so that no tracker has it cached."""
        place = number % (2 * self.count - 2)
        return np.array(np.load(self.path, mmap_mode="r")[min(place, 2 * self.count - 2 - place)])


@dataclass(frozen=True, eq=False)
class Run:
    """One tracker with one number of threads on frames of one size.

    Its ``rounds`` are, for each round on each clip, the milliseconds of every counted ``update``, without decoding.
    """

    tracker: str
    threads: int
    size: Size
    pinned: bool  # to as many cores as it has threads, which not every system can do
    first_box: float  # milliseconds to open the tracker, give it the target, and update once, on the first clip
    paced: float | None = None  # frames a second that were given to it, as a camera does; None is flat out
    rounds: list[list[float]] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)  # for each of these rounds, the cores that were busy, on average


@dataclass(frozen=True, eq=False)
class Speed:
    """What :func:`bench` found: trackers by name with their identities, the first of which is what ratios are to; runs
    size by size; and round (0 to warm up), tracker, threads, size, pace and clip of each turn, in order."""

    machine: Mapping[str, Any]
    clips: Sequence[Mapping[str, Any]]
    trackers: Mapping[str, Any]
    runs: list[Run]
    turns: list[tuple[int, str, int, Size, float | None, str]]

    def summary(self, run: Run) -> dict[str, float]:
        """Statistics of a run's frames, and the median and quartiles over rounds of its ratio of medians to the first
        tracker with the same threads, size and pace."""
        first = next(r for r in self.runs if _kind(r)[1:] == _kind(run)[1:])
        frames = np.concatenate(run.rounds)
        ratios = [np.median(own) / np.median(base) for own, base in zip(run.rounds, first.rounds, strict=True)]
        values = [*np.percentile(frames, (25, 50, 75, 95, 99)), *np.percentile(ratios, (25, 50, 75))]
        names = ("low", "median", "high", "p95", "p99", "ratio_low", "ratio", "ratio_high")
        mean = float(frames.mean())
        return {"mean": mean, "fps": 1000 / mean} | dict(zip(names, map(float, values), strict=True))

    def to_json(self) -> str:
        """All times and their statistics."""
        runs = [asdict(run) | {"summary": self.summary(run)} for run in self.runs]
        return json.dumps({**vars(self), "runs": runs}, indent=1) + "\n"


def _kind(run: Run) -> tuple[str, int, Size, float | None]:
    return run.tracker, run.threads, run.size, run.paced


def bench(
    trackers: Mapping[str, TrackerSpec],
    clips: Mapping[str, ArrayLike] | None = None,
    *,
    threads: Sequence[int] = (1,),
    sizes: Sequence[Size] = (),
    paced: float | None = None,
    rounds: int = 5,
    frames: int = 30,
    warm_up: int = 100,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Speed:
    """Time trackers on the same frames, in processes that need the caller's ``if __name__ == "__main__":``.

    ``clips`` are video files or folders of pictures, each with the target's box on its first frame, x, y, w, h in
    pixels; without any, it is the demo's. On each clip, each tracker runs with each number of ``threads`` on frames of
    each of ``sizes`` (width and height; none for the clip's own): ``warm_up`` frames, then a turn of ``frames`` in each
    of ``rounds``; and with ``paced`` in a second turn as well, in which so many frames a second are given to it.
    ``report`` is called before each turn with the turns done and to do.

    FartrackError if a tracker cannot be opened, fails, or is one of published results; if a clip or a box cannot be
    used; or if there are more threads than cores.
    """
    if paced is not None and not 0 < paced <= 1000:
        raise FartrackError(f"The pace is {paced:g} frames a second; give more than 0 and at most 1000.")
    cores = available_cores()
    for count in threads:
        if not 1 <= count <= len(cores):
            raise FartrackError(f"threads is {count}; this machine has {len(cores)} cores, give 1 to {len(cores)}.")
    for name, spec in trackers.items():
        if spec.published:
            raise FartrackError(f"{name} is published results, which have no speed here; name a tracker that runs.")
    identities = {name: spec.identity() | {"threads": list(threads)} for name, spec in trackers.items()}
    machine = {
        "processor": processor_name(),
        "cores": len(cores),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": {"fartrack": __version__, "python": platform.python_version(), "numpy": np.__version__}
        | {"onnxruntime": ort.__version__, "opencv": cv2.__version__},
    }
    runs: dict[tuple[Any, ...], Run] = {}
    turns: list[tuple[int, str, int, Size, float | None, str]] = []
    about: list[Mapping[str, Any]] = []
    sources: Sequence[tuple[str | None, ArrayLike | None]] = [*clips.items()] if clips else [(None, None)]
    paces = (None,) if paced is None else (None, paced)
    total = len(sources) * max(len(sizes), 1) * len(trackers) * len(threads) * len(paces) * (1 + rounds)
    for clip, box in sources:
        with tempfile.TemporaryDirectory(prefix="fartrack-bench-") as folder:
            films = record(Path(folder), clip, box, sizes)
            about.append({"name": clip or "demo", "frames": films[0].count})
            for film in films:
                with ExitStack() as stack:
                    pairs = []
                    for (name, spec), count in product(trackers.items(), threads):
                        opened, track = stack.enter_context(worker(name, replace(spec, threads=count), film))
                        for pace in paces:
                            run = replace(opened, paced=pace, rounds=[], busy=[])
                            pairs.append((runs.setdefault(_kind(run), run), track))  # of the clips before, if any
                    for number in range(1 + rounds):
                        for run, track in pairs if number == 0 or number % 2 else pairs[::-1]:
                            report(len(turns), total)
                            turns.append((number, *_kind(run), about[-1]["name"]))
                            times, busy = track(frames if number else warm_up, run.paced if number else None)
                            if number:
                                run.rounds.append(times)
                                run.busy.append(busy)
    report(total, total)
    return Speed(machine, about, identities, list(runs.values()), turns)


def record(folder: Path, clip: str | None, box: ArrayLike | None, sizes: Sequence[Size]) -> list[Film]:
    """Decode a clip once into files of its frames in each size, which need not keep the aspect ratio; the arguments and
    errors are :func:`bench`'s."""
    if clip is None:
        clip, (_, box) = str(CLIP), next(demo_frames())
    with frames_from_source(clip) as source:
        if source.live:
            raise FartrackError(f"{source.name} is live; give a video file or a folder of pictures.")
        height, width = source.first.image.shape[:2]
        given = np.array(check_box(box, width, height))
        sizes = sizes or [(width, height)]
        most = max(min(MAX_FRAMES, MAX_BYTES // sum(3 * w * h for w, h in sizes)), 2)
        images = [[_resize(frame.image, size) for size in sizes] for frame in islice(source, most)]
    if len(images) < 2:
        raise FartrackError(f"{clip} has one frame; give a clip of two or more.")
    films = []
    for size, frames in zip(sizes, zip(*images, strict=True), strict=True):
        path = folder / "{}x{}.npy".format(*size)
        np.save(path, np.stack(frames))
        films.append(Film(path, size, len(frames), given * np.tile(np.array(size) / (width, height), 2)))
    return films


def _resize(image: Image, size: Size) -> Image:
    if size == image.shape[1::-1]:
        return image
    interpolation = cv2.INTER_AREA if size[0] < image.shape[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=interpolation), np.uint8)


def available_cores() -> list[int]:
    """The logical processors that this process may use; the first of every physical core come first."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    used: Counter[str] = Counter()
    ranks = {}
    for number in sorted(os.sched_getaffinity(0)):
        core = str(number)
        with suppress(OSError):
            core = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list").read_text()
        ranks[number] = used[core]
        used[core] += 1
    return sorted(ranks, key=lambda number: (ranks[number], number))


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Processes started in here have ``threads`` threads per library, and are pinned to as many cores."""
    before, cores = os.environ.copy(), available_cores()
    os.environ.update(dict.fromkeys(THREAD_LIMITS, str(threads)))
    try:
        _pin(cores[:threads])
        yield
    finally:
        _pin(cores)
        for name in THREAD_LIMITS:
            os.environ.pop(name)
        os.environ.update(before)


def _pin(cores: Sequence[int]) -> None:
    with suppress(OSError, AttributeError):  # `Run.pinned` tells whether it worked
        os.sched_setaffinity(0, cores)


@contextmanager
def worker(
    name: str, spec: TrackerSpec, film: Film
) -> Iterator[tuple[Run, Callable[[int, float | None], tuple[list[float], float]]]]:
    """A tracker with its target in a process of its own: its run, and a function that tracks so many frames, which are
    timed as in :func:`_track`. FartrackError, which begins with the name, if anything fails in the process."""
    with process_pool(1) as pool:

        def call(function: Callable[..., Any], *arguments: Any) -> Any:
            try:
                return pool.submit(function, *arguments).result()
            except BrokenProcessPool:
                what = "the process ended by itself; if memory is short compare fewer trackers at once."
                raise FartrackError(f"{name}: {what}") from None
            except Exception as error:
                raise FartrackError(f"{name}: {error_text(error)}") from None

        threads = spec.threads or 1
        with limited(threads):
            pinned, first_box = call(_open, spec, film)
        yield Run(name, threads, film.size, pinned, first_box), partial(call, _track)


_process: dict[str, Any] = {}
"""In a worker's process: the tracker, the film, and the number of the last frame."""


def _open(spec: TrackerSpec, film: Film) -> tuple[bool, float]:
    """Open the tracker; whether the process is pinned, and the milliseconds up to the first box."""
    cv2.setNumThreads(spec.threads or 1)
    spec.identity()  # loads the module of a class before the clock starts
    first, second, start = film.frame(0), film.frame(1), time.perf_counter()
    tracker = spec.open()
    tracker.init(first, film.box.copy())
    found = tracker.update(second)
    first_box = 1000 * (time.perf_counter() - start)
    as_track(found)
    _process.update(tracker=tracker, film=film, number=1)
    return hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) == spec.threads, first_box


def _track(frames: int, paced: float | None = None) -> tuple[list[float], float]:
    """Milliseconds of each of the next frames, so many a second at most if ``paced``, and how many cores were busy."""
    times, work, begin = [], 0.0, time.perf_counter()
    for index in range(UNCOUNTED + frames):
        _process["number"] += 1
        if paced:
            time.sleep(max(begin + index / paced - time.perf_counter(), 0))
        frame, used, start = _process["film"].frame(_process["number"]), time.process_time(), time.perf_counter()
        _process["tracker"].update(frame)
        if index >= UNCOUNTED:
            times.append(1000 * (time.perf_counter() - start))
            work += time.process_time() - used
    time.sleep(PAUSE)
    return times, 1000 * work / sum(times) if times else 0.0


def print_speed(speed: Speed) -> None:
    """Print the machine, and a table for each size."""
    machine, runs = speed.machine, speed.runs
    load = "" if machine["load"] is None else f"; load before the start {machine['load']:.1f}"
    doubts = [] if all(run.pinned for run in runs) else ["Processes were not pinned; the system cannot do that."]
    # the tracker's first thread always works, unless something is in its way
    if slowed := dict.fromkeys(run.tracker for run in runs if np.median(run.busy) < 0.95):
        doubts.append(f"Less than one core was busy with {', '.join(slowed)}: other work was in the way, or they wait.")
    print_paragraphs(
        f"{machine['processor']}, {machine['cores']} logical processors{load}\n"
        + ", ".join(f"{name} {version}" for name, version in machine["versions"].items()),
        ", ".join(f"{clip['name']}, {clip['frames']} frames" for clip in speed.clips) + " forward and backward; "
        f"{len(runs[0].rounds)} rounds of {len(runs[0].rounds[0])} frames in turn; milliseconds per frame without "
        "decoding",
        *doubts,
    )
    columns = {"median [quartiles]": "{median:.2f} [{low:.2f}, {high:.2f}]", "mean": "{mean:.2f}", "95 %": "{p95:.2f}"}
    columns |= {"99 %": "{p99:.2f}", "FPS": "{fps:.1f}"}
    if len(speed.trackers) > 1:
        columns[f"times {next(iter(speed.trackers))}"] = "{ratio:.2f} [{ratio_low:.2f}, {ratio_high:.2f}]"
    for size, paced in dict.fromkeys((run.size, run.paced) for run in runs):
        table = new_table("tracker", "threads", *columns, "first box")
        for run in (run for run in runs if (run.size, run.paced) == (size, paced)):
            cells = [form.format(**speed.summary(run)) for form in columns.values()]
            table.add_row(run.tracker, str(run.threads), *cells, f"{run.first_box:.0f}")
        print_paragraphs("{}×{}".format(*size) + (f", {paced:g} frames a second" if paced else ", flat out"), table)


def plot_speed(speed: Speed) -> bytes:
    """A PNG of the median time of every run with its quartiles (extra ``eval``)."""
    from fartrack.evaluate.report import new_axes, png

    names = [
        f"{r.tracker}, {r.size[0]}×{r.size[1]}, {r.threads} threads{', paced' * bool(r.paced)}" for r in speed.runs
    ]
    found = [speed.summary(run) for run in speed.runs]
    errors = [[s["median"] - s["low"] for s in found], [s["high"] - s["median"] for s in found]]
    figure, axes = new_axes(9, 1.5 + 0.3 * len(names))
    axes.bar_label(axes.barh(names, [s["median"] for s in found], xerr=errors), fmt=" %.1f", padding=4)
    axes.invert_yaxis()
    axes.set(title=speed.machine["processor"], xlabel="milliseconds per frame without decoding: median, quartiles")
    return png(figure)
