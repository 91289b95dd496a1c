"""Timing: which tracker works when, on which frames, within which limits; and the statistics.

No time is asserted but the one that trackers sleep.
"""

import os
import statistics
from itertools import islice

import cv2
import numpy as np
import pytest

from fartrack.demo import demo_frames
from fartrack.errors import FartrackError
from fartrack.evaluate import speed
from fartrack.evaluate.speed import MAX_FRAMES, THREAD_LIMITS, UNCOUNTED, available_cores, limited, record
from fartrack.evaluate.trackers import TrackerSpec

FAKES = """
import os
import time
import zlib
import cv2


class Quick:
    pause = 0.001

    def __init__(self):
        self.note("open", os.environ["OMP_NUM_THREADS"], cv2.getNumThreads(), len(os.sched_getaffinity(0)))

    def init(self, frame, box):
        self.box = box

    def update(self, frame):
        begin = time.perf_counter()
        time.sleep(self.pause)
        self.note("update", begin, time.perf_counter(), zlib.crc32(frame))
        return self.box

    def note(self, *words):
        with open(os.environ["FAKES"], "a") as file:
            print(type(self).__name__, *words, file=file)


class Slow(Quick):
    pause = 0.004


class Broken(Quick):
    def update(self, frame):
        raise RuntimeError("it is broken")


class Gone(Quick):
    def update(self, frame):
        os._exit(3)
"""

pins = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin processes")


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """Trackers ``quick`` and ``slow``, and the file in which they note what they do."""
    (tmp_path / "fakes_of_speed.py").write_text(FAKES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FAKES", str(tmp_path / "notes.txt"))
    return tmp_path / "notes.txt"


def spec(name):
    return TrackerSpec(f"fakes_of_speed:{name}")


@pytest.fixture
def clip(tmp_path):
    """A folder of twelve small pictures, no two of them alike."""
    folder = tmp_path / "clip"
    folder.mkdir()
    for number in range(12):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((48, 64, 3), 10 * number, np.uint8))
    return str(folder)


@pins
def test_trackers_take_turns_on_the_same_frames(fakes, clip):
    reports = []
    found = speed.bench(
        {"quick": spec("Quick"), "slow": spec("Slow")},
        {clip: (8, 8, 20, 16)},
        sizes=[(32, 24)],
        rounds=3,
        frames=4,
        warm_up=2,
        report=lambda *counts: reports.append(counts),
    )
    notes = [line.split() for line in fakes.read_text().splitlines()]
    assert [note for note in notes if note[1] == "open"] == [
        [name, "open", "1", "1", "1"] for name in ("Quick", "Slow")
    ]

    updates = [note for note in notes if note[1] == "update"]
    times = [float(value) for note in updates for value in note[2:4]]
    assert times == sorted(times)  # only one works at a time
    counts = [1, 1, *[UNCOUNTED + 2] * 2, *[UNCOUNTED + 4] * 6]
    order = ["Quick", "Slow", "Quick", "Slow", "Quick", "Slow", "Slow", "Quick", "Quick", "Slow"]
    assert [note[0] for note in updates] == [
        who for who, count in zip(order, counts, strict=True) for _ in range(count)
    ]
    seen = {name: [note[4] for note in updates if note[0] == name] for name in ("Quick", "Slow")}
    assert seen["Quick"] == seen["Slow"]
    assert len(set(seen["Quick"])) == 12

    turns = [(0, "quick"), (0, "slow"), (1, "quick"), (1, "slow"), (2, "slow"), (2, "quick"), (3, "quick"), (3, "slow")]
    assert found.turns == [(*turn, 1, (32, 24), None, clip) for turn in turns]
    assert reports[0] == (0, 8)
    assert reports[-1] == (8, 8)
    quick, slow = found.runs
    assert (found.clips[0]["frames"], quick.size, quick.threads, quick.pinned) == (12, (32, 24), 1, True)
    assert [len(times) for times in slow.rounds] == [4, 4, 4]
    assert min(map(min, slow.rounds)) >= 4  # milliseconds
    assert found.trackers["quick"]["class"] == "fakes_of_speed:Quick"


def test_several_clips_flat_out_and_paced(fakes, clip, tmp_path):
    (tmp_path / "other").mkdir()
    for number in range(3):
        cv2.imwrite(str(tmp_path / "other" / f"{number}.png"), np.full((20, 30, 3), 200, np.uint8))
    clips = {clip: (8, 8, 20, 16), str(tmp_path / "other"): (2, 2, 9, 9)}
    found = speed.bench({"quick": spec("Quick")}, clips, sizes=[(32, 24)], rounds=2, frames=3, warm_up=0, paced=50)
    assert [each["frames"] for each in found.clips] == [12, 3]
    assert [(number, pace, name) for number, *_, pace, name in found.turns] == [
        (number, pace, name)
        for name in clips
        for number, pace in ((0, None), (0, 50), (1, None), (1, 50), (2, 50), (2, None))
    ]
    flat, paced = found.runs
    assert (flat.paced, paced.paced) == (None, 50)
    assert [len(times) for run in found.runs for times in run.rounds] == [3] * 8  # two rounds on each of two clips
    starts = [float(note[2]) for line in fakes.read_text().splitlines() if (note := line.split())[1] == "update"]
    slow = (np.diff(starts) > 0.015).sum()
    assert slow >= 2 * 2 * (UNCOUNTED + 2)  # of the paced frames, a fiftieth of a second each
    assert found.summary(paced)["ratio"] == 1


@pytest.mark.parametrize(
    ("tracker", "told"), [("Broken", "RuntimeError: it is broken"), ("Gone", "the process ended by itself")]
)
def test_a_tracker_that_fails_is_named(fakes, clip, tracker, told):
    with pytest.raises(FartrackError, match=f"^mine: .*{told}"):
        speed.bench({"mine": spec(tracker)}, {clip: (8, 8, 20, 16)})


def test_footage_is_resized_and_played_forth_and_back(tmp_path, clip):
    same, other = record(tmp_path, clip, (8, 12, 20, 16), [(64, 48), (32, 96)])
    np.testing.assert_array_equal(same.box, (8, 12, 20, 16))
    np.testing.assert_array_equal(other.box, (4, 24, 10, 32))
    assert other.frame(3).shape == (96, 32, 3)
    played = [int(same.frame(number)[0, 0, 0]) // 10 for number in range(26)]
    assert played == [*range(12), *range(10, -1, -1), 1, 2, 3]


def test_the_demo_is_bounded_and_has_its_own_size(tmp_path):
    (film,) = record(tmp_path, None, None, [])
    assert (film.size, film.count) == ((640, 360), MAX_FRAMES)
    for number, (image, box) in enumerate(islice(demo_frames(), 2)):
        np.testing.assert_array_equal(film.frame(number), image)
        if not number:
            np.testing.assert_array_equal(film.box, box)


def test_large_frames_are_fewer(tmp_path, clip, monkeypatch):
    monkeypatch.setattr("fartrack.evaluate.speed.MAX_BYTES", 5 * 48 * 64 * 3)
    assert record(tmp_path, clip, (8, 12, 20, 16), [])[0].count == 5


def test_footage_that_cannot_be_used(tmp_path, clip):
    with pytest.raises(FartrackError, match="outside the 64×48 frame"):
        record(tmp_path, clip, (100, 12, 20, 16), [])
    with pytest.raises(FartrackError, match="one frame"):
        record(tmp_path, f"{clip}/3.png", (8, 12, 20, 16), [])
    with pytest.raises(FartrackError, match="no file"):
        record(tmp_path, f"{clip}/none.mp4", (8, 12, 20, 16), [])


@pytest.mark.parametrize(
    ("trackers", "options", "told"),
    [
        ({"pico": TrackerSpec("pico")}, {"threads": [10_000]}, "this machine has"),
        ({"pico": TrackerSpec("pico")}, {"threads": [0]}, "threads is 0"),
        ({"pico": TrackerSpec("pico")}, {"paced": 0.0}, "The pace is 0 frames a second"),
        ({"old": TrackerSpec("raw:results")}, {}, "old is published results"),
        ({"no": TrackerSpec("nobody")}, {}, "There is no tracker 'nobody'"),
    ],
)
def test_what_is_wrong_shows_before_anything_is_timed(trackers, options, told):
    with pytest.raises(FartrackError, match=told):
        speed.bench(trackers, **options)


@pins
def test_limits_hold_within_only():
    count = len(available_cores())
    before = {name: os.environ.get(name) for name in THREAD_LIMITS}
    with limited(1):
        assert {os.environ[name] for name in THREAD_LIMITS} == {"1"}
        assert len(os.sched_getaffinity(0)) == 1
    assert len(os.sched_getaffinity(0)) == count
    assert {name: os.environ.get(name) for name in THREAD_LIMITS} == before


def run_of(tracker, rounds, **changes):
    about = {"threads": 2, "size": (640, 360), "pinned": True, "first_box": 10.0} | changes
    return speed.Run(tracker, rounds=rounds, busy=[0.99] * len(rounds), **about)


def speed_of(runs, load=None):
    machine = {"processor": "a machine", "cores": 2, "load": load, "versions": {"numpy": "2.0"}}
    trackers = {run.tracker: {} for run in runs}
    return speed.Speed(machine, [{"name": "demo", "frames": 150}], trackers, runs, [])


def test_figures_are_those_of_the_raw_times():
    rng = np.random.default_rng(0)
    first, second = (run_of(name, rng.uniform(1, 9, (5, 7)).tolist()) for name in ("a", "b"))
    found = speed_of([first, second]).summary(second)
    frames = [value for times in second.rounds for value in times]
    quartiles = statistics.quantiles(frames, n=4, method="inclusive")
    assert [found[name] for name in ("low", "median", "high")] == pytest.approx(quartiles)
    assert found["p95"] == pytest.approx(statistics.quantiles(frames, n=20, method="inclusive")[-1])
    assert found["p99"] == pytest.approx(statistics.quantiles(frames, n=100, method="inclusive")[-1])
    assert found["mean"] == pytest.approx(statistics.mean(frames))
    assert found["fps"] == pytest.approx(35 / (sum(frames) / 1000))
    ratios = [statistics.median(b) / statistics.median(a) for a, b in zip(first.rounds, second.rounds, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4, method="inclusive")
    assert [found[name] for name in ("ratio_low", "ratio", "ratio_high")] == pytest.approx(quartiles)
    assert speed_of([second]).summary(second)["ratio"] == 1


def test_a_comparison_is_to_the_first_tracker_with_the_same_threads_and_size():
    runs = [
        run_of(name, [[10.0 * threads + size[0] + (name == "b")]], threads=threads, size=size)
        for size in ((64, 36), (128, 72))
        for name in ("a", "b")
        for threads in (1, 2)
    ]
    found = speed_of(runs)
    for run in runs:
        base = 10 * run.threads + run.size[0]
        assert found.summary(run)["ratio"] == pytest.approx((base + (run.tracker == "b")) / base)


def test_doubts_are_told(capsys):
    run = run_of("ours", [[1.0]], pinned=False)
    run.busy[:] = [0.5]
    speed.print_speed(speed_of([run], load=1.5))
    told = capsys.readouterr().out
    assert "not pinned" in told
    assert "Less than one core was busy with ours: other work was in the way" in told
    assert "load before the start 1.5" in told
    assert "times ours" not in told


def test_a_picture_of_several_sizes_and_threads():
    pytest.importorskip("matplotlib")
    runs = [
        run_of(name, [[1.0, 2.0, 4.0]], threads=threads, size=size)
        for size in ((64, 36), (128, 72))
        for name in ("a", "b", "c")
        for threads in (1, 2)
    ]
    picture = cv2.imdecode(np.frombuffer(speed.plot_speed(speed_of(runs)), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[0] > 300
