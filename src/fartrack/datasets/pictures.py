"""Labeled pictures, as training data: boxes within the picture, masks from COCO segmentations, smaller copies."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from fartrack.geometry import Box, Image

Mask = NDArray[np.bool_]

SMALLEST_TARGET = 4.0
"""Targets with a side under this many pixels are skipped."""

MALFORMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What labels of the wrong form raise, wherever they are read."""


@dataclass(frozen=True)
class Target:
    """A labeled object: its image box x, y, w, h in pixels and, where known, its mask over the whole picture."""

    box: Box
    mask: Mask | None = None


@dataclass(frozen=True)
class Picture:
    """A BGR picture ``(H, W, 3)`` with its labeled objects; one frame of a video, if ``sequence`` names one.

    Frames of a sequence follow each other in order and hold one target, or none where it is absent.
    """

    image: Image
    targets: tuple[Target, ...]
    sequence: str | None = None


def mask_extent(mask: Mask) -> tuple[slice, slice]:
    """The rows and the columns from the first to the last that a mask, which is not empty, covers."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def fit_box(box: Sequence[float], width: int, height: int) -> Box | None:
    """The part of an image box x, y, w, h within the picture; None if it is not finite or too small."""
    if not np.isfinite(box).all():
        return None
    x, y, w, h = (float(v) for v in box)
    x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    return None if min(x1 - x0, y1 - y0) < SMALLEST_TARGET else (x0, y0, x1 - x0, y1 - y0)


def read_mask(segmentation: Any, width: int, height: int, skipped: Counter[str]) -> Mask | None:
    """A COCO segmentation → ``(height, width)``: polygons, or run lengths as a list or a compressed string.

    A malformed one is counted in ``skipped``; None for it and where there is none.
    """
    if not segmentation:
        return None
    try:
        if not isinstance(segmentation, dict):
            return _from_polygons(segmentation, width, height)
        if tuple(segmentation["size"]) == (height, width):
            return _from_runs(segmentation["counts"], width, height)
        skipped["mask of another size"] += 1
    except MALFORMED:
        skipped["mask that cannot be read"] += 1
    return None


def _from_runs(counts: Any, width: int, height: int) -> Mask:
    # Not by pycocotools, which reads and writes beyond its memory where runs do not fill the picture.
    runs = [int(run) for run in counts] if isinstance(counts, list) else _decompress(counts)
    if min(runs) < 0 or sum(runs) != width * height:
        raise ValueError("the runs do not fill the picture")
    return np.ascontiguousarray(np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T)


def _decompress(text: str) -> list[int]:
    """COCO's compressed run lengths: 5 bits a character, low ones first; from the fourth run on, the difference to the
    run two before."""
    runs: list[int] = []
    value = shift = 0
    for byte in text.encode("ascii"):
        bits = byte - 48
        if not 0 <= bits < 64:
            raise ValueError("no such character in run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # continued in the next character
            continue
        if bits & 16:  # negative
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("the run lengths are cut off")
    return runs


def _from_polygons(segmentation: Any, width: int, height: int) -> Mask:
    polygons = []
    for part in segmentation:
        points = np.asarray(part, np.float64)
        if points.ndim != 1 or len(points) < 6 or not np.isfinite(points).all():
            raise ValueError("no polygon x, y, x, y, …")
        # pycocotools takes memory by a polygon's length, so none may reach far beyond the picture
        polygons.append(np.clip(points.reshape(-1, 2), 0, (width, height)).ravel().tolist())
    return np.asarray(coco.decode(coco.merge(coco.frPyObjects(polygons, height, width))), bool)


def shrink(picture: Picture, longest: int, skipped: Counter[str]) -> Picture:
    """The picture with its longer side at most ``longest`` pixels, boxes and masks included.

    Targets that become smaller than :data:`SMALLEST_TARGET` are left out and counted in ``skipped``.
    """
    height, width = picture.image.shape[:2]
    if max(height, width) <= longest:
        return picture
    scale = longest / max(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    # sides are whole pixels, so each has its own scale and what touches the border still does
    scales = np.array([size[0] / width, size[1] / height] * 2)
    targets = []
    for target in picture.targets:
        box = fit_box(target.box * scales, *size)
        if box is None:
            skipped["target too small"] += 1
            continue
        mask = target.mask
        if mask is not None:
            mask = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5
        targets.append(Target(box, mask))
    image = cv2.resize(picture.image, size, interpolation=cv2.INTER_AREA)
    return Picture(np.asarray(image, np.uint8), tuple(targets), picture.sequence)
