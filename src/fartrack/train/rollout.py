"""Rollouts: the tracker runs over clips as it would for a user, and what the network was shown becomes a batch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from fartrack.errors import FartrackError
from fartrack.geometry import FloatArray
from fartrack.tracking.templates import Template
from fartrack.tracking.tracker import SearchRegion, State, Tracker
from fartrack.train.data.batches import Batch
from fartrack.train.data.clips import Clip


def roll(tracker: Tracker, clips: Sequence[Clip]) -> tuple[Batch, int]:
    """Run a tracker over clips of one length, all at once → the batch, and how often a target was lost.

    Each search crop comes with the templates and the token masks that the tracker used for it. When the center of a
    target has left the search window, it is lost, and the tracker is set back to the truth; a frame on which even that
    window does not hold it is left out, and a FartrackError raised if no frame is left.
    """
    states = [tracker.start(clip.frames[0], clip.boxes[0]) for clip in clips]
    rows: list[_Row] = []
    lost = 0
    for t in range(1, len(clips[0].frames)):
        looks = [tracker.search_regions(state, clip.frames[t])[0] for state, clip in zip(states, clips, strict=True)]
        for i, clip in enumerate(clips):
            if not in_view(looks[i].window.to_crop(clip.boxes[t])):
                lost += 1
                anchored = np.repeat(clip.boxes[t - 1][None], len(states[i].trajectory), axis=0)
                states[i] = replace(states[i], trajectory=anchored)
                (looks[i],) = tracker.search_regions(states[i], clip.frames[t])
            box = looks[i].window.to_crop(clip.boxes[t])
            if in_view(box):
                rows.append(_Row(i, states[i], looks[i], box))
        states = [state for state, _ in tracker.step_batch(states, [[look] for look in looks])]
    return _gather(tracker, rows), lost


def in_view(corners: FloatArray) -> bool:
    """Whether the center of a box lies in the crop whose frame it is given in."""
    return bool((np.abs(corners.reshape(2, 2).mean(0) - 0.5) < 0.5).all())


@dataclass(frozen=True)
class _Row:
    """What the network was shown of a frame."""

    clip: int
    state: State  # before the frame
    look: SearchRegion
    box: FloatArray  # the truth in the crop's frame


def _gather(tracker: Tracker, rows: Sequence[_Row]) -> Batch:
    """The batch of these rows, each template once; where a row has fewer templates than others, the rest is masked."""
    if not rows:
        raise FartrackError("On no frame of these clips is the target near where it was; prepare more frames.")
    config = tracker.engine.config
    templates: dict[tuple[int, int, int], tuple[int, Template]] = {}
    most = max(len(row.state.memory.chosen) for row in rows)
    index = np.zeros((len(rows), most), np.int64)
    valid = np.zeros((len(rows), most, config.template_tokens), np.bool_)
    for number, row in enumerate(rows):
        for slot, place in enumerate(row.state.memory.chosen):
            template = row.state.memory.history[place]
            key = (row.clip, template.frame, config.identity(slot))
            index[number, slot], _ = templates.setdefault(key, (len(templates), template))
            valid[number, slot, slice(None) if template.keep is None else template.keep] = True
    return Batch(
        templates=torch.from_numpy(np.stack([template.crop for _, template in templates.values()])),
        identities=torch.tensor([identity for *_, identity in templates]),
        template_boxes=torch.from_numpy(np.stack([template.box for _, template in templates.values()])),
        index=torch.from_numpy(index),
        search=torch.from_numpy(np.stack([row.look.crop for row in rows])),
        trajectory=torch.from_numpy(np.stack([row.look.tokens for row in rows])),
        boxes=torch.from_numpy(np.stack([row.box for row in rows]).astype(np.float32)),
        valid=torch.from_numpy(valid.reshape(len(rows), -1)),
    )
