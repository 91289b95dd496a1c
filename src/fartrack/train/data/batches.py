"""Batches: what a training step learns from, and the stream of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from fartrack.geometry import FloatArray
from fartrack.model.config import ModelConfig
from fartrack.model.losses import token_centers
from fartrack.train.data.clips import Clip, ClipSampler
from fartrack.train.data.sampling import Sampler
from fartrack.train.data.store import Store
from fartrack.train.recipe import Recipe, Stream

PER_TEMPLATE = ("templates", "identities", "template_boxes")


@dataclass
class Batch:
    """U templates, P sets of T of them, and B = P · K search crops, K of which share a set; images are uint8 RGB."""

    templates: Tensor  # (U, S, S, 3)
    identities: Tensor  # (U,) the identity embedding of each template
    template_boxes: Tensor  # (U, 4) the target's corners in each template's frame, as a tracker would know them
    index: Tensor  # (P, T) the templates of each set
    search: Tensor  # (B, S, S, 3)
    trajectory: Tensor  # (B, 4 · trajectory) tokens
    boxes: Tensor  # (B, 4) the target's corners in the crop's frame, NaN where it is not in the crop
    valid: Tensor | None = None  # (P, T · M) False for template tokens that are masked out; None uses all
    kept: Tensor | None = None  # (B, n) the search tokens that go through the network; None is all

    @property
    def shared(self) -> int:
        """K, the search crops of each set."""
        return len(self.search) // len(self.index)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(**{name: tensor.to(device, non_blocking=True) for name, tensor in self.tensors().items()})

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, for the data loader."""
        return Batch(**{name: tensor.pin_memory() for name, tensor in self.tensors().items()})

    def split(self, most: int) -> list[Batch]:
        """Parts of at most ``most`` search crops (at least one set), each with the templates it uses."""
        sets, shared, parts = len(self.index), self.shared, []
        step = max(most // shared, 1)
        if step >= sets:
            return [self]
        for first in range(0, sets, step):
            rows, crops = slice(first, first + step), slice(first * shared, (first + step) * shared)
            used, index = torch.unique(self.index[rows], return_inverse=True)
            cut = {name: t[rows if name == "valid" else crops] for name, t in self.tensors().items()}
            parts.append(Batch(**cut | {name: getattr(self, name)[used] for name in PER_TEMPLATE} | {"index": index}))
        return parts


@dataclass
class Batches(IterableDataset[Batch | list[Clip]]):
    """What each of the steps learns from: a batch or, for a rollout, its clips; of these the share of one process."""

    store: Path  # folder of prepared data
    recipe: Recipe
    steps: range
    rank: int = 0
    size: int = 1

    def __iter__(self) -> Iterator[Batch | list[Clip]]:
        """The steps in order; with several workers, each makes its share of them, in turn."""
        worker = get_worker_info()
        index, count = (worker.id, worker.num_workers) if worker else (0, 1)
        store, recipe, rollout = Store.open(self.store), self.recipe, self.recipe.rollout
        samples = cache(lambda: Sampler(store, recipe.model, recipe.sampling))  # made when the first is drawn
        clips = cache(lambda: ClipSampler(store, rollout.frames, rollout.synthetic))
        for step in self.steps[index::count]:
            if recipe.rolls(step):
                numbers = range(self.rank, rollout.clips, self.size)
                yield [clips().draw(recipe.random(step, Stream.CLIP, number)) for number in numbers]
            else:
                yield draw_batch(samples(), recipe, step, self.rank, self.size)


def draw_batch(sampler: Sampler, recipe: Recipe, step: int, rank: int = 0, size: int = 1) -> Batch:
    """The share of process ``rank`` of ``size`` of the single-frame batch of one step."""
    T, model = int(recipe.random(step, Stream.TEMPLATES).choice(recipe.templates)), recipe.model
    generators = [recipe.random(step, Stream.SET, number) for number in range(rank, recipe.sets, size)]
    sets = [sampler.draw(rng, T) for rng in generators]
    batch = Batch(
        templates=torch.from_numpy(np.concatenate([s.templates for s in sets])),
        identities=torch.tensor([model.identity(slot) for slot in range(T)] * len(sets)),
        template_boxes=torch.from_numpy(np.concatenate([s.template_boxes for s in sets])),
        index=torch.arange(T * len(sets)).reshape(-1, T),
        search=torch.from_numpy(np.concatenate([s.search for s in sets])),
        trajectory=torch.from_numpy(np.concatenate([s.trajectory for s in sets])),
        boxes=torch.from_numpy(np.concatenate([s.boxes for s in sets])),
    )
    if step < recipe.patch_dropout_steps:
        chances = [rng.random((recipe.sampling.searches, model.search_tokens)) for rng in generators]
        batch.kept = drop_patches(np.concatenate(chances), model, recipe.patch_dropout)
    return batch


def drop_patches(chances: FloatArray, model: ModelConfig, share: float) -> Tensor:
    """Patch dropout: the search tokens ``(B, n)`` that are kept, given random numbers ``(B, tokens)``; those far from
    the center are dropped more often."""
    distance = (token_centers(model.search_size // model.patch) - 0.5).abs().amax(-1).numpy()
    order = np.argsort(distance * chances, axis=1)
    return torch.from_numpy(np.sort(order[:, : round((1 - share) * model.search_tokens)], axis=1))
