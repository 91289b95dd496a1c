"""Accuracy of boxes: overlap, AO and success rates, each sequence counting once.

Boxes are ``x, y, w, h`` in pixels. The first frame's box is given to the tracker, so it is not scored; frames
without a target (ground truth with no area, or NaN) are not scored either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fartrack.errors import FartrackError
from fartrack.geometry import FloatArray, iou


def overlaps(boxes: ArrayLike, truth: ArrayLike) -> FloatArray:
    """IoU of each scored frame of one sequence.

    Args:
        boxes: ``(frames, 4)`` of the tracker, the first being the given box.
        truth: ``(frames, 4)`` ground truth.

    Raises:
        FartrackError: the two do not have one line a frame each.
    """
    boxes, truth = np.asarray(boxes, np.float64), np.asarray(truth, np.float64)
    if boxes.shape != truth.shape:
        raise FartrackError(f"There are {len(boxes)} boxes for {len(truth)} frames of ground truth; give one a frame.")
    present = np.isfinite(truth).all(-1) & (truth[:, 2:] > 0).all(-1)
    present[0] = False
    return iou(boxes[present], truth[present])


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
