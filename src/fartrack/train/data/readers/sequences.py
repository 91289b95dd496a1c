"""Sequences with one box a frame: folders of pictures in the published layouts, and videos beside their texts."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fartrack.errors import FartrackError
from fartrack.evaluate.sequences import read_boxes
from fartrack.geometry import FloatArray, Image
from fartrack.train.data.readers.stills import read_image
from fartrack.train.data.readers.targets import fit_box
from fartrack.train.data.store import Picture, Target
from fartrack.video.sources import PICTURES, frames_from_source

VIDEOS = {".avi", ".mkv", ".mov", ".mp4", ".webm"}
"""Extensions (any case) of the files that are read as videos."""

NO_TRUTH = "sequence whose ground truth cannot be read"
NO_PICTURES = "sequence without pictures"
MISSING = "frame that is missing"


@dataclass(frozen=True)
class Layout:
    """Where a published layout keeps what belongs to a sequence; paths start at the sequence's folder.

    Attributes:
        pictures: the folder of the frames.
        truth: files of one line x, y, w, h a frame, the first that exists; NAME stands for the sequence's name.
        absent: files of one number a frame, separated by commas or lines, each with what tells that the target is
            absent: True for any number but 0, False for 0. They may be missing.
        first: the number of the frame that the first line of the ground truth is for.
        origin: what the coordinates of the upper left pixel are.
        marks: files of which one must exist, where nothing else tells this layout from another.
    """

    pictures: str
    truth: tuple[str, ...] = ("groundtruth.txt",)
    absent: tuple[tuple[str, bool], ...] = ()
    first: int = 1
    origin: float = 0.0
    marks: tuple[str, ...] = ()

    def truth_of(self, folder: Path) -> Path | None:
        """The ground truth of the sequence in ``folder``; None unless the folder is of this layout."""
        if not (folder / self.pictures).is_dir():
            return None
        if self.marks and not any((folder / mark).is_file() for mark in self.marks):
            return None
        # normpath, for a folder of frames may be a link into another place
        paths = (Path(os.path.normpath(folder.absolute() / t.replace("NAME", folder.name))) for t in self.truth)
        return next((path for path in paths if path.is_file()), None)


LAYOUTS = {
    "LaSOT": Layout(
        "img",
        absent=(("full_occlusion.txt", True), ("out_of_view.txt", True)),
        origin=1,
        marks=("full_occlusion.txt", "out_of_view.txt", "nlp.txt"),
    ),
    "VastTrack": Layout("imgs", truth=("Groundtruth.txt", "groundtruth.txt"), absent=(("absence.txt", True),)),
    "frames": Layout("frames"),
    "img": Layout("img"),
    # also for a plain folder of pictures, without labels of absence
    "GOT-10k": Layout(".", absent=(("absence.label", True), ("cover.label", False))),
    "TrackingNet": Layout(".", truth=("../../anno/NAME.txt",), first=0),
}
"""The layouts of sequences, in the order in which a folder is tried."""


def layout_of(folder: Path) -> Layout | None:
    """The first layout that the folder of one sequence fits, if any."""
    return next((layout for layout in LAYOUTS.values() if layout.truth_of(folder)), None)


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
    pictures = [path for path in (folder / layout.pictures).iterdir() if is_picture(path)]
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


def is_picture(path: Path) -> bool:
    """Whether a file is one by its name; names with a dot in front are leftovers of archives."""
    return path.suffix.lower() in PICTURES and not path.name.startswith(".")


def _read_truth(folder: Path, layout: Layout) -> FloatArray:
    """Boxes ``(frames, 4)``, counted from zero, NaN where the target is absent; ValueError if they are broken."""
    path = layout.truth_of(folder)
    if path is None:
        raise ValueError("no ground truth")
    truth = read_boxes(path) - (layout.origin, layout.origin, 0, 0)
    for name, value in layout.absent:
        if (folder / name).is_file():
            flags = np.array([float(part) for part in (folder / name).read_text().replace(",", " ").split()]) != 0
            if len(flags) != len(truth):
                raise ValueError("not one label of absence a frame")
            truth[flags == value] = np.nan
    return truth


def _match(pictures: list[Path], lines: int, first: int) -> list[tuple[int, Path]] | None:
    """Each picture with its line of the ground truth, from 0; None if the two do not fit together."""
    digits = [re.search(r"\d+$", path.stem) for path in pictures]
    ordered = sorted((int(match[0]) if match else -1, path) for match, path in zip(digits, pictures, strict=True))
    numbers = [number - first for number, _ in ordered]
    if len(set(numbers)) < len(numbers) or numbers[0] < 0 or numbers[-1] >= lines:
        if len(pictures) != lines:
            return None
        numbers = list(range(lines))
    return [(number, path) for number, (_, path) in zip(numbers, ordered, strict=True)]


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
