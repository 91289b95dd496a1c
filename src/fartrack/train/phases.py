"""The three phases, one after the other, from start weights to the exported variants."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from fartrack.errors import FartrackError
from fartrack.export import export_checkpoint
from fartrack.model.config import DEPTHS
from fartrack.train.distributed import leads
from fartrack.train.loop import CHECKPOINT, train
from fartrack.train.recipe import RECIPES, Recipe, recipe_path
from fartrack.train.state import load_checkpoint

PHASES = ("pretrain", "distill", "sparsify")


def read_recipe(recipe: Path, phase: str) -> Recipe:
    """The recipe of a phase.

    Raises:
        FartrackError: see :meth:`Recipe.read`; or it has nothing of what makes that phase.
    """
    found = Recipe.read(recipe_path(recipe))
    if phase == "distill" and not found.distill.first and not found.distill.delete:
        raise FartrackError(f"The recipe {recipe} distils nothing; set first or delete in its table distill.")
    if phase == "sparsify" and not found.rollout.share:
        raise FartrackError(f"The recipe {recipe} rolls over no clips; set share in its table rollout.")
    return found


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

    Args:
        recipes: a folder of ``pretrain.toml``, ``distill.toml`` and ``sparsify.toml``, or the name of one that ships.
        store: folder of prepared data.
        run: each phase has its folder in here, and so has each exported variant; the deepest has the weights of all.
        start: start weights of the first phase; each later one starts from the averaged weights of the one before.
        minutes: stop after this long.
        rehearse: only a few small batches of each phase, in the folder ``rehearsal`` of ``run``, to see that the
            command works on this machine.
        options: of :func:`fartrack.train.loop.train`.

    Returns:
        The folders of the exported variants: those of ``DEPTHS`` that the network is deep enough for, or of a
        shallower network the whole of it as ``model``; None if the time was up first.
    """
    folder = recipes if recipes.is_dir() else RECIPES / recipes
    plan = {phase: read_recipe(folder / f"{phase}.toml", phase) for phase in PHASES}
    if rehearse:
        plan, run = {phase: rehearsal(recipe) for phase, recipe in plan.items()}, run / "rehearsal"
    end = None if minutes is None else time.monotonic() + 60 * minutes
    for phase, recipe in plan.items():
        checkpoint = run / phase / CHECKPOINT
        resume = checkpoint.exists()
        if not resume or load_checkpoint(checkpoint).step < recipe.steps:
            left = None if end is None else max(end - time.monotonic(), 0) / 60
            if train(recipe, store, run / phase, start=start, resume=resume, minutes=left, **options) is None:
                return None
        start = checkpoint
    depth = plan["sparsify"].model.depth
    variants = {name: layers for name, layers in DEPTHS.items() if layers <= depth} or {"model": depth}
    if leads():
        *exits, deepest = variants
        export_checkpoint(checkpoint, run / deepest, variants[deepest], {name: variants[name] for name in exits})
    return [run / name for name in variants]
