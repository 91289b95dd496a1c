"""A picture of a benchmark (extra ``eval``)."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from fartrack.evaluate.report import png
from fartrack.evaluate.speed.results import Speed, size_text, threads_text

DPI = 120


def plot_speed(speed: Speed) -> bytes:
    """A PNG of every tracker's milliseconds a frame, with quartiles: a panel a size, a colour a number of threads."""
    names, sizes = list(speed.trackers), list(dict.fromkeys(run.size for run in speed.runs))
    threads = list(dict.fromkeys(run.threads for run in speed.runs))
    figure = Figure(figsize=(9, len(sizes) * (1.1 + 0.3 * len(names) * len(threads))), layout="constrained")
    palette, width = colormaps["tab10"], 0.8 / len(threads)
    panels = figure.subplots(len(sizes), squeeze=False, sharex=True)[:, 0]
    for axes, size in zip(panels, sizes, strict=True):
        for number, count in enumerate(threads):
            frames = [run.frame for run in speed.runs if (run.size, run.threads) == (size, count)]
            medians = np.array([frame.median for frame in frames])
            spread = [[f.median - f.low for f in frames], [f.high - f.median for f in frames]]
            places = np.arange(len(names)) + (number - (len(threads) - 1) / 2) * width
            color, label = palette(number % 10), threads_text(count)
            bars = axes.barh(places, medians, 0.9 * width, xerr=spread, color=color, label=label)
            axes.bar_label(bars, [f" {value:.1f}" for value in medians], padding=4, fontsize=8)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.margins(x=0.1)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.set_title(size_text(size), fontsize=10)
    panels[-1].set_xlabel("ms a frame without decoding: median, quartiles")
    panels[0].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(speed.machine.processor, fontsize=11)
    return png(figure, DPI)
