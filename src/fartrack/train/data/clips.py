"""Clips to roll the tracker over: parts of real sequences, and synthetic ones made of stills."""

from dataclasses import dataclass

import numpy as np

from fartrack.errors import FartrackError
from fartrack.geometry import Crop, FloatArray, Image
from fartrack.train.data.augment import Cutout, Tone, draw_aspect, stretched
from fartrack.train.data.store import Store

FRAME = 256  # side of a synthetic clip's square frames, in pixels


@dataclass(frozen=True)
class Clip:
    """Consecutive frames, uint8 BGR, and the target's box ``(frames, 4)`` x, y, w, h in pixels on each."""

    frames: list[Image]
    boxes: FloatArray


class ClipSampler:
    """Draws clips from a store. Every draw depends on the given random generator alone."""

    def __init__(self, store: Store, frames: int, synthetic: float) -> None:
        """Clips of ``frames`` frames, ``synthetic`` being the share of synthetic ones; a FartrackError if the store has
        no sequences of that length, or no masked objects, where they are asked for."""
        self.store, self.frames, self.synthetic, self.masked = store, frames, synthetic, store.masked
        self.sequences = [targets for targets in store.sequences() if len(targets) >= frames]
        if synthetic < 1 and not self.sequences:
            raise FartrackError(f"The prepared data hold no sequence of {frames} frames; lower frames or add data.")
        if synthetic > 0 and len(self.masked) == 0:
            raise FartrackError("The prepared data hold no masked objects for synthetic clips; set synthetic to 0.")
        weight = np.sqrt([len(targets) for targets in self.sequences])
        self.weight = weight / weight.sum() if len(weight) else weight

    def draw(self, rng: np.random.Generator) -> Clip:
        """One clip; at times mirrored, reversed, stretched, or in other colors."""
        clip = self._synthetic(rng) if rng.random() < self.synthetic else self._real(rng)
        frames, boxes = clip.frames, clip.boxes.copy()
        if rng.random() < 0.3:
            frames, boxes = frames[::-1], boxes[::-1]
        if rng.random() < 0.5:
            frames = [np.ascontiguousarray(frame[:, ::-1]) for frame in frames]
            boxes = np.column_stack([[f.shape[1] for f in frames] - boxes[:, 0] - boxes[:, 2], boxes[:, 1:]])
        tone = Tone.draw(rng, 0.6, 0.05)
        aspect = draw_aspect(rng)
        shaped = [stretched(frame, aspect) for frame in frames]
        return Clip([tone.apply(frame) for frame, _ in shaped], boxes * [factor for _, factor in shaped])

    def _real(self, rng: np.random.Generator) -> Clip:
        """A part of a sequence, of frames on which the target is present."""
        targets = self.sequences[int(rng.choice(len(self.sequences), p=self.weight))]
        first = int(rng.integers(len(targets) - self.frames + 1))
        picks = targets[first : first + self.frames]
        return Clip([self.store.image_of(target) for target in picks], self.store.boxes[picks])

    def _synthetic(self, rng: np.random.Generator) -> Clip:
        """A masked object that moves, rotates and changes size over a still before a drifting camera, with a second
        object (at times a copy of it) that may pass in front."""
        target = int(rng.choice(self.masked))
        own, other = Cutout.of(self.store, target), Cutout.of(self.store, int(rng.choice(self.masked)))
        if rng.random() < 0.4:
            other = own
        background = self.store.image(int(rng.integers(len(self.store.sizes))))
        height, width = background.shape[:2]
        count = self.frames
        size = np.exp(rng.uniform(np.log(18), np.log(80)) + walk(rng, count, 0.02))
        place = FRAME / 2 + rng.uniform(-0.25, 0.25, 2) * FRAME + walk(rng, count, 0.06, 2) * size[:, None]
        place = np.clip(place, 0.1 * FRAME, 0.9 * FRAME)
        angle, stretch = walk(rng, count, 0.03), np.exp(walk(rng, count, 0.015))
        apart = rng.normal(0, 1.8, 2) + walk(rng, count, 0.08, 2)
        in_front = rng.random() < 0.4
        side = min(height, width) * rng.uniform(0.5, 0.95)
        corner = np.array([rng.uniform(0, width - side), rng.uniform(0, height - side)])
        camera = corner + walk(rng, count, 0.01, 2) * side
        mirror = bool(rng.random() < 0.5)

        frames, boxes = [], []
        for t in range(count):
            frame = Crop(camera[t, 0], camera[t, 1], side).extract(background, FRAME)
            second = (place[t] + apart[t] * size[t], float(size[t]), float(-angle[t]), 1.0, not mirror)
            if not in_front:
                other.paste(frame, *second)
            corners = own.paste(frame, place[t], float(size[t]), float(angle[t]), float(stretch[t]), mirror)
            if in_front:
                other.paste(frame, *second)
            frames.append(frame)
            boxes.append([*corners[:2], *(corners[2:] - corners[:2])])
        return Clip(frames, np.array(boxes))


def walk(rng: np.random.Generator, count: int, step: float, axes: int | None = None) -> FloatArray:
    """A smooth random path ``(count,)`` or ``(count, axes)`` from zero, its speed of deviation ``step`` a frame."""
    noise = rng.standard_normal((count,) if axes is None else (count, axes))
    speed = step * noise
    for t in range(1, count):
        speed[t] = 0.9 * speed[t - 1] + step * 0.44 * noise[t]  # 0.9² + 0.44² = 1: it stays as fast
    return np.asarray(np.cumsum(speed, axis=0) - speed[0])
