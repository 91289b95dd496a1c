"""An evaluation as one HTML page that needs no other file, and its pictures as PNG files beside it (extra ``eval``)."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich.table import Table

from fartrack.datasets.layouts import present
from fartrack.datasets.sequences import Sequence as Clip
from fartrack.errors import FartrackError
from fartrack.evaluate.benchmarks import progress
from fartrack.evaluate.metrics import HEADLINE, OVERLAPS, PIXELS, SHARES, Interval, curves, overlaps
from fartrack.evaluate.runner import Evaluation, Result
from fartrack.evaluate.tables import Row, compare, count_runs, sequence_table, title, tracker_table
from fartrack.files import write_whole
from fartrack.geometry import FloatArray

WORST = 3
"""Sequences shown of each tracker."""

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


@dataclass(frozen=True, eq=False)
class Data:
    """What a report shows.

    Attributes:
        evaluations: as given.
        rows: their means, differences and speeds.
        headline: the measure by which sequences are ranked.
        clips: the sequences that can be scored.
        results: tracker by tracker, those of the clips.
        values: ``(trackers, clips)`` the headline measure.
    """

    evaluations: Sequence[Evaluation]
    rows: list[Row]
    headline: str
    clips: list[Clip]
    results: list[list[Result]]
    values: FloatArray


def write_report(evaluations: Sequence[Evaluation], folder: Path) -> Path:
    """The report of one or more trackers' results on the same sequences; differences are to the first one.

    Args:
        evaluations: of one benchmark.
        folder: of ``report.html`` and the pictures; files of the same names are replaced.

    Returns:
        The path of ``report.html``.

    Raises:
        FartrackError: nothing can be scored, as where only the first boxes are published; or a frame that is to be
            shown cannot be read.
    """
    data = _gather(evaluations)
    figures = {**_curve_figures(data), "speed": _speed_figure(data), "attributes": _attribute_figure(data)}
    pictures = {name: _png(figure) for name, figure in figures.items() if figure}
    worst = {name: _png(figure) for name, figure in progress(list(_worst_figures(data)), "drawing")}
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in {**pictures, **worst}.items():
        write_whole(folder / f"{name}.png", picture)
    page = folder / "report.html"
    write_whole(page, _page(data, pictures, worst))
    return page


def _gather(evaluations: Sequence[Evaluation]) -> Data:
    benchmark = evaluations[0].benchmark
    names = [clip.name for clip in benchmark.sequences]
    if any([clip.name for clip in e.benchmark.sequences] != names for e in evaluations):
        raise FartrackError("The trackers were not run on the same sequences; compare them in one run.")
    places = [place for place, name in enumerate(names) if evaluations[0].table[name]]
    if not places:
        raise FartrackError(
            f"{benchmark.name} publishes no ground truth to report on; pack the results for its server instead."
        )
    headline = benchmark.rules.measures[0]
    values = np.array([[e.table[names[place]][headline] for place in places] for e in evaluations])
    results = [[e.results[place] for place in places] for e in evaluations]
    clips = [benchmark.sequences[place] for place in places]
    return Data(evaluations, compare(evaluations), headline, clips, results, values)


# --- figures ----------------------------------------------------------------------------------------------


def _curve_figures(data: Data) -> dict[str, Figure]:
    """Success, precision and, where the benchmark has it, normalized precision: means over sequences."""
    rules = data.evaluations[0].benchmark.rules
    kinds = {
        "success": (OVERLAPS, "Success", "IoU above"),
        "precision": (PIXELS, "Precision", "center error at most, in pixels"),
        "normalized_precision": (SHARES, "Normalized precision", "center error at most, in sizes of the target"),
    }
    if "normalized_precision" not in rules.measures:
        del kinds["normalized_precision"]
    sizes = [clip.size if rules.clip else None for clip in data.clips]
    found = [
        [curves(r.boxes, c.boxes, size, rules) for r, c, size in zip(results, data.clips, sizes, strict=True)]
        for results in data.results
    ]
    figures = {}
    for kind, (steps, name, label) in kinds.items():
        figures[kind], axes = _axes()
        lines = []
        for number, (row, each) in enumerate(zip(data.rows, found, strict=True)):
            mean = np.mean([one[kind] for one in each], axis=0)
            value = float(mean.mean() if kind == "success" else mean[HEADLINE])
            style = ("-", "--", ":")[number // 10 % 3]
            (line,) = axes.plot(steps, mean, style, lw=1.8, label=f"{row.tracker} [{value:.3f}]")
            lines.append((value, line))
        what = "area under the curve" if kind == "success" else f"value at {steps[HEADLINE]:g}"
        handles = [line for _, line in sorted(lines, key=lambda pair: -pair[0])]
        axes.legend(handles=handles, title=what, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
        axes.set(xlim=(steps[0], steps[-1]), ylim=(0, 1), title=name, xlabel=label, ylabel="share of frames")
    return figures


def _speed_figure(data: Data) -> Figure | None:
    """The headline measure against frames per second; None if no speed is known."""
    known = [(number, row) for number, row in enumerate(data.rows) if math.isfinite(row.fps)]
    if not known:
        return None
    figure, axes = _axes()
    for number, row in known:
        mean, label = row.means[data.headline], f"{row.tracker} [{row.fps:.3g}]"
        axes.errorbar([row.fps], [mean.mean], _error_bars([mean]), fmt="o", color=f"C{number}", capsize=3, label=label)
    axes.set_xlim(0, 1.1 * max(row.fps for _, row in known))
    axes.set(title="Speed and accuracy", xlabel="frames per second, without decoding")
    axes.set_ylabel(f"{title(data.headline)}, 95 % interval")
    axes.legend(title="frames per second", fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _attribute_figure(data: Data) -> Figure | None:
    """The headline measure over the sequences of each attribute; None if no sequence has one."""
    attributes = sorted(set().union(*(clip.attributes for clip in data.clips)))
    if not attributes:
        return None
    members = [{clip.name for clip in data.clips if name in clip.attributes} for name in attributes]
    rows = [compare(data.evaluations, chosen) for chosen in members]
    count = len(data.rows)
    figure, axes = _axes(width=min(max(3 + 0.17 * len(attributes) * (count + 1), 7), 24))
    for number, row in enumerate(data.rows):
        means = [each[number].means[data.headline] for each in rows]
        places = np.arange(len(attributes)) + (number - (count - 1) / 2) * 0.8 / count
        axes.bar(places, [m.mean for m in means], 0.8 / count, yerr=_error_bars(means), label=row.tracker)
    labels = [f"{name} ({len(chosen)})" for name, chosen in zip(attributes, members, strict=True)]
    axes.set_xticks(range(len(attributes)), labels, rotation=90)
    axes.set(ylim=(0, 1), title="By attribute (number of sequences)", ylabel=f"{title(data.headline)}, 95 % interval")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _worst_figures(data: Data) -> Iterator[tuple[str, Figure]]:
    """The worst sequences of each tracker, one per line: the first, the worst and the last frame with both boxes, and
    IoU and score of every frame: where the target was lost, and whether the tracker noticed."""
    for number, (row, results, values) in enumerate(zip(data.rows, data.results, data.values, strict=True), 1):
        worst = np.argsort(values, kind="stable")[:WORST].tolist()
        figure = Figure(figsize=(14, 2.7 * len(worst)))  # fixed margins: a layout engine takes a second per figure
        figure.subplots_adjust(0.03, 0.15 / len(worst), 0.97, 1 - 0.1 / len(worst), wspace=0.08, hspace=0.2)
        grid = figure.subplots(len(worst), 4, squeeze=False, width_ratios=(1, 1, 1, 1.3))
        for line, place in zip(grid, worst, strict=True):
            clip, result = data.clips[place], results[place]
            overlap = overlaps(result.boxes, clip.boxes)
            for axes, what, index in zip(line, ("given", "worst", "last"), _three_frames(overlap), strict=False):
                _draw_frame(axes, clip, result, index)
                fit = "target absent" if math.isnan(overlap[index]) else f"IoU {overlap[index]:.2f}"
                axes.set_title(f"{what}: frame {index}" + (f", {fit}" if index else ""), fontsize=8)
            line[0].set_ylabel(f"{clip.name}\n{title(data.headline)} {values[place]:.3f}", fontsize=9)
            line[3].plot(result.scores, color="#999", lw=1.0, label="score")
            line[3].plot(overlap, color=FOUND, lw=1.3, label="IoU")
            line[3].set(xlim=(0, max(len(overlap) - 1, 1)), ylim=(0, 1.02))
            line[3].grid(alpha=0.3)
            line[3].yaxis.tick_right()
        grid[-1][3].set_xlabel("frame")
        grid[-1][3].legend(fontsize=8, loc="lower left")
        yield f"worst-{number}-" + re.sub(r"[^\w.-]+", "_", row.tracker), figure


def _three_frames(overlap: FloatArray) -> tuple[int, int, int]:
    """The first frame; the first of those with the lowest IoU, where the target was lost; and the last."""
    later = overlap[1:]
    worst = 1 + int(np.nanargmin(later)) if np.isfinite(later).any() else 0
    return 0, worst, len(overlap) - 1


def _draw_frame(axes: Axes, clip: Clip, result: Result, index: int) -> None:
    image = clip.frame(index)
    height, width = image.shape[:2]
    scale = min(400 / width, 300 / height, 1.0)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
    axes.imshow(small, extent=(0, width, height, 0))
    for box, color, thickness in ((clip.boxes[index], TRUTH, 3.0), (result.boxes[index], FOUND, 1.2)):
        if present(box):
            axes.add_patch(Rectangle(box[:2].tolist(), *box[2:].tolist(), fill=False, ec=color, lw=thickness))
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])


def _axes(width: float = 7.5) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    return figure, axes


def _error_bars(means: Sequence[Interval]) -> list[list[float]]:
    """How far the intervals reach below and above their means."""
    return [[mean.mean - mean.low for mean in means], [mean.high - mean.mean for mean in means]]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


# --- the page ---------------------------------------------------------------------------------------------


def _page(data: Data, pictures: dict[str, bytes], worst: dict[str, bytes]) -> str:
    benchmark, jobs = data.evaluations[0].benchmark, max(evaluation.jobs for evaluation in data.evaluations)
    shown = {clip.name for clip in data.clips}
    left_out = [clip.name for clip in benchmark.sequences if clip.name not in shown]
    heading = escape(f"{benchmark.name}: {', '.join(row.tracker for row in data.rows)}")
    parts = [
        f"<h1>{heading}</h1>",
        f"<p>{count_runs(data.clips)}, {sum(clip.length for clip in data.clips)} frames. One sequence counts once, "
        "whatever its length. In brackets: 95 % intervals, by resampling sequences (bootstrap). A difference is "
        "between the same sequences in pairs; where its interval holds zero, it is no difference.</p>",
        f"<p>Without a frame to score, and left out: {escape(', '.join(left_out))}.</p>" if left_out else "",
        _html(tracker_table(data.evaluations)),
        f"<p>Speed was measured under load: up to {jobs} trackers ran at once.</p>" if jobs > 1 else "",
        *(f"<p>{_img(name, picture)}</p>" for name, picture in pictures.items()),
        "<h2>Worst sequences of each tracker</h2>",
        f'<p><b style="color:{TRUTH}">Green</b> is the ground truth, <b style="color:{FOUND}">red</b> the tracker. The '
        "worst frame is the first with the lowest IoU. On the right, IoU and score of every frame.</p>",
        *(
            f"<h3>{escape(row.tracker)}</h3><p>{_img(*picture)}</p>"
            for row, picture in zip(data.rows, worst.items(), strict=True)
        ),
        f"<h2>Sequences, the worst of {escape(data.rows[0].tracker)} first</h2>",
        _html(sequence_table(data.evaluations), sort_by=2),
    ]
    head = f'<meta charset="utf-8"><title>{heading}</title><style>{STYLE}</style>'
    body = "\n".join(part for part in parts if part)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _html(table: Table, *, sort_by: int | None = None) -> str:
    """A table as HTML; ``sort_by`` names a column, without which a row is left out."""
    rows = list(zip(*(map(str, column.cells) for column in table.columns), strict=True))
    if sort_by is not None:
        rows = sorted((row for row in rows if row[sort_by]), key=lambda row: row[sort_by])
    lines = ["<tr>" + "".join(f"<th>{escape(str(column.header))}</th>" for column in table.columns) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return "<div><table>\n" + "\n".join(lines) + "\n</table></div>"


def _img(name: str, png: bytes) -> str:
    return f'<img alt="{escape(name)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
