"""Boxes and masks as the store wants them: within the picture, large enough to teach something, shrunk if asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco

from fartrack.geometry import Box
from fartrack.train.data.store import Mask, Picture, Target

SMALLEST_TARGET = 4.0
"""Targets with a side under this many pixels teach nothing and are skipped."""

MALFORMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What labels of the wrong form raise, wherever they are read."""


def fit_box(box: Sequence[float], width: int, height: int) -> Box | None:
    """The part of an image box x, y, w, h within the picture; None if it is not finite or too small."""
    if not np.isfinite(box).all():
        return None
    x, y, w, h = (float(v) for v in box)
    x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    return None if min(x1 - x0, y1 - y0) < SMALLEST_TARGET else (x0, y0, x1 - x0, y1 - y0)


def read_mask(segmentation: Any, width: int, height: int, skipped: Counter[str]) -> Mask | None:
    """A COCO segmentation → ``(height, width)``: polygons, or run lengths as a list or a compressed string.

    One that is malformed is counted in ``skipped``, never fatal; None for it and where there is none.
    """
    if not segmentation:
        return None
    try:
        if isinstance(segmentation, dict):
            if tuple(segmentation["size"]) != (height, width):
                skipped["mask of another size"] += 1
                return None
            return _from_runs(segmentation["counts"], width, height)
        return _from_polygons(segmentation, width, height)
    except MALFORMED:
        skipped["mask that cannot be read"] += 1
        return None


def _from_runs(counts: Any, width: int, height: int) -> Mask:
    # pycocotools fills a mask whose runs end early with whatever lay in memory, so the runs are laid out here.
    runs = [int(run) for run in counts] if isinstance(counts, list) else _decompress(counts)
    if min(runs) < 0 or sum(runs) != width * height:
        raise ValueError("the runs do not fill the picture")
    return np.ascontiguousarray(np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T)


def _decompress(text: str) -> list[int]:
    """COCO's compressed run lengths: 5 bits a character, low ones first; from the fourth on, what the run adds.

    A run is told by its difference to the run two before it.
    """
    runs: list[int] = []
    value = shift = 0
    for byte in text.encode("ascii"):
        bits = byte - 48
        if not 0 <= bits < 64:
            raise ValueError("no such character in run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # goes on in the next character
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
    """The picture with its longer side at most ``longest`` pixels; boxes and masks go along.

    Targets that become smaller than :data:`SMALLEST_TARGET` are counted in ``skipped`` and left out.
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
