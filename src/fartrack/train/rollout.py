"""Rollouts: the tracker runs over clips as it would for a user, and what it saw becomes a batch to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fartrack.engines.torch import TorchEngine
from fartrack.errors import FartrackError
from fartrack.geometry import FloatArray, Image
from fartrack.model.encoder import FARTrack
from fartrack.tracking.tracker import SearchRegion, State, Tracker, TrackerSettings
from fartrack.train.data.clips import Clip
from fartrack.train.objective import Batch


def roll(network: FARTrack, clips: Sequence[Clip], settings: TrackerSettings) -> tuple[Batch, int]:
    """Run the tracker over clips of one length, all at once, and gather what the network was shown.

    Each search crop comes with the templates and the token masks that the tracker used for it: a mask is decided
    on the frame after its template was taken and carried on. A target whose centre has left the search window is
    lost: the tracker is set upon the truth again. A frame on which even that window does not hold it is left out.

    Returns:
        The batch (one template set a search crop), and how often a target was lost.
    """
    training = network.training
    tracker = Tracker(TorchEngine(network), replace(settings, min_window=1.0))  # crops of one size
    states = [tracker.start(clip.frames[0], clip.boxes[0]) for clip in clips]
    gatherer, lost = Gatherer(tracker), 0
    for t in range(1, len(clips[0].frames)):
        looks = []
        for i, clip in enumerate(clips):
            look = tracker.search_region(states[i], clip.frames[t])
            if not in_view(look, clip.boxes[t]):
                lost += 1
                anchored = np.repeat(clip.boxes[t - 1][None], len(states[i].trajectory), axis=0)
                states[i] = replace(states[i], trajectory=anchored)
                look = tracker.search_region(states[i], clip.frames[t])
            looks.append(look)
        followed = tracker.step_batch(states, looks)
        for i, clip in enumerate(clips):
            if in_view(looks[i], clip.boxes[t]):
                gatherer.add(i, states[i], states[i], looks[i], clip.boxes[t])
            states[i] = followed[i][0]
    network.train(training)
    return gatherer.batch(), lost


@torch.no_grad()
def prune(network: FARTrack, batch: Batch, retention: float) -> Tensor:
    """Which tokens ``(R, T · M)`` of a single-crop batch's templates a tracker would keep: of each template the share
    ``retention`` with the best scores on the first search crop of its set."""
    training, shared = network.training, len(batch["search"]) // len(batch["index"])
    network.eval()
    rows = network.encode_templates(batch["templates"][:, None], batch["identities"][:, None])
    memory = network.join(rows, batch["index"])
    _, scores = network.track(batch["search"][::shared], batch["trajectory"][::shared], memory, scored=True)
    network.train(training)
    scores = scores.unflatten(1, (batch["index"].shape[1], -1))
    kept = scores.topk(max(round(retention * scores.shape[2]), 1), dim=2).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(2, kept, True).flatten(1)


def in_view(look: SearchRegion, box: FloatArray) -> bool:
    """Whether the centre of an image box lies in a look's search window."""
    centre = look.window.to_crop(box).reshape(2, 2).mean(0)
    return bool((np.abs(centre - 0.5) < 0.5).all())


class Gatherer:
    """Collects what a tracker's network is shown, each template once."""

    def __init__(self, tracker: Tracker) -> None:
        """Of this tracker."""
        self.tracker = tracker
        self.numbers: dict[tuple[int, int, int], int] = {}
        self.templates: list[tuple[Image, int]] = []
        self.rows: list[tuple[list[int], list[NDArray[np.int64] | None], SearchRegion, FloatArray]] = []

    def add(self, clip: int, state: State, masks: State, look: SearchRegion, box: FloatArray) -> None:
        """One search crop of clip number ``clip``: the templates of ``state``, masked as those of ``masks``."""
        kept = {template.frame: template.keep for template in masks.memory.history}
        index, keeps = [], []
        for slot, place in enumerate(state.memory.chosen):
            template = state.memory.history[place]
            identity = min(slot, self.tracker.engine.config.identities - 1)
            key = (clip, template.frame, identity)
            if key not in self.numbers:
                self.numbers[key] = len(self.templates)
                self.templates.append((template.crop, identity))
            index.append(self.numbers[key])
            keeps.append(kept.get(template.frame))
        self.rows.append((index, keeps, look, look.window.to_crop(box)))

    def batch(self) -> Batch:
        """All of it; where a crop has fewer templates than others, the places left are masked.

        Raises:
            FartrackError: there is nothing.
        """
        if not self.rows:
            raise FartrackError("On no frame of these clips is the target near where it was; prepare more frames.")
        tokens = self.tracker.engine.config.template_tokens
        most = max(len(index) for index, *_ in self.rows)
        index = np.zeros((len(self.rows), most), np.int64)
        valid = np.zeros((len(self.rows), most, tokens), bool)
        for row, (numbers, keeps, _, _) in enumerate(self.rows):
            index[row, : len(numbers)] = numbers
            for slot, keep in enumerate(keeps):
                valid[row, slot, slice(None) if keep is None else keep] = True
        return {
            "templates": torch.from_numpy(np.stack([crop for crop, _ in self.templates])),
            "identities": torch.tensor([identity for _, identity in self.templates]),
            "index": torch.from_numpy(index),
            "valid": torch.from_numpy(valid.reshape(len(self.rows), -1)),
            "search": torch.from_numpy(np.stack([look.crop for _, _, look, _ in self.rows])),
            "trajectory": torch.from_numpy(np.stack([look.tokens for _, _, look, _ in self.rows])),
            "boxes": torch.from_numpy(np.stack([box for *_, box in self.rows]).astype(np.float32)),
        }
