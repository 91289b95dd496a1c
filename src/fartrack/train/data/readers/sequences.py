"""Sequences with one box a frame: folders of pictures in the published layouts, and videos beside their texts.

The layouts are those of :mod:`fartrack.datasets.layouts`. Here what is broken is counted and passed over; there it
is named, for a benchmark must be whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from fartrack.datasets.layouts import Layout, absent_frames, numbered_pictures, read_boxes
from fartrack.errors import FartrackError
from fartrack.geometry import FloatArray, Image
from fartrack.train.data.readers.stills import read_image
from fartrack.train.data.readers.targets import fit_box
from fartrack.train.data.store import Picture, Target
from fartrack.video.sources import frames_from_source

VIDEOS = {".avi", ".mkv", ".mov", ".mp4", ".webm"}
"""Extensions (any case) of the files that are read as videos."""

NO_TRUTH = "sequence whose ground truth cannot be read"
NO_PICTURES = "sequence without pictures"
MISSING = "frame that is missing"


def read_sequence(folder: Path, layout: Layout, skipped: Counter[str], every: int = 1) -> Iterator[Picture]:
    """Every ``every``-th frame of a folder of pictures, named by its path.

    A frame whose target is absent, too small or outside has no target. Frames are matched to the ground truth by
    their numbers, so that some may be missing; numbers that do not fit count in their order, but then the ground
    truth must have one line for each. What cannot be used is counted in ``skipped`` by its reason, never fatal.
    """
    try:
        truth = _read_truth(folder, layout)
    except (OSError, ValueError):  # FartrackError is a ValueError
        skipped[NO_TRUTH] += 1
        return
    pictures = numbered_pictures(layout.pictures_of(folder))
    if not pictures:
        skipped[NO_PICTURES] += 1
        return
    numbered = _match(pictures, len(truth), layout.first)
    if numbered is None:
        skipped["sequence whose ground truth does not match its frames"] += 1
        return
    if len(numbered) < len(truth):
        skipped[MISSING] += len(truth) - len(numbered)
    kept = ((index, path) for index, path in numbered if index % every == 0)
    frames = ((index, image) for index, path in kept if (image := read_image(path, skipped)) is not None)
    yield from _label(str(folder), frames, truth, skipped)


def read_video(video: Path, skipped: Counter[str], every: int = 1) -> Iterator[Picture]:
    """Every ``every``-th frame of ``NAME.mp4`` (or another of :data:`VIDEOS`) with the boxes of ``NAME.txt``.

    The sequence is named by the video's path. A frame without a usable box has no target. What cannot be used,
    the rest of a video that breaks off included, is counted in ``skipped`` by its reason, never fatal.
    """
    try:
        truth = read_boxes(video.with_suffix(".txt"))
    except FartrackError:
        skipped[NO_TRUTH] += 1
        return
    yield from _label(str(video), _video_frames(video, len(truth), skipped, every), truth, skipped)


def _read_truth(folder: Path, layout: Layout) -> FloatArray:
    """Boxes ``(frames, 4)``, counted from zero, NaN where the target is absent; ValueError if they are broken."""
    path = layout.truth_of(folder)
    if path is None:
        raise ValueError("no ground truth")
    truth = read_boxes(path) - (layout.origin, layout.origin, 0, 0)
    truth[absent_frames(folder, layout, len(truth))] = np.nan
    return truth


def _match(pictures: list[tuple[int, Path]], lines: int, first: int) -> list[tuple[int, Path]] | None:
    """Each picture with its line of the ground truth, from 0; None if the two do not fit together."""
    numbers = [number - first for number, _ in pictures]
    if len(set(numbers)) < len(numbers) or numbers[0] < 0 or numbers[-1] >= lines:
        if len(pictures) != lines:
            return None
        numbers = list(range(lines))
    return [(number, path) for number, (_, path) in zip(numbers, pictures, strict=True)]


def _video_frames(video: Path, lines: int, skipped: Counter[str], every: int) -> Iterator[tuple[int, Image]]:
    read = 0
    try:
        with frames_from_source(video) as source:
            for frame in source:
                if frame.index >= lines:
                    skipped["frame without a line in the ground truth"] += 1
                    return
                read += 1
                if frame.index % every == 0:
                    yield frame.index, frame.image
        if read < lines:
            skipped[MISSING] += lines - read
    except FartrackError:
        skipped["video that breaks off" if read else "video that cannot be read"] += 1


def _label(
    name: str, frames: Iterable[tuple[int, Image]], truth: FloatArray, skipped: Counter[str]
) -> Iterator[Picture]:
    for index, image in frames:
        box = fit_box(truth[index].tolist(), image.shape[1], image.shape[0])
        if box is None:
            skipped["frame whose target is absent or too small"] += 1
        yield Picture(image, () if box is None else (Target(box),), sequence=name)
