"""Sequences with a ground-truth box per frame, from videos or from folders in a published layout."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from fartrack.datasets.layouts import Layout, absent_frames, numbered_pictures, path_from, present, read_boxes
from fartrack.errors import FartrackError
from fartrack.geometry import FloatArray, Image
from fartrack.video.sources import frames_from_source


@dataclass(frozen=True, eq=False)
class Sequence:
    """A video with ground truth.

    Its ``boxes`` ``(frames, 4)`` are x, y, w, h in pixels from the image's corner; without area or NaN where the target
    is absent, which it never is on the first frame. They are ``(1, 4)`` if only the first box is published.
    """

    name: str  # unique within its benchmark
    source: Path | tuple[Path, ...]  # a video file, or the picture files in order
    boxes: FloatArray
    attributes: frozenset[str] = frozenset()  # the publisher's, such as OCC
    origin: float = 0.0  # what the published files add to x and y: 1 where they count from one
    skipped: int = 0  # frames of the video before the first of this sequence; NAME@12 starts at frame 12 of NAME

    @property
    def video(self) -> str:
        """The name of the whole sequence, without the start."""
        return self.name.removesuffix(f"@{self.skipped}")

    def since(self, frame: int) -> Self | None:
        """The rest of the sequence from a frame on; None if the target is absent on that frame or on all after it."""
        if frame == 0:
            return self
        boxes = self.boxes[frame:]
        seen = present(boxes)
        if not seen[:1].any() or not seen[1:].any():
            return None
        source = self.source[frame:] if isinstance(self.source, tuple) else self.source
        return replace(self, name=f"{self.name}@{frame}", source=source, boxes=boxes, skipped=frame)

    @property
    def length(self) -> int:
        """The number of frames: of the pictures, or of the boxes of a video."""
        return len(self.source) if isinstance(self.source, tuple) else len(self.boxes)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the first frame, which is decoded; FartrackError if it cannot be."""
        height, width = self.frame(0).shape[:2]
        return width, height

    def frame(self, number: int) -> Image:
        """One frame, uint8 BGR; FartrackError if it cannot be read."""
        return next(self.frames(number))

    def frames(self, first: int = 0) -> Iterator[Image]:
        """The frames in order from ``first`` on, uint8 BGR; FartrackError at a frame that cannot be read."""
        if isinstance(self.source, tuple):
            paths, start = self.source[first:], 0
        else:
            paths, start = (self.source,), self.skipped + first
        for path in paths:
            with frames_from_source(path, start=start) as source:
                for frame in source:
                    yield frame.image


@dataclass(frozen=True)
class Part:
    """A sequence within a folder: its name, its range of frame numbers, and its ground truth if not the layout's."""

    name: str
    first: int = 0
    last: float = math.inf
    truth: str | None = None


def read_sequence(
    folder: Path,
    layout: Layout,
    part: Part | None = None,
    *,
    first_box_only: bool = False,
    labels_required: bool = False,
) -> Sequence:
    """The sequence in a folder, or ``part`` of it; pictures are listed, not decoded. FartrackError if something is
    missing (with ``labels_required`` the labels of absence too) or broken, or pictures and ground truth do not match:
    there is one box a picture, or ``first_box_only``."""
    part, place = part or Part(folder.name), layout.pictures_of(folder)
    if part.name.encode(errors="replace").decode() != part.name:
        raise FartrackError(f"The name of {folder} is not text in UTF-8; rename it.")
    numbered = numbered_pictures(place) if place.is_dir() else []
    numbered = [(n, path) for n, path in numbered if n == -1 or part.first <= n <= part.last]
    if not numbered:
        raise FartrackError(f"{place} holds no pictures of {part.name}; download the sequence again.")
    pictures = tuple(path for _, path in numbered)
    truth = path_from(folder, part.truth, part.name) if part.truth else layout.truth_of(folder, part.name)
    boxes = read_boxes(truth, vatic=layout.vatic)
    _check_first_box(boxes, truth)
    if layout.vatic:
        boxes, pictures = _match_nfs(boxes, pictures)
    if first_box_only:
        for expected, (number, _) in enumerate(numbered, layout.first):  # only a gap tells that a picture is missing
            if number not in (expected, -1):
                raise FartrackError(f"{place} has no picture number {expected}; download the sequence again.")
    if len(boxes) != len(pictures) and not (first_box_only and len(boxes) == 1):
        raise FartrackError(
            f"{truth} has {len(boxes)} lines for {len(pictures)} pictures in {place}; download the sequence again, or "
            "correct it."
        )
    boxes = boxes - (layout.origin, layout.origin, 0, 0)
    absent = absent_frames(folder, layout, len(boxes), required=labels_required)
    absent[0] = False  # the first box is given
    boxes[absent] = np.nan
    return Sequence(part.name, pictures, boxes[:1] if first_box_only else boxes, origin=layout.origin)


def _match_nfs(boxes: FloatArray, pictures: tuple[Path, ...]) -> tuple[FloatArray, tuple[Path, ...]]:
    """NFS at 30 FPS may come with the ground truth of 240 FPS, and with one line or picture too many; it
    is read as the GOT-10k toolkit does."""
    if abs(len(boxes) / len(pictures) - 8) < 1:
        boxes = boxes[::8]
    if abs(len(boxes) - len(pictures)) == 1:
        shorter = min(len(boxes), len(pictures))
        boxes, pictures = boxes[:shorter], pictures[:shorter]
    return boxes, pictures


def _check_first_box(boxes: FloatArray, truth: Path) -> None:
    if not present(boxes[:1]).any():
        raise FartrackError(f"{truth} does not begin with a box that has an area, where a tracker starts; correct it.")


def packed_sequence(video: Path) -> Sequence:
    """The sequence of ``NAME.mp4`` beside ``NAME.txt``; FartrackError if one of them cannot be read or they do not
    match by the video's index."""
    truth = video.with_suffix(".txt")
    boxes = read_boxes(truth)
    _check_first_box(boxes, truth)
    with frames_from_source(video) as source:
        count = source.frame_count
    if count not in (None, len(boxes)):
        raise FartrackError(f"{truth} has {len(boxes)} lines for {count} frames in {video}; give one line per frame.")
    return Sequence(video.stem, video, boxes)


def packed_sequences(folder: Path) -> list[Sequence]:
    """The sequences of a folder of ``NAME.mp4`` beside ``NAME.txt``, sorted by name; FartrackError if there is none, or
    one is refused by :func:`packed_sequence`."""
    videos = list_videos(folder)
    if not videos:
        raise FartrackError(f"{folder} holds no .mp4 sequences; give a folder of NAME.mp4 beside NAME.txt.")
    return [packed_sequence(video) for video in videos]


def list_videos(folder: Path) -> list[Path]:
    """The packed videos of a folder, sorted."""
    return sorted(path for path in folder.glob("*.mp4") if not path.name.startswith("."))
