"""Submissions are what the servers take, and never go out incomplete."""

import sys
import time
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fartrack.datasets.sequences import Sequence
from fartrack.errors import FartrackError
from fartrack.evaluate.benchmarks import BENCHMARKS, Benchmark, open_benchmark
from fartrack.evaluate.runner import Evaluation, Result
from fartrack.evaluate.submission import check_server, write_submission


def results_on(sequences, seed=0):
    rng = np.random.default_rng(seed)
    for sequence in sequences:
        boxes = rng.uniform(0, 60, (sequence.length, 4))
        seconds = np.concatenate([[0.0], rng.uniform(0.001, 0.1, sequence.length - 1)])
        yield Result(sequence.name, boxes, np.ones(sequence.length), seconds)


def evaluation_on(name, names, frames=3, origin=0.0):
    source = tuple(Path(f"{index}.jpg") for index in range(frames))
    sequences = [Sequence(each, source, np.ones((1, 4)), origin=origin) for each in names]
    benchmark = Benchmark(name, sequences, BENCHMARKS[name].rules)
    return Evaluation("ours", benchmark, list(results_on(sequences)))


def unzip(path):
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        return {name: file.read(name).decode() for name in file.namelist() if not name.endswith("/")}


@pytest.fixture
def videos():
    """An evaluation on all of TrackingNet's test set."""
    return evaluation_on("trackingnet-test", [f"video_{index}" for index in range(511)])


def test_got10k_is_what_its_toolkit_writes(tmp_path, write_sequence, monkeypatch):
    if find_spec("six") is None:  # which the toolkit needs but does not declare, for this one name
        monkeypatch.setitem(sys.modules, "six", SimpleNamespace(string_types=str))
    experiments = pytest.importorskip("got10k.experiments", reason="the got10k toolkit is not installed")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    root = tmp_path / "data"
    for index in range(1, 181):
        write_sequence("got10k-test", f"GOT-10k_Test_{index:06}", root, frames=2)
    benchmark = open_benchmark("got10k-test", root)
    evaluation = Evaluation("ours", benchmark, list(results_on(benchmark.sequences)))
    toolkit = experiments.ExperimentGOT10k(str(root), "test", str(tmp_path / "theirs"), str(tmp_path / "reports"))
    for result in evaluation.results:
        record = tmp_path / "theirs" / "GOT-10k" / "ours" / result.name / f"{result.name}_001.txt"
        toolkit._record(str(record), result.boxes, result.seconds)
    toolkit.report(["ours"])

    packed = unzip(write_submission(evaluation, tmp_path / "ours.zip"))
    assert packed == unzip(tmp_path / "theirs" / "GOT-10k" / "ours.zip")
    assert len(packed) == 360
    assert "GOT-10k_Test_000180/GOT-10k_Test_000180_001.txt" in packed


def test_trackingnet_has_a_text_a_video(tmp_path, videos):
    packed = unzip(write_submission(videos, tmp_path / "new" / "ours.zip"))
    assert set(packed) == {f"video_{index}.txt" for index in range(511)}
    for result in videos.results[:5]:
        lines = [line.split(",") for line in packed[f"{result.name}.txt"].splitlines()]
        np.testing.assert_allclose(np.array(lines, float), result.boxes, atol=5e-4)


def test_boxes_go_out_as_the_benchmark_counts_pixels(tmp_path):
    evaluation = evaluation_on("trackingnet-test", [f"v{index}" for index in range(511)], origin=1.0)
    packed = unzip(write_submission(evaluation, tmp_path / "ours.zip"))
    first = np.array(packed["v0.txt"].splitlines()[0].split(","), float)
    np.testing.assert_allclose(first, evaluation.results[0].boxes[0] + [1, 1, 0, 0], atol=5e-4)


def test_the_same_results_give_the_same_bytes(tmp_path, videos):
    first, second = (write_submission(videos, tmp_path / name).read_bytes() for name in ("a.zip", "b.zip"))
    assert first == second


def broken(evaluation, change):
    results = list(evaluation.results)
    results[7] = change(results[7])
    return replace(evaluation, results=[result for result in results if result])


def with_nan(result):
    boxes = result.boxes.copy()
    boxes[1, 2] = np.nan
    return replace(result, boxes=boxes)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda result: None, "result of video_7 is not .* each of its 3 frames; run ours on it again"),
        (lambda result: replace(result, boxes=result.boxes[:2]), "result of video_7 is not"),
        (lambda result: replace(result, boxes=np.ones((4, 4))), "result of video_7 is not"),
        (with_nan, "result of video_7 is not four finite numbers"),
    ],
)
def test_what_is_incomplete_is_named_and_not_written(tmp_path, videos, change, sentence):
    with pytest.raises(FartrackError, match=sentence):
        write_submission(broken(videos, change), tmp_path / "ours.zip")
    assert not list(tmp_path.iterdir())


def test_a_part_of_the_sequences_is_no_submission(tmp_path, videos):
    part = replace(videos, benchmark=replace(videos.benchmark, sequences=videos.benchmark.sequences[:3]))
    with pytest.raises(FartrackError, match="has 511 sequences, but there are results of 3"):
        write_submission(part, tmp_path / "ours.zip")


def test_got10k_needs_times(tmp_path):
    evaluation = evaluation_on("got10k-test", [f"GOT-10k_Test_{index:06}" for index in range(1, 181)])
    unknown = [replace(result, seconds=np.full(3, np.nan)) for result in evaluation.results]
    with pytest.raises(FartrackError, match="those of GOT-10k_Test_000001 are unknown"):
        write_submission(replace(evaluation, results=unknown), tmp_path / "ours.zip")


def test_only_some_benchmarks_have_a_server(tmp_path, videos):
    with pytest.raises(FartrackError, match="no server for lasot"):
        check_server("lasot")
    with pytest.raises(FartrackError, match="no server for lasot"):
        write_submission(replace(videos, benchmark=replace(videos.benchmark, name="lasot")), tmp_path / "ours.zip")


def test_a_failure_while_writing_leaves_nothing(tmp_path, videos, monkeypatch):
    (tmp_path / "ours.zip").write_bytes(b"the last one")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", fail)
    with pytest.raises(OSError, match="No space"):
        write_submission(videos, tmp_path / "ours.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["ours.zip"]
    assert (tmp_path / "ours.zip").read_bytes() == b"the last one"
