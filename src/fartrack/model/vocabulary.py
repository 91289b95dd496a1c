"""Coordinates ↔ tokens: the vocabulary that trajectory, command and output share.

A coordinate in a crop's own frame, clipped to ``[LOW, HIGH]``, is one of ``BINS`` bins. There is one formula for
a bin's center, ``LOW + (token + 0.5) · BIN_WIDTH``, used for encoding, decoding and the training targets alike.
Behind the bins the embedding table holds four command entries (one a coordinate, in the order x0, y0, x1, y1)
and one entry that says "no trajectory here".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fartrack.geometry import FloatArray

BINS = 600
LOW, HIGH = -0.5, 1.5
BIN_WIDTH = (HIGH - LOW) / BINS
COMMANDS = range(BINS, BINS + 4)
NO_TRAJECTORY = BINS + 4
ENTRIES = BINS + 5

BIN_CENTERS: FloatArray = LOW + (np.arange(BINS, dtype=np.float64) + 0.5) * BIN_WIDTH

# Half the width, in bins, of the window around the most likely bin over which a coordinate is averaged.
DECODING_RADIUS = 12


def encode(coordinates: ArrayLike) -> NDArray[np.int64]:
    """Coordinates in a crop's frame, any shape → tokens in ``[0, BINS)``; outliers take the outermost bin."""
    bins = np.floor((np.asarray(coordinates, np.float64) - LOW) / BIN_WIDTH)
    return np.clip(bins, 0, BINS - 1).astype(np.int64)


def centers(tokens: ArrayLike) -> FloatArray:
    """Tokens in ``[0, BINS)``, any shape → the coordinates of their bins' centers."""
    return BIN_CENTERS[np.asarray(tokens, np.int64)]


def decode(logits: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Logits ``(..., BINS)`` → coordinates ``(...)`` and the probability mass ``(...)`` behind each.

    The coordinate is the expectation over the bins within ``DECODING_RADIUS`` of the most likely one: the mode
    decides which of several candidates is meant, the expectation places it between the bins. The mass of that
    window, in (0, 1], is near 1 where the distribution is sharp and small where it is broad or divided.
    """
    logits = np.asarray(logits, np.float64)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    distance = np.abs(np.arange(BINS) - logits.argmax(-1)[..., None])
    window = np.where(distance <= DECODING_RADIUS, weights, 0.0)
    total = window.sum(-1)
    return (window @ BIN_CENTERS) / total, total / weights.sum(-1)
