"""All three phases on the command line, from videos to a tracker that follows what it never saw."""

import json
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from fartrack.api import load
from fartrack.cli import main
from fartrack.export import export
from fartrack.geometry import iou
from fartrack.model.encoder import FARTrack
from fartrack.train.checkpoint import load_checkpoint
from fartrack.train.monitor import BEST, read_log
from fartrack.train.phases import PHASES
from fartrack.train.recipe import Recipe

COMMON = """
steps = {steps}
sets = 8
templates = [1, 2]
learning_rate = {rate}
new_learning_rate = {rate}
warmup = {warmup}
decay = {decay}
ema = 0.9
precision = "fp32"

[model]
depth = 3
width = 48
heads = 3
patch = 8
template_size = 32
search_size = 64
templates = 2

[sampling]
clips = 0.9
stills = 0.0
regions = 0.1
searches = 4
far_share = 0.1
paper_share = 0.0
wrong_trajectory = 0.0
"""
RECIPES = {
    "pretrain": COMMON.format(steps=150, rate=3e-3, warmup=10, decay=90),
    "distill": COMMON.format(steps=15, rate=1e-3, warmup=2, decay=10) + "[distill]\nfirst = 2\n",
    "sparsify": COMMON.format(steps=10, rate=5e-4, warmup=2, decay=6)
    + "[rollout]\nshare = 0.5\nframes = 8\nclips = 4\nsynthetic = 0.0\n"
    + "[rollout.tracker]\ntemplates = 2\ninterval = 3\nretention = 0.75\n",
}


def write_clip(path, seed, frames=30):
    """A patterned rectangle that moves over a coarse ground: NAME.mp4, and its box on every frame as NAME.txt."""
    rng = np.random.default_rng(seed)

    def pattern(cells, width, height, low, high):
        coarse = rng.integers(low, high, (*cells, 3)).astype(np.uint8)
        return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)

    ground = pattern((6, 8), 160, 120, 60, 140)
    w, h = (2 * rng.integers(9, 17, 2)).tolist()
    target = pattern((2, 2), w, h, 0, 60) + np.array([0, 0, 190], np.uint8)
    place, speed = rng.uniform((0, 0), (160 - w, 120 - h)), rng.uniform(2, 4, 2) * rng.choice([-1, 1], 2)
    boxes = []
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 25, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for _ in range(frames):
            x, y = np.round(place).astype(int).tolist()
            image = ground.copy()
            image[y : y + h, x : x + w] = target
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
            boxes.append((x, y, w, h))
            out = (place + speed < 0) | (place + speed > (160 - w, 120 - h))
            speed = np.where(out, -speed, speed)  # it turns back at the border
            place = place + speed
        container.mux(stream.encode())
    path.with_suffix(".txt").write_text("\n".join(",".join(map(str, box)) for box in boxes))
