"""What an evaluation says, as tables that are Markdown and read well in a terminal.

One sequence counts once, from however many frames it was started: every mean is over sequences, with its 95 %
interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
        difference: of the first measure to that of the first tracker, sequence by sequence; None for that one.
        fps: frames per second without decoding; NaN if that is not known.
    """

    tracker: str
    means: dict[str, Interval]
    difference: Interval | None
    fps: float


def compare(evaluations: Sequence[Evaluation], only: frozenset[str] | None = None) -> list[Row]:
    """Trackers on the same sequences, or on those of the names in ``only``; none if no frame of them can be scored."""
    tables = [evaluation.table() for evaluation in evaluations]
    grouped: dict[str, list[str]] = {}
    for sequence in evaluations[0].benchmark.sequences:
        if tables[0][sequence.name] and (only is None or sequence.name in only):
            grouped.setdefault(sequence.video, []).append(sequence.name)
    if not grouped:
        return []

    def column(table: dict[str, dict[str, float]], measure: str) -> list[float]:
        return [float(np.mean([table[name][measure] for name in names])) for names in grouped.values()]

    rows: list[Row] = []
    for evaluation, table in zip(evaluations, tables, strict=True):
        columns = {measure: column(table, measure) for measure in evaluation.benchmark.rules.measures}
        first = evaluation.benchmark.rules.measures[0]
        base = column(tables[0], first)
        means = {measure: bootstrap(values) for measure, values in columns.items()}
        difference = paired(columns[first], base) if rows else None
        rows.append(Row(evaluation.tracker, means, difference, evaluation.fps))
    return rows


def print_tables(evaluations: Sequence[Evaluation], whole: Benchmark, threads: int) -> None:
    """Print the comparison, then the figures of each attribute and of each sequence.

    Args:
        evaluations: of the same sequences.
        whole: the benchmark with all of its sequences.
        threads: of each tracker.
    """
    rules, sequences = whole.rules, evaluations[0].benchmark.sequences
    rows = compare(evaluations)
    if not rows:
        print_paragraphs(f"{whole.name}: {len(sequences)} sequences are tracked; only their first boxes are published.")
        return
    tables = [evaluation.table() for evaluation in evaluations]
    scored = [sequence for sequence in sequences if tables[0][sequence.name]]
    if len(sequences) < len(whole.sequences):
        videos = len({sequence.video for sequence in scored})
        count = f"{videos} of {runs(whole.sequences)}, those of which all have results"
    else:
        count = runs(scored)
    first = title(rules.measures[0])
    others = (f"{first} less that of {rows[0].tracker}",) if len(rows) > 1 else ()
    summary = new_table("tracker", *map(title, rules.measures), *others, "FPS")
    for row in rows:
        cells = [str(row.means[measure]) for measure in rules.measures]
        cells += [describe(row.difference)] if others else []
        summary.add_row(row.tracker, *cells, _figure(row.fps, 0))
    print_paragraphs(
        f"{whole.name}, {count}; means over sequences, each counting once, with 95 % intervals (differences: paired)",
        summary,
        _speed(evaluations, threads),
    )

    attributes = sorted({name for sequence in sequences for name in sequence.attributes})
    if attributes:
        by_attribute = new_table("attribute", "sequences", *(f"{first} of {row.tracker}" for row in rows))
        for name in attributes:
            chosen = frozenset(sequence.name for sequence in sequences if name in sequence.attributes)
            if part := compare(evaluations, chosen):
                means = (str(row.means[rules.measures[0]]) for row in part)
                by_attribute.add_row(name, str(sum(1 for one in chosen if tables[0][one])), *means)
        print_paragraphs(by_attribute)

    if len(rows) == 1:
        by_sequence = new_table("sequence", "frames", *map(title, rules.measures), "mean score", "ms a frame")
    else:
        by_sequence = new_table("sequence", "frames", *(f"{first} of {row.tracker}" for row in rows))
    for place, sequence in enumerate(sequences):
        if len(rows) == 1:
            result, measures = evaluations[0].results[place], rules.measures
            cells = [_figure(tables[0][sequence.name].get(measure, math.nan)) for measure in measures]
            updates = slice(1, None) if len(result.boxes) > 1 else slice(None)
            cells += [_figure(result.scores[updates].mean()), _figure(1000 * result.seconds[updates].mean(), 1)]
        else:
            cells = [_figure(table[sequence.name].get(rules.measures[0], math.nan)) for table in tables]
        by_sequence.add_row(sequence.name, str(sequence.length), *cells)
    print_paragraphs(by_sequence)


def runs(sequences: Sequence[Clip]) -> str:
    """How many sequences there are, and how often they were tracked if from several frames on."""
    videos = len({sequence.video for sequence in sequences})
    started = any(sequence.skipped for sequence in sequences)
    return f"{videos} sequences" + (f", {len(sequences)} runs from several starts" if started else "")


def title(measure: str) -> str:
    """A measure's name as people write it."""
    return measure.upper() if len(measure) <= 4 else measure.replace("_", " ")


def describe(difference: Interval | None) -> str:
    """A paired difference, which is none if its interval holds 0."""
    if difference is None:
        return ""
    verdict = ", no difference" if difference.low <= 0 <= difference.high else ""
    return f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]{verdict}"


def _speed(evaluations: Sequence[Evaluation], threads: int) -> str:
    if all(math.isnan(evaluation.fps) for evaluation in evaluations):
        return ""
    most = max(evaluation.jobs for evaluation in evaluations)
    load = f"; under load, for up to {most} trackers ran at once" if most > 1 else ""
    return (
        f"FPS: frames by the time of the updates alone, without decoding, {threads} thread{'s' * (threads > 1)}{load}"
    )


def _figure(value: float, digits: int = 3) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def new_table(name: str, *columns: str) -> Table:
    """An empty table: names on the left, figures on the right."""
    table = Table(box=box.MARKDOWN, header_style="")
    table.add_column(name, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def print_paragraphs(*parts: str | Table) -> None:
    """Print a paragraph each; the lines of a table are as long as they must be, so that it stays Markdown."""
    console = Console(width=1000, color_system=None)
    for part in parts:
        with console.capture() as captured:
            console.print(part, markup=False, highlight=False, soft_wrap=True)
        if text := "\n".join(line.rstrip() for line in captured.get().strip().splitlines()):
            print(text, end="\n\n")
