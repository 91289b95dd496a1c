"""The training loop, one for all phases. Everything random depends on (seed, step) alone, so a resumed run gives the
weights of one that was never stopped, and so does one divided among several processes."""

import math
import signal
import time
from contextlib import nullcontext
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fartrack.engines.torch import TorchEngine
from fartrack.errors import FartrackError
from fartrack.model.encoder import FARTrack
from fartrack.model.init_weights import start_network
from fartrack.progress import Meter
from fartrack.signals import signals_noted, stopping
from fartrack.tracking.settings import TrackerSettings
from fartrack.tracking.tracker import Tracker
from fartrack.train.data.batches import Batch, Batches
from fartrack.train.data.clips import Clip
from fartrack.train.data.store import Store
from fartrack.train.distributed import Group
from fartrack.train.monitor import Monitor
from fartrack.train.objective import autocast, losses, prune
from fartrack.train.recipe import Recipe
from fartrack.train.rollout import roll
from fartrack.train.state import CHECKPOINT, Checkpoint, TrainState, check_same_run, load_checkpoint, save_checkpoint


def train(recipe: Recipe, store: Path, run: Path, **options: Any) -> FARTrack | None:
    """Run a recipe (see :class:`Trainer`) → the network with the averaged weights; None if it was stopped early."""
    return Trainer(recipe, store, run, **options).train()


@dataclass
class Trainer:
    """One run of a recipe. Under ``torchrun``, several processes share every batch.

    Raises:
        FartrackError: no data, unreadable start weights or checkpoint, a run that exists already, sets or clips that
            the processes cannot share evenly, frozen layers without start weights, features to keep without weights,
            a run to resume that began with another recipe, or a loss that is not finite (the batch is saved beside the
            checkpoint first).
    """

    recipe: Recipe
    store: Path  # folder of prepared data
    run: Path  # folder of this run: its checkpoint, replaced as it goes, and what the monitor writes
    _: KW_ONLY
    start: Path | None = None  # start weights; random without
    features: Path | None = None  # weights whose features are kept, if the recipe asks for it; ``start`` without
    resume: bool = False  # go on from the run's checkpoint; the recipe may differ in its number of steps
    workers: int = 1  # processes that make batches; 0 makes them in this one
    save_every: int = 100  # steps between checkpoints
    device: str | None = None  # "cpu" or "cuda"; by default a GPU where there is one
    compile: bool = False  # compile the network; it pays on a GPU and for long runs
    minutes: float | None = None  # stop after this long, to be resumed later; SIGTERM and SIGINT stop as cleanly
    until: int | None = None  # stop after this step, to be resumed later
    val: Path | None = None  # sequences to track every ``val_every`` steps, never trained on; the best weights are kept
    val_every: int = 1000

    def __post_init__(self) -> None:
        """Join the other processes, check the arguments, and set up the state."""
        recipe, path = self.recipe, self.run / CHECKPOINT
        self.group = Group.join(self.device)
        self.end = math.inf if self.minutes is None else time.monotonic() + 60 * self.minutes
        resume = self.resume or (self.group.restarted and path.exists())
        self.monitor = Monitor(self.run, recipe, self.val, self.val_every) if self.group.rank == 0 else None
        for name, shared in (("sets", recipe.sets), ("clips", recipe.rollout.clips if recipe.rollout.share else 0)):
            if shared % self.group.size:
                raise FartrackError(f"{name} is {shared}; it must be a multiple of the {self.group.size} processes.")
        if recipe.freeze_layers and self.start is None and not resume:
            raise FartrackError(f"freeze_layers is {recipe.freeze_layers}; frozen layers need weights: give --start.")
        if path.exists() and not resume:
            raise FartrackError(f"{self.run} holds a run already; add --resume, or name another folder.")
        known = self.features or self.start
        if recipe.loss.features and known is None:
            raise FartrackError(
                f"loss.features is {recipe.loss.features:g}; it needs the weights that are kept: give --features."
            )
        Store.open(self.store)
        self.state = TrainState(recipe, self.group.device, None if resume else self.start)
        if resume:
            checkpoint = load_checkpoint(path)
            check_same_run(self.run, checkpoint, recipe)
            self.state.restore(checkpoint)
        self.known: FARTrack | None = None
        if recipe.loss.features and known is not None:
            self.known = start_network(recipe.model, known).eval().requires_grad_(False).to(self.group.device)
        self.run.mkdir(parents=True, exist_ok=True)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the loss; an ablation may override this."""
        return losses(self.state.network, batch, self.recipe, self.known)

    @staticmethod
    def make_tracker(network: FARTrack, settings: TrackerSettings) -> Tracker:
        """The tracker that rollouts run; an ablation may override this."""
        return Tracker(TorchEngine(network), settings)

    def roll(self, clips: list[Clip]) -> tuple[Batch, int]:
        """The batch of a rollout and how often a target was lost; an ablation may override this."""
        # Crops of one size; and nothing that keeps the tracker from going wrong, for that is what it learns from.
        settings = replace(self.recipe.rollout.tracker, min_window=1.0, lost_score=0)
        found = roll(self.make_tracker(self.state.network, settings), clips)
        self.state.network.train()
        return found

    def train_step(self, work: Batch | list[Clip]) -> tuple[Batch, dict[str, float]]:
        """One optimizer step on a batch, or on clips to roll over → the batch, and the terms of its loss."""
        recipe, group, state, network = self.recipe, self.group, self.state, self.state.network
        torch.manual_seed(hash((recipe.seed, state.step, group.rank)))
        batch, lost = self.roll(work) if isinstance(work, list) else (work, None)
        crops = group.sum(torch.tensor(float(len(batch.search)), device=group.device))
        state.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Any] = {"crops": crops / group.size}
        for part in batch.split(recipe.micro_batch):
            part = part.to(group.device)
            if part.valid is None and recipe.prunes(state.step):
                with autocast(recipe.precision, group.device.type):
                    part.valid = prune(network, part, recipe.rollout.tracker.retention)
            share = len(part.search) / crops
            terms = self.losses(part)
            (terms["loss"] * share).backward()  # type: ignore[no-untyped-call]
            for name, value in terms.items():
                sums[name] = sums.get(name, 0) + value.detach() * share
        values = dict(zip(sums, group.sum(torch.stack(list(sums.values()))).tolist(), strict=True))
        if lost is not None:
            values["lost"] = lost
        if not math.isfinite(values["loss"]):
            failed = Checkpoint(state.step, state.samples, recipe, batch.tensors())
            save_checkpoint(self.run / f"failed-batch-{group.rank}.safetensors", failed)
            raise FartrackError(f"The loss of step {state.step} is not finite; see {self.run}/failed-batch-*.")
        group.sum_gradients(network)
        nn.utils.clip_grad_norm_(network.parameters(), recipe.max_grad_norm)
        for entry in state.optimizer.param_groups:
            entry["lr"] = entry["peak"] * rate(state.step, recipe)
        state.optimizer.step()
        state.average_weights(recipe.ema)
        state.step += 1
        state.samples += round(values["crops"])
        return batch, values

    def train(self) -> FARTrack | None:
        """Step to the end of the recipe, or until stopped; see :func:`train`."""
        recipe, group, state = self.recipe, self.group, self.state
        if self.compile:
            state.network.compile()
        state.network.train()
        cv2.setNumThreads(1)  # before workers are forked, which OpenCV's own threads do not survive
        end = min(recipe.steps, self.until or recipe.steps)
        loader = DataLoader(
            Batches(self.store, recipe, range(state.step, end), group.rank, group.size),
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=4 if self.workers else None,
            worker_init_fn=ignore_signals,
            pin_memory=group.device.type == "cuda",
        )
        meter = Meter("training", recipe.steps, "steps a second", done=state.step)
        with signals_noted() as signaled, meter if self.monitor else nullcontext():
            for work in loader:
                batch, values = self.train_step(work)
                last = state.step == end
                if self.monitor is not None:
                    meter.reach(state.step, what=f"training, loss {values['loss']:.3f}")
                    self.monitor.count(state, rate(state.step - 1, recipe), values, last)
                    self.monitor.picture(state.step, batch, state.network)
                    self.monitor.validate(state, last)
                stopped = group.any(signaled.is_set() or time.monotonic() >= self.end)
                if self.monitor is not None and (state.step % self.save_every == 0 or last or stopped):
                    save_checkpoint(self.run / CHECKPOINT, state.checkpoint(recipe))
                if stopped:
                    break
        if self.monitor is not None:
            self.monitor.close()
        group.any(False)  # waits for all, so that what one has written is there for the others
        state.network.load_state_dict(state.average)
        state.network.eval()
        return state.network if state.step >= recipe.steps else None


def rate(step: int, recipe: Recipe) -> float:
    """The learning rate of a step as a share of its peak: linear warm-up, constant, then the recipe's decay."""
    warm = min((step + 1) / recipe.warmup, 1.0) if recipe.warmup else 1.0
    left = recipe.steps - step
    if left > recipe.decay:
        return warm
    return warm * (0.1 if recipe.decay_shape == "step" else 0.5 - 0.5 * math.cos(math.pi * left / recipe.decay))


def ignore_signals(worker: int) -> None:
    """Leave stopping to the main process: a signal may go to its workers as well, which it needs to the end."""
    for number in stopping():
        signal.signal(number, signal.SIG_IGN)
