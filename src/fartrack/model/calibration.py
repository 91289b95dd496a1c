"""From the network's own score to the chance that a box is right. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fartrack.config import check_numbers
from fartrack.geometry import FloatArray

EDGE = 1e-4
"""Raw scores nearer to 0 or 1 than this are taken as so near: they tell nothing more, and 0 and 1 have no logit."""


@dataclass(frozen=True)
class Calibration:
    """Platt scaling of a score's logit: the chance is ``sigmoid(slope · logit(raw) + bias)``.

    After Platt, "Probabilistic outputs for support vector machines", 1999.
    """

    slope: float
    bias: float

    def __post_init__(self) -> None:
        """Check every field once; errors name the field."""
        check_numbers(self, slope=(0.01, 100), bias=(-100, 100))

    def apply(self, raw: ArrayLike) -> FloatArray:
        """Raw scores, any shape, 0 to 1 → the chance that the box has an IoU of at least 0.5 with the truth."""
        return sigmoid(self.slope * logit(raw, EDGE) + self.bias)


def sigmoid(values: ArrayLike) -> FloatArray:
    """``1 / (1 + exp(-x))``, elementwise, without overflow."""
    return 0.5 + np.tanh(np.asarray(values, np.float64) / 2) / 2


def logit(shares: ArrayLike, edge: float) -> FloatArray:
    """``log(p / (1 - p))``, elementwise; ``p`` is kept ``edge`` off 0 and 1. NaN stays NaN."""
    inside: FloatArray = np.clip(np.asarray(shares, np.float64), edge, 1 - edge)
    return np.log(inside) - np.log1p(-inside)
