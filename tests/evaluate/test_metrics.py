"""Measures agree with the GOT-10k toolkit, and with OTB's and LaSOT's definitions written out in plain loops."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fartrack.errors import FartrackError
from fartrack.evaluate.metrics import (
    GOT10K,
    LASOT,
    OTB,
    OVERLAPS,
    PIXELS,
    PLAIN,
    SHARES,
    TRACKINGNET,
    Rules,
    bootstrap,
    curves,
    means,
    measure,
    overlaps,
    paired,
)
from fartrack.geometry import iou

EVERYTHING = ("ao", "sr50", "sr75", "auc", "precision", "normalized_precision")
RANDOM = [0, 1, 2]


def random_boxes(rng, count):
    return np.concatenate([rng.uniform(0, 60, (count, 2)), rng.uniform(5, 60, (count, 2))], axis=1)


def random_run(seed, frames=150):
    """Boxes near their ground truth, near enough that every threshold has frames on both sides."""
    rng = np.random.default_rng(seed)
    truth = random_boxes(rng, frames)
    boxes = truth + rng.normal(0, rng.uniform(0, 15, (frames, 1)), (frames, 4))
    boxes[:, 2:] = boxes[:, 2:].clip(1)
    boxes[0] = truth[0]
    return boxes, truth


def toolkit(name):
    return pytest.importorskip(f"got10k.{name}", reason="the GOT-10k toolkit (and six, which it needs) is missing")


# --- parity with the GOT-10k toolkit ----------------------------------------------------------------------


def test_iou_agrees_with_the_got10k_toolkit():
    metrics = toolkit("utils.metrics")
    rng = np.random.default_rng(0)
    first, second = random_boxes(rng, 500), random_boxes(rng, 500)
    np.testing.assert_allclose(iou(first, second), metrics.rect_iou(first, second), atol=1e-9)


@pytest.mark.parametrize("seed", RANDOM)
def test_ao_and_sr_agree_with_the_got10k_toolkit(seed):
    toolkit_ious = toolkit("utils.metrics").rect_iou
    experiment = toolkit("experiments").ExperimentGOT10k
    boxes, truth = random_run(seed)
    boxes[:, :2] -= 20  # some begin left of or above the picture
    cover = np.random.default_rng(seed).integers(0, 9, len(truth))
    size = (90, 70)
    ious = toolkit_ious(boxes[1:].copy(), truth[1:].copy(), bound=size)[cover[1:] > 0]
    ao, sr50, _, curve = experiment._evaluate(None, ious, np.ones(1))
    seen = truth.copy()
    seen[(cover == 0) & (np.arange(len(truth)) > 0)] = np.nan
    found = measure(boxes, seen, size, GOT10K)
    assert list(found) == ["ao", "sr50", "sr75"]
    assert list(found.values()) == pytest.approx([ao, sr50, curve[75]], abs=1e-6)


@pytest.mark.parametrize("seed", RANDOM)
@pytest.mark.parametrize("absent", [0, 30])
def test_curves_agree_with_the_got10k_toolkit(seed, absent):
    experiments = toolkit("experiments")
    experiment = object.__new__(experiments.ExperimentUAV123)  # OTB's, but frames of NaN are left out
    experiment.nbins_iou, experiment.nbins_ce = 21, 51
    boxes, truth = random_run(seed)
    truth[len(truth) - absent :] = np.nan
    success, precision = experiment._calc_curves(*experiment._calc_metrics(boxes, truth))
    rules = Rules(("auc", "precision"))
    found = curves(boxes, truth, None, rules)
    np.testing.assert_allclose(found["success"], success, atol=1e-6)
    np.testing.assert_allclose(found["precision"], precision, atol=1e-6)
    assert measure(boxes, truth, None, rules) == pytest.approx(
        {"auc": success.mean(), "precision": precision[20]}, abs=1e-6
    )


@pytest.mark.parametrize("seed", RANDOM)
def test_otb_agrees_with_the_got10k_toolkit(seed):
    experiments = toolkit("experiments")
    experiment = object.__new__(experiments.ExperimentOTB)
    experiment.nbins_iou, experiment.nbins_ce = 21, 51
    boxes, truth = random_run(seed)
    success, precision = experiment._calc_curves(*experiment._calc_metrics(boxes, truth))
    found = curves(boxes, truth, None, OTB)
    np.testing.assert_allclose(found["success"], success, atol=1e-6)
    np.testing.assert_allclose(found["precision"], precision, atol=1e-6)


# --- the definitions, frame by frame ----------------------------------------------------------------------


def plain_iou(a, b):
    """OTB's ``calcRectInt``: corners are the last pixels inside."""
    width = min(a[0] + a[2] - 1, b[0] + b[2] - 1) - max(a[0], b[0]) + 1
    height = min(a[1] + a[3] - 1, b[1] + b[3] - 1) - max(a[1], b[1]) + 1
    shared = max(0, width) * max(0, height)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def plain_distance(a, b, normalized):
    dx = (a[0] + (a[2] - 1) / 2) - (b[0] + (b[2] - 1) / 2)
    dy = (a[1] + (a[3] - 1) / 2) - (b[1] + (b[3] - 1) / 2)
    return math.hypot(dx / b[2], dy / b[3]) if normalized else math.hypot(dx, dy)


def plain_curves(boxes, truth, absent, lasot):
    """Success, precision and normalized precision by OTB's (``lasot`` false) or LaSOT's definition."""
    boxes = [list(box) for box in boxes]
    boxes[0] = list(truth[0])
    for index in range(1, len(boxes)):
        if any(math.isnan(value) for value in boxes[index]) or boxes[index][2] <= 0 or boxes[index][3] <= 0:
            boxes[index] = boxes[index - 1]
    success, precision, normalized = [0] * 21, [0] * 51, [0] * 51
    for box, true, gone in zip(boxes, truth, absent, strict=True):
        if gone and lasot:
            continue
        overlap = -1 if gone else plain_iou(box, true)
        distance = -1 if gone else plain_distance(box, true, False)
        share = -1 if gone else plain_distance(box, true, True)
        for step in range(21):
            success[step] += overlap > OVERLAPS[step]
        for step in range(51):
            precision[step] += distance <= step
            normalized[step] += share <= step / 100
    return [[count / len(truth) for count in curve] for curve in (success, precision, normalized)]


@pytest.mark.parametrize("seed", RANDOM)
@pytest.mark.parametrize(("rules", "lasot"), [(OTB, False), (LASOT, True)], ids=["otb", "lasot"])
def test_the_toolkits_definitions_in_plain_loops(seed, rules, lasot):
    boxes, truth = random_run(seed)
    rng = np.random.default_rng(seed)
    absent = rng.random(len(truth)) < 0.2
    absent[0] = False
    boxes[rng.random(len(boxes)) < 0.1] = [0, 0, 0, 0]  # a tracker that gives up
    boxes[40] = np.nan
    success, precision, normalized = plain_curves(boxes.tolist(), truth.tolist(), absent, lasot)
    truth[absent] = np.nan
    found = curves(boxes, truth, None, rules)
    np.testing.assert_allclose(found["success"], success, atol=1e-6)
    np.testing.assert_allclose(found["precision"], precision, atol=1e-6)
    np.testing.assert_allclose(found["normalized_precision"], normalized, atol=1e-6)
    measures = {"auc": np.mean(success), "precision": precision[20], "normalized_precision": normalized[20]}
    assert measure(boxes, truth, None, rules) == pytest.approx({n: measures[n] for n in rules.measures}, abs=1e-6)


@pytest.mark.parametrize("seed", RANDOM)
def test_trackingnet_rounds_boxes_and_takes_areas(seed):
    boxes, truth = random_run(seed)
    rounded = [([round(v) for v in b], [round(v) for v in t]) for b, t in zip(boxes, truth, strict=True)]
    whole = []
    for values, thresholds in (
        ([-plain_iou(b, t) for b, t in rounded], [-step / 20 for step in range(21)]),
        ([plain_distance(b, t, False) for b, t in rounded], [2.5 * step for step in range(21)]),
        ([plain_distance(b, t, True) for b, t in rounded], [step / 40 for step in range(21)]),
    ):
        strict = thresholds[1] < 0  # an IoU must be above, a distance may be equal
        curve = [sum(v < t if strict else v <= t for v in values) / len(values) for t in thresholds]
        whole.append(sum((a + b) / 2 / 20 for a, b in itertools.pairwise(curve)))
    names = ("auc", "precision", "normalized_precision")
    assert measure(boxes, truth, None, TRACKINGNET) == pytest.approx(dict(zip(names, whole, strict=True)), abs=1e-6)


# --- what always holds ------------------------------------------------------------------------------------

FINITE = st.floats(-200, 200, width=32)
BOXES = arrays(np.float64, (7, 4), elements=FINITE)
KINDS = st.sampled_from([GOT10K, OTB, LASOT, TRACKINGNET, PLAIN])


@given(boxes=BOXES, truth=BOXES, rules=KINDS)
def test_measures_are_shares_and_curves_are_monotonous(boxes, truth, rules):
    truth[0] = [1, 2, 30, 40]
    found = measure(boxes, truth, (100, 80), rules)
    assert all(0 <= value <= 1 for value in found.values())
    assert not found or tuple(found) == rules.measures
    lines = curves(boxes, truth, (100, 80), rules)
    assert bool(lines) == bool(found)
    if lines:
        assert (np.diff(lines["success"]) <= 0).all()
        assert (np.diff(lines["precision"]) >= 0).all() and (np.diff(lines["normalized_precision"]) >= 0).all()
        assert len(lines["success"]) == len(OVERLAPS) and len(lines["precision"]) == len(PIXELS) == len(SHARES)


@given(truth=arrays(np.float64, (7, 4), elements=st.floats(1, 90, width=32)), shift=st.floats(-50, 50))
def test_perfect_boxes_and_the_origin_of_coordinates(truth, shift):
    rules = Rules(EVERYTHING)
    found = measure(truth, truth, None, rules)
    assert found["ao"] == pytest.approx(1) and found["precision"] == found["normalized_precision"] == 1
    assert found["auc"] >= 19 / 21  # the last threshold is 1, and no IoU is above
    aside, moved = np.array([1, 0, 0, 0]), truth + np.array([shift, shift, 0, 0])
    again = measure(moved + aside, moved, None, rules)
    assert again["ao"] == pytest.approx(measure(truth + aside, truth, None, rules)["ao"], abs=1e-6)


def test_inputs_are_left_as_they_are():
    boxes, truth = random_run(0)
    before = boxes.copy(), truth.copy()
    for rules in (GOT10K, OTB, LASOT, TRACKINGNET):
        measure(boxes, truth, (50, 40), rules)
    np.testing.assert_array_equal([boxes, truth], before)


def test_the_first_frame_counts_or_not():
    truth = np.array([[0, 0, 10, 10]] * 3, float)
    boxes = np.array([[50, 50, 10, 10], [50, 50, 10, 10], [0, 0, 10, 10]], float)
    assert measure(boxes, truth, None, Rules(("sr50",)))["sr50"] == pytest.approx(2 / 3)  # the given box, not the first
    assert measure(boxes, truth, None, Rules(("sr50",), skip_first=True))["sr50"] == pytest.approx(1 / 2)


def test_absent_frames_three_ways():
    truth = np.array([[0, 0, 10, 10]] * 2 + [[0, 0, 0, 0], [np.nan] * 4], float)
    boxes = np.array([[0, 0, 10, 10]] * 4, float)
    for absent, success, precision in (("left out", 1, 1), ("missed", 0.5, 0.5), ("otb", 0.5, 1)):
        found = measure(boxes, truth, None, Rules(("sr50", "precision"), absent=absent))
        assert found == {"sr50": success, "precision": precision}


def test_only_the_first_box_is_published():
    assert measure(np.ones((5, 4)), np.ones((1, 4)), None, GOT10K) == {}
    assert curves(np.ones((5, 4)), np.ones((1, 4)), None, GOT10K) == {}


def test_no_frame_has_a_target():
    truth = np.array([[0, 0, 4, 4], [0, 0, 0, 0]], float)
    assert measure(truth, truth, None, PLAIN) == {}


def test_clipping_needs_the_size():
    with pytest.raises(ValueError, match="size"):
        measure(*random_run(0), None, GOT10K)


# --- over sequences ---------------------------------------------------------------------------------------


def test_scores_by_hand():
    truth = np.array([[0, 0, 10, 10]] * 4, float)
    first = truth * np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0.6], [1, 1, 1, 0.2]])
    second = truth[:2] * np.array([[1, 1, 1, 1], [1, 1, 1, 0.8]])
    found = means([measure(first, truth, None, PLAIN), {}, measure(second, truth[:2], None, PLAIN)])
    assert found["ao"].mean == pytest.approx((0.6 + 0.8) / 2)
    assert found["sr50"].mean == pytest.approx((2 / 3 + 1) / 2)
    assert found["sr75"].mean == pytest.approx((1 / 3 + 1) / 2)
    assert tuple(found) == PLAIN.measures


def test_overlaps_are_of_frames_with_a_target():
    truth = np.array([[0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 0, 0], [np.nan] * 4, [0, 0, 4, 4]], float)
    boxes = np.array([[9, 9, 1, 1], [0, 0, 4, 4], [1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 4, 2]], float)
    np.testing.assert_allclose(overlaps(boxes, truth), [0, 1, np.nan, np.nan, 0.5])


@pytest.mark.parametrize("function", [overlaps, lambda boxes, truth: measure(boxes, truth, None, PLAIN)])
def test_counts_must_agree(function):
    with pytest.raises(FartrackError, match="2 boxes for 3 frames"):
        function(np.ones((2, 4)), np.ones((3, 4)))


def test_nothing_to_score():
    with pytest.raises(FartrackError, match="No sequence"):
        means([{}, {}])


def test_interval_holds_the_mean_and_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        interval = bootstrap(rng.normal(0.6, 0.1, 40), draws=500, seed=trial)
        assert interval.low <= interval.mean <= interval.high
        hits += interval.low <= 0.6 <= interval.high
    assert 180 <= hits <= 200


def test_a_paired_interval_is_of_the_difference_and_far_narrower():
    rng = np.random.default_rng(2)
    hardness = rng.uniform(0, 1, 50)  # sequences differ far more than trackers do
    first, second = hardness + rng.normal(0.02, 0.01, 50), hardness
    difference = paired(first, second)
    assert difference.mean == pytest.approx(first.mean() - second.mean())
    assert 0 < difference.low < difference.high < 0.04
    alone = bootstrap(first)
    assert alone.high - alone.low > 10 * (difference.high - difference.low)
    assert paired(second, first).mean == -difference.mean


def test_pairs_are_of_the_same_sequences():
    with pytest.raises(FartrackError, match="3 and of 2 sequences"):
        paired([1, 2, 3], [1, 2])
