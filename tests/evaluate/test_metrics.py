import numpy as np
import pytest

from fartrack.errors import FartrackError
from fartrack.evaluate.metrics import bootstrap, overlaps, score_sequences
from fartrack.geometry import iou


def random_boxes(rng, count):
    return np.concatenate([rng.uniform(0, 60, (count, 2)), rng.uniform(5, 60, (count, 2))], axis=1)


def test_iou_agrees_with_the_got10k_toolkit():
    metrics = pytest.importorskip("got10k.utils.metrics", reason="the got10k toolkit is not installed")
    rng = np.random.default_rng(0)
    first, second = random_boxes(rng, 500), random_boxes(rng, 500)
    np.testing.assert_allclose(iou(first, second), metrics.rect_iou(first, second), atol=1e-9)


def test_scores_by_hand():
    scores = score_sequences([np.array([1.0, 0.6, 0.2]), np.array([0.8])])
    assert scores.sequences == 2
    assert scores.ao.mean == pytest.approx((0.6 + 0.8) / 2)
    assert scores.sr50.mean == pytest.approx((2 / 3 + 1) / 2)
    assert scores.sr75.mean == pytest.approx((1 / 3 + 1) / 2)


def test_first_and_absent_frames_are_not_scored():
    truth = np.array([[0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 0, 0], [np.nan] * 4, [0, 0, 4, 4]], float)
    boxes = np.array([[9, 9, 1, 1], [0, 0, 4, 4], [1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 4, 2]], float)
    np.testing.assert_allclose(overlaps(boxes, truth), [1, 0.5])


def test_counts_must_agree():
    with pytest.raises(FartrackError, match="2 boxes for 3 frames"):
        overlaps(np.ones((2, 4)), np.ones((3, 4)))


def test_nothing_to_score():
    with pytest.raises(FartrackError, match="No sequence"):
        score_sequences([np.array([])])


def test_interval_holds_the_mean_and_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        interval = bootstrap(rng.normal(0.6, 0.1, 40), draws=500, seed=trial)
        assert interval.low <= interval.mean <= interval.high
        hits += interval.low <= 0.6 <= interval.high
    assert 180 <= hits <= 200
