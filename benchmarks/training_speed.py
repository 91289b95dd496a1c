"""Training speed, against a bound by matrix products, with and without the data loader.

python benchmarks/training_speed.py DATA [--recipe shipped/3-light] [--seconds 20] [--workers 0]

DATA is a folder of prepared data. Three rates, in search crops a second, with patch dropout (if the recipe has it) and
without: the bound (the multiply-adds of all matmuls of the forward and backward pass at the rate of a large matmul of
the same kind on this machine), the network alone on one batch over and over, and training with batches from the loader.
The last two take turns: medians, and the smallest and the largest of their ratios. Let nothing else run meanwhile.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader

from fartrack.model.config import ModelConfig
from fartrack.model.encoder import FARTrack
from fartrack.train.data.batches import Batch, Batches
from fartrack.train.objective import autocast, losses
from fartrack.train.recipe import Recipe, recipe_path
from fartrack.train.state import make_optimizer


def main(
    data: Path,
    recipe: Annotated[Path, typer.Option(help="TOML file, or the name of one that ships")] = Path("shipped/3-light"),
    seconds: float = 20,
    rounds: int = 5,
    workers: Annotated[int, typer.Option(help="of the loader; 0: samples are made between the steps")] = 1,
) -> None:
    plan = Recipe.read(recipe_path(recipe))
    with autocast(plan.precision, "cpu"):
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    table = Table("search tokens", "bound", "network alone", "of the bound", "training", "of the network alone")
    for dropout in dict.fromkeys([plan.patch_dropout if plan.patch_dropout_steps else 0.0, 0.0]):
        many = 10**6
        one = replace(plan, patch_dropout=dropout, patch_dropout_steps=many, steps=many, warmup=0, decay=0)
        T, shared = sum(one.templates) / len(one.templates), one.sampling.searches
        bound = matmul_rate(dtype, seconds / 4) / work(one.model, T / shared, shared, 1 - dropout)
        batches = [Batches(data, replace(one, templates=(count,)), range(many)) for count in one.templates]
        fixed = [next(iter(batch)) for batch in batches]
        loader = DataLoader(
            Batches(data, one, range(many)),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
        )
        drawn, rates = iter(loader), []
        for _ in range(rounds):  # in turn, for a machine is not as fast in one minute as in the next
            share = seconds / rounds
            alone = len(fixed) / sum(1 / rate(one, repeat(batch), share / len(fixed)) for batch in fixed)
            # What the loader made while the other ran is used up before the time counts.
            rates.append((alone, rate(one, drawn, share, warm_up=2 + 4 * workers)))
        alone, whole = (median(column) for column in zip(*rates, strict=True))
        ratios = sorted(whole / alone for alone, whole in rates)
        shares = f"{median(ratios):.0%} [{ratios[0]:.0%}, {ratios[-1]:.0%}]"
        values = (f"{bound:.1f}", f"{alone:.1f}", f"{alone / bound:.0%}", f"{whole:.1f}", shares)
        table.add_row(f"{1 - dropout:.0%}", *values)
    kind = str(dtype).removeprefix("torch.")
    Console().print(f"samples a second, {torch.get_num_threads()} threads, {kind}, {recipe}")
    Console().print(table)


def matmul_rate(dtype: torch.dtype, seconds: float) -> float:
    """Multiply-adds a second of ``(8192, 192) @ (192, 768)``, the largest kind of matmul in the network."""
    left, right = torch.randn(8192, 192, dtype=dtype), torch.randn(192, 768, dtype=dtype)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        left @ right
        done += 1
    return done * left.numel() * right.shape[1] / (time.perf_counter() - start)


def work(config: ModelConfig, templates: float, searches: int, keep: float) -> float:
    """Multiply-adds of one search crop, forward and backward (three times the forward pass), with cached attention.

    ``templates`` is their number over ``searches``, the crops that share a set.
    """
    own = config.template_tokens
    query = keep * config.search_tokens + 4 * config.trajectory + 4
    D, hidden = config.width, config.width * config.mlp_ratio
    patch = 3 * config.patch**2 * D

    def layer(tokens: float, seen: float) -> float:
        return tokens * (4 * D * D + 2 * D * hidden) + 2 * tokens * seen * D

    # Templates are encoded once for all the search crops that share them, but each of these attends to all of them.
    encoded = templates * (own * patch + config.depth * layer(own, own))
    shared = templates * searches * own
    searched = config.search_tokens * patch + config.depth * layer(query, query + shared) + 4 * D * 600
    return 3 * (encoded + searched)


def rate(recipe: Recipe, batches: Iterator[Batch], seconds: float, warm_up: int = 2) -> float:
    """Search crops a second over training steps on these batches, the first ``warm_up`` left out."""
    network = FARTrack(recipe.model).train()
    optimizer = make_optimizer(network, recipe)
    crops, start = 0, 0.0
    for number, batch in enumerate(batches):
        if number == warm_up:
            start = time.perf_counter()
        loss = losses(network, batch, recipe)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), recipe.max_grad_norm)
        optimizer.step()
        crops += len(batch.search) if number >= warm_up else 0
        if number >= warm_up + 2 and time.perf_counter() - start > seconds:
            break
    return crops / (time.perf_counter() - start)


if __name__ == "__main__":
    typer.run(main)
