"""The state of a run, and checkpoints: one safetensors file with everything that a run needs to go on."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fartrack.config import changed_fields, from_dict
from fartrack.errors import FartrackError
from fartrack.files import replacing
from fartrack.model.encoder import FARTrack
from fartrack.model.init_weights import start_network
from fartrack.train.recipe import Recipe

CHECKPOINT = "checkpoint.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW


@dataclass
class Checkpoint:
    """A run after ``step`` optimizer steps on ``samples`` search crops. Its tensors are ``model.*`` (raw weights),
    ``ema.*`` (their moving average), ``exp_avg.*`` and ``exp_avg_sq.*`` (AdamW's moments); all else follows."""

    step: int
    samples: int
    recipe: Recipe
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under ``prefix.``, without it."""
        return {name.removeprefix(f"{prefix}."): t for name, t in self.tensors.items() if name.startswith(f"{prefix}.")}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole or not at all; a FartrackError if the disk is full or may not be written to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"step": str(checkpoint.step), "samples": str(checkpoint.samples)}
    header["recipe"] = json.dumps(asdict(checkpoint.recipe))
    try:
        with replacing(path) as part:
            save_file({name: t.detach().contiguous() for name, t in checkpoint.tensors.items()}, part, metadata=header)
            with part.open("rb") as file:
                os.fsync(file.fileno())
    except SafetensorError as error:
        raise FartrackError(f"{path} cannot be written ({error}); see to the disk, then resume the run.") from None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; a FartrackError if it is missing, damaged, none of a training run, or of another version."""
    if not path.is_file():
        raise FartrackError(f"There is no checkpoint {path}; check the path, or start the run without --resume.")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        step, samples = int(header["step"]), int(header.get("samples", 0))
        recipe = dict(json.loads(header["recipe"]))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError):
        raise FartrackError(f"{path} is no readable checkpoint of a training run; give another file.") from None
    try:
        return Checkpoint(step, samples, from_dict(Recipe, recipe), tensors)
    except FartrackError as error:
        reason = str(error).rstrip(".")
        raise FartrackError(f"{path} is of another version ({reason}); begin a new run with --start {path}.") from None


def check_same_run(path: Path, checkpoint: Checkpoint, recipe: Recipe) -> None:
    """Check that a run may go on with a recipe: its ``steps`` alone may differ, before the decay has begun;
    FartrackError tells the fields that differ, or that a number of steps is too small or comes too late."""
    old, done = checkpoint.recipe, checkpoint.step
    changed = changed_fields(old, recipe)
    steps = changed.pop("steps", None)
    if changed:
        names = ", ".join(f"{name} ({before}, now {after})" for name, (before, after) in changed.items())
        raise FartrackError(
            f"The run {path} began with another recipe: {names}. Only steps may differ; start a new run, with --start."
        )
    if recipe.steps < done:
        raise FartrackError(f"steps is {recipe.steps}, and {done} are done in the run {path}; give no fewer.")
    if steps and done > old.steps - old.decay:
        raise FartrackError(
            f"steps is {recipe.steps}, and was {old.steps} in the run {path}, whose rates fall since step "
            f"{old.steps - old.decay}; leave it, or start a new run with --start."
        )


class TrainState:
    """What training changes: the network, its optimizer, the average of its weights, and the steps and samples done."""

    def __init__(self, recipe: Recipe, device: torch.device, start: Path | None = None) -> None:
        """Step 0, with start weights, or random ones."""
        torch.manual_seed(recipe.seed)
        self.network = FARTrack(recipe.model) if start is None else start_network(recipe.model, start)
        self.network.to(device)
        self.optimizer = make_optimizer(self.network, recipe)
        self.average = {name: t.detach().clone() for name, t in self.network.state_dict().items()}
        self.step = self.samples = 0

    def average_weights(self, decay: float) -> None:
        """Move the average towards the weights of the step that was just done; a young average forgets faster."""
        weights = self.network.state_dict()
        blend = get_ema_multi_avg_fn(min(decay, (self.step + 1) / (self.step + 10)))  # type: ignore[no-untyped-call]
        blend(list(self.average.values()), [weights[name] for name in self.average], self.step)

    def checkpoint(self, recipe: Recipe) -> Checkpoint:
        """All of it; the tensors are the state's own."""
        tensors = {f"model.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"ema.{name}": tensor for name, tensor in self.average.items()}
        for name, parameter in self.network.named_parameters():
            for key in MOMENTS if parameter in self.optimizer.state else ():
                tensors[f"{key}.{name}"] = self.optimizer.state[parameter][key]
        return Checkpoint(self.step, self.samples, recipe, tensors)

    def restore(self, checkpoint: Checkpoint) -> None:
        """The inverse of :meth:`checkpoint`."""
        device, self.step, self.samples = self.network.bias.device, checkpoint.step, checkpoint.samples
        self.network.load_state_dict(checkpoint.part("model"))
        self.average = {name: tensor.to(device) for name, tensor in checkpoint.part("ema").items()}
        for name, parameter in self.network.named_parameters():
            found = {key: checkpoint.tensors.get(f"{key}.{name}") for key in MOMENTS}
            own = {key: tensor.to(device, copy=True) for key, tensor in found.items() if tensor is not None}
            if own:
                self.optimizer.state[parameter] = {"step": torch.tensor(float(self.step), device=device), **own}


def make_optimizer(network: FARTrack, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW on what the recipe trains, with its peak rates; weight decay on matrices only. The rest is frozen."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(recipe.trains(name))
        if not parameter.requires_grad:
            continue
        backbone = name.startswith(("blocks.", "patch.", "norm."))
        matrix = parameter.ndim > 1 and not name.startswith(("pos_", "id_", "vocab"))
        rate = recipe.learning_rate if backbone else recipe.head_learning_rate
        groups.setdefault((rate, recipe.weight_decay if matrix else 0.0), []).append(parameter)
    entries = [{"params": p, "lr": lr, "peak": lr, "weight_decay": wd} for (lr, wd), p in groups.items()]
    return torch.optim.AdamW(entries, betas=(0.9, recipe.beta2), fused=True)
