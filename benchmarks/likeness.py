"""How well the features of templates tell a target from what surrounds it, layer by layer.

python benchmarks/likeness.py CLIPS [--model pico]

CLIPS is a folder of sequences (NAME.mp4 beside NAME.txt) that the model was not trained on. From every tenth frame a
template is taken of the target, of two other places of the same frame, and of the target painted over; each is compared
with the first frame's template as the tracker does (``Template.likeness``). The AUC is the chance that the target's own
template looks more like the first than another does. The table is Markdown.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from rich.progress import track as progress

from absences import without_target
from fartrack import load
from fartrack.api import DEFAULT_MODEL
from fartrack.datasets.sequences import packed_sequences
from fartrack.engines.base import encode_templates
from fartrack.evaluate.tables import new_table, print_paragraphs
from fartrack.geometry import Crop, FloatArray, Image, iou
from fartrack.tracking import templates
from fartrack.tracking.templates import Template
from fartrack.tracking.tracker import Tracker

EVERY, MOST = 10, 121


def take(tracker: Tracker, image: Image, box: FloatArray, identity: int) -> tuple[Image, FloatArray, FloatArray]:
    """What a template of an image box holds: its crop, the box in it, and the ``kv_cache``."""
    config = tracker.engine.config
    window = Crop.template(box, config.template_factor)
    crop = cv2.cvtColor(window.extract(image, config.template_size), cv2.COLOR_BGR2RGB)
    corners = window.to_crop(box).clip(0, 1).astype(np.float32)
    (kv_cache,) = encode_templates(tracker.engine, crop[None], np.array([identity]), corners[None])
    return crop, corners, kv_cache


def auc(good: FloatArray, bad: FloatArray) -> float:
    """The chance that one of the good is above one of the bad; ties count half."""
    return float((good[:, None] > bad).mean() + (good[:, None] == bad).mean() / 2)


def main(clips: Path, model: Annotated[str, typer.Option(help="a model or its folder")] = DEFAULT_MODEL) -> None:
    """See the module."""
    tracker, rng = load(model, threads=1), np.random.default_rng(0)
    found: dict[tuple[int, str], list[float]] = defaultdict(list)
    for sequence in progress(packed_sequences(clips), "encoding"):
        boxes, first = sequence.boxes[:MOST], None
        for number, (image, box) in enumerate(zip(sequence.frames(), boxes, strict=False)):
            if number % EVERY or not np.isfinite(box).all() or box[2:].min() < 2:
                continue
            if first is None:
                first = take(tracker, image, box, 0)
                continue
            room = np.maximum(np.array(image.shape[1::-1]) - box[2:], 1)
            places = [np.array([*rng.uniform(0, room), *box[2:]]) for _ in range(8)]
            apart = [place for place in places if iou(place, box) < 0.05][:2]
            shown = [("target", image, box), ("painted over", without_target(image, box), box)]
            for what, picture, place in [*shown, *(("elsewhere", image, place) for place in apart)]:
                other = take(tracker, picture, place, tracker.engine.config.identity(1))
                for layer in range(len(first[2])):
                    templates.LIKENESS_LAYER = layer
                    one, two = (Template.encoded(0, crop, at, 0, cache) for crop, at, cache in (first, other))
                    found[layer, what].append(one.likeness(two))
    table = new_table("layer", "AUC, elsewhere", "AUC, painted over", "targets under 0.5", "painted over under 0.5")
    for layer in sorted({layer for layer, _ in found}):
        target, elsewhere, painted = (np.array(found[layer, what]) for what in ("target", "elsewhere", "painted over"))
        name = f"{layer // 2 + 1}, {('keys', 'values')[layer % 2]}"
        aucs = (f"{auc(target, other):.3f}" for other in (elsewhere, painted))
        shares = (f"{(likenesses < 0.5).mean():.3f}" for likenesses in (target, painted))
        table.add_row(name, *aucs, *shares)
    count = len(found[0, "target"])
    print_paragraphs(f"{model}, {count} templates of targets", table)


if __name__ == "__main__":
    typer.run(main)
