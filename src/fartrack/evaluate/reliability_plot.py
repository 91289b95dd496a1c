"""A picture of a score's reliability (extra ``eval``)."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from fartrack.evaluate.reliability import BINS, GOOD, Reliability
from fartrack.evaluate.report import png


def plot_reliability(found: Reliability, name: str) -> bytes:
    """A PNG: the share of good boxes against the predicted chance, and below it the frames of each bin; the raw score
    beside the held-out chances."""
    figure = Figure(figsize=(5.5, 6.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], ":", color="grey", label="as predicted")
    lefts = np.arange(BINS) / BINS
    for number, (kind, parts) in enumerate({"raw": found.raw, "held out": found.held_out}.items()):
        color, filled = f"C{number}", [part for part in parts if part.frames]
        label = f"{kind}, error {found.errors[kind]}"
        above.plot([p.predicted for p in filled], [p.observed for p in filled], "o-", color=color, label=label)
        places, frames = lefts + (0.05 + 0.42 * number) / BINS, [part.frames for part in parts]
        below.bar(places, frames, 0.42 / BINS, align="edge", color=color)
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel=f"share of boxes with an IoU of at least {GOOD}")
    above.set_title(f"{name}, {found.sequences} sequences", fontsize=10)
    above.legend(fontsize=8, loc="upper left")
    below.set(xlabel="score", ylabel="frames")
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    return png(figure, 110)
