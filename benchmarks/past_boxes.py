"""How much of an error of the past boxes stays in the next one, and what the tracker's own templates cost it.

python benchmarks/past_boxes.py CLIPS [--model pico,other=FOLDER] [--step 10]

CLIPS is a folder of sequences (NAME.mp4 beside NAME.txt). On every ``--step``-th frame the network is asked once, with
templates of true boxes (up to five, spread evenly over the frames before) and the true past boxes; then again with all
past boxes wrong in the same way: moved (by a normal deviation of 0.25 sizes), of another size, or of another aspect
(sides off by logarithms of deviation 0.25). The search window lies on the wrong box, as it does when tracking. The
slope is the share of the error that is in the box found, beside what it was from the true past boxes: 0 for a network
that looks, 1 for one that copies. Of each sequence it is the median over the frames.

Then each sequence is tracked from its first frame, once as it is and once with templates of true boxes at the model's
interval. Results are means over sequences, each counting once, with 95 % intervals.
"""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import typer
from numpy.typing import NDArray
from rich.progress import track as progress

from fartrack.datasets.sequences import packed_sequences
from fartrack.evaluate.metrics import bootstrap, overlaps, paired, present
from fartrack.evaluate.tables import new_table, print_paragraphs
from fartrack.evaluate.trackers import parse_trackers
from fartrack.geometry import Crop, FloatArray, Image, iou
from fartrack.model.vocabulary import encode
from fartrack.tracking.templates import TemplateMemory
from fartrack.tracking.tracker import Tracker, read

DEVIATION = 0.25
KINDS = ("place", "size", "aspect")
LEAST = 0.05
"""Smaller errors are not asked about, since a share of them says nothing."""


def wrong(boxes: FloatArray, kind: str, error: float, direction: FloatArray) -> FloatArray:
    """Boxes ``(n, 4)`` x, y, w, h with the same error of one kind."""
    sides, center = boxes[:, 2:], boxes[:, :2] + boxes[:, 2:] / 2
    if kind == "place":
        center = center + error * direction * np.sqrt(sides.prod(1, keepdims=True))
    else:
        sides = sides * np.exp(error * np.array([1, 1 if kind == "size" else -1]))
    return np.concatenate([center - sides / 2, sides], axis=1)


def difference(box: FloatArray, other: FloatArray, kind: str, direction: FloatArray) -> float:
    """The error of that kind of a box against another."""
    if kind == "place":
        apart = box[:2] + box[2:] / 2 - other[:2] - other[2:] / 2
        return float(apart @ direction / np.sqrt(other[2:].prod()))
    wide, high = np.log(box[2:] / other[2:])
    return float(wide + high if kind == "size" else wide - high) / 2


class Asked:
    """Single questions to a tracker's network about one sequence."""

    def __init__(self, tracker: Tracker, images: list[Image], boxes: FloatArray) -> None:
        self.tracker, self.images, self.boxes = tracker, images, boxes

    def templates(self, frame: int) -> NDArray[np.float32]:
        """The ``kv_cache`` of true templates before a frame."""
        seen = np.flatnonzero(present(self.boxes[:frame]))
        count = min(self.tracker.settings.templates, len(seen))
        chosen = seen[np.linspace(0, len(seen) - 1, count).round().astype(int)]
        identity = self.tracker.engine.config.identity
        taken = (
            self.tracker._take_template(self.images[i], self.boxes[i], int(i), identity(slot))
            for slot, i in enumerate(chosen)
        )
        return self.tracker.prepared(TemplateMemory(count, count, tuple(taken))).kv_cache

    def answer(self, frame: int, past: FloatArray, kv_cache: NDArray[np.float32]) -> FloatArray:
        """The image box found on a frame, given past boxes."""
        config = self.tracker.engine.config
        window = Crop.around(past[-1], config.search_factor)
        crop = self.tracker._cut(self.images[frame], window, config.search_size)
        tokens = encode(window.to_crop(past[len(past) - config.trajectory :])).reshape(1, -1)
        corners, _ = read(self.tracker.engine.search(crop[None], tokens, kv_cache[None])[0])
        low, high = np.minimum(corners[:2], corners[2:]), np.maximum(corners[:2], corners[2:])
        return window.to_image(np.concatenate([low, np.maximum(high, low + 1e-3)]))


def follow(tracker: Tracker, images: list[Image], boxes: FloatArray, true: bool) -> float:
    """AO over a sequence; with ``true``, every template is of a true box, at the tracker's interval, and none is
    checked against the first."""
    interval = tracker.settings.interval
    if true:  # none of its own
        tracker = Tracker(tracker.engine, replace(tracker.settings, interval=10**9), tracker.color)
    state, found = tracker.start(images[0], boxes[0]), [boxes[0]]
    seen = present(boxes)
    for number, image in enumerate(images[1:], start=1):
        state, track = tracker.step(state, image)
        found.append(np.array(track.box))
        if true and number % interval == 0 and seen[number]:
            template = tracker._take_template(image, boxes[number], number, tracker.engine.config.identity(1))
            state = replace(state, memory=state.memory.add(template))
    seen[0] = False
    return float(overlaps(np.array(found)[seen], boxes[seen]).mean())


def main(
    clips: Path,
    model: Annotated[str, typer.Option(help="as --tracker of fartrack eval")] = "pico",
    step: int = 10,
    seed: int = 0,
) -> None:
    rows: dict[tuple[str, str], list[float]] = defaultdict(list)
    specs, sequences, asked = parse_trackers(model), packed_sequences(clips), 0
    for sequence in progress(sequences, "asking"):
        images = list(sequence.frames())
        boxes = sequence.boxes[: len(images)]
        seen = present(boxes)
        for name, spec in specs.items():
            tracker = cast(Tracker, spec.open())
            one, rng = Asked(tracker, images, boxes), np.random.default_rng(seed)
            shares: dict[str, list[float]] = defaultdict(list)
            for frame in range(4, len(images), step):
                if not seen[frame - 3 : frame + 1].all():
                    continue
                kv_cache, past = one.templates(frame - 3), boxes[frame - 3 : frame]
                right = one.answer(frame, past, kv_cache)
                shares["IoU"].append(float(iou(right, boxes[frame])))
                for kind in KINDS:
                    angle, error = rng.uniform(0, 2 * np.pi), rng.normal(0, DEVIATION)
                    direction = np.array([np.cos(angle), np.sin(angle)])
                    if abs(error) >= LEAST:
                        box = one.answer(frame, wrong(past, kind, error, direction), kv_cache)
                        shares[kind].append(difference(box, right, kind, direction) / error)
                        shares[f"IoU, {kind}"].append(float(iou(box, boxes[frame])))
                        asked += 1
            if not all(shares[kind] for kind in KINDS):
                continue
            for kind, values in shares.items():
                rows[name, kind].append(float(np.mean(values) if kind.startswith("IoU") else np.median(values)))
            for kind, true in (("AO", False), ("AO, true templates", True)):
                rows[name, kind].append(follow(tracker, images, boxes, true))
    slopes = new_table("share of an error that stays", *KINDS, "IoU of a step", *(f"{kind} wrong" for kind in KINDS))
    own = new_table("AO", "its own templates", "true templates", "difference")
    for name in specs:
        kinds = [*KINDS, "IoU", *(f"IoU, {kind}" for kind in KINDS)]
        slopes.add_row(name, *(str(bootstrap(rows[name, kind])) for kind in kinds))
        pair = rows[name, "AO"], rows[name, "AO, true templates"]
        own.add_row(name, *map(str, map(bootstrap, pair)), str(paired(pair[1], pair[0])))
    title = f"{len(rows[next(iter(specs)), 'AO'])} sequences, {asked // len(specs)} questions about a wrong past"
    print_paragraphs(title, slopes, own)


if __name__ == "__main__":
    typer.run(main)
