"""An evaluation as tables that are Markdown and read well in a terminal.

One sequence counts once, from however many frames it was started: every mean is over sequences, with its 95 % interval.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from fartrack.datasets.sequences import Sequence as Clip
from fartrack.evaluate.benchmarks import Benchmark
from fartrack.evaluate.metrics import Interval, bootstrap, paired
from fartrack.evaluate.runner import Evaluation


@dataclass(frozen=True)
class Row:
    """One tracker among those compared.

    Attributes:
        tracker: its name.
        means: measure → its mean over sequences.
        difference: the first measure minus that of the first tracker, sequence by sequence; None for that tracker.
        fps: frames per second without decoding; NaN if unknown.
    """

    tracker: str
    means: dict[str, Interval]
    difference: Interval | None
    fps: float


def compare(evaluations: Sequence[Evaluation], only: Collection[str] | None = None) -> list[Row]:
    """Trackers on the same sequences, or on those named in ``only``; no rows if no frame of them can be scored."""
    first = evaluations[0]
    runs: dict[str, list[str]] = {}
    for sequence in first.benchmark.sequences:
        if first.table[sequence.name] and (only is None or sequence.name in only):
            runs.setdefault(sequence.video, []).append(sequence.name)

    def values(evaluation: Evaluation, measure: str) -> list[float]:
        return [float(np.mean([evaluation.table[name][measure] for name in names])) for names in runs.values()]

    measures = first.benchmark.rules.measures
    return [
        Row(
            evaluation.tracker,
            {measure: bootstrap(values(evaluation, measure)) for measure in measures},
            paired(values(evaluation, measures[0]), values(first, measures[0])) if number else None,
            evaluation.fps,
        )
        for number, evaluation in enumerate(evaluations if runs else ())
    ]


def print_tables(evaluations: Sequence[Evaluation], whole: Benchmark, threads: int) -> None:
    """Print the comparison, then the measures of each attribute and of each sequence.

    Args:
        evaluations: of the same sequences.
        whole: the benchmark with all of its sequences.
        threads: of each tracker.
    """
    measures, sequences, table = whole.rules.measures, evaluations[0].benchmark.sequences, evaluations[0].table
    rows = compare(evaluations)
    if not rows:
        print_paragraphs(f"{whole.name}: {len(sequences)} sequences are tracked; only their first boxes are published.")
        return
    scored = [sequence for sequence in sequences if table[sequence.name]]
    count = count_runs(scored)
    if len(sequences) < len(whole.sequences):
        videos = len({sequence.video for sequence in scored})
        count = f"{videos} of {count_runs(whole.sequences)}, those of which all have results"
    first = title(measures[0])
    others = [f"{first} minus that of {rows[0].tracker}"] if len(rows) > 1 else []
    summary = new_table("tracker", *map(title, measures), *others, "FPS")
    for row in rows:
        cells = [str(row.means[measure]) for measure in measures]
        summary.add_row(row.tracker, *cells, *(describe(row.difference) for _ in others), _number(row.fps, 0))
    print_paragraphs(
        f"{whole.name}, {count}; means over sequences, each counting once, with 95 % intervals (differences: paired)",
        summary,
        _speed(evaluations, threads),
    )

    by_tracker = [f"{first} of {row.tracker}" for row in rows]
    by_attribute = new_table("attribute", "sequences", *by_tracker)
    for name in sorted(set().union(*(sequence.attributes for sequence in sequences))):
        chosen = {sequence.name for sequence in scored if name in sequence.attributes}
        if part := compare(evaluations, chosen):
            by_attribute.add_row(name, str(len(chosen)), *(str(row.means[measures[0]]) for row in part))
    if by_attribute.row_count:
        print_paragraphs(by_attribute)

    if len(rows) > 1:
        by_sequence = new_table("sequence", "frames", *by_tracker)
        for s in sequences:
            cells = [_number(evaluation.table[s.name].get(measures[0], math.nan)) for evaluation in evaluations]
            by_sequence.add_row(s.name, str(s.length), *cells)
    else:
        by_sequence = new_table("sequence", "frames", *map(title, measures), "mean score", "ms a frame")
        for s, result in zip(sequences, evaluations[0].results, strict=True):
            updates = slice(1, None) if len(result.boxes) > 1 else slice(None)
            cells = [_number(table[s.name].get(measure, math.nan)) for measure in measures]
            cells += [_number(result.scores[updates].mean()), _number(1000 * result.seconds[updates].mean(), 1)]
            by_sequence.add_row(s.name, str(s.length), *cells)
    print_paragraphs(by_sequence)


def count_runs(sequences: Sequence[Clip]) -> str:
    """How many sequences there are, and how many runs if they were started from several frames."""
    videos = len({sequence.video for sequence in sequences})
    started = any(sequence.skipped for sequence in sequences)
    return f"{videos} sequences" + (f", {len(sequences)} runs from several starts" if started else "")


def title(measure: str) -> str:
    """A measure's name as people write it."""
    return measure.upper() if len(measure) <= 4 else measure.replace("_", " ")


def describe(difference: Interval | None) -> str:
    """A paired difference; where its interval holds 0 it is called no difference."""
    if difference is None:
        return ""
    verdict = ", no difference" if difference.low <= 0 <= difference.high else ""
    return f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]{verdict}"


def _speed(evaluations: Sequence[Evaluation], threads: int) -> str:
    if all(math.isnan(evaluation.fps) for evaluation in evaluations):
        return ""
    most = max(evaluation.jobs for evaluation in evaluations)
    load = f"; under load, since up to {most} trackers ran at once" if most > 1 else ""
    return f"FPS: frames per second of the updates alone, without decoding, {threads} thread{'s' * (threads > 1)}{load}"


def _number(value: float, digits: int = 3) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def new_table(name: str, *columns: str) -> Table:
    """An empty table: names on the left, numbers on the right."""
    table = Table(box=box.MARKDOWN, header_style="")
    table.add_column(name, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def print_paragraphs(*parts: str | Table) -> None:
    """Print each part as a paragraph; the lines of tables are never wrapped, so that they stay Markdown."""
    console = Console(width=1000, color_system=None)
    for part in parts:
        with console.capture() as captured:
            console.print(part, markup=False, highlight=False, soft_wrap=True)
        if text := "\n".join(line.rstrip() for line in captured.get().strip().splitlines()):
            print(text, end="\n\n")
