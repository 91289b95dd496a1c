"""Boxes drawn on a frame."""

import math
from collections.abc import Iterator, Mapping

import cv2
import numpy as np

from fartrack.geometry import Image
from fartrack.targets import Target
from fartrack.tracking.tracker import Track

COLORS = np.array([(58, 58, 235), (20, 176, 250), (88, 205, 60)], float)
"""BGR of the scores 0 (red), 0.5 (amber) and 1 (green)."""

PALETTE = [(80, 200, 60), (40, 160, 255), (255, 150, 60), (200, 110, 255), (220, 215, 50)]
PALETTE += [(40, 220, 250), (110, 110, 255), (255, 150, 190), (120, 180, 110), (180, 200, 230)]
"""BGR of targets with names, by id: bright ones, for the text on them is dark."""


def draw_tracks(image: Image, found: Mapping[Target, Track]) -> Image:
    """Return a copy of `image` (uint8 BGR) with all targets; those with names have their own color, id and name."""
    canvas = image.copy()
    for target, track in found.items():
        color = PALETTE[(target.id - 1) % len(PALETTE)] if target.name else None
        canvas = draw_track(canvas, track, target.title, color)
    return canvas


def draw_track(
    image: Image, track: Track, label: str | None = None, color: tuple[int, int, int] | None = None
) -> Image:
    """Return a copy of `image` (uint8 BGR) with the box of `track` (x, y, w, h in pixels) and its score.

    The box goes from green over amber to red as the score falls from 1 to 0, unless it is given a `color` (BGR); line
    and text grow with the picture. `label` stands before the score. The box of a lost target is dashed, and `lost`
    stands in place of the score. A box that is not finite is left out.
    """
    canvas = image.copy()
    if not all(math.isfinite(v) for v in (*track.box, track.score)):
        return canvas
    height, width = canvas.shape[:2]
    line = max(2, round(min(height, width) / 270))
    blue, green, red = (round(float(np.interp(track.score, (0.0, 0.5, 1.0), COLORS[:, c]))) for c in range(3))
    color, dark = color or (blue, green, red), (24, 24, 24)

    x, y, w, h = track.box
    # far outside the picture OpenCV's fixed-point drawing would overflow
    left, right = (round(min(max(v, -9.0 * line), width + 9.0 * line)) for v in (x, x + w))
    top, bottom = (round(min(max(v, -9 * line), height + 9 * line)) for v in (y, y + h))
    lost = track.state == "lost"
    for tone, thickness in ((dark, line + 2), (color, line)):
        if not lost:
            cv2.rectangle(canvas, (left, top), (right, bottom), tone, thickness)
        for start, end in _dashes(left, top, right, bottom, 6 * line) if lost else ():
            cv2.line(canvas, start, end, tone, thickness)

    text = " ".join(part for part in (label, "lost" if lost else f"{track.score:.2f}") if part)
    font, size = cv2.FONT_HERSHEY_SIMPLEX, max(0.4, min(height, width) / 900)
    stroke = max(1, round(size * 1.6))
    (text_width, text_height), base = cv2.getTextSize(text, font, size, stroke)
    pad = max(2, round(text_height * 0.4))
    tag_width, tag_height = text_width + 2 * pad, text_height + base // 2 + 2 * pad
    tag_x = min(max(left - line, 0), max(width - tag_width, 0))
    places = (top - line - tag_height, bottom + line, max(top, 0))  # above, below, inside
    tag_y = next((v for v in places if 0 <= v <= height - tag_height), 0)
    cv2.rectangle(canvas, (tag_x, tag_y), (tag_x + tag_width, tag_y + tag_height), color, cv2.FILLED)
    origin = (tag_x + pad, tag_y + pad + text_height)
    cv2.putText(canvas, text, origin, font, size, dark, stroke, cv2.LINE_AA)
    return canvas


def _dashes(
    left: int, top: int, right: int, bottom: int, length: int
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """The ends of the dashes of a rectangle's sides."""
    for x in range(left, right, 2 * length):
        for y in (top, bottom):
            yield (x, y), (min(x + length, right), y)
    for y in range(top, bottom, 2 * length):
        for x in (left, right):
            yield (x, y), (x, min(y + length, bottom))
