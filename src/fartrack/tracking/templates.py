"""The template memory: what the target has looked like, bounded however long the video is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fartrack.geometry import Image

Rows = NDArray[np.float32]
"""What the network keeps of templates, ``(…, M, C)``: one row a template token."""


def state_of(value: Any) -> Mapping[str, Any]:
    """The fields of a dataclass by name, to be copied or pickled: neither caches nor work under way."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


@dataclass(frozen=True)
class Template:
    """One look of the target.

    Attributes:
        frame: number of the frame it was taken from.
        crop: ``(template_size, template_size, 3)`` uint8 RGB.
        identity: which identity embedding its rows were made with.
        encoded: its ``rows``, or the work under way that makes them.
        share: part of the crop's area that the target's box covers, 0 to 1.
        keep: indices of the tokens kept, decided once on the frame after this; None while undecided.
    """

    frame: int
    crop: Image
    identity: int
    encoded: Rows | Future[Rows]
    share: float = 1.0
    keep: NDArray[np.int64] | None = None

    @property
    def rows(self) -> Rows:
        """What the network keeps of it, one row a token that was kept; waits for the work under way."""
        return self.encoded.result() if isinstance(self.encoded, Future) else self.encoded

    def __getstate__(self) -> Mapping[str, Any]:
        """All of it, made."""
        return {**state_of(self), "encoded": self.rows}

    def best(self, scores: NDArray[np.float32], retention: float) -> NDArray[np.int64]:
        """The tokens, in order, that make up the share ``retention`` with the best scores ``(M,)``; at least one."""
        count = max(round(retention * len(scores)), 1)
        return np.sort(np.argsort(-scores, kind="stable")[:count]).astype(np.int64)

    def prune(self, scores: NDArray[np.float32], retention: float) -> Template:
        """Keep the best tokens for good. The other rows are removed, so that later frames do not pay for them."""
        keep = self.best(scores, retention)
        return replace(self, keep=keep, encoded=np.ascontiguousarray(self.rows[..., keep, :]))


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

    @cached_property
    def chosen(self) -> tuple[int, ...]:
        """The places in ``history`` of up to ``slots`` different templates, in order of time.

        Always the first; with two slots or more the newest; the others are those nearest to a linear spread of
        frames between these two.
        """
        if self.slots == 1:
            return (0,)
        frames = np.array([t.frame for t in self.history])
        wanted = np.linspace(frames[0], frames[-1], self.slots)
        chosen = {0, len(frames) - 1}
        for frame in wanted[1:-1]:
            order = np.argsort(np.abs(frames - frame), kind="stable").tolist()
            free = [place for place in order if place not in chosen]
            chosen.update(free[:1])
        return tuple(sorted(chosen))

    @cached_property
    def rows(self) -> Rows:
        """Those of the chosen templates, joined; the same from frame to frame until the memory changes."""
        return join_rows([self.history[place].rows for place in self.chosen])

    def __getstate__(self) -> Mapping[str, Any]:
        """The fields alone."""
        return state_of(self)

    def replace(self, place: int, template: Template) -> TemplateMemory:
        """The memory with another template at a place of ``history``, such as one that was pruned."""
        history = (*self.history[:place], template, *self.history[place + 1 :])
        return replace(self, history=history)


def join_rows(rows: Sequence[Rows] | Rows) -> Rows:
    """Rows ``(…, M, C)`` of several templates, joined along M."""
    return np.concatenate(list(rows), axis=-2)
