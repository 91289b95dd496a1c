"""What a network looks like: one frozen dataclass that training, export and tracking share (no PyTorch here)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from fartrack.config import check_choice, check_numbers
from fartrack.errors import FartrackError

Attention = Literal["cached", "joint"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue, from 0 to 1."""

DEPTHS = {"pico": 6, "nano": 10, "tiny": 15}
"""The published variants and the number of encoder layers of each."""


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a network and of its inputs.

    Attributes:
        depth: encoder layers; every depth from 5 upwards is meant as an exit of one network.
        attention: ``cached``: a template attends to itself only; or ``joint``: all to all (the paper).
        width: channels of a token.
        heads: attention heads; must divide the width.
        mlp_ratio: hidden width of the MLP over the width.
        patch: side of a patch, in pixels.
        template_size: side of a template crop, in pixels.
        search_size: side of the search crop, in pixels.
        template_factor: side of a template's window over sqrt(w · h) of its target.
        search_factor: side of the search window over sqrt(w · h) of the last box.
        templates: the most templates used at once.
        identities: first and later; one each (the paper) needs joint attention.
        trajectory: number of past boxes given as tokens.
        drop_path: probability that training drops a branch of the last layer, linear in depth before.
    """

    depth: int = 6
    attention: Attention = "cached"
    width: int = 192
    heads: int = 3
    mlp_ratio: float = 4.0
    patch: int = 16
    template_size: int = 112
    search_size: int = 224
    template_factor: float = 2.0
    search_factor: float = 4.0
    templates: int = 5
    identities: int = 2
    trajectory: int = 3
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        """Check every field once; errors name the field."""
        check_choice(self, "attention", get_args(Attention))
        check_numbers(self, depth=(1, 15), width=(1, 4096), heads=(1, 64), mlp_ratio=(0.25, 16), patch=(1, 64))
        check_numbers(self, template_size=(16, 1024), search_size=(16, 1024))
        check_numbers(self, template_factor=(1, 16), search_factor=(1, 16), templates=(1, 16))
        check_numbers(self, identities=(1, self.templates), trajectory=(0, 7), drop_path=(0, 0.9))
        if self.width % self.heads:
            raise FartrackError(f"heads is {self.heads}; it must divide width, which is {self.width}.")
        for name in ("template_size", "search_size"):
            if getattr(self, name) % self.patch:
                raise FartrackError(f"{name} is {getattr(self, name)}; it must be a multiple of patch, {self.patch}.")
        if self.attention == "cached" and self.identities > 2:
            raise FartrackError(
                f"identities is {self.identities}; cached attention allows 2 at most, since a template's keys and "
                "values must not depend on how many newer templates there are."
            )

    def identity(self, slot: int) -> int:
        """The identity embedding of the template in a slot, counted from 0."""
        return min(slot, self.identities - 1)

    @property
    def head_width(self) -> int:
        """Channels of one attention head."""
        return self.width // self.heads

    @property
    def template_layers(self) -> int:
        """The layers that a template passes on the frame from which it is taken: half of them, but at least the three
        by which templates are compared; the others follow on the next frame. With ``joint`` attention none follow."""
        return self.depth if self.attention == "joint" else min(max(self.depth // 2, 3), self.depth)

    @property
    def template_tokens(self) -> int:
        """Tokens of one template crop."""
        return int((self.template_size // self.patch) ** 2)

    @property
    def search_tokens(self) -> int:
        """Tokens of the search crop."""
        return int((self.search_size // self.patch) ** 2)
