"""Sequences with a ground-truth box per frame, from videos or from folders in a published layout."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fartrack.datasets.layouts import Layout, absent_frames, numbered_pictures, path_from, present, read_boxes, shown
from fartrack.errors import FartrackError
from fartrack.geometry import FloatArray, Image
from fartrack.video.sources import frames_from_source


@dataclass(frozen=True, eq=False)
class Sequence:
    """A video with ground truth.

    Attributes:
        name: unique within its benchmark.
        source: a video file, or the picture files in order.
        boxes: ``(frames, 4)`` x, y, w, h in pixels from the image's corner; no area or NaN where the target is absent,
            which it never is on the first frame. ``(1, 4)`` if only the first box is published.
        attributes: the publisher's attributes, such as OCC.
        origin: what the published files add to x and y: 1 where they count from one.
        skipped: frames of the video before the first of this sequence; NAME@12 starts at frame 12 of NAME.
    """

    name: str
    source: Path | tuple[Path, ...]
    boxes: FloatArray
    attributes: frozenset[str] = frozenset()
    origin: float = 0.0
    skipped: int = 0

    @property
    def video(self) -> str:
        """The name of the whole sequence, without the start."""
        return self.name.removesuffix(f"@{self.skipped}")

    def since(self, frame: int) -> Sequence | None:
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
        path, start = (
            (self.source[number], 0) if isinstance(self.source, tuple) else (self.source, self.skipped + number)
        )
        with frames_from_source(path, start=start) as source:
            return source.first.image

    def frames(self) -> Iterator[Image]:
        """The frames in order, uint8 BGR; FartrackError at a frame that cannot be read."""
        paths, start = (self.source, 0) if isinstance(self.source, tuple) else ((self.source,), self.skipped)
        for path in paths:
            with frames_from_source(path, start=start) as source:
                for frame in source:
                    yield frame.image


@dataclass(frozen=True)
class Part:
    """A sequence within a folder: its name, its ground truth if not the layout's, and its range of frame numbers."""

    name: str
    truth: str | None = None
    first: int = 0
    last: float = math.inf


def read_sequence(
    folder: Path,
    layout: Layout,
    part: Part | None = None,
    *,
    first_box_only: bool = False,
    labels_required: bool = False,
    attributes: frozenset[str] = frozenset(),
) -> Sequence:
    """The sequence in a folder. Pictures are listed, not decoded.

    Args:
        folder: of one sequence.
        layout: of the folder.
        part: which frames of the folder; None for all.
        first_box_only: only the first box is published.
        labels_required: the layout's labels of absence must exist.
        attributes: of the sequence.

    Raises:
        FartrackError: something is missing or broken, or pictures and ground truth do not match.
    """
    part = part or Part(folder.name)
    place = layout.pictures_of(folder)
    truth = path_from(folder, part.truth) if part.truth else layout.truth_of(folder)
    if not place.is_dir():
        raise FartrackError(f"{shown(folder)} has no folder {place.name} of pictures; download the sequence again.")
    if truth is None or not truth.is_file():
        path = path_from(folder, part.truth or layout.truth[0])
        raise FartrackError(f"{shown(folder)} has no ground truth {shown(path)}; download the sequence again.")
    for label, _ in layout.absent if labels_required else ():
        if not (folder / label).is_file():
            raise FartrackError(f"{shown(folder)} has no {label}; download the sequence again.")
    numbered = [(n, path) for n, path in numbered_pictures(place) if n == -1 or part.first <= n <= part.last]
    pictures = tuple(path for _, path in numbered)
    for path in (folder, *pictures):
        if path.name != shown(Path(path.name)):
            raise FartrackError(f"The name of {shown(path)} is not text in UTF-8; rename it.")
    if not pictures:
        raise FartrackError(f"{shown(place)} holds no pictures of {part.name}; download the sequence again.")
    boxes = read_boxes(truth, vatic=layout.vatic)
    if layout.vatic:
        boxes, pictures = _match_nfs(boxes, pictures)
    if first_box_only:
        for expected, (number, _) in enumerate(numbered, layout.first):  # only a gap tells that a picture is missing
            if number not in (expected, -1):
                raise FartrackError(f"{shown(place)} has no picture number {expected}; download the sequence again.")
    _check_first_box(boxes, truth)
    if len(boxes) != len(pictures) and not (first_box_only and len(boxes) == 1):
        raise FartrackError(
            f"{shown(truth)} has {len(boxes)} lines for {len(pictures)} pictures in {shown(place)}; "
            "download the sequence again, or correct it."
        )
    boxes = boxes - (layout.origin, layout.origin, 0, 0)
    absent = absent_frames(folder, layout, len(boxes))
    absent[0] = False  # the first box is given
    boxes[absent] = np.nan
    return Sequence(part.name, pictures, boxes[:1] if first_box_only else boxes, attributes, layout.origin)


def _match_nfs(boxes: FloatArray, pictures: tuple[Path, ...]) -> tuple[FloatArray, tuple[Path, ...]]:
    """NFS at 30 FPS may come with the ground truth of 240 FPS, and with one line or picture too many.

    The GOT-10k toolkit reads it in the same way.
    """
    if abs(len(boxes) / len(pictures) - 8) < 1:
        boxes = boxes[::8]
    if abs(len(boxes) - len(pictures)) == 1:
        shorter = min(len(boxes), len(pictures))
        boxes, pictures = boxes[:shorter], pictures[:shorter]
    return boxes, pictures


def _check_first_box(boxes: FloatArray, truth: Path) -> None:
    if not len(boxes):
        raise FartrackError(f"{shown(truth)} is empty; give one line per frame.")
    if not present(boxes[0]):
        raise FartrackError(f"{shown(truth)} begins with a box without area, where a tracker must start; correct it.")


def packed_sequences(folder: Path) -> list[Sequence]:
    """The sequences of a folder of ``NAME.mp4`` beside ``NAME.txt``, sorted by name.

    Raises:
        FartrackError: there is no such folder, no video in it, or a text is missing or broken.
    """
    videos = sorted(path for path in folder.glob("*.mp4") if not path.name.startswith("."))
    if not videos:
        raise FartrackError(f"{shown(folder)} holds no .mp4 sequences; give a folder of NAME.mp4 beside NAME.txt.")
    sequences = []
    for video in videos:
        text = video.with_suffix(".txt")
        if not text.is_file():
            raise FartrackError(f"There is no ground truth {shown(text)}; each video needs one beside it.")
        sequences.append(Sequence(video.stem, video, read_boxes(text)))
    return sequences


def check_video(sequence: Sequence) -> None:
    """Check that a packed video opens and that its index has one frame per box; FartrackError if not."""
    video = sequence.source
    assert isinstance(video, Path)
    truth = video.with_suffix(".txt")
    _check_first_box(sequence.boxes, truth)
    with frames_from_source(video) as source:
        count = source.frame_count
    if count is not None and count != len(sequence.boxes):
        raise FartrackError(
            f"{shown(truth)} has {len(sequence.boxes)} lines for {count} frames in {shown(video)}; "
            "give one line per frame."
        )
