"""The training loop, one for all phases. Everything random depends on (seed, step) alone, so a resumed run is the
run itself, and so is one divided among several processes."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader, IterableDataset

from fartrack.errors import FartrackError
from fartrack.model.encoder import FARTrack
from fartrack.model.init_weights import load_weights, start_from
from fartrack.model.losses import token_centres
from fartrack.train.data.clips import Clip, ClipSampler
from fartrack.train.data.sampling import Sampler
from fartrack.train.data.store import Store
from fartrack.train.distributed import Group
from fartrack.train.monitor import Monitor
from fartrack.train.objective import Batch, losses, mixed, split
from fartrack.train.recipe import Recipe
from fartrack.train.rollout import prune, roll
from fartrack.train.state import (
    Checkpoint,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)

CHECKPOINT = "checkpoint.safetensors"


class Batches(IterableDataset[Batch | list[Clip]]):
    """What the steps from ``first`` on learn from: a batch, or for a rollout its clips.

    Each depends on the seed and its step alone. A process of a group gets its share of the sets (or clips).
    """

    def __init__(self, store: Path, recipe: Recipe, first: int, rank: int = 0, size: int = 1) -> None:
        """Batches out of the prepared data in ``store`` for process ``rank`` of ``size``."""
        self.store, self.recipe, self.first, self.rank, self.size = store, recipe, first, rank, size

    def __iter__(self) -> Iterator[Batch | list[Clip]]:
        """With several workers, each makes its share of the steps, in turn."""
        worker = torch.utils.data.get_worker_info()
        index, count = (worker.id, worker.num_workers) if worker else (0, 1)
        store, recipe = Store.open(self.store), self.recipe
        rollout, clips = recipe.rollout, None
        stage, sampler = None, None
        for step in range(self.first + index, recipe.steps, count):
            if recipe.rolls(step):
                clips = clips or ClipSampler(store, rollout.frames, rollout.synthetic, recipe.sampling.stretch)
                yield [
                    clips.draw(np.random.default_rng([recipe.seed, step, 2, clip]))
                    for clip in range(self.rank, rollout.clips, self.size)
                ]
                continue
            if sampler is None or stage != recipe.stage(step):
                stage = recipe.stage(step)
                sampler = Sampler(store, recipe.at(stage), recipe.sampling)
            yield draw_batch(sampler, recipe, step, self.rank, self.size)


def draw_batch(sampler: Sampler, recipe: Recipe, step: int, rank: int = 0, size: int = 1) -> Batch:
    """The share that process ``rank`` of ``size`` has in the frame-level batch of one step."""
    T = int(np.random.default_rng([recipe.seed, step]).choice(recipe.templates))
    generators = [np.random.default_rng([recipe.seed, step, 3, number]) for number in range(rank, recipe.sets, size)]
    sets = [sampler.draw(rng, T) for rng in generators]
    U, last = T * len(sets), sampler.model.identities - 1
    batch = {
        "templates": torch.from_numpy(np.concatenate([s.templates for s in sets])),
        "identities": torch.arange(T).clamp(max=last).repeat(len(sets)),
        "index": torch.arange(U).reshape(-1, T),
        "search": torch.from_numpy(np.concatenate([s.search for s in sets])),
        "trajectory": torch.from_numpy(np.concatenate([s.trajectory for s in sets])),
        "boxes": torch.from_numpy(np.concatenate([s.boxes for s in sets])),
    }
    stage = recipe.stage(step)
    if stage.keep < 1:
        grid = stage.search_size // recipe.model.patch
        distance = (token_centres(grid) - 0.5).abs().amax(-1).numpy()  # from the window's centre: it tells nothing new
        chances = np.stack([rng.random((recipe.sampling.searches, grid**2)) for rng in generators])
        order = np.argsort(distance * chances.reshape(-1, grid**2), axis=1)
        batch["kept"] = torch.from_numpy(np.sort(order[:, : round(stage.keep * grid**2)], axis=1))
    return batch


def rate(step: int, recipe: Recipe) -> float:
    """The learning rate of a step as a share of its peak: linear warm-up, constant, then what ``final`` says."""
    warm = min((step + 1) / recipe.warmup, 1.0) if recipe.warmup else 1.0
    left = recipe.steps - step
    if left > recipe.decay:
        return warm
    return warm * (0.1 if recipe.final == "step" else 0.5 - 0.5 * math.cos(math.pi * left / recipe.decay))


def make_optimizer(network: FARTrack, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW on what the recipe trains, with its rates; weight decay on matrices only. What is not trained is frozen."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(recipe.learns(name))
        if not parameter.requires_grad:
            continue
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
    device: str | None = None,
    compile: bool = False,
    minutes: float | None = None,
    val: Path | None = None,
    val_every: int = 1000,
) -> FARTrack | None:
    """Run a recipe to its end. Under ``torchrun``, several processes share every batch.

    Args:
        recipe: what to do.
        store: folder of prepared data (:mod:`fartrack.train.data.store`).
        run: folder of this run: ``checkpoint.safetensors`` (replaced as it goes) and what the monitor writes.
        start: start weights; without them the network starts at random.
        resume: go on from the run's checkpoint. ``recipe`` may differ in its number of steps.
        workers: processes that make batches; 0 makes them in this one.
        save_every: steps between checkpoints.
        device: ``cpu`` or ``cuda``; by default a GPU where there is one.
        compile: compile the network; it pays on a GPU and for long runs.
        minutes: stop after this long, to be resumed later. SIGTERM and SIGINT stop as cleanly.
        val: folder of sequences to track now and then, the best weights being kept; never trained on.
        val_every: steps between.

    Returns:
        The network with the averaged weights; None if the run was stopped before its end.

    Raises:
        FartrackError: no data, unreadable start weights or checkpoint, a run that exists already, sets or clips that
            the processes cannot share evenly, frozen layers without start weights, or a loss that is not finite
            (the batch is saved beside the checkpoint first).
    """
    group = Group.join(device)
    stop = Stop(minutes)
    resume = resume or (group.restarted and (run / CHECKPOINT).exists())
    monitor = Monitor(run, recipe, val, val_every) if group.rank == 0 else None
    for name, shared in (("sets", recipe.sets), ("clips", recipe.rollout.clips if recipe.rollout.share else 0)):
        if shared % group.size:
            raise FartrackError(f"{name} is {shared}; it must be a multiple of the {group.size} processes.")
    if recipe.frozen and start is None and not resume:
        raise FartrackError(f"frozen is {recipe.frozen}; the layers that stay come from start weights: give --start.")
    torch.manual_seed(recipe.seed)
    Store.open(store)
    network = FARTrack(recipe.model)
    if start is not None and not resume:
        start_from(network, load_weights(start))
    network.to(group.device)
    optimizer = make_optimizer(network, recipe)
    teacher = deepcopy(network) if recipe.distill.delete else None
    average = {name: t.detach().clone() for name, t in network.state_dict().items()}
    first = 0
    if resume:
        checkpoint = load_checkpoint(run / CHECKPOINT)
        if Recipe.from_dict(checkpoint.recipe).model != recipe.model:
            raise FartrackError(f"The checkpoint in {run} is of another model than the recipe's; start a new run.")
        network.load_state_dict(checkpoint.part("model"))
        average = {name: tensor.to(group.device) for name, tensor in checkpoint.part("ema").items()}
        if teacher is not None:
            teacher.load_state_dict(checkpoint.part("teacher"))
        restore_optimizer(network, optimizer, checkpoint)
        first = checkpoint.step
    elif (run / CHECKPOINT).exists():
        raise FartrackError(f"{run} holds a run already; add --resume, or name another folder.")
    run.mkdir(parents=True, exist_ok=True)
    live = network.state_dict()
    averages, weights = list(average.values()), [live[name] for name in average]

    def save(step: int) -> None:
        if monitor is None:
            return
        parts: dict[str, dict[str, torch.Tensor]] = {"model": live, "ema": average}
        if teacher is not None:
            parts["teacher"] = teacher.state_dict()
        tensors = {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}
        tensors |= optimizer_tensors(network, optimizer)
        save_checkpoint(run / CHECKPOINT, Checkpoint(step, asdict(recipe), tensors))

    if compile:
        network.compile()
    network.train()
    cv2.setNumThreads(1)  # before workers are forked: each has a core, and OpenCV's own threads do not survive a fork
    loader = DataLoader(
        Batches(store, recipe, first, group.rank, group.size),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=ignore_signals,
        pin_memory=group.device.type == "cuda",
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    done = first
    with stop, Progress(*columns, disable=monitor is None) as progress:
        task = progress.add_task("training", total=recipe.steps, completed=first)
        for step, work in enumerate(loader, first):
            torch.manual_seed(hash((recipe.seed, step, group.rank)))
            network.fades = recipe.fades(step)
            for entry in optimizer.param_groups:
                entry["lr"] = entry["peak"] * rate(step, recipe)
            lost = 0
            if isinstance(work, list):
                work, lost = roll(network, work, recipe.rollout.tracker)
            parts = [
                {name: tensor.to(group.device, non_blocking=True) for name, tensor in part.items()}
                for part in split(work, recipe.micro)
            ]
            crops = group.sum(torch.tensor(float(len(work["search"])), device=group.device))
            optimizer.zero_grad(set_to_none=True)
            sums: dict[str, torch.Tensor] = {}
            for part in parts:
                if "valid" not in part and recipe.prunes(step):
                    with mixed(recipe.precision, group.device.type):
                        part["valid"] = prune(network, part, recipe.rollout.tracker.retention)
                terms = losses(network, part, recipe, teacher)
                share = len(part["search"]) / crops
                (terms["loss"] * share).backward()  # type: ignore[no-untyped-call]
                for name, value in terms.items():
                    sums[name] = sums.get(name, torch.zeros((), device=group.device)) + value.detach() * share
            values = dict(zip(sums, group.sum(torch.stack(list(sums.values()))).tolist(), strict=True))
            if not math.isfinite(values["loss"]):
                save_checkpoint(run / f"failed-batch-{group.rank}.safetensors", Checkpoint(step, asdict(recipe), work))
                raise FartrackError(f"The loss of step {step} is not finite; its batch is in {run}/failed-batch-*.")
            group.sum_gradients(network)
            nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
            optimizer.step()
            decay = min(recipe.ema, (step + 1) / (step + 10))  # a young average forgets faster
            blend = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            blend(averages, weights, done)

            done = step + 1
            last = done == recipe.steps
            progress.update(task, completed=done, description=f"loss {values['loss']:.3f}")
            if monitor is not None:
                if recipe.rolls(step):
                    values["lost"] = lost
                monitor.count(done, int(crops), rate(step, recipe), values, last)
                monitor.picture(done, work, network)
                monitor.validate(done, network, average, last)
            stopped = group.any(stop.asked)
            if done % save_every == 0 or last or stopped:
                save(done)
            if stopped and not last:
                break
    if monitor is not None:
        monitor.close()
    group.wait()
    network.load_state_dict(average)
    network.fades = recipe.fades(done - 1)
    network.eval()
    return network if done >= recipe.steps else None


class Stop:
    """Asked to stop by a signal, or because the time is up; the step under way is finished first."""

    def __init__(self, minutes: float | None) -> None:
        """The time starts now; None is no limit."""
        self.end = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self.signalled = False
        self.handlers: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether to stop."""
        return self.signalled or time.monotonic() >= self.end

    def _signal(self, number: int, frame: FrameType | None) -> None:
        if self.signalled:  # a second time: at once
            raise KeyboardInterrupt
        self.signalled = True

    def __enter__(self) -> Stop:
        """Take over SIGINT and SIGTERM, in the main thread."""
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self.handlers[number] = signal.signal(number, self._signal)
        except ValueError:  # another thread of a program that embeds us
            pass
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)


def ignore_signals(worker: int) -> None:
    """Leave stopping to the main process: a signal may go to its workers as well, which it needs to the end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
