"""Running a tracker over sequences, one pass from the first frame on."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from fartrack.evaluate.metrics import overlaps
from fartrack.evaluate.sequences import Sequence
from fartrack.geometry import FloatArray
from fartrack.tracker import Tracker


@dataclass(frozen=True)
class Result:
    """One sequence's run.

    Attributes:
        boxes: ``(frames, 4)`` x, y, w, h in pixels.
        scores: ``(frames,)``; 1 on the first.
        ious: of the scored frames.
        seconds: spent in ``update`` over ``frames - 1`` frames, decoding excluded.
    """

    name: str
    boxes: FloatArray
    scores: FloatArray
    ious: FloatArray
    seconds: float


def run_sequence(tracker: Tracker, sequence: Sequence) -> Result:
    """Track a sequence whose first ground-truth box is given."""
    boxes, scores, seconds = [sequence.boxes[0].tolist()], [1.0], 0.0
    for index, frame in enumerate(sequence.frames()):
        if index == 0:
            tracker.init(frame, sequence.boxes[0])
            continue
        if index >= len(sequence.boxes):
            break
        start = time.perf_counter()
        track = tracker.update(frame)
        seconds += time.perf_counter() - start
        boxes.append(list(track.box))
        scores.append(track.score)
    result = np.array(boxes)
    return Result(sequence.name, result, np.array(scores), overlaps(result, sequence.boxes), seconds)
