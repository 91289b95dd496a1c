"""Fit and measure how far a tracker's score is the chance that its box is right.

python benchmarks/calibrate.py pico --data VAL [--results results] [--plot FILE] [--write]

VAL is a folder of sequences (NAME.mp4 beside NAME.txt). The tracker is any that ``fartrack eval`` takes; results that
are already in the folder are not run again. A box is good where its IoU with the ground truth is at least 0.5, and has
failed where that is under 0.1. First frames and frames without a target do not count. Every sequence weighs the same.

Printed are the expected calibration error (Naeini et al. 2015) of the raw score, of the model's own calibration, of the
fit on the same sequences, and held out (each sequence by a fit on all others, which is what new videos may expect); the
reliability table of the raw score and held out; and what the score is worth as an alarm: the share of failures under a
threshold that 5 % of the good frames are under too, and the AUC. Intervals are a bootstrap over sequences.

With ``--write`` the fit goes into the ``model.json`` of a model folder. The model's scores are different afterwards, so
its results need a new folder.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import ArrayLike, NDArray

from fartrack.errors import FartrackError
from fartrack.evaluate.benchmarks import open_benchmark
from fartrack.evaluate.metrics import Interval, overlaps
from fartrack.evaluate.runner import Evaluation, evaluate
from fartrack.evaluate.tables import new_table, print_paragraphs
from fartrack.evaluate.trackers import parse_trackers
from fartrack.files import write_whole
from fartrack.geometry import FloatArray
from fartrack.model.calibration import EDGE, Calibration, logit, sigmoid
from fartrack.packages import open_package, shipped

GOOD, FAILED, FALSE_ALARMS = 0.5, 0.1, 0.05
BINS, DRAWS = 10, 2000


@dataclass(frozen=True, eq=False)
class Frames:
    """The scored frames of all sequences: ``(n,)`` raw scores, IoU, and the number of the sequence of each, from 0."""

    raw: FloatArray
    iou: FloatArray
    sequence: NDArray[np.int64]

    @property
    def good(self) -> NDArray[np.bool_]:
        return self.iou >= GOOD

    @property
    def weight(self) -> FloatArray:
        """``(n,)``; those of one sequence sum to 1."""
        return 1 / np.bincount(self.sequence)[self.sequence]


def invert(calibration: Calibration, score: ArrayLike) -> FloatArray:
    """The raw scores behind calibrated ones, which are stored with six decimals."""
    return sigmoid((logit(score, 1e-6) - calibration.bias) / calibration.slope)


def gather(evaluation: Evaluation, calibration: Calibration | None = None) -> Frames:
    """The frames of an evaluation; ``calibration``, which its scores have, is undone.

    Raises:
        FartrackError: there are no scores from 0 to 1, or fewer than two sequences with a frame to score.
    """
    scores, ious = [], []
    for sequence, result in zip(evaluation.benchmark.sequences, evaluation.results, strict=True):
        iou = overlaps(result.boxes, sequence.boxes)[1:]
        if not np.isnan(iou).all():
            ious.append(iou[~np.isnan(iou)])
            scores.append(result.scores[1:][~np.isnan(iou)])
    if len(ious) < 2:
        raise FartrackError(f"{len(ious)} of the sequences can be scored; a calibration needs two at least.")
    raw = np.concatenate(scores)
    if not ((raw >= 0) & (raw <= 1)).all():  # false for NaN too
        raise FartrackError(f"{evaluation.tracker} has frames without a score from 0 to 1; name another tracker.")
    raw = raw if calibration is None else invert(calibration, raw)
    return Frames(raw, np.concatenate(ious), np.repeat(np.arange(len(ious)), [len(values) for values in ious]))


def fit(raw: FloatArray, good: NDArray[np.bool_], weight: FloatArray) -> Calibration:
    """Platt scaling by maximum likelihood, with Newton steps that are halved until they lower the convex loss.

    Platt's targets are not quite 0 and 1, so that there is a best slope even if a threshold separates all good frames.

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

    found, step = np.array([1.0, 0.0]), np.ones(2)
    while np.abs(step).max() > 1e-9:
        chance = sigmoid(inputs @ found)
        curvature = (inputs.T * (weight * chance * (1 - chance))) @ inputs + 1e-12 * np.eye(2)
        step = np.linalg.solve(curvature, inputs.T @ (weight * (chance - target)))
        while loss(found - step) > loss(found) and np.abs(step).max() > 1e-9:
            step /= 2
        found = found - step
    if found[0] <= 0:
        raise FartrackError("A higher score does not mean a better box here; such a score cannot be calibrated.")
    return Calibration(float(found[0]), float(found[1]))


def hold_out(frames: Frames) -> FloatArray:
    """``(n,)`` the chance of each frame by the calibration that is fitted on all sequences but its own.

    Raises:
        FartrackError: there is no such fit, as where one sequence alone has boxes that are not good.
    """
    chances, good, weight = np.empty(len(frames.raw)), frames.good, frames.weight
    for number in range(frames.sequence.max() + 1):
        own = frames.sequence == number
        try:
            chances[own] = fit(frames.raw[~own], good[~own], weight[~own]).apply(frames.raw[own])
        except FartrackError as error:  # true of the others, not of all
            raise FartrackError(f"Each sequence is held out of a fit once, and without one of them: {error}") from None
    return chances


def bins(predicted: FloatArray, good: NDArray[np.bool_], weight: FloatArray) -> FloatArray:
    """``(BINS, 4)`` by predicted chance: frames, weight, mean prediction, share of good boxes (NaN without frames)."""
    place = np.minimum((predicted * BINS).astype(np.int64), BINS - 1)
    columns = (np.ones(len(place)), weight, weight * predicted, weight * good)
    count, total, chance, hits = (np.bincount(place, values, BINS) for values in columns)
    with np.errstate(invalid="ignore"):
        return np.stack([count, total, chance / total, hits / total], axis=1)


def calibration_error(predicted: FloatArray, good: NDArray[np.bool_], weight: FloatArray) -> float:
    """The mean distance between mean prediction and share of good boxes over bins, each by its weight."""
    _, total, chance, hits = bins(predicted, good, weight).T
    return float(np.nansum(total * np.abs(chance - hits)) / total.sum())


def detect(raw: FloatArray, iou: FloatArray, weight: FloatArray) -> tuple[float, float, float]:
    """The highest threshold under which at most 5 % of the good frames are; the share of failures under it; and the
    AUC, the chance that a failure has a lower score than a good frame. NaN without frames of both kinds."""
    levels, place = np.unique(raw, return_inverse=True)
    good, failed = (np.bincount(place, weight * kind, len(levels)) for kind in (iou >= GOOD, iou < FAILED))
    if not good.sum() or not failed.sum():
        return (np.nan,) * 3
    good, failed = good / good.sum(), failed / failed.sum()
    good_under, failed_under = good.cumsum() - good, failed.cumsum() - failed
    best = np.flatnonzero(good_under <= FALSE_ALARMS + 1e-12)[-1]
    return float(levels[best]), float(failed_under[best]), float(failed @ (1 - good_under - good / 2))


def resample(statistic: Callable[[FloatArray], ArrayLike], frames: Frames, seed: int = 0) -> list[Interval]:
    """Statistics of the frames' weights ``(n,)``, and their 95 % intervals by resampling sequences."""
    count = int(frames.sequence.max()) + 1
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), DRAWS)
    values = [np.atleast_1d(statistic(frames.weight * times[frames.sequence])) for times in draws]
    bounds = np.nanpercentile(values, [2.5, 97.5], axis=0)  # a draw without any failure has no statistic of them
    whole = np.atleast_1d(statistic(frames.weight))
    return [Interval(*map(float, part)) for part in zip(whole, *bounds, strict=True)]


def print_reliability(frames: Frames, own: Calibration | None) -> Calibration:
    """Fit, print the tables, and return the calibration fitted on all frames."""
    fitted, held_out, good = fit(frames.raw, frames.good, frames.weight), hold_out(frames), frames.good
    kinds = {"raw": frames.raw, "the model's own": own.apply(frames.raw) if own else None}
    kinds |= {"fitted": fitted.apply(frames.raw), "held out": held_out}
    errors = new_table("score", "expected calibration error")
    for kind, predicted in kinds.items():
        if predicted is not None:
            errors.add_row(kind, str(resample(partial(calibration_error, predicted, good), frames)[0]))
    heads = [f"{kind}: {what}" for kind in ("raw", "held out") for what in ("frames", "predicted", "good")]
    table = new_table("score", *heads)
    pairs = zip(bins(frames.raw, good, frames.weight), bins(held_out, good, frames.weight), strict=True)
    for number, pair in enumerate(pairs):
        cells = [cell for n, _, *values in pair for cell in (f"{n:.0f}", *(f"{v:.3f}" if n else "" for v in values))]
        table.add_row(f"{number / BINS:.1f} to {(number + 1) / BINS:.1f}", *cells)
    alarm, failed = "", frames.iou < FAILED
    if failed.any():
        threshold, caught, auc = resample(lambda weight: detect(frames.raw, frames.iou, weight), frames)
        alarm = (
            f"Failures: {failed.sum()} frames of {len(np.unique(frames.sequence[failed]))} sequences. A raw score "
            f"under {threshold.mean:.3f} (calibrated: {float(fitted.apply(threshold.mean)):.3f}) catches {caught} of "
            f"them at {FALSE_ALARMS:.0%} false alarms; AUC {auc}."
        )
    print_paragraphs(
        f"{len(frames.raw)} frames of {frames.sequence.max() + 1} sequences. Chance of an IoU of at least {GOOD} = "
        f"sigmoid({fitted.slope:.4f} · logit(raw score) {fitted.bias:+.4f}), fitted on all",
        errors,
        table,
        alarm,
    )
    return fitted


def plot_reliability(frames: Frames, path: Path) -> None:
    """The share of good boxes against the predicted chance, raw and held out."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], ":", color="gray", label="as predicted")
    for kind, predicted in (("raw", frames.raw), ("held out", hold_out(frames))):
        axes.plot(*bins(predicted, frames.good, frames.weight)[:, 2:].T, "o-", label=kind)
    axes.set(xlabel="predicted chance", ylabel=f"share of boxes with an IoU of at least {GOOD}")
    axes.legend()
    figure.savefig(path)


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Put a calibration into a model's ``model.json``."""
    record = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    record["score"] = {name: round(value, 4) for name, value in asdict(calibration).items()}
    write_whole(folder / "model.json", json.dumps(record, indent=1) + "\n")


def main(
    tracker: str,
    data: Annotated[Path, typer.Option()],
    results: Path = Path("results"),
    engine: str = "auto",
    plot: Annotated[
        Path | None, typer.Option(help="picture (.png): predicted chance against share of good boxes")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="put the fit into model.json of the tracker, a folder")
    ] = False,
) -> None:
    trackers = parse_trackers(tracker, engine=engine)
    (spec,) = trackers.values()
    is_folder = Path(spec.spec).is_dir()
    if write and not is_folder:
        raise FartrackError(f"{spec.spec} is not a model folder of yours, so nothing can be written there.")
    own = open_package(spec.spec).calibration if is_folder or spec.spec in shipped() else None
    (evaluation,) = evaluate(trackers, open_benchmark("folder", data), results)
    frames = gather(evaluation, own)
    fitted = print_reliability(frames, own)
    if plot:
        plot_reliability(frames, plot)
    if write:
        write_calibration(Path(spec.spec), fitted)
        print(f"saved {Path(spec.spec) / 'model.json'}")


if __name__ == "__main__":
    typer.run(main)
