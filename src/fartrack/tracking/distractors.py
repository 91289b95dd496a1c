"""A memory of distractors: what was seen beside the target is not the target, however much it looks like it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np

from fartrack.geometry import PADDING_BGR, Crop, FloatArray, Image

PATCH, CONTEXT = 20, 1.4
"""What is compared: squares of so many pixels a side, which show this multiple of a box's size."""

NEARBY, BESIDE = 1.5, 0.9
"""How far from its place an object is looked for, and how far from a target another one is at least, in sizes."""

SEEN_BEFORE, MARGIN = 0.6, 0.15
"""Least correlation with what was there before, and by how much it must exceed that with the target."""


@dataclass(frozen=True)
class Scene:
    """A frame with a target.

    A target is in one place at a time: a box that holds what was beside it then has been taken over by a distractor.

    Attributes:
        pixels: ``(H, W)`` uint8, every ``step``-th pixel of the frame's green.
        step: see ``pixels``.
        box: ``(4,)`` the target's image box.
    """

    pixels: Image
    step: int
    box: FloatArray

    @classmethod
    def of(cls, frame: Image, box: FloatArray, step: int | None = None) -> Scene:
        """A copy of a frame ``(H, W, 3)``, as fine as its target needs."""
        step = step or max(int(_size(box) * CONTEXT / PATCH), 1)
        return cls(np.ascontiguousarray(frame[::step, ::step, 1]), step, box)

    def shows(self, later: Scene) -> bool:
        """Whether what a later box holds was already here, at that place or near it, and beside the target.

        It must look more like what was there than like the target here, by normalized cross-correlation.
        """
        place, target = later.box[:2] + later.box[2:] / 2, self.box[:2] + self.box[2:] / 2
        side = _size(later.box) * CONTEXT
        patch = later._cut(place, side, PATCH)
        there, distance = self._match(patch, side, place, target)
        beside = float(there[distance > BESIDE].max(initial=0.0))
        if beside < SEEN_BEFORE:
            return False
        here, distance = self._match(patch, side, target, target)
        return beside > float(here[distance < BESIDE].max(initial=0.0)) + MARGIN

    def _match(self, patch: Image, side: float, place: FloatArray, target: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Correlations ``(n, n)`` of a patch, of this side in the frame, with what is around a place, and how far
        each is from the target, in sizes."""
        pixels = round(PATCH * (1 + 2 * NEARBY / CONTEXT))
        found = cv2.matchTemplate(self._cut(place, side * pixels / PATCH, pixels), patch, cv2.TM_CCOEFF_NORMED)
        offsets = (np.arange(len(found)) - (pixels - PATCH) / 2)[:, None] * side / PATCH
        x, y = (np.abs(place + offsets - target) * CONTEXT / side).T
        return cast(FloatArray, found), np.maximum(x[None], y[:, None])

    def _cut(self, center: FloatArray, side: float, size: int) -> Image:
        """The square of this side around a place of the frame, ``(size, size)``."""
        x, y = ((center - side / 2) / self.step).tolist()
        return Crop(x, y, side / self.step).extract(self.pixels, size, padding=(PADDING_BGR[1],) * 3)


def _size(box: FloatArray) -> float:
    """``sqrt(w · h)`` of an image box."""
    return float(np.sqrt(box[2] * box[3]))
