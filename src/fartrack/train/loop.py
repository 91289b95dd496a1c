"""The training loop. Everything random depends on (seed, step) alone, so a resumed run is the run itself."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from fartrack.errors import FartrackError
from fartrack.geometry import UNIT, iou
from fartrack.model.encoder import FARTrack
from fartrack.model.losses import coordinate_loss, dense_loss, expected_coordinates, siou, token_centres
from fartrack.model.start import load_weights, start_from
from fartrack.train.checkpoint import (
    Checkpoint,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from fartrack.train.data.sampling import Sampler
from fartrack.train.data.store import Store
from fartrack.train.recipe import Precision, Recipe

CHECKPOINT = "checkpoint.safetensors"
LOG = "log.jsonl"

Batch = dict[str, Tensor]


class Batches(IterableDataset[Batch]):
    """The batches of steps ``first`` to ``recipe.steps - 1``; each depends on the seed and its step alone."""

    def __init__(self, store: Path, recipe: Recipe, first: int) -> None:
        """Batches out of the prepared data in ``store``."""
        self.store, self.recipe, self.first = store, recipe, first

    def __iter__(self) -> Iterator[Batch]:
        """With several workers, each makes its share of the steps, in turn."""
        worker = torch.utils.data.get_worker_info()
        index, count = (worker.id, worker.num_workers) if worker else (0, 1)
        store = Store.open(self.store)
        stage, sampler = None, None
        for step in range(self.first + index, self.recipe.steps, count):
            if sampler is None or stage != self.recipe.stage(step):
                stage = self.recipe.stage(step)
                sampler = Sampler(store, self.recipe.at(stage), self.recipe.sampling)
            yield draw_batch(sampler, self.recipe, step)


def draw_batch(sampler: Sampler, recipe: Recipe, step: int) -> Batch:
    """The batch of one step: ``templates (P, T, …)``, ``search (B, …)``, ``trajectory (B, …)``, ``boxes (B, 4)``."""
    rng = np.random.default_rng([recipe.seed, step])
    count = int(rng.choice(recipe.templates))
    sets = [sampler.draw(rng, count) for _ in range(recipe.sets)]
    batch = {
        "templates": torch.from_numpy(np.stack([s.templates for s in sets])),
        "search": torch.from_numpy(np.concatenate([s.search for s in sets])),
        "trajectory": torch.from_numpy(np.concatenate([s.trajectory for s in sets])),
        "boxes": torch.from_numpy(np.concatenate([s.boxes for s in sets])),
    }
    stage = recipe.stage(step)
    if stage.keep < 1:
        grid = stage.search_size // recipe.model.patch
        distance = (token_centres(grid) - 0.5).abs().amax(-1).numpy()  # from the window's centre: it tells nothing new
        order = np.argsort(distance * rng.random((recipe.batch, grid**2)), axis=1)
        batch["kept"] = torch.from_numpy(np.sort(order[:, : round(stage.keep * grid**2)], axis=1))
    return batch


def losses(network: FARTrack, batch: Batch, recipe: Recipe) -> dict[str, Tensor]:
    """Every term of the loss, weighed, its sum as ``loss``, and the mean ``iou`` (no gradient), of one batch."""
    P, T = batch["templates"].shape[:2]
    identities = torch.arange(T).clamp(max=network.config.identities - 1).expand(P, T).to(batch["templates"].device)
    bf16, kept = half(recipe.precision, batch["search"].device.type), batch.get("kept")
    with torch.autocast(batch["search"].device.type, torch.bfloat16, enabled=bf16):
        memory = network.memorise(batch["templates"], identities)
        output = network(batch["search"], batch["trajectory"], memory, kept=kept)
        dense = network.aux(output.search_BND)
    weight, boxes = recipe.loss, batch["boxes"]
    expected = expected_coordinates(output.logits_B4V)
    terms = {
        "cross_entropy": weight.cross_entropy * coordinate_loss(output.logits_B4V, boxes, weight.smoothing),
        "siou": weight.siou * (1 - siou(expected, boxes)).mean(),
        "l1": weight.l1 * (expected - boxes).abs().mean(),
        "dense": weight.dense * dense_loss(dense, boxes, batch["search"].shape[1] // network.config.patch, kept),
    }
    terms["loss"] = torch.stack(list(terms.values())).sum()
    found, truth = (UNIT.to_image(corners.detach().cpu()) for corners in (expected, boxes))
    terms["iou"] = torch.tensor(iou(found, truth).mean())
    return terms


def half(precision: Precision, device: str) -> bool:
    """Whether to compute in bf16: as asked, or where the device has instructions for it."""
    if precision != "auto":
        return precision == "bf16"
    return torch.cuda.is_bf16_supported() if device == "cuda" else bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def rate(step: int, recipe: Recipe) -> float:
    """The learning rate of a step as a share of its peak: linear warm-up, constant, cosine to zero at the end."""
    warm = min((step + 1) / recipe.warmup, 1.0) if recipe.warmup else 1.0
    left = recipe.steps - step
    cool = 0.5 - 0.5 * math.cos(math.pi * left / recipe.decay) if left < recipe.decay else 1.0
    return warm * cool


def make_optimizer(network: FARTrack, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with the recipe's rates; weight decay on matrices only."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        new = not name.startswith(("blocks.", "patch.", "norm."))
        matrix = parameter.ndim > 1 and not name.startswith(("pos_", "id_", "vocab"))
        key = (
            recipe.new_learning_rate if new else recipe.learning_rate,
            recipe.weight_decay if matrix else 0.0,
        )
        groups.setdefault(key, []).append(parameter)
    entries = [{"params": p, "lr": lr, "peak": lr, "weight_decay": wd} for (lr, wd), p in groups.items()]
    return torch.optim.AdamW(entries, betas=(0.9, 0.98), fused=True)


def train(
    recipe: Recipe,
    store: Path,
    run: Path,
    *,
    start: Path | None = None,
    resume: bool = False,
    workers: int = 1,
    save_every: int = 100,
) -> FARTrack:
    """Run a recipe to its end.

    Args:
        recipe: what to do.
        store: folder of prepared data (:mod:`fartrack.train.data.store`).
        run: folder of this run: ``checkpoint.safetensors`` (replaced as it goes) and ``log.jsonl``.
        start: start weights; without them the network starts at random.
        resume: go on from the run's checkpoint. ``recipe`` may differ in its number of steps.
        workers: processes that make batches; 0 makes them in this one.
        save_every: steps between checkpoints.

    Returns:
        The network with the averaged weights.

    Raises:
        FartrackError: no data, unreadable start weights or checkpoint, a run that exists already, or a loss that
            is not finite (the batch is saved beside the checkpoint first).
    """
    torch.manual_seed(recipe.seed)
    Store.open(store)
    network = FARTrack(recipe.model)
    if start is not None and not resume:
        start_from(network, load_weights(start))
    optimizer = make_optimizer(network, recipe)
    average = {name: t.detach().clone() for name, t in network.state_dict().items()}
    first = 0
    if resume:
        checkpoint = load_checkpoint(run / CHECKPOINT)
        if checkpoint.recipe["model"] != asdict(recipe.model):
            raise FartrackError(f"The checkpoint in {run} is of another model than the recipe's; start a new run.")
        network.load_state_dict(checkpoint.part("model"))
        average = checkpoint.part("ema")
        restore_optimizer(network, optimizer, checkpoint)
        torch.set_rng_state(checkpoint.tensors["rng"])
        first = checkpoint.step
    elif (run / CHECKPOINT).exists():
        raise FartrackError(f"{run} holds a run already; add --resume, or name another folder.")
    run.mkdir(parents=True, exist_ok=True)

    def save(step: int) -> None:
        tensors = {f"model.{k}": v for k, v in network.state_dict().items()} | {
            f"ema.{k}": v for k, v in average.items()
        }
        tensors |= optimizer_tensors(network, optimizer) | {"rng": torch.get_rng_state()}
        save_checkpoint(run / CHECKPOINT, Checkpoint(step, asdict(recipe), tensors))

    network.train()
    loader = DataLoader(
        Batches(store, recipe, first),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # the loader draws a seed when it starts; a resumed run must not lose that draw
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    sums: dict[str, float] = {}
    with Progress(*columns) as progress, (run / LOG).open("a") as log:
        task = progress.add_task("training", total=recipe.steps, completed=first)
        clock = time.perf_counter()
        for step, batch in enumerate(loader, first):
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate(step, recipe)
            terms = losses(network, batch, recipe)
            if not torch.isfinite(terms["loss"]):
                save_checkpoint(run / "failed-batch.safetensors", Checkpoint(step, asdict(recipe), batch))
                raise FartrackError(
                    f"The loss of step {step} is not finite; its batch is in {run}/failed-batch.safetensors."
                )
            optimizer.zero_grad(set_to_none=True)
            terms["loss"].backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
            optimizer.step()
            decay = min(recipe.ema, (step + 1) / (step + 10))  # a young average forgets faster
            for name, tensor in network.state_dict().items():
                average[name].lerp_(tensor, 1 - decay)

            values = {name: float(value.detach()) for name, value in terms.items()}
            sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
            done, last = step + 1, step + 1 == recipe.steps
            progress.update(task, completed=done, description=f"loss {values['loss']:.3f}")
            if done % save_every == 0 or last:
                save(done)
            if done % 20 == 0 or last:
                count = (done - 1) % 20 + 1
                seconds, clock = time.perf_counter() - clock, time.perf_counter()
                row = {"step": done, "samples": done * recipe.batch, "rate": rate(step, recipe)}
                row |= {name: round(value / count, 5) for name, value in sums.items()}
                row["samples_per_second"] = round(count * recipe.batch / seconds, 2)
                log.write(json.dumps(row) + "\n")
                log.flush()
                sums = {}
    network.load_state_dict(average)
    network.eval()
    return network
