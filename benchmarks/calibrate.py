"""How far a tracker's score can be believed: it is fitted to the chance that a box is good, and measured.

A box is good where its IoU with the truth is at least 0.5, and has failed where that is under 0.1. Frames without a
target, and the first ones, whose box is given, are left out. Every sequence weighs the same, whatever its length.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fartrack.errors import FartrackError
from fartrack.evaluate.metrics import Interval, overlaps, present
from fartrack.evaluate.runner import Evaluation
from fartrack.evaluate.tables import new_table, print_paragraphs
from fartrack.files import write_whole
from fartrack.geometry import FloatArray
from fartrack.tracking.calibration import EDGE, Calibration, logit, sigmoid

GOOD, FAILED = 0.5, 0.1
FALSE_ALARMS = 0.05
"""Share of the good frames that may be flagged."""

BINS = 10
"""Of predicted chances, all equally wide."""

DRAWS = 2000
"""Bootstrap samples of sequences."""


@dataclass(frozen=True, eq=False)
class Frames:
    """The scored frames of all sequences, one after the other.

    Attributes:
        raw: ``(n,)`` scores before any calibration.
        iou: ``(n,)`` of the boxes with the truth.
        sequence: ``(n,)`` the number of the sequence of each, from 0.
    """

    raw: FloatArray
    iou: FloatArray
    sequence: NDArray[np.int64]

    @property
    def good(self) -> NDArray[np.bool_]:
        """``(n,)`` which boxes are good."""
        return self.iou >= GOOD

    @property
    def weight(self) -> FloatArray:
        """``(n,)``; those of one sequence sum to 1."""
        return np.asarray(1 / np.bincount(self.sequence)[self.sequence])

    @property
    def sequences(self) -> int:
        """How many sequences there are."""
        return int(self.sequence.max()) + 1


@dataclass(frozen=True, eq=False)
class Bin:
    """The frames with a predicted chance in one of the ten intervals; shares are weighted as sequences are.

    Attributes:
        frames: how many.
        predicted: their mean predicted chance; NaN without frames.
        observed: the share of them whose boxes are good; NaN without frames.
    """

    frames: int
    predicted: float
    observed: float


@dataclass(frozen=True, eq=False)
class Alarm:
    """What a threshold on the score is worth as an alarm that the target is lost.

    Attributes:
        threshold: raw score under which a frame is flagged: the highest that flags at most 5 % of the good frames.
        caught: share of the failures that it flags.
        auc: chance that a failure has a lower score than a good frame; 0.5 is guessing.
        failures: how many frames failed.
        sequences: in how many sequences.
    """

    threshold: float
    caught: Interval
    auc: Interval
    failures: int
    sequences: int


@dataclass(frozen=True, eq=False)
class Reliability:
    """What :func:`assess` finds.

    Attributes:
        calibration: fitted on all sequences.
        errors: expected calibration error by kind of score, from ``raw`` to ``held out``: each sequence's chances by
            the calibration that is fitted on all others, which is what new videos may expect.
        raw: the bins of the raw score.
        held_out: the bins of the held-out chances.
        alarm: None if there is no failure.
        frames: how many.
        sequences: how many.
    """

    calibration: Calibration
    errors: dict[str, Interval]
    raw: list[Bin]
    held_out: list[Bin]
    alarm: Alarm | None
    frames: int
    sequences: int


def gather(evaluation: Evaluation, calibration: Calibration | None = None) -> Frames:
    """The frames of an evaluation.

    Args:
        evaluation: of one tracker.
        calibration: that its scores have gone through; it is undone.

    Raises:
        FartrackError: the tracker gives no scores from 0 to 1, or fewer than two sequences have a frame to score.
    """
    scores, ious = [], []
    for sequence, result in zip(evaluation.benchmark.sequences, evaluation.results, strict=True):
        if len(sequence.boxes) == len(result.boxes):  # else only the first box is published
            ious.append(overlaps(result.boxes, sequence.boxes))
            scores.append(result.scores[1:][present(sequence.boxes)[1:]])
    kept = [len(values) for values in ious if len(values)]
    if len(kept) < 2:
        raise FartrackError(f"{len(kept)} of the sequences can be scored; a calibration needs two at least.")
    raw = np.concatenate(scores)
    if not ((raw >= 0) & (raw <= 1)).all():  # false for NaN too
        raise FartrackError(f"{evaluation.tracker} has frames without a score from 0 to 1; name another tracker.")
    if calibration is not None:
        raw = calibration.invert(raw)
    return Frames(raw, np.concatenate(ious), np.repeat(np.arange(len(kept)), kept))


def fit(raw: FloatArray, good: NDArray[np.bool_], weight: FloatArray) -> Calibration:
    """The calibration that makes what was seen most likely.

    The targets are Platt's, not quite 0 and 1, so that there is a best slope even where a threshold tells all good
    frames from all others. The loss is convex: Newton's steps, halved while they do not lower it, end at its least.

    Args:
        raw: ``(n,)`` raw scores.
        good: ``(n,)`` which boxes are good.
        weight: ``(n,)`` of the frames.

    Raises:
        FartrackError: all boxes are good or none is, or a higher score does not mean a better box.
    """
    if good.all() or not good.any():
        which = "Every" if good.all() else "No"
        raise FartrackError(f"{which} box has an IoU of at least {GOOD}; give sequences with boxes of both kinds.")
    target = np.where(good, (good.sum() + 1) / (good.sum() + 2), 1 / ((~good).sum() + 2))
    inputs, weight = np.stack([logit(raw, EDGE), np.ones(len(raw))], axis=1), weight / weight.sum()

    def loss(values: FloatArray) -> float:
        z = inputs @ values
        return float(weight @ (np.logaddexp(0, z) - target * z))

    found = np.array([1.0, 0.0])
    for _ in range(100):
        chance = sigmoid(inputs @ found)
        slope = inputs.T @ (weight * (chance - target))
        curvature = (inputs.T * (weight * chance * (1 - chance))) @ inputs + 1e-12 * np.eye(2)
        step = np.linalg.solve(curvature, slope)
        while loss(found - step) > loss(found) and np.abs(step).max() > 1e-9:
            step /= 2
        found = found - step
        if np.abs(step).max() <= 1e-9:
            break
    if found[0] <= 0:
        raise FartrackError("A higher score does not mean a better box here; such a score cannot be calibrated.")
    return Calibration(float(found[0]), float(found[1]))


def hold_out(frames: Frames) -> FloatArray:
    """``(n,)`` the chance of each frame by the calibration that is fitted on all sequences but its own.

    Raises:
        FartrackError: as :func:`fit`.
    """
    chances, good, weight = np.empty(len(frames.raw)), frames.good, frames.weight
    for number in range(frames.sequences):
        own = frames.sequence == number
        chances[own] = fit(frames.raw[~own], good[~own], weight[~own]).apply(frames.raw[own])
    return chances


def bin_of(predicted: FloatArray) -> NDArray[np.int64]:
    """The number of the bin of each chance."""
    return np.minimum((predicted * BINS).astype(np.int64), BINS - 1)


def bins(predicted: FloatArray, frames: Frames) -> list[Bin]:
    """A reliability table: the frames by their predicted chance ``(n,)``."""
    place, weight = bin_of(predicted), frames.weight
    count, total, chance, good = (
        np.bincount(place, values, BINS)
        for values in (np.ones(len(place)), weight, weight * predicted, weight * frames.good)
    )
    with np.errstate(invalid="ignore"):
        rows = np.stack([count, chance / total, good / total], axis=1).tolist()
    return [Bin(int(frames), predicted, observed) for frames, predicted, observed in rows]


def calibration_error(predicted: FloatArray, good: NDArray[np.bool_], weight: FloatArray) -> float:
    """The expected calibration error: over bins of predicted chances, the mean distance between the mean prediction
    and the share of good boxes, each bin by the weight of its frames (Naeini et al. 2015)."""
    gaps = np.bincount(bin_of(predicted), weight * (predicted - good), BINS)
    return float(np.abs(gaps).sum() / weight.sum())


def detect(raw: FloatArray, iou: FloatArray, weight: FloatArray) -> tuple[float, float, float]:
    """Threshold, share of failures caught, and AUC; see :class:`Alarm`. NaN without weight on both kinds of frames."""
    levels, place = np.unique(raw, return_inverse=True)
    good, failed = (np.bincount(place, weight * kind, len(levels)) for kind in (iou >= GOOD, iou < FAILED))
    if not good.sum() or not failed.sum():
        return (np.nan,) * 3
    good, failed = good / good.sum(), failed / failed.sum()
    good_under, failed_under = good.cumsum() - good, failed.cumsum() - failed
    best = np.flatnonzero(good_under <= FALSE_ALARMS + 1e-12)[-1]
    return float(levels[best]), float(failed_under[best]), float(failed @ (1 - good_under - good / 2))


def resample(
    statistic: Callable[[FloatArray], tuple[float, ...]], frames: Frames, seed: int = 0
) -> tuple[Interval, ...]:
    """Statistics of the frames' weights ``(n,)``, and their 95 % intervals by drawing sequences with replacement."""
    rng, count = np.random.default_rng(seed), frames.sequences
    draws = rng.multinomial(count, np.full(count, 1 / count), DRAWS)
    values = [statistic(frames.weight * times[frames.sequence]) for times in draws]
    bounds = np.nanpercentile(values, [2.5, 97.5], axis=0)  # a draw without any failure tells nothing of them
    return tuple(Interval(*map(float, part)) for part in zip(statistic(frames.weight), *bounds, strict=True))


def assess(frames: Frames, calibration: Calibration | None = None) -> Reliability:
    """Fit a calibration to the frames and measure it.

    Args:
        frames: of one tracker.
        calibration: one that the tracker already has, to be measured beside it.

    Raises:
        FartrackError: as :func:`fit`.
    """
    fitted, held_out, good = fit(frames.raw, frames.good, frames.weight), hold_out(frames), frames.good
    kinds = {"raw": frames.raw}
    if calibration is not None:
        kinds["the model's own"] = calibration.apply(frames.raw)
    kinds |= {"fitted": fitted.apply(frames.raw), "held out": held_out}

    def error_of(predicted: FloatArray) -> Interval:
        return resample(lambda weight: (calibration_error(predicted, good, weight),), frames)[0]

    failed, alarm = frames.iou < FAILED, None
    if failed.any():
        threshold, caught, auc = resample(lambda weight: detect(frames.raw, frames.iou, weight), frames)
        alarm = Alarm(threshold.mean, caught, auc, int(failed.sum()), len(np.unique(frames.sequence[failed])))
    return Reliability(
        fitted,
        {kind: error_of(predicted) for kind, predicted in kinds.items()},
        bins(frames.raw, frames),
        bins(held_out, frames),
        alarm,
        len(frames.raw),
        frames.sequences,
    )


def print_reliability(found: Reliability, name: str) -> None:
    """Print the fit, the calibration errors, the reliability table and what the score is worth as an alarm."""
    errors = new_table("score", "expected calibration error")
    for kind, error in found.errors.items():
        errors.add_row(kind, str(error))
    heads = [f"{kind}: {what}" for kind in ("raw", "held out") for what in ("frames", "predicted", "observed")]
    table = new_table("score", *heads)
    for number, pair in enumerate(zip(found.raw, found.held_out, strict=True)):
        cells = [cell for part in pair for cell in _cells(part)]
        table.add_row(f"{number / BINS:.1f} to {(number + 1) / BINS:.1f}", *cells)
    slope, bias = found.calibration.slope, found.calibration.bias
    print_paragraphs(
        f"{name}: {found.frames} frames of {found.sequences} sequences, each of which weighs the same; 95 % intervals "
        "over sequences",
        f"chance of an IoU of at least {GOOD} = sigmoid({slope:.4f} · logit(raw score) {bias:+.4f}), fitted on all; "
        "held out: each sequence by a fit on the others",
        errors,
        table,
        _alarm_text(found),
    )


def _cells(part: Bin) -> list[str]:
    return [str(part.frames), *(f"{value:.3f}" if part.frames else "" for value in (part.predicted, part.observed))]


def _alarm_text(found: Reliability) -> str:
    alarm = found.alarm
    if alarm is None:
        return f"No frame has an IoU under {FAILED}, so there are no failures to catch."
    return (
        f"Failures (IoU under {FAILED}): {alarm.failures} frames of {alarm.sequences} sequences. A raw score under "
        f"{alarm.threshold:.3f} (calibrated: {float(found.calibration.apply(alarm.threshold)):.3f}) catches "
        f"{alarm.caught} of them at {FALSE_ALARMS:.0%} false alarms; AUC {alarm.auc}."
    )


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Put a calibration into a model's ``model.json``, in place of the one that it may have; whole or not at all."""
    path = folder / "model.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["score"] = {name: round(value, 4) for name, value in asdict(calibration).items()}
    write_whole(path, json.dumps(record, indent=1) + "\n")
