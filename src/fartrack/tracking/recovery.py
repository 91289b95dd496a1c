"""When a target is lost, and where it is sought then. NumPy only; pure functions of small immutable values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import cv2
import numpy as np

from fartrack.geometry import Crop, FloatArray, Image, box_iou
from fartrack.tracking.distractors import Scene

Status = Literal["tracking", "uncertain", "lost"]

GROWTH, WIDEST = 1.3, 2.5
"""Windows around the last sure place grow by this factor a frame, up to this multiple of the usual side."""

TILES, TILE_SHARE = 6, 0.75
"""The frame is covered by about this many windows of the usual side or more, apart by this share of their side."""

RATE_MEMORY, RATE_FACTOR = 0.9, 3.0
"""Sides may change by this factor times their usual change a frame, an average with this memory."""

JUMP = 0.1
"""IoU of two boxes of one target under which it has jumped."""

WATCHED, WATCH_INTERVAL = 100, 3
"""So many frames after a target was found elsewhere, each third one, the place where it was lost is looked at."""

LARGEST_RATIO = 2.5
"""A found target is at most so many times as wide or high as it last was, or the reverse."""

UNCERTAIN, LOST = 0.5, 0.3
"""A track whose score is under the first is uncertain; it is lost from a score under the second until that is over."""

PLAIN_DEVIATION = 4.0
"""A crop whose colors deviate less than this (of 255) shows nothing."""

THUMBNAIL, CUT_CORRELATION, CUT_DEVIATION = (16, 12), 0.65, 8.0
"""Size of the thumbnails of two frames, and the correlation under which there may be a cut between them, if their
values deviate at least so much. It is lower on one frame in a hundred without a cut, and on nine cuts in ten."""


@dataclass(frozen=True)
class Watch:
    """The place where a target was lost that was found elsewhere since. If it shows up there again, what was found is
    something else.

    Attributes:
        place: ``(4,)`` the last sure image box before the loss.
        since: number of the frame from which on the target was followed elsewhere.
    """

    place: FloatArray
    since: int

    def over(self, number: int) -> bool:
        """Whether on this frame the target has been followed elsewhere for so long that it is the right one."""
        return number - self.since > WATCHED

    def due(self, number: int) -> bool:
        """Whether the place is looked at on this frame."""
        return not self.over(number) and number > self.since and (number - self.since) % WATCH_INTERVAL == 0


@dataclass(frozen=True)
class Recovery:
    """What is remembered of how sure a target is followed.

    Attributes:
        sure: ``(4,)`` the last sure image box x, y, w, h.
        status: ``tracking``, ``uncertain`` (a few doubtful frames) or ``lost``.
        doubtful: frames since the last sure one.
        turn: frames since it was lost on which there was something to see.
        found: whether a lost target was found on the last frame, which the next one has to confirm.
        scene: the frame of the last template, which tells distractors.
        watch: where the target was lost, while it is not certain that what was found elsewhere is the target.
        rate: ``(2,)`` the usual absolute change of the logarithm of width and height a frame.
    """

    sure: FloatArray
    status: Status = "tracking"
    doubtful: int = 0
    turn: int = 0
    found: bool = False
    scene: Scene | None = None
    watch: Watch | None = None
    rate: FloatArray = field(default_factory=lambda: np.zeros(2))

    @property
    def seeking(self) -> bool:
        """Whether the next frame is searched for a target that has not been found yet."""
        return self.status == "lost" and not self.found

    def limited(self, last: FloatArray, sides: FloatArray, least: float) -> tuple[FloatArray, FloatArray]:
        """New sides ``(2,)``, whose change from the last box is bounded by what is usual, and the usual change then.

        Args:
            last: the last image box.
            sides: width and height that were found.
            least: the bound where the target's size hardly ever changes.
        """
        change = np.log(sides / last[2:])
        bound = np.maximum(least, RATE_FACTOR * self.rate)
        rate = RATE_MEMORY * self.rate + (1 - RATE_MEMORY) * np.minimum(np.abs(change), 0.5)
        return last[2:] * np.exp(np.clip(change, -bound, bound)), rate

    def scaled(self, factor: FloatArray) -> Recovery:
        """In a frame whose size is ``factor (4,)`` times what it was."""
        return replace(self, sure=self.sure * factor, scene=None, watch=None)

    def at(self, box: FloatArray, rate: FloatArray, number: int) -> Recovery:
        """Once the target is followed for sure in an image box, on the frame of this number."""
        watch = None if self.watch is None or self.watch.over(number) else self.watch
        if watch is None and self.found and box_iou(self.sure.tolist(), box.tolist()) < JUMP:
            watch = Watch(self.sure, number)
        return Recovery(box, rate=rate, scene=self.scene, watch=watch)

    def plausible(self, box: FloatArray) -> bool:
        """Whether an image box may be the target's, by its size."""
        return bool((np.abs(np.log(box[2:] / self.sure[2:])) < np.log(LARGEST_RATIO)).all())


def told(sought: bool, score: float, before: Status) -> Status:
    """The state that a track tells: whether its target is sought, its score, and the state told on the last frame."""
    if sought or score < (UNCERTAIN if before == "lost" else LOST):
        return "lost"
    return "uncertain" if score < UNCERTAIN else "tracking"


GROWING = int(np.ceil(np.log(WIDEST) / np.log(GROWTH)))
"""Frames until the windows around the last sure place have grown to their largest."""


def seek(sure: FloatArray, size: tuple[int, int], factor: float, turn: int) -> list[Crop]:
    """The windows that are searched on the ``turn``-th frame since a target was lost, counted from 0.

    First the last sure place, in a window that grows; then that place in three sizes, in turn, and with it one of the
    windows that cover the frame (``size``: width, height). Never more than two windows, so that the cost of a frame
    is bounded.
    """
    base = Crop.around(sure, factor)
    if turn < GROWING:
        return [base.center(GROWTH**turn)]
    tiles = cover(size, base.side)
    place = turn - GROWING
    return [base.center((1.0, WIDEST, WIDEST**0.5)[place % 3]), tiles[place % len(tiles)]]


def cover(size: tuple[int, int], side: float) -> list[Crop]:
    """Windows of this side or more that cover a frame, row by row."""
    for scale in (1.0, 1.4, 1.9, WIDEST):
        window = side * scale
        counts = [max(int(np.ceil((length / window - 1) / TILE_SHARE)), 0) + 1 for length in size]
        if np.prod(counts) <= TILES:
            break
    xs, ys = (
        np.linspace(window / 2, length - window / 2, count) if count > 1 else np.array([length / 2])
        for length, count in zip(size, counts, strict=True)
    )
    return [Crop(x - window / 2, y - window / 2, window) for y in ys.tolist() for x in xs.tolist()]


def is_plain(crop: Image, window: Crop, size: tuple[int, int]) -> bool:
    """Whether a crop ``(S, S, 3)`` of a window shows nothing: one color, as a black frame does. What is padding, beyond
    a frame of this width and height or next to its border, does not count."""
    scale = window.side / len(crop)
    margin = 1.5 * max(scale, 1.0)
    seen = crop
    for start, length in ((window.y, size[1]), (window.x, size[0])):
        low = max(math.ceil((margin - start) / scale - 0.5), 0)
        high = math.ceil((length - margin - start) / scale - 0.5)
        seen = seen[low : max(high, low)].swapaxes(0, 1)
    if not seen.size:
        return False
    _, deviations = cv2.meanStdDev(np.ascontiguousarray(seen[::4, ::4]))
    return float(deviations.max()) < PLAIN_DEVIATION


def thumbnail(frame: Image) -> FloatArray:
    """A thumbnail of a frame's green, of mean 0."""
    step_y, step_x = (max(n // (8 * small), 1) for n, small in zip(frame.shape, THUMBNAIL[::-1], strict=False))
    green = np.ascontiguousarray(frame[::step_y, ::step_x, 1])
    small = cv2.resize(green, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float64)
    return cast(FloatArray, small - small.mean())


def is_cut(before: FloatArray, after: FloatArray) -> bool:
    """Whether there may be a cut between the frames of two thumbnails."""
    first, second = (math.sqrt(np.vdot(small, small) / small.size) for small in (before, after))
    correlation = float(np.vdot(before, after) / before.size)
    return min(first, second) >= CUT_DEVIATION and correlation < CUT_CORRELATION * first * second
