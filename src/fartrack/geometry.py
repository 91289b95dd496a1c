"""Boxes and crops: from the image's frame to a crop's frame and exactly back.

Conventions, used everywhere:

* An **image box** is ``x, y, w, h`` in pixels; ``x, y`` is the upper left corner. Coordinates are continuous:
  pixel ``i`` covers the interval ``[i, i + 1)``, so an image spans ``[0, width] × [0, height]``.
* A **crop** is a square window of the image, not rounded to pixels. In its own frame the window is
  ``[0, 1] × [0, 1]``, and boxes are corners ``x0, y0, x1, y1``. What lies outside of the image is padded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fartrack.errors import FartrackError

FloatArray = NDArray[np.float64]
Image = NDArray[np.uint8]
Box = tuple[float, float, float, float]

PADDING_BGR = (104, 116, 124)
"""The color outside the image: ImageNet's mean, which the network sees as zero."""

MIN_WINDOW = 16.0
"""Side of the smallest window, in pixels: below it a crop holds too few real pixels to show any surroundings."""

LONG_MARGIN = 1.15
"""Side of a template's window over the longer side of its target, at least."""

MAX_BOX = 10
"""A given box may reach beyond the image, but not be more than this many times as wide or as high as it is."""

_BOX_HINT = "give x,y,w,h in pixels, such as 100,120,40,60"


@dataclass(frozen=True)
class Crop:
    """A square window of an image: its upper left corner ``x, y`` and its ``side``, all in image pixels."""

    x: float
    y: float
    side: float

    @classmethod
    def around(cls, box: ArrayLike, factor: float) -> Crop:
        """The window centered on an image box, its side ``factor · sqrt(w · h)``, at least ``MIN_WINDOW`` pixels."""
        x, y, w, h = np.asarray(box, np.float64).tolist()
        side = max(factor * float(np.sqrt(w * h)), MIN_WINDOW)
        return cls(x + w / 2 - side / 2, y + h / 2 - side / 2, side)

    @classmethod
    def template(cls, box: ArrayLike, factor: float) -> Crop:
        """The window of a template: :meth:`around`, but wider for a long target, so that it shows all of it.

        The side is at least ``LONG_MARGIN`` times the box's longer side, and at most ``1.5 · factor · sqrt(w · h)``.
        """
        w, h = np.asarray(box, np.float64)[2:].tolist()
        long = LONG_MARGIN * max(w, h) / max(float(np.sqrt(w * h)), 1e-9)
        return cls.around(box, min(max(factor, long), 1.5 * factor))

    def center(self, share: float) -> Crop:
        """The window around the same center with ``share`` of the side."""
        edge = self.side * (1 - share) / 2
        return Crop(self.x + edge, self.y + edge, self.side * share)

    def to_crop(self, boxes: ArrayLike) -> FloatArray:
        """Image boxes ``(..., 4)`` as x, y, w, h → corners ``(..., 4)`` as x0, y0, x1, y1 in this crop's frame."""
        boxes = np.asarray(boxes, np.float64)
        low = boxes[..., :2]
        corners = np.concatenate([low, low + boxes[..., 2:]], axis=-1)
        origin = np.array([self.x, self.y, self.x, self.y])
        return cast(FloatArray, (corners - origin) / self.side)

    def to_image(self, corners: ArrayLike) -> FloatArray:
        """The exact inverse of :meth:`to_crop`: corners in the crop's frame → image boxes x, y, w, h."""
        corners = np.asarray(corners, np.float64) * self.side
        low = corners[..., :2] + np.array([self.x, self.y])
        return np.concatenate([low, corners[..., 2:] - corners[..., :2]], axis=-1)

    def extract(self, image: Image, size: int, padding: tuple[int, int, int] = PADDING_BGR) -> Image:
        """Cut this window out of an image ``(H, W, 3)`` as ``(size, size, 3)`` of the same color order.

        Pixels outside the image are padded with the color ``padding``. Interpolation is linear; where the window is
        shrunk by two or more, the padded image is first averaged over whole blocks of pixels, so that nothing aliases.
        A test holds OpenCV, whose rounding differs between major versions, against the same in NumPy.
        """
        scale = self.side / size
        x, y = self.x, self.y
        block = int(scale)
        if block >= 2:
            height, width = image.shape[:2]
            left, top = max(int(np.floor(x)), 0), max(int(np.floor(y)), 0)
            columns = -((left - min(int(np.ceil(x + self.side)), width)) // block)  # rounded up
            rows = -((top - min(int(np.ceil(y + self.side)), height)) // block)
            if columns > 0 and rows > 0:
                part = image[top : top + rows * block, left : left + columns * block]
                missing = 0, rows * block - part.shape[0], 0, columns * block - part.shape[1]  # at the image's end
                whole = cv2.copyMakeBorder(part, *missing, cv2.BORDER_CONSTANT, value=padding) if any(missing) else part
                image = cast(Image, cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA))
                x, y, scale = (x - left) / block, (y - top) / block, scale / block
        # The center of output pixel i lies at x + (i + 0.5)·scale; OpenCV counts from pixel centers.
        offset_x, offset_y = x + 0.5 * scale - 0.5, y + 0.5 * scale - 0.5
        matrix = np.array([[scale, 0.0, offset_x], [0.0, scale, offset_y]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        # What lies outside is constant, which is OpenCV's default.
        return cast(Image, cv2.warpAffine(image, matrix, (size, size), flags=flags, borderValue=padding))


UNIT = Crop(0.0, 0.0, 1.0)
"""A crop's own frame taken as an image: turns its corners x0, y0, x1, y1 into x, y, w, h and back."""


def parse_box(text: str) -> tuple[float, ...]:
    """The numbers of a box written as ``x,y,w,h``, commas or spaces between.

    Raises:
        FartrackError: it is not four numbers.
    """
    try:
        values = tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        values = ()
    if len(values) != 4:
        raise FartrackError(f"The box {text!r:.60} is not four numbers; {_BOX_HINT}.")
    return values


def check_box(box: object, width: int, height: int) -> Box:
    """A box that a user gave for an image of ``width`` × ``height`` pixels, as four floats x, y, w, h.

    Raises:
        FartrackError: not four finite numbers, no area, no overlap with the image, or far larger than it.
    """
    try:
        values = np.asarray(box, np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.empty(0)
    if values.shape != (4,):
        raise FartrackError(f"The box {' '.join(repr(box).split()):.60} is not four numbers; {_BOX_HINT}.")
    x, y, w, h = (float(v) for v in values)
    named = f"The box {x:g},{y:g},{w:g},{h:g}"
    if not np.isfinite(values).all():
        raise FartrackError(f"{named} holds a number that is not finite; {_BOX_HINT}.")
    if w <= 0 or h <= 0:
        raise FartrackError(f"{named} has no area; width and height must be above 0.")
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        raise FartrackError(f"{named} lies outside the {width}×{height} frame; {_BOX_HINT} inside it.")
    if w > MAX_BOX * width or h > MAX_BOX * height:
        raise FartrackError(f"{named} is far larger than the {width}×{height} frame; {_BOX_HINT} inside it.")
    return x, y, w, h


def clip_box(box: ArrayLike, width: int, height: int) -> Box:
    """The part of an image box that lies in a ``width`` × ``height`` image; of one that has left it, a sliver of one
    pixel (or less, if the box is smaller) at the nearest border."""
    x, y, w, h = np.asarray(box, np.float64).tolist()
    keep_w, keep_h = min(1.0, w, width), min(1.0, h, height)
    x0, y0 = min(max(x, 0.0), width - keep_w), min(max(y, 0.0), height - keep_h)
    x1, y1 = min(max(x + w, x0 + keep_w), width), min(max(y + h, y0 + keep_h), height)
    return x0, y0, x1 - x0, y1 - y0


def box_iou(first: Iterable[float], second: Iterable[float]) -> float:
    """:func:`iou` of two boxes alone, in a tenth of the time."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = first, second
    width, height = min(ax + aw, bx + bw) - max(ax, bx), min(ay + ah, by + bh) - max(ay, by)
    overlap = max(width, 0.0) * max(height, 0.0)
    union = max(aw, 0.0) * max(ah, 0.0) + max(bw, 0.0) * max(bh, 0.0) - overlap
    return overlap / union if union > 0 else 0.0


def iou(first: ArrayLike, second: ArrayLike) -> FloatArray:
    """Intersection over union of image boxes ``(..., 4)`` x, y, w, h, elementwise; 0 where the union is empty."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    overlap = np.clip(high - low, 0, None).prod(-1)
    union = a[..., 2:].clip(0).prod(-1) + b[..., 2:].clip(0).prod(-1) - overlap
    return cast(FloatArray, np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0))
