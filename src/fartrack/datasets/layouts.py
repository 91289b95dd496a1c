"""The folder layouts in which sequences are published, and their text files: boxes, labels of absence."""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fartrack.errors import FartrackError
from fartrack.geometry import FloatArray
from fartrack.video.sources import PICTURES


@dataclass(frozen=True)
class Layout:
    """Where a layout keeps the parts of a sequence: paths from its folder, in which NAME stands for its name."""

    pictures: str  # folder of the frames
    truth: tuple[str, ...] = ("groundtruth.txt",)  # with a line x, y, w, h per frame; the first that exists is read
    # files with a number per frame, by commas or lines; absent is where it is 0 (False), or anything else (True)
    absent: tuple[tuple[str, bool], ...] = ()
    first: int = 1  # number of the frame that the first ground-truth line belongs to
    origin: float = 0.0  # coordinate of the upper left pixel; 1 where files count from one
    marks: tuple[str, ...] = ()  # files of which one must exist; they tell it from others with the same folders
    vatic: bool = False  # lines are VATIC's: id, x0, y0, x1, y1, frame, lost, occluded, generated, label

    def pictures_of(self, folder: Path) -> Path:
        """The folder with the frames of the sequence in ``folder``."""
        return folder / self.pictures.replace("NAME", folder.name)

    def truth_of(self, folder: Path, name: str | None = None) -> Path:
        """The ground-truth file of a sequence in ``folder``, whose name is the folder's if left out: the first that
        exists; where none does, the first."""
        paths = [path_from(folder, path, name or folder.name) for path in self.truth]
        return next((path for path in paths if path.is_file()), paths[0])

    def fits(self, folder: Path) -> bool:
        """Whether the folder of a sequence has this layout."""
        marked = not self.marks or any((folder / mark).is_file() for mark in self.marks)
        return marked and self.pictures_of(folder).is_dir() and self.truth_of(folder).is_file()


def path_from(folder: Path, path: str, name: str) -> Path:
    """A path of a :class:`Layout`, resolved from a sequence's folder."""
    # normpath does not follow links: the folder of the frames may be a link to another place
    return Path(os.path.normpath(folder.absolute() / path.replace("NAME", name)))


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
    # also a plain folder of pictures without labels of absence
    "GOT-10k": Layout(".", absent=(("absence.label", True), ("cover.label", False))),
    "TrackingNet": Layout(".", truth=("../../anno/NAME.txt",), first=0),
}
"""The layouts that are recognized by their files, in the order in which they are tried."""


def layout_of(folder: Path) -> Layout | None:
    """The first of :data:`LAYOUTS` that the folder of a sequence has, if any."""
    return next((layout for layout in LAYOUTS.values() if layout.fits(folder)), None)


def is_picture(path: Path) -> bool:
    """Whether a file name is that of a picture; names that start with a dot are leftovers of archives."""
    return path.suffix.lower() in PICTURES and not path.name.startswith(".")


def numbered_pictures(folder: Path) -> list[tuple[int, Path]]:
    """The pictures of a folder, sorted by the number at the end of their names; -1 for a name without one."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if is_picture(Path(entry.name)) and entry.is_file()]
    digits = ((re.search(r"[0-9]+$", Path(name).stem), name) for name in names)
    return sorted((int(match[0]) if match else -1, folder / name) for match, name in digits)


def present(boxes: FloatArray) -> NDArray[np.bool_]:
    """Which of the boxes ``(..., 4)`` show a target: those that are finite and have an area."""
    return np.asarray(np.isfinite(boxes).all(-1) & (boxes[..., 2:] > 0).all(-1))


def read_text(path: Path) -> str:
    """A small UTF-8 text file; FartrackError if it is missing, may not be read, or is not such a text."""
    if not path.is_file():
        raise FartrackError(f"There is no file {path}; download it, or check the path.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise FartrackError(f"{path} is not text in UTF-8; save or download it again.") from None
    except OSError as error:
        raise FartrackError(f"{path} cannot be read: {error.strerror}; check its permissions.") from None


def read_boxes(path: Path, *, vatic: bool = False) -> FloatArray:
    """A file with a line ``x, y, w, h`` (commas, tabs or spaces) or, with ``vatic``, a VATIC line per frame →
    ``(frames, 4)``; FartrackError if it cannot be read, or a line (named) is not four finite numbers or NaNs."""
    boxes = []
    for number, line in enumerate(read_text(path).strip().splitlines(), 1):
        parts = line.replace(",", " ").split()
        try:
            box = [float(part) for part in (parts[1:5] if vatic else parts)]
        except ValueError:
            box = []
        if len(box) != 4 or any(map(math.isinf, box)):
            kind = "a line id,x0,y0,x1,y1,…" if vatic else "four numbers x,y,w,h"
            raise FartrackError(f"{path}, line {number}: {line[:40]!r} is not {kind}; correct the line.")
        boxes.append([box[0], box[1], box[2] - box[0], box[3] - box[1]] if vatic else box)
    return np.array(boxes, np.float64).reshape(-1, 4)


def absent_frames(folder: Path, layout: Layout, frames: int, *, required: bool = False) -> NDArray[np.bool_]:
    """``(frames,)`` on which frames the labels of a sequence say that the target is absent. FartrackError if a label is
    no number, there are fewer than frames (VastTrack sometimes has more), or a ``required`` file is missing."""
    absent = np.zeros(frames, bool)
    for name, value in layout.absent:
        path = folder / name
        if not (required or path.is_file()):
            continue
        words = read_text(path).replace(",", " ").split()
        try:
            flags = np.array([float(word) for word in words]) != 0
        except ValueError:
            raise FartrackError(f"{path} holds more than numbers; download it again.") from None
        if len(flags) < frames:
            raise FartrackError(
                f"{path} has {len(flags)} labels for {frames} frames of ground truth; download it again."
            )
        absent |= flags[:frames] == value
    return absent
