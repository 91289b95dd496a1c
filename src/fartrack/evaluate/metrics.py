"""Accuracy of boxes by each benchmark's own rules, and means over sequences with their intervals.

Boxes are ``x, y, w, h`` in pixels. A target is absent where its ground truth has no area or is NaN. One sequence
counts once, whatever its length: each is measured, and the mean is over sequences. (The GOT-10k toolkit's total is
over all frames instead; its measures of single sequences are these.)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fartrack.datasets.layouts import present
from fartrack.errors import FartrackError
from fartrack.geometry import FloatArray, iou

OVERLAPS: FloatArray = np.linspace(0, 1, 21)
"""Thresholds of the success curve: a frame counts if its IoU is above (OTB)."""

PIXELS: FloatArray = np.arange(51.0)
"""Thresholds of the precision curve: a frame counts if its center error in pixels is at most this (OTB)."""

SHARES: FloatArray = PIXELS / 100
"""Thresholds of the normalized precision curve, in widths and heights of the target (LaSOT, after TrackingNet)."""

HEADLINE = 20
"""Index of the reported point: precision at 20 pixels, normalized precision at 0.2 (``rank_idx = 21`` in both
toolkits)."""


@dataclass(frozen=True)
class Rules:
    """How a benchmark measures one sequence.

    Attributes:
        measures: names of what it reports, the headline first: ``ao`` (mean IoU), ``sr50`` and ``sr75`` (share of
            frames with an IoU above), ``auc`` (mean of the success curve), ``precision``, ``normalized_precision``.
        skip_first: the first frame is not counted. Otherwise it counts, with the given box.
        absent: frames without a target are ``left out``; or they count as ``missed`` by every tracker; or (``otb``)
            as missed in the success curve and hit in the precision curves.
        clip: both boxes are clipped to the picture, as the GOT-10k toolkit does it.
        repeat: a box without area, or with a NaN, is replaced with the tracker's last one.
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


GOT10K = Rules(("ao", "sr50", "sr75"), skip_first=True, clip=True)
"""GOT-10k's toolkit: frames whose ``cover`` is 0 are left out."""

OTB = Rules(("auc", "precision"), absent="otb", repeat=True)
"""OTB's toolkit (``calcSeqErrRobust``, ``genPerfMat``): without a target, overlap and distance are -1."""

LASOT = Rules(("auc", "precision", "normalized_precision"), absent="missed", repeat=True)
"""LaSOT's toolkit (``calc_seq_err_robust``, ``eval_tracker``), which TNL2K and VastTrack adopted: absent frames are
removed from the hits, but not from the length by which these are divided."""

NFS = Rules(("auc", "precision"), absent="missed", repeat=True)
"""PyTracking's analysis, by which NFS is reported: without a target, the overlap is -1 and the distance infinite."""

TRACKINGNET = Rules(("auc", "precision", "normalized_precision"), integer_boxes=True, area=True)
"""TrackingNet's development kit (``metrics.py``)."""

PLAIN = Rules(("ao", "sr50", "sr75", "auc", "precision", "normalized_precision"), skip_first=True)
"""For a folder of one's own, and for validation in training."""


def curves(boxes: ArrayLike, truth: ArrayLike, size: tuple[int, int] | None, rules: Rules) -> dict[str, FloatArray]:
    """Shares of one sequence's frames: ``success`` at :data:`OVERLAPS` (21), ``precision`` at :data:`PIXELS` (51) and
    ``normalized_precision`` at :data:`SHARES` (51). The arguments are those of :func:`measure`; empty where it is."""
    errors = _errors(boxes, truth, size, rules)
    if errors is None:
        return {}
    ious, pixels, shares = errors
    hits = {"success": ious > OVERLAPS, "precision": pixels <= PIXELS, "normalized_precision": shares <= SHARES}
    return {name: values.mean(0) for name, values in hits.items()}


def measure(boxes: ArrayLike, truth: ArrayLike, size: tuple[int, int] | None, rules: Rules) -> dict[str, float]:
    """One sequence's measures by name; none if no frame can be scored, as where only the first box is published.

    ``boxes`` ``(frames, 4)`` are the tracker's, the first being the given box; ``truth`` ``(frames, 4)``, or the first
    box alone (FartrackError if the lengths differ otherwise). Only ``rules.clip`` needs the picture's ``size``.
    """
    errors = _errors(boxes, truth, size, rules)
    if errors is None:
        return {}
    ious, pixels, shares = errors
    found = {"ao": ious.clip(0).mean(), "sr50": (ious > 0.5).mean(), "sr75": (ious > 0.75).mean()}
    if rules.area:
        hits = {"auc": ious > OVERLAPS, "precision": pixels <= 50 * OVERLAPS}
        hits["normalized_precision"] = shares <= OVERLAPS / 2
        curves_ = {name: values.mean(0) for name, values in hits.items()}
        found |= {name: (curve[1:] + curve[:-1]).mean() / 2 for name, curve in curves_.items()}
    else:
        found["auc"] = (ious > OVERLAPS).mean()
        found["precision"] = (pixels <= PIXELS[HEADLINE]).mean()
        found["normalized_precision"] = (shares <= SHARES[HEADLINE]).mean()
    return {name: float(found[name]) for name in rules.measures}


def overlaps(boxes: ArrayLike, truth: ArrayLike) -> FloatArray:
    """IoU of every frame ``(frames,)``, NaN where the target is absent; the arguments are :func:`measure`'s."""
    boxes, truth = np.asarray(boxes, np.float64), np.asarray(truth, np.float64)
    _check_lengths(boxes, truth)
    return np.where(present(truth), iou(boxes, np.nan_to_num(truth)), np.nan)


def _check_lengths(boxes: FloatArray, truth: FloatArray) -> None:
    if boxes.shape != truth.shape:
        raise FartrackError(f"There are {len(boxes)} boxes for {len(truth)} frames of ground truth; give one a frame.")


def _errors(
    boxes: ArrayLike, truth: ArrayLike, size: tuple[int, int] | None, rules: Rules
) -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """Of the counted frames, as columns: IoU, and the center error in pixels and in target sizes.

    OTB's centers are at x + (w - 1) / 2 and its corners at x + w - 1; neither changes a distance or an IoU.
    """
    boxes, truth = np.array(boxes, np.float64), np.array(truth, np.float64)
    if len(truth) == 1:
        return None
    _check_lengths(boxes, truth)
    if rules.integer_boxes:
        boxes, truth = boxes.round(), truth.round()
    boxes[0] = truth[0]
    if rules.repeat:
        for index in range(1, len(boxes)):
            if not present(boxes[index]):
                boxes[index] = boxes[index - 1]
    visible = present(truth)
    counted = visible.copy() if rules.absent == "left out" else np.ones_like(visible)
    counted[0] &= not rules.skip_first
    if not counted.any():
        return None
    ious = np.full(len(truth), -1.0)
    pixels = np.full(len(truth), -1.0 if rules.absent == "otb" else np.inf)
    shares = pixels.copy()
    found, true = boxes[visible], truth[visible]
    # centers are subtracted as wholes, so that equal boxes are exactly 0 apart
    offset = (found[:, :2] + found[:, 2:] / 2) - (true[:, :2] + true[:, 2:] / 2)
    pixels[visible] = np.hypot(*offset.T)
    shares[visible] = np.hypot(*(offset / true[:, 2:]).T)
    if rules.clip:
        if size is None:
            raise ValueError("these rules need the picture's size")
        found, true = _clip(found, size), _clip(true, size)
    ious[visible] = iou(found, true)
    return ious[counted, None], pixels[counted, None], shares[counted, None]


def _clip(boxes: FloatArray, size: tuple[int, int]) -> FloatArray:
    """Clipping as in GOT-10k's toolkit (``rect_iou`` with ``bound``): a box that begins outside keeps its size."""
    low = boxes[:, :2].clip(0, size)
    return np.concatenate([low, boxes[:, 2:].clip(0, np.asarray(size) - low)], axis=1)


@dataclass(frozen=True)
class Interval:
    """A mean over sequences and its 95 % confidence interval; that of a single sequence is unknown, NaN."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """For example ``0.601 [0.541, 0.662]``."""
        return self.text(".3f")

    def text(self, form: str) -> str:
        """The numbers in this format; without an interval the mean alone."""
        bounds = "" if np.isnan(self.low) else f" [{self.low:{form}}, {self.high:{form}}]"
        return f"{self.mean:{form}}{bounds}"


def bootstrap(values: ArrayLike, draws: int = 10_000, seed: int = 0) -> Interval:
    """The mean of per-sequence values and its 95 % interval, by resampling sequences with replacement."""
    values = np.asarray(values, np.float64)
    if len(values) == 1:
        return Interval(float(values[0]), np.nan, np.nan)
    picks: NDArray[np.int64] = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    low, high = np.percentile(values[picks].mean(1), [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def paired(first: ArrayLike, second: ArrayLike) -> Interval:
    """The mean of ``first - second`` and its 95 % interval; both are of the same sequences, in the same order."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape:
        raise FartrackError(f"There are values of {len(first)} and of {len(second)} sequences; pair the same ones.")
    return bootstrap(first - second)


def means(measured: Iterable[Mapping[str, float]]) -> dict[str, Interval]:
    """The mean over sequences of each measure, given :func:`measure`'s results; FartrackError if all are empty."""
    kept = [values for values in measured if values]
    if not kept:
        raise FartrackError("No sequence has a frame to score; check the ground truth.")
    return {name: bootstrap([values[name] for values in kept]) for name in kept[0]}
