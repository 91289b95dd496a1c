"""Timing: who works when, on which frames, within which limits; and what the figures come to.

No time is asserted but that which trackers sleep.
"""

import os
import statistics
import threading
import time
from functools import partial
from itertools import islice

import cv2
import numpy as np
import pytest

import fartrack
from fartrack.demo import render_clip
from fartrack.errors import FartrackError
from fartrack.evaluate import speed
from fartrack.evaluate.peers import TrackerSpec
from fartrack.evaluate.speed.footage import LONGEST, record
from fartrack.evaluate.speed.machine import Machine
from fartrack.evaluate.speed.stages import Staged, Stopwatch, TimedEngine, attended, stage_times
from fartrack.evaluate.speed.workers import LEAD_IN, THREADS, Worker, limited, peak_mb, processors
from fartrack.model.cost import search_macs

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

pins = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system keeps no process to processors")


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
    plan, reports = speed.Plan(rounds=3, frames=4, warm_up=2), []
    found = speed.bench(
        {"quick": spec("Quick"), "slow": spec("Slow")},
        clip,
        (8, 8, 20, 16),
        sizes=[(32, 24)],
        plan=plan,
        report=lambda *counts: reports.append(counts),
    )
    notes = [line.split() for line in fakes.read_text().splitlines()]
    assert [note for note in notes if note[1] == "open"] == [
        [name, "open", "1", "1", "1"] for name in ("Quick", "Slow")
    ]

    updates = [note for note in notes if note[1] == "update"]
    times = [float(value) for note in updates for value in note[2:4]]
    assert times == sorted(times)  # nobody worked while another did
    bursts = [1, 1, *[LEAD_IN + 2] * 2, *[LEAD_IN + 4] * 6]
    order = ["Quick", "Slow", "Quick", "Slow", "Quick", "Slow", "Slow", "Quick", "Quick", "Slow"]
    assert [note[0] for note in updates] == [
        who for who, count in zip(order, bursts, strict=True) for _ in range(count)
    ]
    seen = {name: [note[4] for note in updates if note[0] == name] for name in ("Quick", "Slow")}
    assert seen["Quick"] == seen["Slow"]
    assert len(set(seen["Quick"])) == 12

    assert [(turn.kind, turn.tracker) for turn in found.turns] == [
        *(("warm-up", name) for name in ("quick", "slow")),
        *(("burst", name) for name in ("quick", "slow", "slow", "quick", "quick", "slow")),
    ]
    assert reports[0] == (0, 8)
    assert reports[-1] == (8, 8)
    quick, slow = found.runs
    assert (found.frames, quick.size, quick.threads, quick.pinned, quick.staged) == (12, (32, 24), 1, True, None)
    assert [len(times) for times in slow.rounds] == [4, 4, 4]
    assert min(map(min, slow.rounds)) >= 4  # milliseconds
    assert found.decoding > 0
    assert found.machine.gflops[1] > 0
    assert found.trackers["quick"]["class"] == "fakes_of_speed:Quick"


@pytest.mark.parametrize(
    ("tracker", "told"), [("Broken", "RuntimeError: it is broken"), ("Gone", r"ended by itself \(exit code 3\)")]
)
def test_a_tracker_that_fails_is_named(fakes, tmp_path, tracker, told):
    film = record(tmp_path, None, None, [(64, 36)]).films[0]
    with pytest.raises(FartrackError, match=f"^mine: .*{told}"):
        speed.Entrant("mine", spec(tracker), film)


def test_our_own_tracker_in_stages(demo_clip):
    frames, boxes = demo_clip
    whole = fartrack.TrackerSettings()  # looks at all of the window
    plain, tracker = (fartrack.load("pico", threads=1, settings=whole) for _ in range(2))
    for each in (plain, tracker):
        each.init(frames[0], boxes[0])
    engine = tracker.engine
    gets = [partial(frames.__getitem__, number) for number in range(1, 24)]
    expected, tokens = [], 0
    for get in gets:
        tokens += attended(plain.state)
        expected.append(plain.update(get()).box)
    staged = stage_times(tracker, gets)
    assert staged.frames == 23
    assert staged.memory == tokens
    assert staged.macs == sum(search_macs(engine.config, 49 * n) * k for n, k in split(tokens // 49, 23))
    assert 0 < staged.crop < staged.whole
    assert 0 < staged.network < staged.whole
    assert staged.templates + staged.beside > 0  # one was taken
    assert staged.rest > 0
    assert tracker.engine is engine
    assert "look" not in vars(tracker)
    np.testing.assert_array_equal(tracker.state.trajectory[-1], plain.state.trajectory[-1])


def split(templates, frames):
    """How many of the frames saw one template, and how many two."""
    return [(1, 2 * frames - templates), (2, templates - frames)]


def test_times_of_several_threads_add_up():
    watch = Stopwatch()

    def spend():
        with watch.measure("work"):
            time.sleep(0.01)

    threads = [threading.Thread(target=spend) for _ in range(4)]
    for thread in threads:
        thread.start()
    spend()
    for thread in threads:
        thread.join()
    assert watch.ms("work beside") >= 4 * 10
    assert watch.ms("work") >= 10
    assert watch.ms("nothing") == 0


def test_a_timed_engine_is_the_engine(tiny):
    class Fake:
        config, background, other = tiny(), False, 7

        def encode_templates(self, crops, identities):
            return ("rows", crops, identities)

        def search(self, crops, trajectory, memory):
            return ("logits", crops, trajectory, memory)

        def search_scored(self, crops, trajectory, memory):
            return ("both", crops, trajectory, memory)

    engine = TimedEngine(Fake(), watch := Stopwatch())
    assert engine.config is Fake.config
    assert engine.other == 7
    assert engine.encode_templates(1, 2) == ("rows", 1, 2)
    assert watch.ms("network") == 0 < watch.ms("templates")
    assert engine.search(1, 2, 3) == ("logits", 1, 2, 3)
    before = watch.ms("network")
    assert engine.search_scored(1, 2, 3) == ("both", 1, 2, 3)
    assert watch.ms("network") > before > 0


def test_footage_is_resized_and_played_forth_and_back(tmp_path, clip):
    footage = record(tmp_path, clip, (8, 12, 20, 16), [(64, 48), (32, 96)])
    same, other = footage.films
    np.testing.assert_array_equal(same.box, (8, 12, 20, 16))
    np.testing.assert_array_equal(other.box, (4, 24, 10, 32))
    assert other.frame(3).shape == (96, 32, 3)
    played = [int(same.frame(number)[0, 0, 0]) // 10 for number in range(26)]
    assert played == [*range(12), *range(10, -1, -1), 1, 2, 3]
    assert footage.decoding > 0


def test_the_demo_is_bounded_and_has_its_own_size(tmp_path):
    footage = record(tmp_path, None, None, [])
    (film,) = footage.films
    assert (film.size, film.count, footage.decoding) == ((640, 360), LONGEST, None)
    for number, (image, box) in enumerate(islice(render_clip(), 2)):
        np.testing.assert_array_equal(film.frame(number), image)
        if not number:
            np.testing.assert_array_equal(film.box, box)


def test_large_frames_are_fewer(tmp_path, clip, monkeypatch):
    monkeypatch.setattr("fartrack.evaluate.speed.footage.LARGEST", 5 * 48 * 64 * 3)
    assert record(tmp_path, clip, (8, 12, 20, 16), []).films[0].count == 5


def test_footage_that_cannot_be_used(tmp_path, clip):
    with pytest.raises(FartrackError, match="outside the 64×48 frame"):
        record(tmp_path, clip, (100, 12, 20, 16), [])
    with pytest.raises(FartrackError, match="one frame"):
        record(tmp_path, f"{clip}/3.png", (8, 12, 20, 16), [])
    with pytest.raises(FartrackError, match="no file"):
        record(tmp_path, f"{clip}/none.mp4", (8, 12, 20, 16), [])


def test_sizes_and_threads():
    assert speed.parse_sizes("640x360, 1280X720,640×360") == [(640, 360), (1280, 720)]
    assert speed.parse_threads("2, 1,2") == [2, 1]
    for text in ("", "640", "640x", "axb", "640x360x3", "-640x360", "8x8", "9999x100", "640x360,"):
        with pytest.raises(FartrackError, match=r"such as 640x360\.$"):
            speed.parse_sizes(text)
    for text in ("", "0", "-1", "two", "1,", "1.5"):
        with pytest.raises(FartrackError, match=r"such as 1,2\.$"):
            speed.parse_threads(text)
    with pytest.raises(FartrackError, match="rounds"):
        speed.Plan(rounds=0)


@pytest.mark.parametrize(
    ("trackers", "options", "told"),
    [
        ({"pico": TrackerSpec("pico")}, {"threads": [10_000]}, "this machine has"),
        ({"pico": TrackerSpec("pico")}, {"threads": [0]}, "threads is 0"),
        ({"old": TrackerSpec("raw:results")}, {}, "old is published results"),
        ({"no": TrackerSpec("nobody")}, {}, "There is no tracker 'nobody'"),
    ],
)
def test_what_is_wrong_shows_before_anything_is_timed(trackers, options, told):
    with pytest.raises(FartrackError, match=told):
        speed.bench(trackers, **options)


@pins
def test_limits_hold_within_only():
    count = len(processors())
    before = {name: os.environ.get(name) for name in THREADS}
    with limited(1):
        assert {os.environ[name] for name in THREADS} == {"1"}
        assert len(os.sched_getaffinity(0)) == 1
    assert len(os.sched_getaffinity(0)) == count
    assert {name: os.environ.get(name) for name in THREADS} == before


def test_the_peak_is_that_of_the_process_alone():
    ballast = np.ones(2**28, np.uint8)
    assert peak_mb() > 256
    with Worker("numbers", Peak, 1) as worker:
        assert worker.ask("peak_mb") < peak_mb() - 128
    assert ballast.size


class Peak:
    def peak_mb(self):
        return peak_mb()


def run_of(tracker, rounds, **changes):
    about = {"threads": 2, "size": (640, 360), "pinned": True, "first_box": [5.0, 2.0, 3.0], "staged": None}
    return speed.Run(tracker, rounds=rounds, busy=[0.99] * len(rounds), peak_mb=100.0, **(about | changes))


def test_figures_are_those_of_the_raw_times():
    rng = np.random.default_rng(0)
    first, second = (run_of(name, rng.uniform(1, 9, (5, 7)).tolist()) for name in ("a", "b"))
    frames = [value for times in second.rounds for value in times]
    low, median, high = statistics.quantiles(frames, n=4, method="inclusive")
    assert second.frame == pytest.approx((median, low, high))
    assert second.p95 == pytest.approx(statistics.quantiles(frames, n=20, method="inclusive")[-1])
    assert second.fps == pytest.approx(35 / (sum(frames) / 1000))
    ratios = [statistics.median(b) / statistics.median(a) for a, b in zip(first.rounds, second.rounds, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    assert second.ratio(first) == pytest.approx((median, low, high))
    assert second.ratio(second) == (1, 1, 1)


def test_stages_and_the_share_of_the_best_rate():
    staged = Staged(2, 30.0, 2.0, 20.0, 4.0, 0.0, 490, 10**9) + Staged(2, 30.0, 2.0, 20.0, 4.0, 6.0, 490, 10**9)
    run = run_of("ours", [[15.0]], staged=staged)
    machine = Machine("a machine", 2, None, {1: 50.0, 2: 200.0}, 10.0, {})
    found = speed.Speed(machine, speed.Plan(), "clip", 150, 1.5, {"ours": {}}, [run], [])
    assert found.stages(run) == {
        "decoding": 1.5,
        "crop": 1.0,
        "network": 10.0,
        "templates": 2.0,
        "rest": 2.0,
        "whole": 15.0,
        "templates beside": 1.5,
    }
    assert found.roofline(run) == pytest.approx(2 * 2e9 / 0.040 / 200e9)
    assert found.roofline(run_of("other", [[1.0]])) is None


def test_a_comparison_is_to_the_first_tracker_with_the_same_threads_and_size():
    runs = [
        run_of(name, [[1.0]], threads=threads, size=size)
        for size in ((64, 36), (128, 72))
        for name in ("a", "b")
        for threads in (1, 2)
    ]
    found = speed.Speed(
        Machine("", 2, None, {}, 1.0, {}), speed.Plan(), "demo", 150, None, {"a": {}, "b": {}}, runs, []
    )
    for run in runs:
        first = found.first(run)
        assert (first.tracker, first.threads, first.size) == ("a", run.threads, run.size)


def test_doubts_are_told(capsys):
    run = run_of("ours", [[1.0]], pinned=False)
    run.busy[:] = [0.5]
    machine = Machine("a machine", 2, 1.5, {2: 90.0}, 10.0, {"numpy": "2.0"})
    speed.print_speed(speed.Speed(machine, speed.Plan(), "demo", 150, None, {"ours": {}}, [run], []))
    told = capsys.readouterr().out
    assert "not kept to processors" in told
    assert "Less than one processor was busy with ours: other work was in the way" in told
    assert "load before the start 1.5" in told
    assert "times ours" not in told


def test_a_picture_of_several_sizes_and_threads():
    pytest.importorskip("matplotlib")
    from fartrack.evaluate.speed.plot import plot_speed

    runs = [
        run_of(name, [[1.0, 2.0, 4.0]], threads=threads, size=size)
        for size in ((64, 36), (128, 72))
        for name in ("a", "b", "c")
        for threads in (1, 2)
    ]
    machine = Machine("a machine", 2, None, {}, 1.0, {})
    found = speed.Speed(machine, speed.Plan(), "demo", 150, None, {name: {} for name in "abc"}, runs, [])
    picture = cv2.imdecode(np.frombuffer(plot_speed(found), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[0] > 300
