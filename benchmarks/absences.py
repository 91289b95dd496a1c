"""What trackers do while their target is not there, and whether they find it again.

python benchmarks/absences.py CLIPS [--set lost_score=0.2] [--tracker pico,v3=benchmarks.peers.nanotrack:V3]

CLIPS is a folder of sequences (NAME.mp4 beside NAME.txt) that nothing was chosen on. From each, clips are made: 30
frames, then an absence (black frames, frames of another clip, the target painted out), then up to 40 frames more, in
the same place, or mirrored so that the target is elsewhere; and one with a cut to the mirrored picture. A tracker with
states reports a loss by its state; for one without, by a threshold on its score that flags 5 % of the frames with an
IoU of 0.5 or more. The table is Markdown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from rich.progress import track as progress

from fartrack.datasets.sequences import packed_sequences
from fartrack.evaluate.metrics import bootstrap
from fartrack.evaluate.tables import new_table, print_paragraphs
from fartrack.evaluate.trackers import AnyTracker, as_track, parse_trackers
from fartrack.geometry import FloatArray, Image, iou

BEFORE, AFTER, MOST = 30, 40, 130
KINDS = ("black 5", "black 25", "black 100", "another clip 25", "painted out 25", "elsewhere after black 25", "cut 0")
ABSENT: FloatArray = np.full(4, np.nan)


def without_target(image: Image, box: FloatArray) -> Image:
    """The picture with what is in the box, and a little more, painted over from its surroundings."""
    x, y, w, h = box
    x0, y0, x1, y1 = (max(int(v), 0) for v in (x - 0.15 * w, y - 0.15 * h, x + 1.15 * w, y + 1.15 * h))
    hole = np.zeros(image.shape[:2], np.uint8)
    hole[y0:y1, x0:x1] = 255
    scale = min(160 / max(hole.shape), 1)
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    holes = cv2.resize(hole, small.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    filled = cv2.resize(cv2.inpaint(small, holes, 3, cv2.INPAINT_TELEA), image.shape[1::-1])
    weight = cv2.GaussianBlur(hole, (0, 0), 2)[..., None] / 255
    noise = np.random.default_rng(0).normal(0, 2, image.shape)
    return np.clip(image * (1 - weight) + (filled + noise) * weight, 0, 255).astype(np.uint8)


def mirrored(image: Image, box: FloatArray) -> tuple[Image, FloatArray]:
    """Left and right exchanged."""
    x, y, w, h = box
    return np.ascontiguousarray(image[:, ::-1]), np.array([image.shape[1] - x - w, y, w, h])


def make(
    kind: str, images: Sequence[Image], boxes: FloatArray, others: Sequence[Image]
) -> tuple[list[Image], FloatArray, int]:
    """A clip with an absence: its frames, boxes (NaN while there is no target), and the frame on which it is back."""
    name, _, length = kind.rpartition(" ")
    start, count = min(BEFORE, len(images) - 20), int(length)
    rest = start
    if name == "another clip":
        gap = [cv2.resize(others[i % len(others)], images[0].shape[1::-1]) for i in range(count)]
    elif name == "painted out":
        count = min(count, len(images) - start - 20)
        gap = [without_target(images[start + i], boxes[start + i]) for i in range(count)]
        rest += count
    else:
        gap = [np.zeros_like(images[0])] * count
    after = [(images[i], boxes[i]) for i in range(rest, min(rest + AFTER, len(images)))]
    if name in ("cut", "elsewhere after black"):
        after = [mirrored(*pair) for pair in after]
    truth = [*boxes[:start], *[ABSENT] * count, *(box for _, box in after)]
    return [*images[:start], *gap, *(image for image, _ in after)], np.array(truth), start + count


def run(tracker: AnyTracker, images: Sequence[Image], truth: FloatArray) -> tuple[FloatArray, FloatArray, list[str]]:
    """IoU of each frame (NaN while there is no target), score, and state (empty if the tracker has none)."""
    tracker.init(images[0], truth[0])
    tracks = [as_track(tracker.update(image)) for image in images[1:]]
    ious = [
        1.0,
        *(
            float(iou(t.box, box)) if np.isfinite(box).all() else np.nan
            for t, box in zip(tracks, truth[1:], strict=True)
        ),
    ]
    known = getattr(getattr(tracker, "settings", None), "lost_score", 0) > 0
    states = ["tracking", *(t.state for t in tracks)] if known else []
    return np.array(ious), np.array([1.0, *(t.score for t in tracks)]), states


def longest(flags: Sequence[bool]) -> int:
    """The longest run of true flags."""
    best = now = 0
    for flag in flags:
        now = now + 1 if flag else 0
        best = max(best, now)
    return best


def main(
    clips: Path,
    tracker: Annotated[str, typer.Option(help="as for fartrack eval")] = "pico,pico-fast",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="a setting of ours, such as lost_score=0.2")
    ] = None,
    every: Annotated[int, typer.Option(help="take each N-th sequence")] = 1,
) -> None:
    sequences = packed_sequences(clips)[::every]
    specs = parse_trackers(tracker, settings=tuple(settings or ()))
    results = defaultdict(list)
    for place, sequence in enumerate(progress(sequences, "tracking")):
        boxes = sequence.boxes[:MOST]
        if len(boxes) < 60 or not np.isfinite(boxes).all() or boxes[:, 2:].min() <= 1:
            continue
        images = [image for image, _ in zip(sequence.frames(), boxes, strict=False)]
        others = [image for image, _ in zip(sequences[(place + 3) % len(sequences)].frames(), range(25), strict=False)]
        for kind in KINDS:
            shown, truth, back = make(kind, images, boxes, others)
            for name, spec in specs.items():
                ious, scores, states = run(spec.open(), shown, truth)
                start = min(BEFORE, len(images) - 20)
                if np.nanmean(ious[start - 5 : start]) >= 0.5:  # else it was lost before
                    results[name, kind].append((ious, scores, states, start, back))
    summary = new_table("", *KINDS, "false alarms")
    for name in specs:
        runs = [one for kind in KINDS for one in results[name, kind]]
        good = np.concatenate([scores[ious >= 0.5] for ious, scores, *_ in runs])
        threshold = np.quantile(good, 0.05)
        reported, found, confident = [], [], []
        for kind in KINDS:
            rows = results[name, kind]
            lost = [(np.array(states) == "lost") if states else scores < threshold for _, scores, states, *_ in rows]
            if not kind.startswith("cut"):
                losses = [float(flags[start:back].any()) for flags, (*_, start, back) in zip(lost, rows, strict=True)]
            returns = [float((ious[back : back + 11] >= 0.5).any()) for ious, *_, back in rows]
            wrong = [
                float(longest((scores[start:] >= 0.8) & ~(ious[start:] >= 0.2)) > 30)
                for ious, scores, _, start, _ in rows
            ]
            reported.append("" if kind.startswith("cut") else f"{np.mean(losses):.2f}")
            found.append(str(bootstrap(returns)))
            confident.append(f"{np.mean(wrong):.2f}")
        flags = np.concatenate(
            [(np.array(s) == "lost")[i >= 0.5] if s else c[i >= 0.5] < threshold for i, c, s, *_ in runs]
        )
        summary.add_row(f"{name}: loss reported", *reported, f"{flags.mean():.3f}")
        summary.add_row(f"{name}: found within 10 frames", *found, "")
        summary.add_row(f"{name}: confident (0.8) elsewhere for over 30 frames", *confident, "")
    counts = ", ".join(f"{kind}: {len(results[next(iter(specs)), kind])}" for kind in KINDS)
    print_paragraphs(f"Shares of clips (their numbers: {counts}).", summary)


if __name__ == "__main__":
    typer.run(main)
