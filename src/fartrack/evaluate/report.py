"""An evaluation as one HTML page that needs no other file, and its pictures as PNG files beside it (extra ``eval``)."""

import base64
import io
import math
import os
import platform
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich.table import Table

from fartrack.cpu import processor_name
from fartrack.datasets.layouts import present
from fartrack.datasets.sequences import Sequence as Clip
from fartrack.errors import FartrackError
from fartrack.evaluate.metrics import HEADLINE, OVERLAPS, PIXELS, SHARES, Interval, curves, overlaps
from fartrack.evaluate.runner import Evaluation, Result
from fartrack.evaluate.tables import by_attribute, compare, count_runs, few, sequence_table, title, tracker_table
from fartrack.files import write_whole
from fartrack.geometry import FloatArray
from fartrack.progress import progress
from fartrack.version import __version__

WORST = 3
"""Sequences shown of each tracker."""

_Pngs = dict[str, bytes]

TRUTH, FOUND = "#00c040", "#ff2020"

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 }
th, td { padding: .25em .6em; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top }
footer { border-top: 1px solid #ddd; color: #555; margin-top: 2em; overflow-wrap: anywhere }
th:first-child, td:first-child { text-align: left; white-space: nowrap }
th { border-bottom: 2px solid #888 }
img { max-width: 100%; height: auto }
div { overflow-x: auto }
"""


def write_report(evaluations: Sequence[Evaluation], folder: Path, command: str = "") -> Path:
    """Write the report of trackers on the same sequences, and return the path of its ``report.html``, which names the
    ``command`` that made it. FartrackError if nothing can be scored, as where only the first boxes are published, or a
    frame to be shown cannot be read."""
    scored = _scored(evaluations)
    figures = {**_curve_figures(scored), "speed": _speed_figure(scored), "attributes": _attribute_figure(scored)}
    pictures = {name: png(figure) for name, figure in figures.items() if figure}
    worst = {name: png(figure) for name, figure in progress(list(_worst_figures(scored)), "drawing")}
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in {**pictures, **worst}.items():
        write_whole(folder / f"{name}.png", picture)
    page = folder / "report.html"
    left_out = [name for name, measures in evaluations[0].table.items() if not measures]
    write_whole(page, _page(scored, left_out, pictures, worst, command))
    return page


def _scored(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """The evaluations on the sequences that have a frame to score."""
    benchmark, table = evaluations[0].benchmark, evaluations[0].table
    if any(list(evaluation.table) != list(table) for evaluation in evaluations):
        raise FartrackError("The trackers were not run on the same sequences; compare them in one run.")
    part = replace(benchmark, sequences=[clip for clip in benchmark.sequences if table[clip.name]])
    if not part.sequences:
        raise FartrackError(
            f"{benchmark.name} publishes no ground truth to report on; pack the results for its server instead."
        )
    return [replace(e, benchmark=part, results=[r for r in e.results if table[r.name]]) for e in evaluations]


def _curve_figures(evaluations: list[Evaluation]) -> dict[str, Figure]:
    """Success, precision and, where the benchmark has it, normalized precision: means over sequences."""
    rules, clips = evaluations[0].benchmark.rules, evaluations[0].benchmark.sequences
    kinds = {"success": (OVERLAPS, "IoU above"), "precision": (PIXELS, "center error at most, in pixels")}
    if "normalized_precision" in rules.measures:
        kinds["normalized_precision"] = SHARES, "center error at most, in sizes of the target"
    sizes = [clip.size if rules.clip else None for clip in clips]
    found = [
        [curves(r.boxes, clip.boxes, size, rules) for r, clip, size in zip(e.results, clips, sizes, strict=True)]
        for e in evaluations
    ]
    figures = {}
    for kind, (steps, label) in kinds.items():
        figures[kind], axes = new_axes()
        values = {}
        for number, (evaluation, each) in enumerate(zip(evaluations, found, strict=True)):
            mean = np.mean([one[kind] for one in each], axis=0)
            value = float(mean.mean() if kind == "success" else mean[HEADLINE])
            style = ("-", "--", ":")[number // 10 % 3]
            (line,) = axes.plot(steps, mean, style, lw=1.8, label=f"{evaluation.tracker} [{value:.3f}]")
            values[line] = value
        what = "area under the curve" if kind == "success" else f"value at {steps[HEADLINE]:g}"
        _legend(axes, handles=sorted(values, key=lambda line: -values[line]), title=what)
        name = title(kind).capitalize()
        axes.set(xlim=(steps[0], steps[-1]), ylim=(0, 1), title=name, xlabel=label, ylabel="share of frames")
    return figures


def _speed_figure(evaluations: list[Evaluation]) -> Figure | None:
    """The headline measure against frames per second; None if no speed is known."""
    headline = evaluations[0].benchmark.rules.measures[0]
    fastest = max((evaluation.fps for evaluation in evaluations if math.isfinite(evaluation.fps)), default=None)
    if fastest is None:
        return None
    figure, axes = new_axes()
    for number, (evaluation, row) in enumerate(zip(evaluations, compare(evaluations), strict=True)):
        if math.isfinite(fps := evaluation.fps):
            mean, color, label = row.means[headline], f"C{number}", f"{evaluation.tracker} [{fps:.3g}]"
            axes.errorbar([fps], [mean.mean], _error_bars([mean]), fmt="o", color=color, capsize=3, label=label)
    axes.set(title="Speed and accuracy", xlabel="frames per second, without decoding")
    axes.set(xlim=(0, 1.1 * fastest), ylabel=f"{title(headline)}, 95 % interval")
    _legend(axes, title="frames per second")
    return figure


def _attribute_figure(evaluations: list[Evaluation]) -> Figure | None:
    """The headline measure over the sequences of each attribute; None if no sequence has one."""
    attributes, headline = by_attribute(evaluations), evaluations[0].benchmark.rules.measures[0]
    if not attributes:
        return None
    count = len(evaluations)
    figure, axes = new_axes(min(max(3 + 0.17 * len(attributes) * (count + 1), 7), 24))
    for number, evaluation in enumerate(evaluations):
        means = [rows[number].means[headline] for _, rows in attributes.values()]
        places = np.arange(len(attributes)) + (number - (count - 1) / 2) * 0.8 / count
        axes.bar(places, [m.mean for m in means], 0.8 / count, yerr=_error_bars(means), label=evaluation.tracker)
    labels = [f"{name} ({members})" for name, (members, _) in attributes.items()]
    axes.set_xticks(range(len(attributes)), labels, rotation=90)
    axes.set(ylim=(0, 1), title="By attribute (number of sequences)", ylabel=f"{title(headline)}, 95 % interval")
    _legend(axes)
    return figure


def _worst_figures(evaluations: list[Evaluation]) -> Iterator[tuple[str, Figure]]:
    """The worst sequences of each tracker, one per line: the first, the worst and the last frame with both boxes, and
    IoU and score of every frame: where the target was lost, and whether the tracker noticed."""
    clips, headline = evaluations[0].benchmark.sequences, evaluations[0].benchmark.rules.measures[0]
    for number, evaluation in enumerate(evaluations, 1):
        values = [evaluation.table[clip.name][headline] for clip in clips]
        worst = np.argsort(values, kind="stable")[:WORST].tolist()
        figure = Figure(figsize=(14, 2.7 * len(worst)))  # fixed margins: a layout engine takes a second per figure
        figure.subplots_adjust(0.03, 0.15 / len(worst), 0.97, 1 - 0.1 / len(worst), wspace=0.08, hspace=0.2)
        grid = figure.subplots(len(worst), 4, squeeze=False, width_ratios=(1, 1, 1, 1.3))
        for line, place in zip(grid, worst, strict=True):
            clip, result = clips[place], evaluation.results[place]
            overlap = overlaps(result.boxes, clip.boxes)
            for axes, what, index in zip(line, ("given", "worst", "last"), _three_frames(overlap), strict=False):
                _draw_frame(axes, clip, result, index)
                fit = "target absent" if math.isnan(overlap[index]) else f"IoU {overlap[index]:.2f}"
                axes.set_title(f"{what}: frame {index}" + (f", {fit}" if index else ""), fontsize=8)
            line[0].set_ylabel(f"{clip.name}\n{title(headline)} {values[place]:.3f}", fontsize=9)
            line[3].plot(result.scores, color="#999", lw=1.0, label="score")
            line[3].plot(overlap, color=FOUND, lw=1.3, label="IoU")
            line[3].set(xlim=(0, max(len(overlap) - 1, 1)), ylim=(0, 1.02))
            line[3].grid(alpha=0.3)
            line[3].yaxis.tick_right()
        grid[-1][3].set_xlabel("frame")
        grid[-1][3].legend(fontsize=8, loc="lower left")
        yield f"worst-{number}-" + re.sub(r"[^\w.-]+", "_", evaluation.tracker), figure


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


def new_axes(width: float = 7.5, height: float = 4.5) -> tuple[Figure, Axes]:
    """A figure of so many inches with one plot."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    return figure, axes


def _legend(axes: Axes, **options: Any) -> None:
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), **options)


def _error_bars(means: Sequence[Interval]) -> list[list[float]]:
    """How far the intervals reach below and above their means."""
    return [[mean.mean - mean.low for mean in means], [mean.high - mean.mean for mean in means]]


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _page(evaluations: list[Evaluation], left_out: list[str], pictures: _Pngs, worst: _Pngs, command: str) -> str:
    benchmark, jobs = evaluations[0].benchmark, max(evaluation.jobs for evaluation in evaluations)
    clips, trackers = benchmark.sequences, [evaluation.tracker for evaluation in evaluations]
    parts = [
        f"<p>{count_runs(clips)}, {sum(clip.length for clip in clips)} frames. One sequence counts once, "
        "whatever its length. In brackets: 95 % intervals, by resampling sequences (bootstrap). A difference is "
        "between the same sequences in pairs; where its interval holds zero, it is no difference.</p>",
        f"<p>Without a frame to score, and left out: {escape(', '.join(left_out))}.</p>" if left_out else "",
        f"<p><b>{few(clips)}</b></p>" if few(clips) else "",
        _html(tracker_table(evaluations)),
        f"<p>Speed was measured under load: up to {jobs} trackers ran at once.</p>" if jobs > 1 else "",
        *(f"<p>{img(name, picture)}</p>" for name, picture in pictures.items()),
        "<h2>Worst sequences of each tracker</h2>",
        f'<p><b style="color:{TRUTH}">Green</b> is the ground truth, <b style="color:{FOUND}">red</b> the tracker. The '
        "worst frame is the first with the lowest IoU. On the right, IoU and score of every frame.</p>",
        *(
            f"<h3>{escape(tracker)}</h3><p>{img(*picture)}</p>"
            for tracker, picture in zip(trackers, worst.items(), strict=True)
        ),
        f"<h2>Sequences, the worst of {escape(trackers[0])} first</h2>",
        _html(sequence_table(evaluations), worst_first=True),
        f"<footer>{_made(command)}</footer>",
    ]
    return html_page(f"{benchmark.name}: {', '.join(trackers)}", filter(None, parts))


def html_page(title: str, parts: Iterable[str]) -> str:
    """A page that needs no other file: its title, also as the first heading, and what follows, as HTML."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    body = "\n".join([f"<h1>{escape(title)}</h1>", *parts])
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _made(command: str) -> str:
    """Version, date, machine and command."""
    date = f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"
    machine = f"{processor_name()}, {os.cpu_count()} logical processors, {platform.system()}"
    versions = f"fartrack {__version__}, Python {platform.python_version()}"
    return f"{versions}, {date}; {escape(machine)}" + (f"<br><code>{escape(command)}</code>" if command else "")


def _html(table: Table, *, worst_first: bool = False) -> str:
    """A table as HTML, sorted by its third column if ``worst_first``. Where it is wide an interval has its own line."""
    rows = [
        [re.sub(r"\[.*?\]", lambda interval: interval[0].replace(" ", "\u00a0"), str(cell)) for cell in row]
        for row in zip(*(column.cells for column in table.columns), strict=True)
    ]
    rows.sort(key=lambda row: row[2] if worst_first else "")
    lines = ["<tr>" + "".join(f"<th>{escape(str(column.header))}</th>" for column in table.columns) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return "<div><table>\n" + "\n".join(lines) + "\n</table></div>"


def img(name: str, png: bytes) -> str:
    """A picture (PNG) within a page."""
    return f'<img alt="{escape(name)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
