"""Readers: folders in published or packed layouts become pictures for the store, through :func:`read_folder`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from fartrack.datasets.layouts import is_picture, layout_of
from fartrack.errors import FartrackError
from fartrack.train.data.readers.sequences import NO_PICTURES, VIDEOS, read_sequence, read_video
from fartrack.train.data.readers.stills import read_coco, read_stills
from fartrack.train.data.readers.targets import SMALLEST_TARGET, shrink
from fartrack.train.data.store import Picture

__all__ = ["SMALLEST_TARGET", "read_coco", "read_folder", "read_sequence", "read_stills", "read_video"]

DEEPEST = 5
"""Levels of folders that are searched; a sequence of TrackingNet lies three below the dataset."""


def read_folder(
    folder: Path, skipped: Counter[str], *, every: int = 1, longest: int | None = None
) -> Iterator[Picture]:
    """Everything to train on in a folder, recognised by what it and its subfolders hold, sorted by name.

    ==============  ==================================================================================================
    tar shards      ``*.tar`` of ``NAME.jpg`` beside ``NAME.json``
    videos          ``NAME.mp4`` (.avi, .mkv, .mov, .webm) beside ``NAME.txt``
    COCO 2017       ``annotations/instances_SPLIT.json`` beside ``SPLIT/``; crowds are no targets
    GOT-10k         ``SEQUENCE/`` with pictures, groundtruth.txt, absence.label and cover.label (0 is not visible);
                    ``list.txt`` beside the sequences, if it exists, says which are read
    LaSOT           ``CATEGORY/SEQUENCE/img/`` or ``SEQUENCE/img/``, groundtruth.txt counted from one,
                    full_occlusion.txt, out_of_view.txt
    TrackingNet     ``TRAIN_0/frames/SEQUENCE/0.jpg``, 1.jpg, …, and ``TRAIN_0/anno/SEQUENCE.txt``
    VastTrack       ``CATEGORY/SEQUENCE/imgs/`` and Groundtruth.txt
    plain           ``SEQUENCE/`` with groundtruth.txt and pictures in it, in ``frames/`` or in ``img/``
    ==============  ==================================================================================================

    Nothing is decoded before it is asked for. Frames of a sequence follow one another; a sequence is named by its
    path, so names differ as long as folders do. What cannot be used is counted in ``skipped`` by its reason.

    Args:
        folder: a dataset, one sequence, or a folder of datasets, up to :data:`DEEPEST` levels deep.
        skipped: how much was skipped for each reason; grows while the pictures are taken.
        every: of a sequence, keep the frames whose index, from 0, is a multiple of this.
        longest: shrink pictures whose longer side has more pixels than this.

    Raises:
        FartrackError: there is no such folder, or ``every`` or ``longest`` is below 1, at once; nothing in the
            folder can be used, at the end.
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
