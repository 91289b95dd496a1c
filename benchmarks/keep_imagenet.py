"""Ways to keep what the start weights knew, at equal samples, on sequences left out.

python -m benchmarks.keep_imagenet STORE CLIPS --start vit-tiny.safetensors --runs DIR [--steps 2000] [--only features]

STORE is prepared data, CLIPS a folder of sequences (NAME.mp4 beside NAME.txt) that are not in it. Every variant trains
for as many steps from the same start, with one thread; a finished run is not run again, a stopped one goes on. Told is
the IoU of one step: the network gets five templates of true boxes, and past boxes that are a little wrong. Means are
over sequences, each counting once, with 95 % intervals, and paired with the control. The IoU of a step tells apart what
AO does not, for no target is lost by chance.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.progress import track as progress
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmarks.past_boxes import Asked
from fartrack.datasets.sequences import packed_sequences
from fartrack.engines.torch import TorchEngine
from fartrack.errors import FartrackError
from fartrack.evaluate.metrics import bootstrap, paired, present
from fartrack.evaluate.tables import new_table, print_paragraphs
from fartrack.geometry import iou
from fartrack.model.encoder import FARTrack
from fartrack.tracking.settings import TrackerSettings
from fartrack.tracking.tracker import Tracker
from fartrack.train.loop import Trainer
from fartrack.train.recipe import Recipe, recipe_path
from fartrack.train.state import CHECKPOINT, load_checkpoint

DECAY, RANK, LOW_RANK_RATE = 0.75, 16, 1e-3
PLACE, SIZE = 0.04, 0.05
"""Deviations of the past boxes' places, in sides, and of the logarithms of their sides."""


class LayerDecay(Trainer):
    """Each layer's rate is a share of that of the layer after it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = {parameter: name for name, parameter in self.state.network.named_parameters()}
        entries = []
        for entry in self.state.optimizer.param_groups:
            for parameter in entry["params"]:
                group, number, *_ = [*names[parameter].split("."), ""]
                layer = {"patch": -1, "blocks": int(number) if number.isdigit() else 0}.get(group)
                below = 0 if layer is None else self.recipe.model.depth - 1 - layer
                peak = entry["peak"] * DECAY**below
                entries.append({**entry, "params": [parameter], "lr": peak, "peak": peak})
        self.state.optimizer.param_groups.clear()
        for entry in entries:
            self.state.optimizer.add_param_group(entry)


class Update(nn.Module):
    """A weight and a low-rank update of it."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.down = nn.Parameter(torch.randn(RANK, columns) / columns**0.5)
        self.up = nn.Parameter(torch.zeros(rows, RANK))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


class LowRank(Trainer):
    """The layers' products are frozen but for low-rank updates (Hu et al., "LoRA", ICLR 2022); biases, norms and what
    has no ImageNet start are trained."""

    def __post_init__(self) -> None:
        if self.resume:
            raise FartrackError(f"A run with low-rank updates does not go on; remove {self.run}.")
        super().__post_init__()
        network, recipe = self.state.network, self.recipe
        for module in [*network.blocks.modules()]:
            if isinstance(module, nn.Linear):
                parametrize.register_parametrization(module, "weight", Update(module.weight))
                module.parametrizations.weight.original.requires_grad_(False)
        network.patch.weight.requires_grad_(False)
        optimizer = self.state.optimizer  # what is frozen has no gradient and stays in it without a change
        for entry in optimizer.param_groups:
            entry["peak"] = LOW_RANK_RATE if entry["peak"] == recipe.learning_rate else entry["peak"]
            entry["weight_decay"] = 0.0
        updates = [each for module in network.modules() if isinstance(module, Update) for each in module.parameters()]
        optimizer.add_param_group({"params": updates, "lr": 0.0, "peak": LOW_RANK_RATE, "weight_decay": 0.0})
        self.state.average = {name: each.detach().clone() for name, each in network.state_dict().items()}


VARIANTS: dict[str, tuple[type[Trainer], float]] = {
    "control": (Trainer, 0.0),
    "features": (Trainer, 1.0),
    "layer decay": (LayerDecay, 0.0),
    "low rank": (LowRank, 0.0),
}
"""What trains, and the weight of the start weights' features in the loss."""


def trained(kind: type[Trainer], recipe: Recipe, store: Path, run: Path, start: Path) -> FARTrack:
    """The network of a run, which is run first, or to its end, if it has not been."""
    checkpoint = run / CHECKPOINT
    done = load_checkpoint(checkpoint) if checkpoint.exists() else None
    if done is None or done.step < recipe.steps:
        if kind(recipe, store, run, start=start, resume=done is not None, workers=0).train() is None:
            raise typer.Exit(1)
        done = load_checkpoint(checkpoint)
    network, average = FARTrack(recipe.model), done.part("ema")
    for name in [name for name in average if name.endswith(".parametrizations.weight.original")]:
        module = name.removesuffix("original")
        up, down = (average.pop(f"{module}0.{part}") for part in ("up", "down"))
        average[name.replace("parametrizations.weight.original", "weight")] = average.pop(name) + up @ down
    network.load_state_dict(average)
    return network.eval()


def steps_of(network: FARTrack, clips: Path, most: int) -> dict[str, list[float]]:
    """The IoU of single steps on up to so many frames of each sequence, by its name."""
    tracker, found, rng = Tracker(TorchEngine(network), TrackerSettings()), {}, np.random.default_rng(0)
    for sequence in progress(packed_sequences(clips), "asking"):
        images = list(sequence.frames())
        boxes = sequence.boxes[: len(images)]
        seen, one = present(boxes), Asked(tracker, images, boxes)
        able = [frame for frame in range(8, len(images)) if seen[frame - 3 : frame + 1].all()]
        for frame in able[:: max(len(able) // most, 1)][:most]:
            past = boxes[frame - 3 : frame].copy()
            past[:, :2] += rng.normal(0, PLACE, (3, 2)) * past[:, 2:]
            past[:, 2:] *= np.exp(rng.normal(0, SIZE, (3, 2)))
            box = one.answer(frame, past, one.templates(frame - 3))
            found.setdefault(sequence.name, []).append(float(iou(box, boxes[frame])))
    return found


def main(
    store: Path,
    clips: Path,
    start: Annotated[Path, typer.Option(help="ImageNet weights that every variant starts from")],
    runs: Annotated[Path, typer.Option(help="folder that the runs go to")],
    recipe: Annotated[Path, typer.Option(help="recipe of all, a file or one that ships")] = Path("shipped/13-wide"),
    steps: int = 2000,
    seed: int = 61,
    most: Annotated[int, typer.Option(help="frames asked about in each sequence")] = 10,
    only: Annotated[str | None, typer.Option(help="variants beside the control, separated by commas")] = None,
) -> None:
    torch.set_num_threads(1)
    read = Recipe.read(recipe_path(recipe))
    rates = {"learning_rate": 3e-4, "head_learning_rate": 8e-4, "warmup": steps * 3 // 40, "decay": steps * 4 // 5}
    plan = replace(read, steps=steps, seed=seed, patch_dropout_steps=steps * 3 // 5, templates=(1, 2, 3), **rates)
    table = new_table("IoU of a step", "all", "over 0.75", "minus control")
    control: list[float] = []
    for name, (kind, features) in VARIANTS.items():
        if name != "control" and only and name not in only.split(","):
            continue
        varied = replace(plan, loss=replace(plan.loss, features=features))
        found = steps_of(trained(kind, varied, store, runs / f"{name}-{seed}", start), clips, most)
        own = [float(np.mean(values)) for values in found.values()]
        control = control or own
        sharp = np.mean([value > 0.75 for values in found.values() for value in values])
        table.add_row(name, str(bootstrap(own)), f"{sharp:.3f}", "" if own is control else str(paired(own, control)))
    print_paragraphs(f"{len(control)} sequences, {steps} steps", table)


if __name__ == "__main__":
    typer.run(main)
