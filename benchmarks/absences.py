"""What trackers do while their target is not there, and whether they find it again.

python benchmarks/absences.py CLIPS [--set lost_score=0.2] [--tracker pico,v3=benchmarks.peers.nanotrack:V3]

CLIPS is a folder of sequences (NAME.mp4 beside NAME.txt) that nothing was chosen on. From each, clips are made: 30
frames, then an absence (black frames, frames of another clip, the target painted out), then up to 40 frames more, in
the same place, or mirrored so that the target is elsewhere; one with a cut to the mirrored picture; and one whose
picture rolls sideways, so that the target leaves at one border and enters at the other. A loss is reported by the
tracker's state, if it has one, and by a threshold on its score that flags 5 % of the frames with an IoU of 0.5 or more.
The table is Markdown.

With ``--long N``, clips of N frames are made instead: a sequence played back and forth, with an absence of 25 frames
twenty times, each third time with the target mirrored to the other side afterwards. Told are the returns found within
10 and 50 frames, those neither found nor reported as lost, and the memory at the start and the end.
"""

from __future__ import annotations

import resource
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from rich.progress import track as progress

from fartrack.datasets.sequences import packed_sequences
from fartrack.evaluate.metrics import bootstrap
from fartrack.evaluate.tables import new_table, print_paragraphs
from fartrack.evaluate.trackers import AnyTracker, as_track, parse_trackers
from fartrack.geometry import FloatArray, Image, iou

BEFORE, AFTER, MOST = 30, 40, 130
KINDS = (
    *("black 5", "black 25", "black 100", "another clip 25", "painted out 25", "elsewhere after black 25", "cut 0"),
    "around the border 0",
)
ROLL = 20  # the picture rolls by this part of its width a frame
TIMES, GAP = 20, 25  # absences of a long clip, and their length
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


def rolled(image: Image, box: FloatArray, shift: int) -> tuple[Image, FloatArray]:
    """The picture moved to the left, what leaves there enters at the right; NaN while the target is cut in two."""
    width = image.shape[1]
    x = (box[0] - shift) % width
    moved = np.array([x, *box[1:]]) if x + box[2] <= width else ABSENT
    return np.roll(image, -shift, axis=1), moved


class Clip(NamedTuple):
    """A clip whose target is gone from frame ``start`` until ``back``; its boxes are NaN meanwhile."""

    images: list[Image]
    truth: FloatArray
    start: int
    back: int


def make(kind: str, images: Sequence[Image], boxes: FloatArray, others: Sequence[Image]) -> Clip:
    """A clip with an absence of a kind."""
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
    elif name == "around the border":
        step = images[0].shape[1] // ROLL
        after = [rolled(*pair, min(i, ROLL // 2) * step) for i, pair in enumerate(after)]
        hidden = [i for i, (_, box) in enumerate(after) if not np.isfinite(box).all()]
        count = hidden[-1] + 1 if hidden else 0
        truth = np.array([*boxes[:start], *(box for _, box in after)])
        return Clip([*images[:start], *(image for image, _ in after)], truth, start, start + count)
    truth = [*boxes[:start], *[ABSENT] * count, *(box for _, box in after)]
    return Clip([*images[:start], *gap, *(image for image, _ in after)], np.array(truth), start, start + count)


class Run(NamedTuple):
    """What a tracker did on a clip whose target is gone from frame ``start`` until ``back``."""

    ious: FloatArray  # of each frame, NaN while there is no target
    scores: FloatArray
    lost: NDArray[np.bool_] | None  # whether its state says so; None if it has none
    start: int
    back: int

    def reported(self, threshold: float | None) -> NDArray[np.bool_]:
        """The frames on which a loss is reported: by a score under this, or by the state if it is None."""
        if threshold is None:
            assert self.lost is not None
            return self.lost
        return self.scores < threshold


def run(tracker: AnyTracker, clip: Clip) -> Run:
    """Follow the target from the first frame of a clip on."""
    tracker.init(clip.images[0], clip.truth[0])
    tracks = [as_track(tracker.update(image)) for image in clip.images[1:]]
    ious = [
        1.0,
        *(
            float(iou(t.box, box)) if np.isfinite(box).all() else np.nan
            for t, box in zip(tracks, clip.truth[1:], strict=True)
        ),
    ]
    known = getattr(getattr(tracker, "settings", None), "lost_score", 0) > 0
    lost = np.array([False, *(t.state == "lost" for t in tracks)]) if known else None
    return Run(np.array(ious), np.array([1.0, *(t.score for t in tracks)]), lost, clip.start, clip.back)


def long_clip(
    images: Sequence[Image], boxes: FloatArray, others: Sequence[Image], count: int
) -> Iterator[tuple[Image, FloatArray, bool]]:
    """Frames, boxes, and whether an absence has just ended, of a long clip with absences."""
    order = [*range(len(images)), *range(len(images) - 2, 0, -1)]
    kinds = (
        lambda i: np.zeros_like(images[i]),
        lambda i: others[i % len(others)],
        lambda i: without_target(images[i], boxes[i]),
    )
    place, between, mirror = 0, count // TIMES, False
    for number in range(count):
        phase, turn = number % between, number // between
        i = order[place % len(order)]
        if phase >= between - GAP:
            yield cv2.resize(kinds[turn % 3](i), images[i].shape[1::-1]), ABSENT, False
            if turn % 3 != 2:  # a painted out target moves on
                continue
        else:
            mirror = turn % 3 == 2 if phase == 0 else mirror
            yield *(mirrored(images[i], boxes[i]) if mirror else (images[i], boxes[i])), phase == 0 and turn > 0
        place += 1


def run_long(tracker: AnyTracker, clip: Iterator[tuple[Image, FloatArray, bool]]) -> list[str]:
    """A row of the table of long clips."""
    image, box, _ = next(clip)
    tracker.init(image, box)
    returns: list[list[tuple[bool, bool]]] = []
    ious, before = [], memory()
    for image, box, back in clip:
        found = as_track(tracker.update(image))
        here = np.isfinite(box).all()
        if back:
            returns.append([])
        if here:
            ious.append(float(iou(found.box, box)))
            if returns:
                returns[-1].append((ious[-1] >= 0.5, found.state == "lost"))
    within = [sum(any(good for good, _ in rows[:n]) for rows in returns) for n in (10, 50)]
    missed = sum(not any(good or lost for good, lost in rows[:50]) for rows in returns)
    mean = f"{np.mean(ious):.3f}"
    return [mean, str(len(returns)), *map(str, within), str(missed), f"{before:.0f} → {memory():.0f}"]


def memory() -> float:
    """Memory of this process that is in use, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


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
    long: Annotated[int, typer.Option(help="frames of long clips, which are made instead")] = 0,
) -> None:
    sequences = packed_sequences(clips)[::every]
    specs = parse_trackers(tracker, settings=tuple(settings or ()))
    if long:
        table = new_table("", "AO", "returns", "found in 10", "found in 50", "neither found nor lost", "memory, MB")
        for place, sequence in enumerate(progress(sequences, "tracking")):
            images = [image for image, _ in zip(sequence.frames(), range(MOST), strict=False)]
            others = [image for image, _ in zip(sequences[place - 1].frames(), range(GAP), strict=False)]
            for name, spec in specs.items():
                clip = long_clip(images, sequence.boxes[: len(images)], others, long)
                table.add_row(f"{name}, {sequence.name}", *run_long(spec.open(), clip))
        print_paragraphs(f"Clips of {long} frames.", table)
        return
    results: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for place, sequence in enumerate(progress(sequences, "tracking")):
        boxes = sequence.boxes[:MOST]
        if len(boxes) < 60 or not np.isfinite(boxes).all() or boxes[:, 2:].min() <= 1:
            continue
        images = [image for image, _ in zip(sequence.frames(), boxes, strict=False)]
        others = [image for image, _ in zip(sequences[(place + 3) % len(sequences)].frames(), range(25), strict=False)]
        for kind in KINDS:
            shown = make(kind, images, boxes, others)
            for name, spec in specs.items():
                done = run(spec.open(), shown)
                if np.nanmean(done.ious[done.start - 5 : done.start]) >= 0.5:  # else it was lost before
                    results[name, kind].append(done)
    summary = new_table("", *KINDS, "false alarms")
    for name in specs:
        runs = [one for kind in KINDS for one in results[name, kind]]
        threshold = float(np.quantile(np.concatenate([one.scores[one.ious >= 0.5] for one in runs]), 0.05))
        found, confident = [], []
        for kind in KINDS:
            rows = results[name, kind]
            # A target that is cut in two at the border until the end never comes back.
            whole = [one for one in rows if len(one.ious) > one.back + 10]
            returns = [float((one.ious[one.back : one.back + 11] >= 0.5).any()) for one in whole]
            sure = [((one.scores >= 0.8) & ~(one.ious >= 0.2))[one.start :] for one in rows]
            found.append(f"{bootstrap(returns)} of {len(returns)}")
            confident.append(f"{np.mean([longest(flags) > 30 for flags in sure]):.2f}")
        for least in ([None] if runs[0].lost is not None else []) + [threshold]:
            what = "state" if least is None else f"score under {threshold:.2f}"
            reported = []
            for kind in KINDS:
                share = np.mean([one.reported(least)[one.start : one.back].any() for one in results[name, kind]])
                reported.append("" if kind.startswith("cut") else f"{share:.2f}")
            false = np.concatenate([one.reported(least)[one.ious >= 0.5] for one in runs])
            summary.add_row(f"{name}: loss reported by {what}", *reported, f"{false.mean():.3f}")
        summary.add_row(f"{name}: found within 10 frames", *found, "")
        summary.add_row(f"{name}: confident (0.8) elsewhere for over 30 frames", *confident, "")
    counts = ", ".join(f"{kind}: {len(results[next(iter(specs)), kind])}" for kind in KINDS)
    print_paragraphs(f"Shares of clips (their numbers: {counts}).", summary)


if __name__ == "__main__":
    typer.run(main)
