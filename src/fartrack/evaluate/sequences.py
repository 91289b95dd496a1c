"""Sequences to evaluate on: frames with one ground-truth box each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fartrack.errors import FartrackError
from fartrack.geometry import FloatArray, Image
from fartrack.video.sources import frames_from_source


@dataclass(frozen=True)
class Sequence:
    """A video with ground truth: boxes ``(frames, 4)`` x, y, w, h in pixels; no area or NaN where absent."""

    name: str
    source: Path
    boxes: FloatArray

    def frames(self) -> Iterator[Image]:
        """The frames, uint8 BGR, in order."""
        with frames_from_source(self.source) as source:
            for frame in source:
                yield frame.image


def read_boxes(path: Path) -> FloatArray:
    """A text of one ``x, y, w, h`` line a frame (commas, tabs or spaces) → ``(frames, 4)``.

    Raises:
        FartrackError: the file is missing, or a line (named) is not four numbers.
    """
    try:
        lines = path.read_text().strip().splitlines()
    except (OSError, UnicodeDecodeError):
        raise FartrackError(f"There is no readable ground truth {path}; each video needs one beside it.") from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = [float(part) for part in re.split(r"[,\s]+", line.strip())]
        except ValueError:
            row = []
        if len(row) != 4:
            raise FartrackError(f"{path}, line {number}: {line[:40]!r} is not four numbers x,y,w,h; mend the line.")
        rows.append(row)
    return np.array(rows, np.float64).reshape(-1, 4)


def packed_sequences(folder: Path) -> list[Sequence]:
    """A folder of ``NAME.mp4`` beside ``NAME.txt``, sorted by name.

    Raises:
        FartrackError: no such folder, no videos in it, or a text is missing or broken.
    """
    videos = sorted(folder.glob("*.mp4"))
    if not videos:
        raise FartrackError(f"{folder} holds no .mp4 sequences; give a folder of NAME.mp4 beside NAME.txt.")
    return [Sequence(video.stem, video, read_boxes(video.with_suffix(".txt"))) for video in videos]
