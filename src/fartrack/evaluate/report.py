"""An evaluation as one HTML page that needs no other file, and its pictures as PNG files beside it.

Everything is over sequences, each counting once: a mean has its 95 % bootstrap interval, a difference between two
trackers its paired one, and where that holds zero it is called no difference.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from fartrack.datasets.sequences import Sequence as Clip
from fartrack.errors import FartrackError
from fartrack.evaluate.benchmarks import progress
from fartrack.evaluate.metrics import HEADLINE, OVERLAPS, PIXELS, SHARES, Interval, curves, present
from fartrack.evaluate.runner import Evaluation, Result
from fartrack.evaluate.tables import Row, compare, describe, runs, title
from fartrack.files import write_whole
from fartrack.geometry import FloatArray, Image, iou
from fartrack.video.sources import frames_from_source

WORST = 3
"""Sequences shown of each tracker."""

DPI = 100
WIDTH = 11.0
"""Of a filmstrip, in inches."""

TRUTH, FOUND = "#00c040", "#ff2020"

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 }
th, td { padding: .25em .8em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
th { border-bottom: 2px solid #888 }
img { max-width: 100%; height: auto }
div { overflow-x: auto }
"""


def write_report(evaluations: Sequence[Evaluation], folder: Path) -> Path:
    """The report of one or more trackers' results on the same sequences; differences are to the first one.

    Args:
        evaluations: of one benchmark.
        folder: that ``report.html`` and the pictures go to, in place of those of the same names.

    Returns:
        The path of ``report.html``.

    Raises:
        FartrackError: nothing can be scored, as where only the first boxes are published; or a frame that is to be
            shown cannot be read.
    """
    data = _gather(evaluations)
    figures = {**_curve_figures(data), "speed": _speed_figure(data), "attributes": _attribute_figure(data)}
    pictures = {name: png(figure) for name, figure in figures.items() if figure}
    strips = {
        f"worst-{number}-{_file_name(tracker)}": png(figure)
        for number, (tracker, figure) in enumerate(_strip_figures(data), 1)
    }
    timelines = {
        f"timeline-{number}-{_file_name(tracked.row.tracker)}": png(_timeline_figure(data, tracked))
        for number, tracked in enumerate(data.trackers, 1)
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in {**pictures, **strips, **timelines}.items():
        write_whole(folder / f"{name}.png", picture)
    page = folder / "report.html"
    write_whole(page, _page(data, pictures, strips, timelines).encode())
    return page


# --- what is reported -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Tracked:
    """One tracker.

    Attributes:
        row: its name, means and speed.
        color: of its lines and bars.
        values: ``(sequences,)`` the headline measure of each.
        results: of each sequence.
    """

    row: Row
    color: tuple[float, ...]
    values: FloatArray
    results: list[Result]


@dataclass(frozen=True, eq=False)
class Data:
    """What a report is made of.

    Attributes:
        evaluations: as given.
        headline: the measure by which trackers and sequences are ranked.
        clips: the sequences that can be scored.
        trackers: in the order given; all over those sequences, in their order.
    """

    evaluations: Sequence[Evaluation]
    headline: str
    clips: list[Clip]
    trackers: list[Tracked]


def _gather(evaluations: Sequence[Evaluation]) -> Data:
    benchmark = evaluations[0].benchmark
    names = [clip.name for clip in benchmark.sequences]
    if any([clip.name for clip in e.benchmark.sequences] != names for e in evaluations):
        raise FartrackError("The trackers were not run on the same sequences; compare them in one run.")
    places = [place for place, name in enumerate(names) if evaluations[0].table()[name]]
    if not places:
        raise FartrackError(
            f"{benchmark.name} publishes no ground truth to report on; pack the results for its server instead."
        )
    headline, palette, trackers = benchmark.rules.measures[0], colormaps["tab10"], []
    for number, (evaluation, row) in enumerate(zip(evaluations, compare(evaluations), strict=True)):
        values = np.array([evaluation.table()[names[place]][headline] for place in places])
        trackers.append(Tracked(row, palette(number % 10), values, [evaluation.results[place] for place in places]))
    return Data(evaluations, headline, [benchmark.sequences[place] for place in places], trackers)


# --- figures ----------------------------------------------------------------------------------------------


def _curve_figures(data: Data) -> dict[str, Figure]:
    """Success and precision, and normalised precision where the benchmark has it: means over sequences."""
    rules = data.evaluations[0].benchmark.rules
    kinds = {
        "success": (OVERLAPS, "Success", "IoU above"),
        "precision": (PIXELS, "Precision", "centre off by at most, in pixels"),
        "normalised": (SHARES, "Normalised precision", "centre off by at most, in sizes of the target"),
    }
    if "normalised_precision" not in rules.measures:
        del kinds["normalised"]
    drawn = {kind: _axes() for kind in kinds}
    lines: dict[str, list[tuple[float, Line2D]]] = {kind: [] for kind in kinds}
    sizes = [clip.size if rules.clip else None for clip in data.clips]
    for number, tracked in enumerate(data.trackers):
        style = ("-", "--", ":")[number // 10 % 3]
        triples = zip(tracked.results, data.clips, sizes, strict=True)
        found = [curves(result.boxes, clip.boxes, size, rules) for result, clip, size in triples]
        for kind, (steps, _, _) in kinds.items():
            mean = np.mean([getattr(each, kind) for each in found], axis=0)
            value = float(mean.mean() if kind == "success" else mean[HEADLINE])
            label = f"{tracked.row.tracker} [{value:.3f}]"
            (line,) = drawn[kind][1].plot(steps, mean, style, color=tracked.color, lw=1.8, label=label)
            lines[kind].append((value, line))
    for kind, (steps, name, label) in kinds.items():
        axes = drawn[kind][1]
        handles = [line for _, line in sorted(lines[kind], key=lambda pair: -pair[0])]
        what = "area under the curve" if kind == "success" else f"value at {steps[HEADLINE]:g}"
        axes.legend(handles=handles, title=what, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
        axes.set(xlim=(steps[0], steps[-1]), ylim=(0, 1), title=name, xlabel=label, ylabel="share of frames")
    return {kind: figure for kind, (figure, _) in drawn.items()}


def _speed_figure(data: Data) -> Figure | None:
    """The headline with its interval against frames a second; None if no speed is known."""
    known = [tracked for tracked in data.trackers if math.isfinite(tracked.row.fps)]
    if not known:
        return None
    figure, axes = _axes()
    for tracked in known:
        mean, fps = tracked.row.means[data.headline], tracked.row.fps
        label = f"{tracked.row.tracker} [{fps:.3g}]"
        axes.errorbar([fps], [mean.mean], yerr=_spread([mean]), fmt="o", color=tracked.color, capsize=3, label=label)
    low, high = min(tracked.row.fps for tracked in known) / 1.5, max(tracked.row.fps for tracked in known) * 1.5
    ticks = [value * 10**power for power in range(-2, 5) for value in (1, 2, 5)]
    axes.set_xscale("log")
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set(xlim=(low, high), title="Speed and accuracy", ylabel=f"{title(data.headline)}, 95 % interval")
    axes.set_xlabel("frames a second, without decoding")
    axes.legend(title="frames a second", fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _attribute_figure(data: Data) -> Figure | None:
    """The headline over the sequences of each attribute; None if no sequence has one."""
    attributes = sorted(set().union(*(clip.attributes for clip in data.clips)))
    if not attributes:
        return None
    trackers = data.trackers
    members = {name: frozenset(clip.name for clip in data.clips if name in clip.attributes) for name in attributes}
    means = [[row.means[data.headline] for row in compare(data.evaluations, chosen)] for chosen in members.values()]
    figure, axes = _axes(width=min(max(3 + 0.17 * len(attributes) * (len(trackers) + 1), 7), 24))
    width = 0.8 / len(trackers)
    for tracked, column, offset in zip(trackers, zip(*means, strict=True), _centred(len(trackers)), strict=True):
        axes.bar(
            np.arange(len(attributes)) + offset * width,
            [mean.mean for mean in column],
            width,
            yerr=_spread(column),
            color=tracked.color,
            label=tracked.row.tracker,
            error_kw={"lw": 0.8, "ecolor": "#444"},
        )
    turned = max(map(len, attributes)) > 6
    labels = [f"{name} ({len(chosen)})" if turned else f"{name}\n{len(chosen)}" for name, chosen in members.items()]
    axes.set_xticks(range(len(attributes)), labels, rotation=90 if turned else 0)
    axes.set(ylim=(0, 1), title="By attribute, with the number of sequences")
    axes.set_ylabel(f"{title(data.headline)}, 95 % interval")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _axes(width: float = 7.5) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    return figure, axes


def _spread(means: Sequence[Interval]) -> list[list[float]]:
    """How far the intervals reach below and above their means, as error bars want it."""
    return [[mean.mean - mean.low for mean in means], [mean.high - mean.mean for mean in means]]


def _centred(count: int) -> list[float]:
    return [place - (count - 1) / 2 for place in range(count)]


# --- filmstrips -------------------------------------------------------------------------------------------


def _strip_figures(data: Data) -> Iterator[tuple[str, Figure]]:
    """Trackers with their worst sequences, a row each: the first, the worst and the last frame with both boxes."""
    worst = [_worst(tracked) for tracked in data.trackers]
    wanted: dict[int, set[int]] = {}
    for tracked, places in zip(data.trackers, worst, strict=True):
        for place in places:
            wanted.setdefault(place, set()).update(_three_frames(data.clips[place], tracked.results[place]))
    frames = {
        place: _read_frames(data.clips[place], numbers) for place, numbers in progress(wanted.items(), "reading frames")
    }
    for tracked, places in progress(list(zip(data.trackers, worst, strict=True)), "drawing"):
        heights = [max(image.shape[0] / image.shape[1] for image, _ in frames[place].values()) for place in places]
        figure = Figure(figsize=(WIDTH, sum(heights) * WIDTH / 3 + 0.3 * len(places)), layout="constrained")
        grid = figure.subplots(len(places), 3, squeeze=False, height_ratios=heights)
        for line, place in zip(grid, places, strict=True):
            clip, result = data.clips[place], tracked.results[place]
            overlap = _overlap(clip, result)
            numbers = _three_frames(clip, result)
            for axes, what, number in zip(line, ("given", "worst", "last"), numbers, strict=True):
                _draw_frame(axes, *frames[place][number], clip.boxes[number], result.boxes[number])
                fit = "target absent" if math.isnan(overlap[number]) else f"IoU {overlap[number]:.2f}"
                axes.set_title(f"{what}: frame {number}" + (f", {fit}" if number else ""), fontsize=8)
            line[0].set_ylabel(f"{clip.name}\n{title(data.headline)} {tracked.values[place]:.3f}", fontsize=9)
        yield tracked.row.tracker, figure


def _worst(tracked: Tracked) -> list[int]:
    """The places of a tracker's worst sequences, the worst first."""
    return cast(list[int], np.argsort(tracked.values, kind="stable")[:WORST].tolist())


def _timeline_figure(data: Data, tracked: Tracked) -> Figure:
    """IoU and score of every frame of a tracker's worst sequences: where it was lost, and whether it knew."""
    places = _worst(tracked)
    figure = Figure(figsize=(WIDTH, 1.7 * len(places)), layout="constrained")
    for axes, place in zip(figure.subplots(len(places), squeeze=False)[:, 0], places, strict=True):
        clip, result = data.clips[place], tracked.results[place]
        axes.plot(result.scores, color="#999", lw=1.0, label="score")
        axes.plot(_overlap(clip, result), color=FOUND, lw=1.3, label="IoU")
        axes.set(xlim=(0, max(len(result.boxes) - 1, 1)), ylim=(0, 1.02))
        axes.set_title(f"{clip.name}, {title(data.headline)} {tracked.values[place]:.3f}", fontsize=9)
        axes.grid(alpha=0.3)
    axes.set_xlabel("frame")
    axes.legend(fontsize=8, loc="lower left")
    return figure


def _overlap(clip: Clip, result: Result) -> FloatArray:
    """IoU of every frame ``(frames,)``; NaN where the target is absent."""
    return np.where(present(clip.boxes), iou(result.boxes, np.nan_to_num(clip.boxes)), np.nan)


def _three_frames(clip: Clip, result: Result) -> tuple[int, int, int]:
    """The first frame; of those with the least IoU the first, which is where a target was lost; and the last."""
    overlap = _overlap(clip, result)
    overlap[0] = np.nan
    worst = int(np.nanargmin(overlap)) if np.isfinite(overlap).any() else 0
    return 0, worst, len(overlap) - 1


def _read_frames(clip: Clip, numbers: Collection[int]) -> dict[int, tuple[Image, float]]:
    """Some frames of a sequence, RGB and made small, each with the scale that did it."""
    found = {}
    if isinstance(clip.source, tuple):
        for number in numbers:
            with frames_from_source(clip.source[number]) as source:
                found[number] = _small(source.first.image)
    else:
        for number, image in enumerate(clip.frames()):
            if number in numbers:
                found[number] = _small(image)
            if number >= max(numbers):
                break
    if len(found) < len(numbers):
        raise FartrackError(f"{clip.name} has fewer frames than its results; download it again.")
    return found


def _small(image: Image) -> tuple[Image, float]:
    scale = min(400 / image.shape[1], 300 / image.shape[0], 1.0)
    size = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
    shrunk = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cast(Image, cv2.cvtColor(shrunk, cv2.COLOR_BGR2RGB)), scale


def _draw_frame(axes: Axes, image: Image, scale: float, truth: FloatArray, found: FloatArray) -> None:
    height, width = image.shape[:2]
    axes.imshow(image, extent=(0, width, height, 0))
    for box, color, thickness in ((truth, TRUTH, 3.0), (found, FOUND, 1.2)):  # both are seen where they coincide
        if present(box):
            x, y, w, h = (box * scale).tolist()
            axes.add_patch(Rectangle((x, y), w, h, fill=False, ec=color, lw=thickness))
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])


# --- the page ---------------------------------------------------------------------------------------------


def _page(data: Data, pictures: dict[str, bytes], strips: dict[str, bytes], timelines: dict[str, bytes]) -> str:
    benchmark, jobs = data.evaluations[0].benchmark, max(evaluation.jobs for evaluation in data.evaluations)
    shown = {clip.name for clip in data.clips}
    left_out = [clip.name for clip in benchmark.sequences if clip.name not in shown]
    heading = escape(f"{benchmark.name}: {', '.join(tracked.row.tracker for tracked in data.trackers)}")
    parts = [
        f"<h1>{heading}</h1>",
        f"<p>{runs(data.clips)}, {sum(clip.length for clip in data.clips)} frames. One sequence counts once, "
        "whatever its length. In brackets: 95 % intervals, by drawing sequences with replacement (bootstrap). A "
        "difference is between the same sequences in pairs; where its interval holds zero, it is no difference.</p>",
        f"<p>Without a frame to score, and left out: {escape(', '.join(left_out))}.</p>" if left_out else "",
        _summary(data),
        f"<p>Speed was measured under load: up to {jobs} trackers ran at once.</p>" if jobs > 1 else "",
        *(f"<p>{_img(name, png)}</p>" for name, png in pictures.items()),
        "<h2>Worst sequences of each tracker</h2>",
        f'<p><b style="color:{TRUTH}">Green</b> is the truth, <b style="color:{FOUND}">red</b> the tracker. Worst is '
        "the first of the frames with the least IoU. Below, IoU and score frame by frame.</p>",
        *(
            f"<h3>{escape(tracked.row.tracker)}</h3><p>{_img(*strip)}</p><p>{_img(*timeline)}</p>"
            for tracked, strip, timeline in zip(data.trackers, strips.items(), timelines.items(), strict=True)
        ),
        f"<h2>{title(data.headline)} of each sequence</h2>",
        _sequences(data),
    ]
    head = f'<meta charset="utf-8"><title>{heading}</title><style>{STYLE}</style>'
    body = "\n".join(part for part in parts if part)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _summary(data: Data) -> str:
    rows, measures = [tracked.row for tracked in data.trackers], data.evaluations[0].benchmark.rules.measures
    columns = [*map(title, measures), "sequences", f"{title(data.headline)} less that of {rows[0].tracker}", "FPS"]
    body = []
    for row in rows:
        fps = f"{row.fps:.3g}" if math.isfinite(row.fps) else ""
        means = (str(row.means[measure]) for measure in measures)
        body.append([row.tracker, *means, str(len({clip.video for clip in data.clips})), describe(row.difference), fps])
    return _table(["tracker", *columns], body)


def _sequences(data: Data) -> str:
    """The headline of every sequence, the first tracker's worst ones first."""
    body = [
        [data.clips[i].name, str(data.clips[i].length), *(f"{tracked.values[i]:.3f}" for tracked in data.trackers)]
        for i in np.argsort(data.trackers[0].values, kind="stable").tolist()
    ]
    return _table(["sequence", "frames", *(tracked.row.tracker for tracked in data.trackers)], body)


def _table(head: list[str], body: list[list[str]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body]
    return "<div><table>\n" + "\n".join(lines) + "\n</table></div>"


def _img(name: str, png: bytes) -> str:
    return f'<img alt="{escape(name)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


# --- files ------------------------------------------------------------------------------------------------


def png(figure: Figure, dpi: int = DPI) -> bytes:
    """A figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)
