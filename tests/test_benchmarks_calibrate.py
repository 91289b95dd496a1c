"""The fit finds what made the data, and the measures agree with brute force."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import calibrate
from benchmarks.calibrate import (
    Frames,
    bins,
    calibration_error,
    detect,
    fit,
    gather,
    hold_out,
    invert,
    print_reliability,
    resample,
    write_calibration,
)
from fartrack.datasets.sequences import Sequence
from fartrack.errors import FartrackError
from fartrack.evaluate.benchmarks import Benchmark
from fartrack.evaluate.metrics import PLAIN
from fartrack.evaluate.runner import Evaluation, Result
from fartrack.model.calibration import Calibration
from fartrack.packages import SHIPPED, open_package

TRUE = Calibration(0.6, -0.5)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(calibrate, "DRAWS", 50)


@pytest.fixture
def frames():
    """20 sequences, whose boxes are good as often as TRUE says; of the others half have failed."""
    rng = np.random.default_rng(0)
    raw = rng.uniform(0.02, 0.98, 20_000)
    wrong = np.where(rng.random(raw.size) < 0.5, 0.05, 0.3)
    return Frames(raw, np.where(rng.random(raw.size) < TRUE.apply(raw), 0.8, wrong), np.arange(raw.size) // 1000)


# --- the fit ----------------------------------------------------------------------------------------------


def test_the_fit_finds_what_made_the_data(frames):
    found = fit(frames.raw, frames.good, frames.weight)
    assert found.slope == pytest.approx(TRUE.slope, abs=0.03)
    assert found.bias == pytest.approx(TRUE.bias, abs=0.04)


def test_the_fit_is_the_most_likely_one(frames):
    found = fit(frames.raw, frames.good, frames.weight)

    def likelihood(calibration):
        chance = calibration.apply(frames.raw)
        return frames.weight @ np.where(frames.good, np.log(chance), np.log(1 - chance))

    best = likelihood(found)
    for slope, bias in ((0.02, 0), (-0.02, 0), (0, 0.02), (0, -0.02), (0.02, 0.02), (-0.02, -0.02)):
        assert likelihood(Calibration(found.slope + slope, found.bias + bias)) < best


def test_a_long_sequence_weighs_no_more_than_a_short_one(frames):
    """Where one sequence is ten times as long, all else the same, so is the fit."""
    times = np.where(frames.sequence == 3, 10, 1)
    longer = Frames(*(np.repeat(values, times) for values in (frames.raw, frames.iou, frames.sequence)))
    found = [fit(each.raw, each.good, each.weight) for each in (frames, longer)]
    assert found[1].slope == pytest.approx(found[0].slope, abs=1e-3)
    assert found[1].bias == pytest.approx(found[0].bias, abs=1e-3)
    assert longer.weight.sum() == pytest.approx(20)
    unweighted = fit(longer.raw, longer.good, np.ones(len(longer.raw)))
    assert abs(unweighted.bias - found[1].bias) > 2e-3


def test_there_is_a_fit_where_a_threshold_tells_all():
    raw = np.array([0.1, 0.2, 0.8, 0.9])
    found = fit(raw, raw > 0.5, np.ones(4))
    assert 0.3 < found.slope < 10
    assert (found.apply(raw) > 0.5).tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("good", "words"),
    [
        ([True] * 4, "Every box has an IoU of at least 0.5; give sequences with boxes of both kinds"),
        ([False] * 4, "No box has an IoU"),
        ([True, True, False, False], "A higher score does not mean a better box here"),
    ],
)
def test_what_cannot_be_fitted_is_named(good, words):
    with pytest.raises(FartrackError, match=words):
        fit(np.array([0.1, 0.2, 0.8, 0.9]), np.array(good), np.ones(4))


def test_held_out_chances_know_nothing_of_their_own_sequence(frames):
    before = hold_out(frames)
    own = frames.sequence == 7
    after = hold_out(replace(frames, iou=np.where(own, 0.0, frames.iou)))
    np.testing.assert_array_equal(after[own], before[own])
    assert np.abs(after - before)[~own].max() > 0.01


# --- the measures -----------------------------------------------------------------------------------------


def test_the_calibration_error_by_hand():
    predicted = np.array([0.95, 0.95, 0.15, 1.0])
    good = np.array([True, False, False, True])
    # in the last bin 2.9 are predicted and 2 good, in the second 0.15 and 0, of 4
    assert calibration_error(predicted, good, np.ones(4)) == pytest.approx((0.9 + 0.15) / 4)
    assert calibration_error(predicted, good, np.array([0.0, 0, 1, 0])) == pytest.approx(0.15)


def test_the_reliability_table_by_hand():
    frames = Frames(np.zeros(4), np.array([0.9, 0.1, 0.9, 0.9]), np.array([0, 0, 0, 1]))
    count, _, predicted, good = bins(np.array([0.11, 0.12, 0.9, 0.19]), frames.good, frames.weight).T
    assert count.tolist() == [0, 3, 0, 0, 0, 0, 0, 0, 0, 1]
    assert predicted[1] == pytest.approx((0.11 / 3 + 0.12 / 3 + 0.19) / (5 / 3))  # a third each, and one
    assert good[1] == pytest.approx((1 / 3 + 1) / (5 / 3))
    assert np.isnan(good[0])


def test_a_fault_of_a_part_is_not_said_of_the_whole():
    frames = Frames(np.linspace(0.1, 0.9, 6), np.array([0.136, 0.9, 0.9, 0.9, 0.9, 0.9]), np.array([0, 0, 1, 1, 2, 2]))
    assert fit(frames.raw, frames.good, frames.weight)
    with pytest.raises(FartrackError, match=r"^Each sequence is held out .* without one of them: Every box has an IoU"):
        hold_out(frames)


@pytest.mark.parametrize("decimals", [1, 6])  # with one, most scores are shared by many
def test_the_alarm_agrees_with_trying_every_threshold(decimals):
    rng = np.random.default_rng(1)
    raw, iou, weight = rng.random(300).round(decimals), rng.random(300), rng.random(300)
    iou = (2 * iou + raw) / 3 - 0.1
    good, failed = iou >= 0.5, iou < 0.1
    allowed = [t for t in raw if weight[good & (raw < t)].sum() <= 0.05 * weight[good].sum()]
    pairs = np.sign(raw[good][:, None] - raw[failed]) / 2 + 0.5
    weights = weight[good][:, None] * weight[failed]
    threshold, caught, auc = detect(raw, iou, weight)
    assert 0 < caught < 1 and 0.5 < auc < 0.95  # neither hopeless nor easy
    assert threshold == max(allowed)
    assert caught == pytest.approx(weight[failed & (raw < max(allowed))].sum() / weight[failed].sum())
    assert auc == pytest.approx((pairs * weights).sum() / weights.sum())


def test_the_interval_is_over_sequences(frames):
    (same,) = resample(lambda weight: (float(weight @ frames.good / weight.sum()),), frames)
    assert same.low < same.mean < same.high
    assert same.mean == pytest.approx(frames.good.mean())
    one = replace(frames, iou=np.where(frames.sequence == 0, 0.8, 0.0))  # all that is good is in one of 20
    (wide,) = resample(lambda weight: (float(weight @ one.good / weight.sum()),), one)
    assert wide.low == 0 and wide.high > 0.1


def test_the_calibration_reduces_the_error(frames, capsys):
    fitted = print_reliability(frames, Calibration(1, 2))
    out = capsys.readouterr().out
    errors = {kind: float(value) for kind, value in re.findall(r"\| (\w[^|]*?) +\| +([\d.]+) \[", out)}
    assert list(errors) == ["raw", "the model's own", "fitted", "held out"]
    assert errors["held out"] < 0.02 < 0.1 < errors["raw"] < errors["the model's own"]
    assert f"sigmoid({fitted.slope:.4f} · logit(raw score) {fitted.bias:+.4f})" in out
    assert "20000 frames of 20 sequences" in out
    failures = (frames.iou < 0.1).sum()
    assert re.search(rf"Failures: {failures} frames of 20 sequences\. .* at 5% false alarms; AUC 0\.[5-9]", out)


def test_without_failures_there_is_no_alarm(frames, capsys):
    print_reliability(replace(frames, iou=frames.iou.clip(0.2)), None)
    assert "Failures" not in capsys.readouterr().out


def test_the_picture_is_one(frames, tmp_path):
    pytest.importorskip("matplotlib")
    calibrate.plot_reliability(frames, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


# --- from results to a model ------------------------------------------------------------------------------


def evaluation(*scores):
    """A tracker that never moves and has these scores; the targets move by 4 of 20 pixels a frame, and the third frame
    has none."""
    sequences, results = [], []
    for number, values in enumerate(scores):
        boxes = np.array([[10.0 + 4 * frame, 8, 20, 16] for frame in range(len(values))])
        results.append(Result(f"s{number}", boxes[:1].repeat(len(boxes), 0), np.array(values), np.zeros(len(boxes))))
        boxes[2, 2:] = 0
        sequences.append(Sequence(f"s{number}", Path(f"{number}.mp4"), boxes))
    return Evaluation("mine", Benchmark("folder", sequences, PLAIN), results)


def test_only_frames_with_a_target_count_and_not_the_first():
    frames = gather(evaluation([1, 0.9, 0.8, 0.7], [1, 0.6, 0.5, 0.4, 0.3]))
    assert frames.raw.tolist() == [0.9, 0.7, 0.6, 0.4, 0.3]
    assert frames.sequence.tolist() == [0, 0, 1, 1, 1]
    np.testing.assert_allclose(frames.iou, [16 / 24, 8 / 32, 16 / 24, 8 / 32, 4 / 36])


def test_a_calibration_that_scores_have_is_undone():
    scores = [1, 0.9, 0.8, 0.7]
    calibrated = evaluation(*2 * [TRUE.apply(scores).round(6)])
    np.testing.assert_allclose(gather(calibrated, TRUE).raw, [0.9, 0.7, 0.9, 0.7], atol=1e-4)


@pytest.mark.parametrize("score", [np.nan, 1.5, -0.1])
def test_scores_that_are_no_chances_are_refused(score):
    with pytest.raises(FartrackError, match="mine has frames without a score from 0 to 1"):
        gather(evaluation([1, 0.9, 0.8, 0.7], [1, score, 0.5, 0.4]))


def test_one_sequence_is_not_enough():
    with pytest.raises(FartrackError, match="1 of the sequences can be scored"):
        gather(evaluation([1, 0.9, 0.8, 0.7]))


def test_what_is_written_is_what_the_model_has_then(tmp_path):
    folder = shutil.copytree(SHIPPED / "pico", tmp_path / "own")
    before = json.loads((folder / "model.json").read_text())
    for calibration in (Calibration(0.71234, -0.3), Calibration(0.5, 0.25)):
        write_calibration(folder, calibration)
        assert open_package(folder).calibration == Calibration(round(calibration.slope, 4), calibration.bias)
    after = json.loads((folder / "model.json").read_text())
    assert {**before, "score": after["score"]} == after
    assert not list(folder.glob("*.part"))


def test_the_raw_score_comes_back_from_six_decimals():
    raw = np.linspace(0.02, 0.98, 97)
    for calibration in (Calibration(0.7, -0.4), Calibration(1.4, 1)):
        np.testing.assert_allclose(invert(calibration, calibration.apply(raw).round(6)), raw, atol=1e-4)
