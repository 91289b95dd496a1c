"""The frames that are timed: decoded and resized once, kept as plain bytes, read one at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from numpy.typing import ArrayLike

from fartrack.demo import render_clip
from fartrack.errors import FartrackError
from fartrack.geometry import FloatArray, Image, check_box
from fartrack.video.sources import frames_from_source

Size = tuple[int, int]

LONGEST = 150
"""Frames, at most, that are taken of a clip."""

LARGEST = 2**30
"""Bytes, about, that all frames of all sizes may have together; of a larger clip fewer frames are taken."""


@dataclass(frozen=True, eq=False)
class Film:
    """A clip in one size.

    Attributes:
        path: file of its frames, uint8 BGR, one after the other.
        size: width and height in pixels.
        count: frames in it, at least 2.
        box: ``(4,)`` x, y, w, h in pixels of the target on the first.
    """

    path: Path
    size: Size
    count: int
    box: FloatArray

    def frame(self, number: int) -> Image:
        """A frame of the film played forth and back without end and without a jump.

        It is read anew, so that it is as warm in the caches as one just decoded, and a process holds one frame only.
        """
        width, height = self.size
        place = number % (2 * self.count - 2)
        place = min(place, 2 * self.count - 2 - place)
        length = height * width * 3
        return np.fromfile(self.path, np.uint8, length, offset=place * length).reshape(height, width, 3)


@dataclass(frozen=True, eq=False)
class Footage:
    """A clip in every size that is asked for.

    Attributes:
        name: of the clip.
        films: of each size, in the order given.
        decoding: milliseconds to decode a frame of the clip in its own size; None for the demo, which is rendered.
    """

    name: str
    films: list[Film]
    decoding: float | None


def parse_sizes(text: str) -> list[Size]:
    """Sizes such as ``640x360,1280x720`` → width and height of each, every one once.

    Raises:
        FartrackError: one is not two whole numbers from 16 to 8192.
    """
    sizes = []
    for part in text.split(","):
        width, _, height = part.strip().lower().replace("×", "x").partition("x")
        if not (width.isdecimal() and height.isdecimal() and all(16 <= int(n) <= 8192 for n in (width, height))):
            raise FartrackError(f"The size {part.strip()!r} is none; give WIDTHxHEIGHT in pixels, such as 640x360.")
        sizes.append((int(width), int(height)))
    return list(dict.fromkeys(sizes))


def record(folder: Path, clip: str | None, box: ArrayLike | None, sizes: Sequence[Size]) -> Footage:
    """Decode a clip once, into files of its frames in some sizes.

    Args:
        folder: that the files go to.
        clip: a video file or a folder of pictures; None for the demo clip.
        box: x, y, w, h in the clip's own pixels on its first frame; the demo clip has its own.
        sizes: width and height of each; none for the clip's own. The shape of the picture is not kept.

    Raises:
        FartrackError: the clip cannot be read, is live or has one frame only, or the box cannot be used.
    """
    with ExitStack() as stack:
        images: Iterator[Image]
        if clip is None:
            pairs = render_clip()
            first, box = next(pairs)
            images = (image for image, _ in pairs)
        else:
            source = stack.enter_context(frames_from_source(clip))
            if source.live:
                raise FartrackError(f"{source.name} is live; give a video file or a folder of pictures.")
            images = (frame.image for frame in source)
            first = next(images)
        height, width = first.shape[:2]
        given = np.array(check_box(box, width, height))
        sizes = sizes or [(width, height)]
        paths = [folder / f"{w}x{h}.raw" for w, h in sizes]
        files = [stack.enter_context(path.open("wb")) for path in paths]
        most = max(min(LONGEST, LARGEST // sum(3 * w * h for w, h in sizes)), 2)
        image: Image | None = first
        count, seconds = 0, 0.0
        while image is not None and count < most:
            for size, file in zip(sizes, files, strict=True):
                file.write(_resized(image, size).tobytes())
            count += 1
            clock = time.perf_counter()
            image = next(images, None)
            seconds += time.perf_counter() - clock
    if count < 2:
        raise FartrackError(f"{clip} has one frame; give a clip of two or more.")
    films = [
        Film(path, size, count, given * np.tile(np.array(size) / (width, height), 2))
        for path, size in zip(paths, sizes, strict=True)
    ]
    return Footage(clip or "demo", films, None if clip is None else 1000 * seconds / count)


def _resized(image: Image, size: Size) -> Image:
    if image.shape[1::-1] == size:
        return image
    shrinks = size[0] < image.shape[1]
    return cast(Image, cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))
