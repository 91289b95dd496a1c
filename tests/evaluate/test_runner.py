"""A run finds what there is to find, can be killed at any moment and goes on, and never mixes two trackers."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from fartrack.datasets.sequences import Sequence
from fartrack.errors import FartrackError
from fartrack.evaluate import runner
from fartrack.evaluate.benchmarks import Benchmark
from fartrack.evaluate.metrics import Rules, overlaps
from fartrack.evaluate.runner import (
    Evaluation,
    Result,
    evaluate,
    load_published,
    load_result,
    run_sequence,
    save_result,
)
from fartrack.evaluate.trackers import TrackerSpec
from fartrack.tracking.tracker import Track

FRAMES = 6
RULES = Rules(("ao", "sr50", "sr75"), skip_first=True)

TRACKERS = '''
import os
import time
from pathlib import Path


class Drift:
    """Moves one pixel a frame; its score is the gray of the frame's first pixel."""

    def init(self, frame, box):
        self.box = list(box)

    def update(self, frame):
        self.box[0] += 1
        return self.box, frame[0, 0, 0] / 255


class Slow(Drift):
    def init(self, frame, box):
        with Path(os.environ["WORKERS"]).open("a") as file:
            print(os.getpid(), file=file)
        super().init(frame, box)

    def update(self, frame):
        time.sleep(0.05)
        return super().update(frame)


class Suicide(Drift):
    def update(self, frame):
        os._exit(7)


class Clumsy(Drift):
    def update(self, frame):
        return 1 / 0
'''


@pytest.fixture
def trackers(tmp_path, monkeypatch):
    """A function that makes trackers of the classes above, which other processes find too."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "fake_trackers.py").write_text(TRACKERS)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    sys.modules.pop("fake_trackers", None)
    return lambda *names: {name.lower(): TrackerSpec(f"fake_trackers:{name}") for name in names}


@pytest.fixture
def benchmark(tmp_path):
    """Four sequences of six small pictures each."""
    return Benchmark("folder", [write_sequence(tmp_path / "data" / f"s{i}", i) for i in range(4)], RULES)


def write_sequence(folder, number, frames=FRAMES):
    folder.mkdir(parents=True)
    paths = tuple(folder / f"{i}.png" for i in range(frames))
    for i, path in enumerate(paths):
        cv2.imwrite(str(path), np.full((40, 60, 3), 40 * number + i, np.uint8))
    x = 4.0 + number + np.arange(frames) * (1 + number % 2)
    boxes = np.stack([x, np.full(frames, 5.0), np.full(frames, 20.0), np.full(frames, 10.0)], axis=1)
    return Sequence(folder.name, paths, boxes)


def tables(evaluations):
    return {evaluation.tracker: evaluation.table for evaluation in evaluations}


# --- one sequence -----------------------------------------------------------------------------------------


class Still:
    """A tracker that never moves and answers in the given form."""

    def __init__(self, form=lambda box: box):
        self.form = form

    def init(self, frame, box):
        self.box = tuple(box)

    def update(self, frame):
        return self.form(self.box)


@pytest.mark.parametrize(
    ("form", "score"),
    [
        (lambda box: Track(box, 0.5), 0.5),
        (lambda box: (np.array(box), 0.5), 0.5),
        (lambda box: list(box), np.nan),
        (lambda box: np.array(box, np.float32), np.nan),
    ],
)
def test_a_run_has_a_box_a_score_and_a_time_a_frame(benchmark, form, score):
    done = []
    sequence = benchmark.sequences[0]
    result = run_sequence(Still(form), sequence, done.append)
    np.testing.assert_allclose(result.boxes, np.repeat(sequence.boxes[:1], FRAMES, axis=0))
    np.testing.assert_equal(result.scores, [1] + [score] * (FRAMES - 1))
    assert result.seconds[0] == 0
    assert (result.seconds[1:] > 0).all()
    assert sum(done) == FRAMES
    np.testing.assert_allclose(overlaps(result.boxes, sequence.boxes)[:2], [1, 19 / 21])


@pytest.mark.parametrize(
    ("form", "told"),
    [
        (lambda box: None, "update returned None"),
        (lambda box: box[:3], "it must be x, y, w, h"),
        (lambda box: (np.nan, 1, 2, 3), "finite"),
        (lambda box: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_a_tracker_that_fails_is_told_with_the_frame(benchmark, form, told):
    with pytest.raises(FartrackError, match=f"failed on s0, frame 1: .*{told}"):
        run_sequence(Still(form), benchmark.sequences[0])


def test_a_video_shorter_than_its_ground_truth_is_named(tmp_path):
    sequence = write_sequence(tmp_path / "a", 0)
    short = Sequence("a", tmp_path / "a", np.tile(sequence.boxes[0], (8, 1)))
    with pytest.raises(FartrackError, match="a has 6 frames, but 8 lines"):
        run_sequence(Still(), short)


def test_the_ground_truth_cannot_be_changed_by_a_tracker(benchmark):
    class Rude(Still):
        def init(self, frame, box):
            self.box = box
            box += 5

    sequence = benchmark.sequences[0]
    before = sequence.boxes.copy()
    run_sequence(Rude(), sequence)
    np.testing.assert_equal(sequence.boxes, before)


# --- what is kept -----------------------------------------------------------------------------------------


def test_a_result_comes_back_as_it_was(tmp_path, benchmark):
    sequence = benchmark.sequences[0]
    rng = np.random.default_rng(0)
    boxes = np.concatenate([sequence.boxes[:1], rng.uniform(1, 50, (FRAMES - 1, 4))])
    save_result(tmp_path / "r", Result("s0", boxes, rng.uniform(size=FRAMES), rng.uniform(size=FRAMES)))
    found = load_result(tmp_path / "r", sequence)
    np.testing.assert_allclose(found.boxes, boxes, atol=5e-5)
    assert not list((tmp_path / "r").glob("*.part"))
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["s0.txt", "s0_score.txt", "s0_time.txt"]


def test_a_broken_result_is_none(tmp_path, benchmark):
    sequence, folder = benchmark.sequences[0], tmp_path / "r"
    good = run_sequence(Still(), sequence)

    def lines(name, change):
        text = (folder / name).read_text().splitlines()
        (folder / name).write_text("\n".join(change(text)) + "\n")

    breaks = [
        lambda: lines("s0.txt", lambda text: text[:-1]),
        lambda: lines("s0.txt", lambda text: [*text[:-1], "1,2,3"]),
        lambda: lines("s0.txt", lambda text: [*text[:-1], "nan,1,2,3"]),
        lambda: lines("s0.txt", lambda text: ["9,9,9,9", *text[1:]]),
        lambda: (folder / "s0.txt").write_bytes(b"\xff\x00"),
        lambda: (folder / "s0.txt").write_text(""),
        lambda: (folder / "s0.txt").unlink(),
        lambda: (folder / "s0_time.txt").unlink(),
        lambda: lines("s0_score.txt", lambda text: text[1:]),
        lambda: lines("s0_score.txt", lambda text: ["x", *text[1:]]),
    ]
    for number, damage in enumerate(breaks):
        save_result(folder, good)
        assert load_result(folder, sequence) is not None
        damage()
        assert load_result(folder, sequence) is None, f"damage {number} was not seen"


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_result_is_written_whole_or_not_at_all(tmp_path, benchmark, monkeypatch, writes):
    done = []

    def fail_later(path, text, write=runner.write_whole):
        if len(done) == writes:
            raise OSError("the disk is full")
        done.append(path)
        write(path, text)

    monkeypatch.setattr(runner, "write_whole", fail_later)
    sequence = benchmark.sequences[0]
    with pytest.raises(OSError, match="full"):
        save_result(tmp_path / "r", run_sequence(Still(), sequence))
    assert load_result(tmp_path / "r", sequence) is None


def test_published_results_are_read_in_the_pixels_of_the_benchmark(tmp_path):
    one_based = Sequence("a", tmp_path / "a", np.array([[10.0, 20, 5, 6], [11, 21, 5, 6], [11, 21, 5, 6]]), origin=1)
    (tmp_path / "a.txt").write_text("11,21,5,6\n12,22,5,6\nnan,nan,nan,nan\n")
    result = load_published(tmp_path, one_based)
    assert result.boxes.tolist() == [[10, 20, 5, 6], [11, 21, 5, 6], [0, 0, 0, 0]]
    (tmp_path / "a.txt").write_text("10\t20\t5\t6\n12\t22\t5\t6\n1\t1\t1\t1\n")
    assert load_published(tmp_path, one_based).boxes[1].tolist() == [12, 22, 5, 6]
    (tmp_path / "a.txt").write_text("10,20,5,6\n")
    with pytest.raises(FartrackError, match=r"a.txt has 1 lines for the 3 frames"):
        load_published(tmp_path, one_based)


# --- all of it --------------------------------------------------------------------------------------------


def test_processes_do_not_change_the_results(tmp_path, benchmark, trackers):
    calls = []
    alone = evaluate(trackers("Drift"), benchmark, tmp_path / "one", 1, lambda *state: calls.append(state))
    beside = evaluate(trackers("Drift"), benchmark, tmp_path / "two", 2)
    direct = [run_sequence(trackers("Drift")["drift"].open(), sequence) for sequence in benchmark.sequences]
    for results in (alone[0].results, beside[0].results):
        for found, expected in zip(results, direct, strict=True):
            np.testing.assert_allclose(found.boxes, expected.boxes)
            np.testing.assert_allclose(found.scores, expected.scores, atol=5e-5)
    assert calls[0] == (0, 4 * FRAMES)
    assert calls[-1] == (4 * FRAMES, 4 * FRAMES)
    assert (alone[0].jobs, beside[0].jobs) == (1, 2)
    assert tables(alone)["drift"]["s0"]["ao"] == pytest.approx(1)
    assert tables(alone)["drift"]["s1"]["ao"] < 0.9

    # all is there: nothing runs, and that it was timed beside others stays known
    calls.clear()
    [again] = evaluate(trackers("Drift"), benchmark, tmp_path / "two", 1, lambda *state: calls.append(state))
    assert calls == [(0, 0)]
    assert again.jobs == 2
    assert again.table == beside[0].table

    [again] = evaluate(trackers("Drift"), benchmark, tmp_path / "one", 2)
    assert again.jobs == 1

    # one is broken: it alone runs again
    (tmp_path / "one" / "folder" / "drift" / "s2.txt").write_text("1,2,3\n")
    calls.clear()
    [mended] = evaluate(trackers("Drift"), benchmark, tmp_path / "one", 1, lambda *state: calls.append(state))
    assert calls[-1] == (FRAMES, FRAMES)
    assert mended.table == alone[0].table


def test_killed_at_half_way_a_run_goes_on_to_the_same_table(tmp_path, benchmark, trackers, monkeypatch):
    program = tmp_path / "program.py"
    program.write_text(
        "import pickle, sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from fartrack.evaluate.trackers import TrackerSpec\n"
        "from fartrack.evaluate.runner import evaluate\n"
        "if __name__ == '__main__':\n"
        "    benchmark = pickle.loads(Path(sys.argv[2]).read_bytes())\n"
        "    evaluate({'slow': TrackerSpec('fake_trackers:Slow')}, benchmark, Path(sys.argv[3]), 2)\n"
    )
    (tmp_path / "benchmark").write_bytes(pickle.dumps(benchmark))
    workers = tmp_path / "workers"
    monkeypatch.setenv("WORKERS", str(workers))
    results = tmp_path / "r"
    command = [sys.executable, str(program), str(tmp_path / "code"), str(tmp_path / "benchmark"), str(results)]
    process = subprocess.Popen(command)
    folder = results / "folder" / "slow"
    wait_for(lambda: any(load_result(folder, sequence) for sequence in benchmark.sequences))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(alive(int(pid)) for pid in set(workers.read_text().split())))
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("s?.txt")}
    assert 1 <= len(kept) < 4, "the kill came too late to show anything"

    totals = []
    resumed = evaluate(trackers("Slow"), benchmark, results, 2, lambda done, total: totals.append(total))
    assert set(totals) == {FRAMES * (4 - len(kept))}
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == kept
    whole = evaluate(trackers("Drift"), benchmark, tmp_path / "whole")  # the same, without the wait
    assert resumed[0].table == whole[0].table


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_process_that_dies_is_one_sentence(tmp_path, benchmark, trackers):
    with pytest.raises(FartrackError, match=r"ended by itself while suicide tracked s0"):
        evaluate(trackers("Suicide"), benchmark, tmp_path / "r")


def test_a_tracker_that_fails_in_a_process_is_one_sentence(tmp_path, benchmark, trackers):
    with pytest.raises(FartrackError, match="clumsy: The tracker failed on s0, frame 1: ZeroDivisionError"):
        evaluate(trackers("Clumsy"), benchmark, tmp_path / "r")


def test_results_of_another_model_are_not_mixed_in(tmp_path, benchmark, trackers):
    folder = tmp_path / "r" / "folder" / "drift"
    evaluate(trackers("Drift"), benchmark, tmp_path / "r")
    record = json.loads((folder / "tracker.json").read_text())
    assert record["identity"]["class"] == "fake_trackers:Drift"
    other = {"drift": TrackerSpec("fake_trackers:Drift", threads=2)}
    with pytest.raises(FartrackError, match=r"another drift \(not the same: threads\)"):
        evaluate(other, benchmark, tmp_path / "r")
    (folder / "tracker.json").unlink()
    with pytest.raises(FartrackError, match="another drift"):
        evaluate(trackers("Drift"), benchmark, tmp_path / "r")


def test_published_results_limit_the_comparison_to_their_sequences(tmp_path, benchmark, trackers):
    published = tmp_path / "published"
    published.mkdir()
    for sequence in benchmark.sequences[1:3]:
        np.savetxt(published / f"{sequence.name}.txt", sequence.boxes, delimiter=",")
    both = {**trackers("Drift"), "theirs": TrackerSpec(f"raw:{published}")}
    ours, theirs = evaluate(both, benchmark, tmp_path / "r")
    for evaluation in (ours, theirs):
        assert [result.name for result in evaluation.results] == ["s1", "s2"]
        assert [sequence.name for sequence in evaluation.benchmark.sequences] == ["s1", "s2"]
    assert theirs.table["s1"]["ao"] == pytest.approx(1)
    assert np.isnan(theirs.fps)
    assert ours.fps > 0
    assert sorted(path.name for path in (tmp_path / "r" / "folder" / "drift").glob("s?.txt")) == ["s1.txt", "s2.txt"]

    (tmp_path / "nothing").mkdir()
    with pytest.raises(FartrackError, match=r"holds no results .* s0.txt"):
        evaluate({"theirs": TrackerSpec(f"raw:{tmp_path / 'nothing'}")}, benchmark, tmp_path / "r")


def test_fps_counts_the_updates_alone(benchmark):
    times = np.array([0, 0.1, 0.1, 0.1, 0.1, 0.1])
    results = [Result(s.name, s.boxes, np.ones(FRAMES), times) for s in benchmark.sequences]
    assert Evaluation("a", benchmark, results).fps == pytest.approx(10)
