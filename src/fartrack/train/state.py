"""Checkpoints: one safetensors file with everything that a run needs to go on as if it had never stopped."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fartrack.errors import FartrackError
from fartrack.files import replacing


@dataclass
class Checkpoint:
    """The state of a run after ``step`` optimiser steps.

    Attributes:
        step: finished steps.
        recipe: the run's recipe as nested plain values.
        tensors: ``model.*`` (raw weights), ``ema.*`` (their moving average), ``exp_avg.*`` and ``exp_avg_sq.*``
            (AdamW's moments), ``teacher.*`` where a frozen network teaches. The schedule, the samples and the random
            numbers of a step follow from the recipe and the step's number, so there is no more to keep.
    """

    step: int
    recipe: dict[str, Any]
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under ``prefix.``, without it."""
        return {name.removeprefix(f"{prefix}."): t for name, t in self.tensors.items() if name.startswith(f"{prefix}.")}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole or not at all: to a temporary file, flushed to disk, then renamed.

    Raises:
        FartrackError: the disk is full, or may not be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"step": str(checkpoint.step), "recipe": json.dumps(checkpoint.recipe)}
    try:
        with replacing(path) as part:
            save_file({name: t.detach().contiguous() for name, t in checkpoint.tensors.items()}, part, metadata=header)
            with part.open("rb") as file:
                os.fsync(file.fileno())
    except SafetensorError as error:
        raise FartrackError(f"{path} cannot be written ({error}); see to the disk, then resume the run.") from None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        FartrackError: the file is missing, damaged, or no checkpoint of a training run.
    """
    if not path.is_file():
        raise FartrackError(f"There is no checkpoint {path}; check the path, or start the run without --resume.")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Checkpoint(int(header["step"]), json.loads(header["recipe"]), tensors)
    except (SafetensorError, OSError, KeyError, ValueError):
        raise FartrackError(f"{path} is no readable checkpoint of a training run; give another file.") from None


def optimizer_tensors(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's moments by the names of the parameters they belong to."""
    found = {}
    for name, parameter in network.named_parameters():
        for key in ("exp_avg", "exp_avg_sq"):
            if parameter in optimizer.state:
                found[f"{key}.{name}"] = optimizer.state[parameter][key]
    return found


def restore_optimizer(network: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Checkpoint) -> None:
    """The inverse of :func:`optimizer_tensors`."""
    first, second = checkpoint.part("exp_avg"), checkpoint.part("exp_avg_sq")
    for name, parameter in network.named_parameters():
        if name in first:
            optimizer.state[parameter] = {
                "step": torch.tensor(float(checkpoint.step), device=parameter.device),
                "exp_avg": first[name].to(parameter.device, copy=True),
                "exp_avg_sq": second[name].to(parameter.device, copy=True),
            }
