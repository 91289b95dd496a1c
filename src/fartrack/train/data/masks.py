"""Masks of objects that come with a box alone, estimated from the pixels (GrabCut; Rother et al., 2004)."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from fartrack.geometry import Image, iou
from fartrack.train.data.store import Mask, Picture, extent

SIDE = 112
"""The box and what surrounds it are shrunk to this longer side, in pixels, before they are divided."""

SURROUNDINGS = 0.35
"""What is looked at around a box, of its longer side, to learn the ground's colours from."""

FIT, FILL = 0.8, (0.3, 0.92)
"""A mask is kept if its extent has at least this IoU with the box, and if it fills between so much of it."""


def with_masks(picture: Picture) -> Picture:
    """The picture with a mask for each target that had none and for which one is found."""
    targets = tuple(
        target if target.mask is not None else replace(target, mask=estimate_mask(picture.image, target.box))
        for target in picture.targets
    )
    return replace(picture, targets=targets)


def estimate_mask(image: Image, box: tuple[float, float, float, float]) -> Mask | None:
    """Which pixels of a BGR picture ``(H, W, 3)`` the object in an image box x, y, w, h covers, ``(H, W)``.

    What lies in the box is divided by colour from what lies around it. None if the box is too small or there is
    nothing around it, and where the result does not fit the box (:data:`FIT`, :data:`FILL`): better none than a wrong
    one.
    """
    height, width = image.shape[:2]
    x, y, w, h = box
    margin = SURROUNDINGS * max(w, h)
    left, top = max(int(x - margin), 0), max(int(y - margin), 0)
    right, bottom = min(int(x + w + margin), width), min(int(y + h + margin), height)
    if right - left < 8 or bottom - top < 8:
        return None
    scale = min(SIDE / max(right - left, bottom - top), 1.0)
    shape = max(round((right - left) * scale), 1), max(round((bottom - top) * scale), 1)
    small = cv2.resize(image[top:bottom, left:right], shape, interpolation=cv2.INTER_AREA)
    corners = (np.array([x, y, x + w, y + h]) - [left, top, left, top]) * scale
    x0, y0, x1, y1 = np.round(corners).clip(0, [*shape, *shape]).astype(int).tolist()
    if x1 - x0 < 8 or y1 - y0 < 8 or (x1 - x0) * (y1 - y0) >= 0.95 * shape[0] * shape[1]:
        return None

    labels = np.full(shape[::-1], cv2.GC_BGD, np.uint8)
    u, v = (2 * (np.arange(side) + 0.5) / side - 1 for side in (x1 - x0, y1 - y0))
    # A box's corners are seldom the object's, but may be.
    labels[y0:y1, x0:x1] = np.where(u**2 + v[:, None] ** 2 > 1.35, cv2.GC_PR_BGD, cv2.GC_PR_FGD)
    cv2.setRNGSeed(0)  # its colour clusters begin at random
    try:
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(small, labels, (0, 0, 0, 0), *models, 3, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # one colour everywhere
        return None
    foreground = (labels & 1).astype(np.uint8)  # certain or probable
    count, parts, statistics, _ = cv2.connectedComponentsWithStats(foreground, connectivity=4)
    areas = statistics[:, cv2.CC_STAT_AREA] * (np.arange(count) > 0)
    if areas.max() == 0:
        return None
    found = np.isin(parts, np.flatnonzero(areas >= 0.15 * areas.max()))  # not the specks
    rows, columns = extent(found)
    reached = columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start
    fill = found.sum() / ((x1 - x0) * (y1 - y0))
    if iou(reached, (x0, y0, x1 - x0, y1 - y0)) < FIT or not FILL[0] <= fill <= FILL[1]:
        return None
    mask = np.zeros((height, width), bool)
    whole = cv2.resize(found.astype(np.float32), (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    mask[top:bottom, left:right] = whole > 0.5
    return mask
