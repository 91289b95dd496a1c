"""Accuracy by the number of training samples, and what ten times as many are predicted to give.

python benchmarks/learning_curve.py docs/learning-curve.csv docs/learning-curve.png

The table has a line per network: ``series,samples,ao,low,high,name``. Within each series, whose networks are measured
in the same way, a power law is fitted: 1 − AO = c · samples^−b, a straight line in logarithms. The interval of the
prediction comes from the scatter of the points about the line (Student's t).
"""

import csv
import math
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from matplotlib.figure import Figure

T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31}
"""Student's t at 97.5 % by degrees of freedom."""


def fit(samples: list[float], ao: list[float], at: float) -> tuple[float, float, float, float]:
    """The exponent b, and the AO predicted at ``at`` samples with its 95 % interval, from at least three points."""
    x, y = np.log(samples), np.log(1 - np.array(ao))
    slope, base = np.polyfit(x, y, 1)
    free, place = len(x) - 2, math.log(at)
    predicted = slope * place + base
    variance = ((y - slope * x - base) ** 2).sum() / free
    leverage = 1 / len(x) + (place - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()
    half_width = T95[min(free, 8)] * math.sqrt(variance * (1 + leverage))
    low, middle, high = (1 - math.exp(predicted + sign * half_width) for sign in (1, 0, -1))
    return -slope, middle, low, high


def main(
    table: Path,
    plot: Path,
    factor: Annotated[float, typer.Option(help="how many more samples")] = 10,
    since: Annotated[float, typer.Option(help="a second fit takes the points from so many samples on")] = 200_000,
) -> None:
    series: dict[str, list[dict[str, str]]] = {}
    with table.open() as file:
        for row in csv.DictReader(file):
            series.setdefault(row["series"], []).append(row)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, rows) in enumerate(series.items()):
        samples, ao, low, high = ([float(row[key]) for row in rows] for key in ("samples", "ao", "low", "high"))
        bars = [[a - b for a, b in zip(ao, low, strict=True)], [a - b for a, b in zip(high, ao, strict=True)]]
        axes.errorbar(samples, ao, yerr=bars, fmt="o", color=f"C{number}", capsize=2, lw=0.8, label=name)
        for row, place, value in zip(rows, samples, ao, strict=True):
            axes.annotate(row["name"], (place, value), (5, -9), textcoords="offset points", fontsize=7)
        target = max(samples) * factor
        for least_samples, style in ((0.0, "--"), (since, ":")):
            points = [(x, y) for x, y in zip(samples, ao, strict=True) if x >= least_samples]
            if len(points) < 3:
                continue
            x, y = map(list, zip(*points, strict=True))
            exponent, predicted, least, most = fit(x, y, target)
            steps = np.geomspace(min(x), target, 50)
            axes.plot(steps, [fit(x, y, step)[1] for step in steps], color=f"C{number}", ls=style, lw=1)
            print(f"{name}, {len(x)} points from {min(x):,.0f} samples on: 1 - AO goes as samples^{-exponent:.3f}")
            print(f"  at {target:,.0f} samples AO {predicted:.3f} [{least:.3f}, {most:.3f}]")
    axes.set(xscale="log", xlabel="samples seen (search crops)", ylabel="AO on 24 sequences, 95 % interval")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(plot, dpi=110)
    print(f"saved {plot}")


if __name__ == "__main__":
    typer.run(main)
