"""The paper's joint design as research code runs it, for comparisons of speed only.

fartrack bench --tracker pico,paper=benchmarks.paper_joint:PaperJoint

Weights are random and the box never moves, so that the work of every frame is the same; nothing is claimed of the
accuracy of this design or of anybody's code. What is run, in eager PyTorch: all templates are embedded anew on every
frame, all tokens attend to all others, attention matrices are formed and kept, and no token is ever removed.
"""

import os

import cv2
import numpy as np
import torch
from torch import nn

from benchmarks.peers.common import cut
from fartrack.geometry import FloatArray, Image
from fartrack.model.config import DEPTHS, IMAGENET_MEAN, IMAGENET_STD
from fartrack.model.vocabulary import BINS

WIDTH, HEADS, PATCH = 192, 3, 16
TEMPLATES, TEMPLATE, SEARCH = 5, 112, 224
TRAJECTORY, COMMANDS = 12, 4


class Block(nn.Module):
    """A pre-norm layer that returns its attention matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6), nn.LayerNorm(WIDTH, eps=1e-6)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        B, N, D = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(B, N, 3, HEADS, D // HEADS).permute(2, 0, 3, 1, 4)
        attention = ((q @ k.transpose(-2, -1)) * (D // HEADS) ** -0.5).softmax(dim=-1)
        x = x + self.proj((attention @ v).transpose(1, 2).reshape(B, N, D))
        return x + self.mlp(self.norm2(x)), attention


class PaperJoint(nn.Module):
    """A tracker of 6 layers, as pico has them."""

    DEPTH = DEPTHS["pico"]

    def __init__(self) -> None:
        super().__init__()
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
        torch.manual_seed(0)
        self.patch = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.positions = nn.Parameter(0.02 * torch.randn(1, self.tokens, WIDTH))
        self.vocab = nn.Embedding(BINS + COMMANDS, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(self.DEPTH))
        self.norm, self.head = nn.LayerNorm(WIDTH, eps=1e-6), nn.Linear(WIDTH, BINS)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None])
        self.eval()

    @property
    def tokens(self) -> int:
        return TEMPLATES * (TEMPLATE // PATCH) ** 2 + (SEARCH // PATCH) ** 2 + TRAJECTORY + COMMANDS

    def look(self, frame: Image, factor: float, size: int) -> torch.Tensor:
        """A window around the box as a normalized ``(1, 3, size, size)``."""
        side = max(int(np.ceil(factor * np.sqrt(self.box[2] * self.box[3]))), 16)
        crop, _ = cut(frame, self.box[:2] + self.box[2:] / 2, side, size)
        pixels = torch.from_numpy(cv2.cvtColor(crop, cv2.COLOR_BGR2RGB)).permute(2, 0, 1).float()
        return ((pixels / 255 - self.mean) / self.std)[None]

    @torch.inference_mode()
    def init(self, frame: Image, box: FloatArray) -> None:
        self.box = np.asarray(box, np.float64)
        self.templates = [self.look(frame, 2, TEMPLATE)] * TEMPLATES
        self.trajectory = torch.full((1, TRAJECTORY), BINS // 2)
        self.commands = torch.arange(BINS, BINS + COMMANDS)[None]

    @torch.inference_mode()
    def update(self, frame: Image) -> tuple[FloatArray, float]:
        crops = [*self.templates, self.look(frame, 4, SEARCH)]
        patches = [self.patch(crop).flatten(2).transpose(1, 2) for crop in crops]
        words = self.vocab(torch.cat([self.trajectory, self.commands], dim=1))
        x, attention = torch.cat([*patches, words], dim=1) + self.positions, []
        for block in self.blocks:
            x, weights = block(x)
            attention.append(weights)
        templates = TEMPLATES * (TEMPLATE // PATCH) ** 2
        mean = torch.stack(attention).mean(dim=(0, 2))[:, :, :templates]
        self.scores = mean[:, templates : -TRAJECTORY - COMMANDS].mean(1) + mean[:, -COMMANDS:].mean(1)
        probabilities = self.head(self.norm(x[:, -COMMANDS:])).softmax(dim=-1)
        return self.box, float(probabilities.max(dim=-1).values.min())


class PaperJointNano(PaperJoint):
    """10 layers."""

    DEPTH = DEPTHS["nano"]


class PaperJointTiny(PaperJoint):
    """15 layers."""

    DEPTH = DEPTHS["tiny"]
