"""Sequences with one ground-truth box a frame, and the layouts in which they are published."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fartrack.errors import FartrackError
from fartrack.evaluate.metrics import present
from fartrack.geometry import FloatArray, Image
from fartrack.video.sources import PICTURES, frames_from_source


@dataclass(frozen=True, eq=False)
class Sequence:
    """A video with ground truth.

    Attributes:
        name: unlike that of any other sequence of its benchmark.
        source: a video file, or the picture files in order.
        boxes: ``(frames, 4)`` x, y, w, h in pixels, the image's corner at 0; no area or NaN where the target is
            absent, but never on the first frame. ``(1, 4)`` if only the first box is published.
        attributes: what the publisher says of the sequence, such as OCC.
        origin: what the published files have added to x and y: 1 where they count from one.
        skipped: frames of the video that are left out before the first; NAME@12 leaves out 12 of NAME.
    """

    name: str
    source: Path | tuple[Path, ...]
    boxes: FloatArray
    attributes: frozenset[str] = frozenset()
    origin: float = 0.0
    skipped: int = 0

    @property
    def video(self) -> str:
        """The name of the sequence that this is a part of; its own, if it is the whole."""
        return self.name.removesuffix(f"@{self.skipped}")

    def since(self, frame: int) -> Sequence | None:
        """What is left from a frame on, as a sequence of its own; None where no target is to be seen on that frame or
        on any that follows it."""
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
        height, width = next(self.frames()).shape[:2]
        return width, height

    def frames(self) -> Iterator[Image]:
        """The frames, uint8 BGR, in order; FartrackError, when it is its turn, for one that cannot be read."""
        paths, start = (self.source, 0) if isinstance(self.source, tuple) else ((self.source,), self.skipped)
        for path in paths:
            with frames_from_source(path, start=start) as source:
                for frame in source:
                    yield frame.image


@dataclass(frozen=True)
class Layout:
    """Where a published layout keeps what belongs to a sequence; paths start at the sequence's folder.

    In all of them NAME stands for the name of that folder.

    Attributes:
        pictures: the folder of the frames.
        truth: files of one line x, y, w, h a frame, the first that exists.
        absent: files of one number a frame, separated by commas or lines, each with what tells that the target is
            absent: True for any number but 0, False for 0.
        first: the number of the frame that the first line of the ground truth is for.
        origin: what the coordinates of the upper left pixel are.
        marks: files of which one must exist, where nothing else tells this layout from another.
        vatic: lines are those of VATIC instead: id, x0, y0, x1, y1, frame, lost, occluded, generated, label.
    """

    pictures: str
    truth: tuple[str, ...] = ("groundtruth.txt",)
    absent: tuple[tuple[str, bool], ...] = ()
    first: int = 1
    origin: float = 0.0
    marks: tuple[str, ...] = ()
    vatic: bool = False

    def pictures_of(self, folder: Path) -> Path:
        """The folder of the frames of the sequence in ``folder``."""
        return folder / self.pictures.replace("NAME", folder.name)

    def truth_of(self, folder: Path) -> Path | None:
        """The ground truth of the sequence in ``folder``; None unless the folder is of this layout."""
        if not self.pictures_of(folder).is_dir():
            return None
        if self.marks and not any((folder / mark).is_file() for mark in self.marks):
            return None
        paths = (beside(folder, name) for name in self.truth)
        return next((path for path in paths if path.is_file()), None)


def beside(folder: Path, path: str) -> Path:
    """A path that starts at a sequence's folder; NAME in it stands for the folder's name."""
    # normpath, for a folder of frames may be a link into another place
    return Path(os.path.normpath(folder.absolute() / path.replace("NAME", folder.name)))


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
"""The layouts by which a folder is recognised, in the order in which it is tried."""


def layout_of(folder: Path) -> Layout | None:
    """The first layout of :data:`LAYOUTS` that the folder of one sequence fits, if any."""
    return next((layout for layout in LAYOUTS.values() if layout.truth_of(folder)), None)


def is_picture(path: Path) -> bool:
    """Whether a file is one by its name; names with a dot in front are leftovers of archives."""
    return path.suffix.lower() in PICTURES and not path.name.startswith(".")


def numbered_pictures(folder: Path) -> list[tuple[int, Path]]:
    """The pictures of a folder in the order of the numbers at the end of their names; -1 for one without."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if is_picture(Path(entry.name)) and entry.is_file()]
    digits = ((re.search(r"[0-9]+$", Path(name).stem), name) for name in names)
    return sorted((int(match[0]) if match else -1, folder / name) for match, name in digits)


def read_text(path: Path) -> str:
    """A small text file in UTF-8.

    Raises:
        FartrackError: it is missing, may not be read, or is no such text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise FartrackError(f"{shown(path)} is not text in UTF-8; save or download it again.") from None
    except FileNotFoundError:
        raise FartrackError(f"There is no file {shown(path)}; download it, or check the path.") from None
    except OSError as error:
        raise FartrackError(f"{shown(path)} cannot be read: {error.strerror}; check its permissions.") from None


def shown(path: Path) -> str:
    """A path that can be printed whatever bytes it holds."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def read_boxes(path: Path, *, vatic: bool = False) -> FloatArray:
    """A text of one ``x, y, w, h`` line a frame (commas, tabs or spaces, mixed as they like) → ``(frames, 4)``.

    With ``vatic``, lines are those of :class:`Layout` by that name.

    Raises:
        FartrackError: the file is missing or no text, or a line (named) is not four numbers.
    """
    rows = []
    for number, line in enumerate(read_text(path).strip().splitlines(), 1):
        parts = line.replace(",", " ").split()
        try:
            row = [float(part) for part in (parts[1:5] if vatic else parts)]
        except ValueError:
            row = []
        if len(row) != 4 or any(map(math.isinf, row)):
            kind = "a line id,x0,y0,x1,y1,…" if vatic else "four numbers x,y,w,h"
            raise FartrackError(f"{shown(path)}, line {number}: {line[:40]!r} is not {kind}; mend the line.")
        rows.append([row[0], row[1], row[2] - row[0], row[3] - row[1]] if vatic else row)
    return np.array(rows, np.float64).reshape(-1, 4)


def absent_frames(folder: Path, layout: Layout, frames: int) -> NDArray[np.bool_]:
    """Which of the frames of a sequence its labels of absence mark; labels that do not exist mark none.

    Raises:
        FartrackError: a label is not a number, or there are fewer than frames. (VastTrack has some with more.)
    """
    absent = np.zeros(frames, bool)
    for name, value in layout.absent:
        path = folder / name
        if path.is_file():
            try:
                flags = np.array([float(part) for part in read_text(path).replace(",", " ").split()]) != 0
            except ValueError as error:
                if isinstance(error, FartrackError):
                    raise
                raise FartrackError(f"{shown(path)} holds more than numbers; download it again.") from None
            if len(flags) < frames:
                raise FartrackError(
                    f"{shown(path)} has {len(flags)} labels for {frames} frames of ground truth; download it again."
                )
            absent |= flags[:frames] == value
    return absent


def packed_sequences(folder: Path) -> list[Sequence]:
    """A folder of ``NAME.mp4`` beside ``NAME.txt``, sorted by name.

    Raises:
        FartrackError: no such folder, no videos in it, or a text is missing or broken.
    """
    videos = sorted(path for path in folder.glob("*.mp4") if not path.name.startswith("."))
    if not videos:
        raise FartrackError(f"{shown(folder)} holds no .mp4 sequences; give a folder of NAME.mp4 beside NAME.txt.")
    return [Sequence(video.stem, video, _beside_video(video)) for video in videos]


def _beside_video(video: Path) -> FloatArray:
    text = video.with_suffix(".txt")
    if not text.is_file():
        raise FartrackError(f"There is no ground truth {shown(text)}; each video needs one beside it.")
    return read_boxes(text)
