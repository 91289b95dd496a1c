"""Training data from folders in published or packed layouts: :func:`read_folder` yields their labeled pictures.

Broken files are counted and passed over, where evaluation refuses them: a benchmark must be whole.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from fartrack.datasets.layouts import Layout, absent_frames, is_picture, layout_of, numbered_pictures, read_boxes
from fartrack.datasets.pictures import Picture, Target, fit_box, shrink
from fartrack.datasets.stills import read_coco, read_image, read_stills
from fartrack.errors import FartrackError
from fartrack.geometry import FloatArray, Image
from fartrack.video.sources import frames_from_source

DEEPEST = 5
"""Levels of folders that are searched; a sequence of TrackingNet lies three below the dataset."""

VIDEOS = {".avi", ".mkv", ".mov", ".mp4", ".webm"}
"""Extensions (any case) of the files that are read as videos."""

NO_TRUTH = "sequence whose ground truth cannot be read"
NO_PICTURES = "sequence without pictures"
MISSING = "frame that is missing"


def read_folder(
    folder: Path, skipped: Counter[str], *, every: int = 1, longest: int | None = None
) -> Iterator[Picture]:
    """Everything to train on in a folder, recognized by what it and its subfolders hold, sorted by name.

    These are tar shards (:func:`read_stills`), ``NAME.mp4`` (or another of :data:`VIDEOS`) beside ``NAME.txt``, COCO
    (:func:`read_coco`), and folders of sequences in one of :data:`LAYOUTS`, of which a ``list.txt`` beside them, if it
    exists, says which are read. docs/training.md shows them all.

    Pictures are decoded when they are asked for. Frames of a sequence follow one another; a sequence is named by its
    path. Of a sequence, every ``every``-th frame is kept; pictures whose longer side has more pixels than ``longest``
    are shrunk. ``skipped`` grows by what was skipped for each reason. FartrackError if an argument is of no use, at
    once, or nothing in the folder can be used, at the end.
    """
    if not folder.is_dir():
        raise FartrackError(f"There is no folder {folder}; give one that holds training data.")
    for name, value in {"every": every, "longest": longest}.items():
        if value is not None and value < 1:
            raise FartrackError(f"{name} is {value}; give 1 or more.")
    return _read(folder, skipped, every, longest)


def _read(folder: Path, skipped: Counter[str], every: int, longest: int | None) -> Iterator[Picture]:
    before, found = skipped.copy(), False
    for picture in _walk(folder, DEEPEST, skipped, every):
        found = True
        yield shrink(picture, longest, skipped) if longest else picture
    if not found:
        reasons = "; ".join(f"{count} × {reason}" for reason, count in (skipped - before).most_common())
        names = ", ".join(path.name for path in sorted(folder.iterdir())[:3])
        raise FartrackError(
            f"{folder} holds nothing to train on (found: {reasons or names or 'an empty folder'}); give tar shards, "
            "videos beside their texts, COCO, GOT-10k, LaSOT, TrackingNet, VastTrack, or folders of pictures with a "
            "groundtruth.txt."
        )


def _walk(folder: Path, levels: int, skipped: Counter[str], every: int) -> Iterator[Picture]:
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        labels = sorted(folder.glob("annotations/instances_*.json"))
        layout = layout_of(folder)
        folders = [path for path in paths if path.is_dir()]
    except OSError:
        skipped["folder that cannot be opened"] += 1
        return
    for path in labels:
        yield from read_coco(path, skipped)
    if labels:
        return
    if layout is not None:
        yield from read_sequence(folder, layout, skipped, every)
        return
    if any(is_picture(path) for path in paths):
        skipped["folder of pictures without ground truth"] += 1
    if folder.name == "anno":  # of TrackingNet, whose frames may not all have been fetched
        for path in paths:
            if path.suffix == ".txt" and not (folder.parent / "frames" / path.stem).is_dir():
                skipped[NO_PICTURES] += 1
    for path in paths:
        if path.suffix == ".tar":
            yield from read_stills(path, skipped)
    for path in paths:
        if path.suffix.lower() in VIDEOS and path.is_file():
            yield from read_video(path, skipped, every)
    for path in _listed(folder, folders, skipped) if levels else []:
        yield from _walk(path, levels - 1, skipped, every)


def _listed(folder: Path, folders: list[Path], skipped: Counter[str]) -> list[Path]:
    """Those of the folders that ``list.txt`` names; all of them unless there is one that names any."""
    try:
        names = {line.strip() for line in (folder / "list.txt").read_text().splitlines()} - {""}
    except (OSError, ValueError):
        return folders
    listed = [path for path in folders if path.name in names]
    if not listed:
        return folders
    if len(listed) < len(names):
        skipped["sequence that is listed but missing"] += len(names) - len(listed)
    return listed


def read_sequence(folder: Path, layout: Layout, skipped: Counter[str], every: int = 1) -> Iterator[Picture]:
    """Every ``every``-th frame of a folder of pictures; a frame whose target is absent or too small has no target.
    Frames are matched to the ground truth by their numbers, so that some may be missing; numbers that do not fit count
    in their order, but then the ground truth must have one line for each."""
    try:
        truth = read_boxes(layout.truth_of(folder)) - (layout.origin, layout.origin, 0, 0)
        truth[absent_frames(folder, layout, len(truth))] = np.nan
    except FartrackError:
        skipped[NO_TRUTH] += 1
        return
    pictures = numbered_pictures(layout.pictures_of(folder))
    if not pictures:
        skipped[NO_PICTURES] += 1
        return
    lines = [number - layout.first for number, _ in pictures]
    if len(set(lines)) < len(lines) or lines[0] < 0 or lines[-1] >= len(truth):
        if len(pictures) != len(truth):
            skipped["sequence whose ground truth does not match its frames"] += 1
            return
        lines = list(range(len(truth)))
    if len(lines) < len(truth):
        skipped[MISSING] += len(truth) - len(lines)
    kept = ((line, path) for line, (_, path) in zip(lines, pictures, strict=True) if line % every == 0)
    frames = ((line, image) for line, path in kept if (image := read_image(path, skipped)) is not None)
    yield from _label(str(folder), frames, truth, skipped)


def read_video(video: Path, skipped: Counter[str], every: int = 1) -> Iterator[Picture]:
    """Every ``every``-th frame of ``NAME.mp4`` (or another of :data:`VIDEOS`) with the boxes of ``NAME.txt``."""
    try:
        truth = read_boxes(video.with_suffix(".txt"))
    except FartrackError:
        skipped[NO_TRUTH] += 1
        return
    yield from _label(str(video), _video_frames(video, len(truth), skipped, every), truth, skipped)


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
