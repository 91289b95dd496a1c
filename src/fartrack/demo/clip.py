"""The clip of ``fartrack demo``: a cup drifts over a lawn, a blue one passes, a cat leans in.

It was composed from photographs by ``benchmarks/demo_clip/render.py``, so its boxes are exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fartrack.geometry import Box, Image
from fartrack.video.sources import frames_from_source

CLIP = Path(__file__).with_name("clip.mp4")
"""640×360, H.264; beside it ``clip.txt`` with the cup's box, ``x,y,w,h`` in pixels, a line a frame."""

CLIP_FPS, CLIP_LENGTH = 25, 180


def demo_frames() -> Iterator[tuple[Image, Box]]:
    """Each frame, uint8 ``(360, 640, 3)`` BGR, with the box x, y, w, h of the red cup as if nothing hid it."""
    boxes = np.loadtxt(CLIP.with_suffix(".txt"), delimiter=",")
    with frames_from_source(CLIP) as frames:
        for frame, (x, y, w, h) in zip(frames, boxes.tolist(), strict=True):
            yield frame.image, (x, y, w, h)
