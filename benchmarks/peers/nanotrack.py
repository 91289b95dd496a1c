"""NanoTrack V2 and V3 under ONNX Runtime, written from the published description.

FARTRACK_PEERS=DIR fartrack eval --tracker pico,nanotrack-v3=benchmarks.peers.nanotrack:V3 --data VAL

DIR holds the backbone and the head as ONNX files.
"""

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.peers.common import Floats, as_batch, center_and_size, cut, keep_inside, onnx_files, open_session
from fartrack.geometry import FloatArray, Image


class NanoTrack:
    """A Siamese network whose head gives, for each of a grid of points in the search window, how likely it lies in the
    target, and its distances to the four sides.

    The window is a square of the target with a margin of half its mean side. The point wins whose score is best after a
    penalty for changes of size and shape and a cosine window; its size is mixed into the last one.
    """

    TEMPLATE, SEARCH, STRIDE = 127, 255, 16

    FILES: tuple[str, str]
    """Backbone and head."""

    WINDOW, PENALTY, RATE = 0.0, 0.0, 1.0
    """Weight of the cosine window, exponent of the penalty, share of a new size at full confidence."""

    def __init__(self, threads: int | None = 1) -> None:
        backbone, head = self.files()
        self._backbone, self._head = open_session(backbone, threads, any_size=True), open_session(head, threads)
        cells = int(self._head.get_outputs()[0].shape[-1])
        self._hann = np.outer(np.hanning(cells), np.hanning(cells)).ravel()
        places = self.STRIDE * (np.arange(cells) - cells // 2)
        self._points = np.stack(np.meshgrid(places, places), -1).reshape(-1, 2)

    @classmethod
    def files(cls) -> list[Path]:
        return onnx_files(*cls.FILES)

    def init(self, frame: Image, box: FloatArray) -> None:
        self._center, self._size = center_and_size(box)
        self._mean = frame.mean((0, 1)).astype(np.uint8)
        self._template, _ = self._features(frame, context(self._size), self.TEMPLATE)

    def update(self, frame: Image) -> tuple[FloatArray, float]:
        scale = self.TEMPLATE / context(self._size)
        features, middle = self._features(frame, context(self._size) * self.SEARCH / self.TEMPLATE, self.SEARCH)
        classes, sides = (
            part[0].reshape(part.shape[1], -1)
            for part in self._head.run(None, {"input1": self._template, "input2": features})
        )
        scores = 1 / (1 + np.exp(classes[0] - classes[1]))
        low, high = self._points - sides[:2].T, self._points + sides[2:].T
        sizes, expected = high - low, self._size * scale
        change = ratio(context(sizes), context(expected))
        change *= ratio(sizes[:, 0] / sizes[:, 1], expected[0] / expected[1])
        trust = np.exp(-self.PENALTY * (change - 1))
        best = int(np.argmax((1 - self.WINDOW) * trust * scores + self.WINDOW * self._hann))
        rate = self.RATE * trust[best] * scores[best]
        center = middle + (low + high)[best] / 2 / scale
        size = (1 - rate) * self._size + rate * sizes[best] / scale
        self._center, self._size = keep_inside(center, size, frame, 10)
        return np.concatenate([self._center - self._size / 2, self._size]), float(scores[best])

    def _features(self, frame: Image, side: FloatArray, size: int) -> tuple[Floats, FloatArray]:
        crop, middle = cut(frame, self._center, round(float(side)), size, self._mean)
        return self._backbone.run(None, {"input": as_batch(crop)})[0], middle


def context(size: FloatArray) -> FloatArray:
    """Side of the square of a target ``(..., 2)`` with its margin."""
    return np.sqrt((size + size.sum(-1, keepdims=True) / 2).prod(-1))


def ratio(first: ArrayLike, second: ArrayLike) -> FloatArray:
    """The greater of two numbers over the lesser, elementwise."""
    change = np.asarray(first, np.float64) / np.asarray(second, np.float64)
    return np.maximum(change, 1 / change)


class V2(NanoTrack):
    """NanoTrack V2."""

    FILES = ("nanotrackv2_backbone_sim.onnx", "nanotrackv2_head_sim.onnx")
    WINDOW, PENALTY, RATE = 0.490, 0.150, 0.385


class V3(NanoTrack):
    """NanoTrack V3."""

    FILES = ("nanotrackv3_backbone.onnx", "nanotrackv3_head.onnx")
    WINDOW, PENALTY, RATE = 0.455, 0.138, 0.348
