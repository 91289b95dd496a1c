"""Does the network copy its trajectory, and does it switch to a distractor that crosses its target?

python benchmarks/shortcuts.py VAL [--model pico] [--sequences N] [--crossings K] [--seed S] [--json FILE]

VAL is a folder of sequences (NAME.mp4 beside NAME.txt). First every sequence is tracked as it is, without trajectory
tokens, and with wrong ones: on each frame all past boxes are shifted by one random offset (Laplace, with a scale of a
quarter of the crop's side, which is the target's own size). A network that copies its past boxes fails with these.

Then a distractor, which is a copy of the target from the first frame, is drawn into the frames and moves in a straight
line across the target: it enters at the border of the search window, is on the target after 10 frames, leaves the
window after 20 and goes on for 10 more. Each sequence has K such crossings at random times, in turn in front of the
target and behind it. Results are of the frames from the start of the crossing on, paired with the same frames without
it.

Results are means over sequences, each counting once, with 95 % intervals. A tracker has switched to the distractor if
its IoU was at least 0.5 on the frame before, and is under 0.1 at the end of the 30 frames.
"""

import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from rich.progress import Progress

from fartrack.config import from_dict
from fartrack.datasets.sequences import Sequence, packed_sequences
from fartrack.engines.base import Engine
from fartrack.engines.opening import open_engine
from fartrack.errors import FartrackError
from fartrack.evaluate.metrics import bootstrap, overlaps, paired, present
from fartrack.evaluate.runner import Result, run_sequence
from fartrack.evaluate.tables import describe, new_table, print_paragraphs
from fartrack.geometry import FloatArray, Image, iou
from fartrack.model.vocabulary import NO_TRAJECTORY, centers, encode
from fartrack.packages import open_package
from fartrack.tracking.settings import TrackerSettings
from fartrack.tracking.tracker import Tracker

Tokens = NDArray[np.int64]
Change = Callable[[Tokens, np.random.Generator], Tokens]

OFFSET = 0.25
"""Scale of the offset of the wrong trajectory, in sides of the search window."""

CROSSING, WINDOW = 20, 30
"""Frames in which the distractor crosses the search window, and in which it is visible."""

REACH = 2.0
"""Distance of the distractor from the target at either end of the crossing, in sqrt(w · h): half a search window."""

UNDISTURBED = 3
"""Frames that are tracked before a crossing may begin."""


# --- the trajectory ---------------------------------------------------------------------------------------


class OtherTrajectory:
    """An engine that sees another trajectory than the tracker's."""

    def __init__(self, engine: Engine, change: Change, rng: np.random.Generator) -> None:
        self.engine, self.config = engine, engine.config
        self.change, self.rng = change, rng

    def begin_templates(self, *known: Any) -> Any:
        return self.engine.begin_templates(*known)

    def finish_templates(self, tokens: Any) -> Any:
        return self.engine.finish_templates(tokens)

    def search(self, crops: Any, trajectory: Tokens, kv_cache: Any) -> Any:
        return self.engine.search(crops, self.change(trajectory, self.rng), kv_cache)

    def search_scored(self, crops: Any, trajectory: Tokens, kv_cache: Any) -> Any:
        return self.engine.search_scored(crops, self.change(trajectory, self.rng), kv_cache)


def removed(tokens: Tokens, rng: np.random.Generator) -> Tokens:
    """No trajectory at all."""
    return np.full_like(tokens, NO_TRAJECTORY)


def shifted(tokens: Tokens, rng: np.random.Generator) -> Tokens:
    """All boxes ``(B, 4 · N)`` of a frame by the same random offset."""
    offset = rng.laplace(0, OFFSET, (len(tokens), 1, 2))
    return encode(centers(tokens).reshape(len(tokens), -1, 2) + offset).reshape(tokens.shape)


CHANGES: dict[str, Change | None] = {
    "as it is": None,
    "trajectory removed": removed,
    "trajectory wrong": shifted,
}


# --- the distractor ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Crossed(Sequence):
    """A sequence with a distractor that crosses the target.

    Attributes:
        start: the first frame with the distractor.
        direction: of its motion, in radians.
        behind: the target occludes it where they overlap, not the other way round.
    """

    start: int = 1
    direction: float = 0.0
    behind: bool = False

    def distractor(self, index: int) -> FloatArray | None:
        """The distractor's box x, y, w, h on a frame; None where there is none."""
        if not self.start <= index < self.start + WINDOW:
            return None
        middle = self.start + CROSSING // 2
        x, y, w, h = self.boxes[middle]
        way = REACH * np.sqrt(w * h) * (index - middle) / (CROSSING / 2)
        return np.array([x + way * np.cos(self.direction), y + way * np.sin(self.direction), w, h])

    def frames(self) -> Iterator[Image]:
        """The frames with the distractor drawn into them."""
        first: Image | None = None
        for index, frame in enumerate(super().frames()):
            first = frame if first is None else first
            box = self.distractor(index)
            if box is not None:
                hidden = self.boxes[index] if self.behind else None
                frame = paste(first, self.boxes[0], frame, box, hidden)
            yield frame


def paste(source: Image, origin: FloatArray, frame: Image, box: FloatArray, hidden: FloatArray | None) -> Image:
    """The frame with the content of the source's box ``origin`` copied into ``box``, as a soft ellipse.

    Args:
        source: uint8 BGR.
        origin: x, y, w, h in pixels of the source.
        frame: uint8 BGR.
        box: x, y, w, h in pixels of the frame.
        hidden: box of what is in front of it, or None.
    """
    height, width = frame.shape[:2]
    mask = ellipse(box, width, height)
    if hidden is not None:
        mask = mask * (1 - ellipse(hidden, width, height))
    scale = box[2:] / origin[2:]
    # from pixel centers to pixel centers, which are half a pixel from the corner that boxes count from
    shift = box[:2] - 0.5 - scale * (origin[:2] - 0.5)
    matrix = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
    copy = cv2.warpAffine(source, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    mixed = frame + mask[..., None] * (copy.astype(np.float64) - frame)
    return np.asarray(mixed.round(), np.uint8)


def ellipse(box: FloatArray, width: int, height: int) -> FloatArray:
    """``(height, width)`` 1 in the ellipse within a box, 0 outside, with a soft border."""
    x, y, w, h = box
    across = (np.arange(width) + 0.5 - x - w / 2) / (w / 2)
    down = (np.arange(height) + 0.5 - y - h / 2) / (h / 2)
    return np.asarray(np.clip((1.1 - np.hypot(across, down[:, None])) / 0.2, 0, 1))


def cross(sequence: Sequence, number: int, rng: np.random.Generator) -> Crossed | None:
    """A sequence with its ``number``-th crossing; None if the target is nowhere visible for long enough."""
    seen = present(sequence.boxes)
    starts = [s for s in range(UNDISTURBED, sequence.length - WINDOW + 1) if seen[s - 1 : s + WINDOW].all()]
    if not starts:
        return None
    start, direction, behind = int(rng.choice(starts)), float(rng.uniform(0, 2 * np.pi)), number % 2 == 1
    return Crossed(sequence.name, sequence.source, sequence.boxes, start=start, direction=direction, behind=behind)


@dataclass(frozen=True)
class Crossing:
    """The result after a crossing, and that of the same frames without it.

    Attributes:
        sequence: its name.
        behind: see :class:`Crossed`.
        ao: mean IoU of the frames from the start of the crossing on.
        ao_without: the same of the undisturbed run.
        switched: whether the tracker switched to the distractor; None if it was off the target before.
        lost_without: whether the undisturbed run lost the target in the same frames; None likewise.
    """

    sequence: str
    behind: bool
    ao: float
    ao_without: float
    switched: bool | None
    lost_without: bool | None


def judge(crossed: Crossed, disturbed: Result, undisturbed: Result) -> Crossing:
    """Both runs from the start of the crossing on."""
    values: list[Any] = []
    truth = crossed.boxes[crossed.start - 1 :]
    for result in (disturbed, undisturbed):
        boxes = result.boxes[crossed.start - 1 :]
        before, after = iou(boxes[[0, WINDOW]], truth[[0, WINDOW]])
        values.append((float(np.nanmean(overlaps(boxes, truth)[1:])), bool(after < 0.1) if before >= 0.5 else None))
    (ao, switched), (ao_without, lost_without) = values
    return Crossing(crossed.name, crossed.behind, ao, ao_without, switched, lost_without)


# --- all of it --------------------------------------------------------------------------------------------


def main(
    val: Path,
    model: str = "pico",
    sequences: Annotated[int, typer.Option(min=2, help="the first so many")] = 10**6,
    crossings: Annotated[int, typer.Option(min=1, help="of each sequence, in turn in front and behind")] = 2,
    seed: int = 0,
    output: Annotated[Path | None, typer.Option("--json", help="every sequence's figures")] = None,
) -> None:
    """Track with every change and print the tables."""
    package = open_package(model)
    engine, settings = open_engine(package, "onnxruntime", 1, "fp32"), from_dict(TrackerSettings, package.settings)
    clips = packed_sequences(val)[:sequences]
    if not engine.config.trajectory:
        raise FartrackError(f"{model} has no trajectory tokens to change.")
    with Progress() as progress:
        task = progress.add_task("tracking", total=sum(clip.length for clip in clips) * (len(CHANGES) + 2 * crossings))
        report = partial(progress.advance, task)

        def run(clip: Sequence, change: Change | None) -> Result:
            rng = np.random.default_rng([seed, zlib.crc32(clip.name.encode())])
            changed = OtherTrajectory(engine, change, rng) if change else engine
            return run_sequence(Tracker(changed, settings), clip, report)

        plain = {name: [run(clip, change) for clip in clips] for name, change in CHANGES.items()}
        crossed = []
        for place, clip in enumerate(clips):
            rng = np.random.default_rng([seed, zlib.crc32(clip.name.encode()), 1])
            crossed += [(place, each) for number in range(crossings) if (each := cross(clip, number, rng))]
        found = {
            name: [judge(each, run(each, CHANGES[name]), plain[name][place]) for place, each in crossed]
            for name in ("as it is", "trajectory removed")
        }
    aos = {
        name: [float(np.nanmean(overlaps(r.boxes, clip.boxes)[1:])) for r, clip in zip(results, clips, strict=True)]
        for name, results in plain.items()
    }
    table = new_table(f"{model}, {len(clips)} sequences", "AO", "AO minus as it is")
    for name, values in aos.items():
        difference = describe(paired(values, aos["as it is"])) if name != "as it is" else ""
        table.add_row(name, str(bootstrap(values)), difference)
    heads = ("AO from then on", "without it", "difference", "switched to it", "lost without it", "crossings")
    after = new_table("a distractor crosses", *heads)
    for name, judged in found.items():
        kinds = {"in front": [c for c in judged if not c.behind], "behind": [c for c in judged if c.behind]}
        for kind, part in {**kinds, "all": judged}.items():
            if part:  # a single crossing is in front
                after.add_row(f"{kind}, {name}", *cells(part))
    print_paragraphs(table, after)
    if output:
        record: dict[str, Any] = {"sequences": [clip.name for clip in clips], "ao": aos}
        record["crossings"] = {name: [asdict(crossing) for crossing in each] for name, each in found.items()}
        output.write_text(json.dumps(record, indent=1))


def cells(crossings: list[Crossing]) -> list[str]:
    """The cells of some crossings, each sequence counting once."""
    ao, without, switched, lost = (
        by_sequence(crossings, name) for name in ("ao", "ao_without", "switched", "lost_without")
    )
    difference = describe(paired(ao, without))
    counts = f"{len(crossings)} of {len(ao)} sequences"
    return [str(bootstrap(ao)), str(bootstrap(without)), difference, share(switched), share(lost), counts]


def by_sequence(crossings: list[Crossing], name: str) -> list[float]:
    """The mean of a field over each sequence's crossings, without those where it is None."""
    values: dict[str, list[float]] = {}
    for crossing in crossings:
        if getattr(crossing, name) is not None:
            values.setdefault(crossing.sequence, []).append(float(getattr(crossing, name)))
    return [float(np.mean(each)) for each in values.values()]


def share(values: list[float]) -> str:
    """A mean over sequences, and of how many."""
    return f"{bootstrap(values)} of {len(values)}" if values else ""


if __name__ == "__main__":
    typer.run(main)
