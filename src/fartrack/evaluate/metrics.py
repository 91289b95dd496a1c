"""Accuracy of boxes by each benchmark's own rules, and means over sequences with their intervals.

Boxes are ``x, y, w, h`` in pixels. A target is absent where its ground truth has no area or is NaN. One sequence
counts once, whatever its length: a measure is taken of each, and the mean is over sequences. (The GOT-10k toolkit's
total is over all frames instead; its measures of single sequences are these.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fartrack.errors import FartrackError
from fartrack.geometry import FloatArray, iou

OVERLAPS: FloatArray = np.linspace(0, 1, 21)
"""Thresholds of the success curve: a frame counts if its IoU is above (OTB)."""

PIXELS: FloatArray = np.arange(51.0)
"""Thresholds of the precision curve: a frame counts if its centre is at most so many pixels off (OTB)."""

SHARES: FloatArray = PIXELS / 100
"""Thresholds of the normalised precision curve, in widths and heights of the target (LaSOT, after TrackingNet)."""

HEADLINE = 20
"""Precision is the curve's point at 20 pixels, normalised precision the one at 0.2 (both toolkits, `rank_idx = 21`)."""


@dataclass(frozen=True)
class Rules:
    """How a benchmark measures one sequence; where each rule comes from stands beside the benchmark.

    Attributes:
        measures: names of what it reports, the headline first: ``ao`` (mean IoU), ``sr50`` and ``sr75`` (share of
            frames with an IoU above), ``auc`` (mean of the success curve), ``precision``, ``normalised_precision``.
        skip_first: the first frame, whose box is given, is not counted. Otherwise it counts, with the given box.
        absent: frames without a target are ``left out``; or they count, and are ``missed`` by every tracker; or
            (``otb``) are missed in the success curve and hit in the precision curves.
        clip: both boxes are cut at the picture's border, as GOT-10k's toolkit does it.
        repeat: a box without area, or with a NaN, is the tracker's last one again.
        integer_boxes: both boxes are rounded to whole pixels.
        area: each measure is the area under its curve, by trapezoids at 21 thresholds (TrackingNet).
    """

    measures: tuple[str, ...]
    skip_first: bool = False
    absent: Literal["left out", "missed", "otb"] = "left out"
    clip: bool = False
    repeat: bool = False
    integer_boxes: bool = False
    area: bool = False


@dataclass(frozen=True, eq=False)
class Curves:
    """Shares of one sequence's frames: ``success`` at :data:`OVERLAPS` (21), ``precision`` at :data:`PIXELS` (51) and
    ``normalised`` precision at :data:`SHARES` (51)."""

    success: FloatArray
    precision: FloatArray
    normalised: FloatArray


def present(boxes: FloatArray) -> NDArray[np.bool_]:
    """Which of the boxes ``(..., 4)`` hold something: all that are finite and have an area."""
    return cast(NDArray[np.bool_], np.isfinite(boxes).all(-1) & (boxes[..., 2:] > 0).all(-1))


def curves(boxes: ArrayLike, truth: ArrayLike, size: tuple[int, int] | None, rules: Rules) -> Curves | None:
    """The three curves of one sequence, or None as :func:`measure` has no measures; its arguments and errors too."""
    errors = _errors(boxes, truth, size, rules)
    if errors is None:
        return None
    ious, pixels, shares = errors
    return Curves(_share(ious > OVERLAPS), _share(pixels <= PIXELS), _share(shares <= SHARES))


def measure(boxes: ArrayLike, truth: ArrayLike, size: tuple[int, int] | None, rules: Rules) -> dict[str, float]:
    """One sequence's measures by name; none if no frame can be scored, as where only the first box is published.

    Args:
        boxes: ``(frames, 4)`` of the tracker, the first being the given box.
        truth: ``(frames, 4)`` ground truth, or the first box alone.
        size: width and height of the picture, which only ``rules.clip`` needs.
        rules: the benchmark's.

    Raises:
        FartrackError: the two do not have one line a frame each.
    """
    errors = _errors(boxes, truth, size, rules)
    if errors is None:
        return {}
    ious, pixels, shares = errors
    if rules.area:
        steps = OVERLAPS
        found = {
            "auc": _area(_share(ious > steps)),
            "precision": _area(_share(pixels <= 50 * steps)),
            "normalised_precision": _area(_share(shares <= steps / 2)),
        }
    else:
        found = {
            "auc": float(_share(ious > OVERLAPS).mean()),
            "precision": float((pixels <= PIXELS[HEADLINE]).mean()),
            "normalised_precision": float((shares <= SHARES[HEADLINE]).mean()),
        }
    found |= {"ao": float(ious.clip(0).mean()), "sr50": float((ious > 0.5).mean()), "sr75": float((ious > 0.75).mean())}
    return {name: found[name] for name in rules.measures}


def _errors(
    boxes: ArrayLike, truth: ArrayLike, size: tuple[int, int] | None, rules: Rules
) -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """Of the counted frames, as columns: IoU, and the centre's distance in pixels and in target sizes.

    OTB's centres are at x + (w - 1) / 2 and its corners at x + w - 1; neither changes a distance or an IoU.
    """
    boxes, truth = np.array(boxes, np.float64), np.array(truth, np.float64)
    if len(truth) == 1:
        return None
    if boxes.shape != truth.shape:
        raise FartrackError(f"There are {len(boxes)} boxes for {len(truth)} frames of ground truth; give one a frame.")
    if rules.integer_boxes:
        boxes, truth = boxes.round(), truth.round()
    boxes[0] = truth[0]
    if rules.repeat:
        for index in range(1, len(boxes)):
            if not present(boxes[index]):
                boxes[index] = boxes[index - 1]
    shown = present(truth)
    counted = shown.copy() if rules.absent == "left out" else np.ones_like(shown)
    counted[0] &= not rules.skip_first
    if not counted.any():
        return None
    ious = np.full(len(truth), -1.0)
    pixels = np.full(len(truth), -1.0 if rules.absent == "otb" else np.inf)
    shares = pixels.copy()
    found, true = boxes[shown], truth[shown]
    offset = (found[:, :2] + found[:, 2:] / 2) - (
        true[:, :2] + true[:, 2:] / 2
    )  # so that equal boxes are exactly 0 off
    pixels[shown] = np.hypot(*offset.T)
    shares[shown] = np.hypot(*(offset / true[:, 2:]).T)
    if rules.clip:
        if size is None:
            raise ValueError("these rules need the picture's size")
        found, true = _clip(found, size), _clip(true, size)
    ious[shown] = iou(found, true)
    return ious[counted, None], pixels[counted, None], shares[counted, None]


def _clip(boxes: FloatArray, size: tuple[int, int]) -> FloatArray:
    """GOT-10k's toolkit's way (``rect_iou`` with ``bound``): a box that begins outside keeps its width and height."""
    low = boxes[:, :2].clip(0, size)
    return np.concatenate([low, boxes[:, 2:].clip(0, np.asarray(size) - low)], axis=1)


def _share(hits: NDArray[np.bool_]) -> FloatArray:
    return cast(FloatArray, hits.mean(0))


def _area(curve: FloatArray) -> float:
    return float(curve.sum() - (curve[0] + curve[-1]) / 2) / (len(curve) - 1)


def overlaps(boxes: ArrayLike, truth: ArrayLike) -> FloatArray:
    """IoU of each frame of one sequence but the first, whose box is given, and those without a target.

    Args:
        boxes: ``(frames, 4)`` of the tracker, the first being the given box.
        truth: ``(frames, 4)`` ground truth.

    Raises:
        FartrackError: the two do not have one line a frame each.
    """
    boxes, truth = np.asarray(boxes, np.float64), np.asarray(truth, np.float64)
    if boxes.shape != truth.shape:
        raise FartrackError(f"There are {len(boxes)} boxes for {len(truth)} frames of ground truth; give one a frame.")
    scored = present(truth)
    scored[0] = False
    return iou(boxes[scored], truth[scored])


@dataclass(frozen=True)
class Interval:
    """A mean over sequences and its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """For example ``0.601 [0.541, 0.662]``."""
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Scores:
    """Accuracy over several sequences; GOT-10k's measures.

    Attributes:
        ao: average overlap: the mean over sequences of the mean IoU over a sequence's frames.
        sr50: success rate: the mean over sequences of the share of frames with an IoU above 0.5.
        sr75: the same with 0.75.
        sequences: how many there were.
    """

    ao: Interval
    sr50: Interval
    sr75: Interval
    sequences: int


def score_sequences(ious: Sequence[FloatArray]) -> Scores:
    """Scores of the per-frame IoUs of several sequences; those without a scored frame are left out.

    Raises:
        FartrackError: no sequence has a scored frame.
    """
    kept = [values for values in ious if len(values)]
    if not kept:
        raise FartrackError("No sequence has a frame to score; check the ground truth.")
    return Scores(
        ao=bootstrap([values.mean() for values in kept]),
        sr50=bootstrap([(values > 0.5).mean() for values in kept]),
        sr75=bootstrap([(values > 0.75).mean() for values in kept]),
        sequences=len(kept),
    )


def bootstrap(values: ArrayLike, draws: int = 10_000, seed: int = 0) -> Interval:
    """The mean of per-sequence values and its 95 % interval, by drawing sequences with replacement."""
    values = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    picks: NDArray[np.int64] = rng.integers(len(values), size=(draws, len(values)))
    low, high = np.percentile(values[picks].mean(1), [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def paired(first: ArrayLike, second: ArrayLike, draws: int = 10_000, seed: int = 0) -> Interval:
    """The mean of ``first - second`` over sequences and its 95 % interval; the two hold the same sequences in order."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape:
        raise FartrackError(f"There are values of {len(first)} and of {len(second)} sequences; pair the same ones.")
    return bootstrap(first - second, draws, seed)
