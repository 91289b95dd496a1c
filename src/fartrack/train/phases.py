"""The three phases, one after the other, from start weights to the exported variants."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from fartrack.model.config import DEPTHS
from fartrack.train.export import export_checkpoint
from fartrack.train.loop import train
from fartrack.train.recipe import RECIPES, Recipe
from fartrack.train.state import CHECKPOINT, check_same_run, load_checkpoint

PHASES = ("pretrain", "distill", "sparsify")


def rehearsal(recipe: Recipe) -> Recipe:
    """The same recipe with four steps of two sets, or of two short clips."""
    rollout = replace(recipe.rollout, frames=min(recipe.rollout.frames, 8), clips=2)
    return replace(recipe, steps=4, sets=2, warmup=0, decay=2, rollout=rollout)


def train_phases(
    recipes: Path,
    store: Path,
    run: Path,
    *,
    start: Path | None = None,
    minutes: float | None = None,
    rehearse: bool = False,
    **options: Any,
) -> list[Path] | None:
    """Run all three phases and export the variants; called again with the same arguments, go on.

    ``recipes`` is a folder of ``pretrain.toml``, ``distill.toml`` and ``sparsify.toml``, or the name of one that ships.
    Each phase begins with the weights of the one before, the first with ``start``. A rehearsal runs a few small batches
    of each, in ``run/rehearsal``. All else: see :class:`fartrack.train.loop.Trainer`. Returns the folders of the
    exported variants: those of ``DEPTHS`` that the network is deep enough for, or of a shallower network the whole of
    it as ``model``; None if the time was up first.
    """
    folder = recipes if recipes.is_dir() else RECIPES / recipes
    plan = {phase: Recipe.read(folder / f"{phase}.toml") for phase in PHASES}
    if rehearse:
        plan, run = {phase: rehearsal(recipe) for phase, recipe in plan.items()}, run / "rehearsal"
    end = None if minutes is None else time.monotonic() + 60 * minutes
    for phase, recipe in plan.items():
        checkpoint = run / phase / CHECKPOINT
        resume = checkpoint.exists()
        if resume:
            done = load_checkpoint(checkpoint)
            check_same_run(run / phase, done, recipe)
        if not resume or done.step < recipe.steps:
            left = None if end is None else max(end - time.monotonic(), 0) / 60
            if train(recipe, store, run / phase, start=start, resume=resume, minutes=left, **options) is None:
                return None
        start = checkpoint
    depth = plan["sparsify"].model.depth
    variants = {name: layers for name, layers in DEPTHS.items() if layers <= depth} or {"model": depth}
    if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun starts
        *exits, deepest = variants
        export_checkpoint(checkpoint, run / deepest, variants[deepest], {name: variants[name] for name in exits})
    return [run / name for name in variants]
