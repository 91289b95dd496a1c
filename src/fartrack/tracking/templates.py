"""The template memory: what the target has looked like, bounded however long the video is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fartrack.geometry import Image

KVCache = NDArray[np.float32]
"""What the network keeps of templates, ``(…, M, C)``: M template tokens."""

LIKENESS_LAYER = 5
"""What of a template's ``kv_cache`` is compared: the values of the third layer. Of all keys and values they tell
targets best from what surrounds them (``benchmarks/likeness.py``)."""


@dataclass(frozen=True)
class Template:
    """A picture of the target.

    Attributes:
        frame: number of the frame it was taken from.
        crop: ``(template_size, template_size, 3)`` uint8 RGB.
        box: ``(4,)`` float32 the target's corners in the crop's frame.
        identity: which identity embedding it was encoded with.
        kv_cache: of its tokens, or of those of ``keep`` alone.
        target, context: ``(C,)`` of length 1, what it looks like in the box and around it (see :func:`appearance`).
        keep: indices of the tokens kept; None for all.
        pruned: whether the best tokens were chosen, which is done once, on the frame after this.
        rest: the tokens from which the network's last layers go on, on the frame after this, and add their part to
            ``kv_cache``; None once it is whole.
    """

    frame: int
    crop: Image
    box: NDArray[np.float32]
    identity: int
    kv_cache: KVCache
    target: NDArray[np.float32]
    context: NDArray[np.float32]
    keep: NDArray[np.int64] | None = None
    pruned: bool = False
    rest: NDArray[np.float32] | None = None

    @classmethod
    def encoded(
        cls,
        frame: int,
        crop: Image,
        box: NDArray[np.float32],
        identity: int,
        kv_cache: KVCache,
        rest: NDArray[np.float32] | None = None,
    ) -> Template:
        """A template with the ``kv_cache`` of all tokens of its crop."""
        return cls(frame, crop, box, identity, kv_cache, *appearance(kv_cache, box), rest=rest)

    def finished(self, kv_cache: KVCache) -> Template:
        """With the ``kv_cache`` of the last layers too."""
        return replace(self, kv_cache=np.concatenate([self.kv_cache, kv_cache]), rest=None)

    def likeness(self, other: Template) -> float:
        """How much another template's target looks like this one's: 1 if the same, 0 or less if rather like the
        context."""
        contrast = float((self.target - self.context) @ other.target)
        return contrast / max(1 - float(self.target @ self.context), 1e-3)

    def prune(self, scores: NDArray[np.float32], retention: float) -> Template:
        """Keep the best tokens for good."""
        return replace(self._kept(best_tokens(scores, retention)), pruned=True)

    def center(self, side: int) -> Template:
        """Of all tokens, those of the square of ``side`` a side in the middle of the crop."""
        grid = round(self.kv_cache.shape[-2] ** 0.5)
        edge = (grid - side) // 2
        return self if edge == 0 else self._kept(np.arange(grid**2).reshape(grid, grid)[edge:-edge, edge:-edge].ravel())

    def _kept(self, indices: NDArray[np.int64]) -> Template:
        """With these of its tokens alone. The others are removed, so that later frames do not pay for them."""
        keep = indices if self.keep is None else self.keep[indices]
        kv_cache = np.ascontiguousarray(self.kv_cache[..., indices, :])
        rest = None if self.rest is None else np.ascontiguousarray(self.rest[..., indices, :])
        return replace(self, keep=keep, kv_cache=kv_cache, rest=rest)


@dataclass(frozen=True)
class TemplateMemory:
    """A history of templates in order of time, thinned so that it never holds more than ``capacity``.

    An immutable value: adding returns a new memory, so that a tracker's state can be kept, copied and replayed.

    Attributes:
        slots: the most templates that the network is given at once, at least 1.
        capacity: the most templates held, at least ``slots`` and at least 2.
        history: the templates held; the first is never given up.
    """

    slots: int
    capacity: int
    history: tuple[Template, ...]

    def add(self, template: Template) -> TemplateMemory:
        """The memory with a newer template.

        Where it would grow over its capacity, the template that leaves the smallest gap in time is given up,
        never the first or the newest. The frames that remain stay spread over the whole history, however long.
        """
        history = [*self.history, template]
        if len(history) > self.capacity:
            frames = [t.frame for t in history]
            gaps = [frames[i + 1] - frames[i - 1] for i in range(1, len(frames) - 1)]
            del history[1 + int(np.argmin(gaps))]
        return replace(self, history=tuple(history))

    def before(self, frame: int) -> TemplateMemory:
        """The memory without the templates from this frame on; the first one always stays."""
        return replace(self, history=tuple(t for t in self.history if t is self.history[0] or t.frame < frame))

    def replace(self, place: int, template: Template) -> TemplateMemory:
        """The memory with another template at a place of ``history``, such as one that was pruned."""
        history = (*self.history[:place], template, *self.history[place + 1 :])
        return replace(self, history=history)

    @cached_property
    def chosen(self) -> tuple[int, ...]:
        """The places in ``history`` of up to ``slots`` different templates, in order of time.

        Always the first; with two slots or more the newest; the others are those nearest to a linear spread of
        frames between these two.
        """
        if self.slots == 1:
            return (0,)
        frames = [template.frame for template in self.history]
        step = (frames[-1] - frames[0]) / (self.slots - 1)
        chosen = {0, len(frames) - 1}
        for slot in range(1, self.slots - 1):
            free = [place for place in range(len(frames)) if place not in chosen]
            if free:
                wanted = frames[0] + slot * step
                chosen.add(min(free, key=lambda place: abs(frames[place] - wanted)))
        return tuple(sorted(chosen))

    def likeness(self, template: Template) -> float:
        """How much a template's target looks like one of those in use."""
        return max(self.history[place].likeness(template) for place in self.chosen)

    @cached_property
    def kv_cache(self) -> KVCache:
        """That of the chosen templates, joined; the same from frame to frame until the memory changes."""
        return join(self.history[place].kv_cache for place in self.chosen)

    def __getstate__(self) -> Mapping[str, Any]:
        """The fields alone: what is derived from them is derived anew after a copy."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def best_tokens(scores: NDArray[np.float32], retention: float) -> NDArray[np.int64]:
    """The tokens, in order, that make up the share ``retention`` with the best scores ``(M,)``; at least one."""
    count = max(round(retention * len(scores)), 1)
    return np.sort(np.argsort(-scores, kind="stable")[:count]).astype(np.int64)


def appearance(kv_cache: KVCache, box: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean features, of length 1, of a whole template's tokens in its target's box and around it.

    Args:
        kv_cache: ``(L, H, M, E)``.
        box: ``(4,)`` the target's corners in the crop's frame.
    """
    layer = kv_cache[min(LIKENESS_LAYER, len(kv_cache) - 1)]
    features = layer.transpose(1, 0, 2).reshape(layer.shape[1], -1)
    edges = np.linspace(0, 1, round(len(features) ** 0.5) + 1)
    x, y = (
        np.clip(np.minimum(box[axis + 2], edges[1:]) - np.maximum(box[axis], edges[:-1]), 0, None) * (len(edges) - 1)
        for axis in (0, 1)
    )
    covered = np.outer(y, x).ravel()
    means = np.stack([covered, 1 - covered]) @ features
    target, context = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)
    return target.astype(np.float32), context.astype(np.float32)


def join(kv_caches: Iterable[KVCache]) -> KVCache:
    """Those ``(…, M, C)`` of several templates, joined along M."""
    return np.concatenate(list(kv_caches), axis=-2)
