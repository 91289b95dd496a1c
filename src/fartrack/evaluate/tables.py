"""An evaluation as tables that are Markdown and read well in a terminal.

One sequence counts once, from however many frames it was started: every mean is over sequences, with its 95 % interval.
"""

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
from fartrack.geometry import FloatArray

FEW = 10
"""From so many sequences on, an interval by resampling them is trusted."""


@dataclass(frozen=True)
class Row:
    """One tracker among those compared: means by measure, and the paired difference to the first tracker in the first
    measure (None for that tracker)."""

    means: dict[str, Interval]
    difference: Interval | None


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
            {measure: bootstrap(values(evaluation, measure)) for measure in measures},
            paired(values(evaluation, measures[0]), values(first, measures[0])) if number else None,
        )
        for number, evaluation in enumerate(evaluations if runs else ())
    ]


def print_tables(evaluations: Sequence[Evaluation], whole: Benchmark, threads: int) -> None:
    """Print the tables of evaluations of the same sequences, among those of the ``whole`` benchmark."""
    sequences = evaluations[0].benchmark.sequences
    scored = [sequence for sequence in sequences if evaluations[0].table[sequence.name]]
    if not scored:
        print_paragraphs(f"{whole.name}: {len(sequences)} sequences are tracked; only their first boxes are published.")
        return
    count = count_runs(scored)
    if len(sequences) < len(whole.sequences):
        videos = len({sequence.video for sequence in scored})
        count = f"{videos} of {count_runs(whole.sequences)}, those of which all have results"
    print_paragraphs(
        f"{whole.name}, {count}; means over sequences, each counting once, with 95 % intervals (differences: paired)",
        few(scored),
        tracker_table(evaluations),
        _speed(evaluations, threads),
        attribute_table(evaluations),
        sequence_table(evaluations),
    )


def tracker_table(evaluations: Sequence[Evaluation]) -> Table:
    """Each tracker's means, difference to the first tracker, and speed."""
    rows, measures = compare(evaluations), evaluations[0].benchmark.rules.measures
    others = [f"{title(measures[0])} minus that of {evaluations[0].tracker}"] if len(rows) > 1 else []
    table = new_table("tracker", *map(title, measures), *others, "FPS", "ms: median, mean, 95 %, 99 %")
    for row, evaluation in zip(rows, evaluations, strict=True):
        cells = [str(row.means[measure]) for measure in measures] + [describe(row.difference) for _ in others]
        times = np.concatenate([result.seconds[1:] for result in evaluation.results])
        table.add_row(evaluation.tracker, *cells, _number(evaluation.fps, 0), describe_times(times))
    return table


def attribute_table(evaluations: Sequence[Evaluation]) -> Table:
    """Each tracker's headline measure over the sequences of each attribute."""
    first = evaluations[0].benchmark.rules.measures[0]
    table = new_table("attribute", "sequences", *(f"{title(first)} of {e.tracker}" for e in evaluations))
    for name, (count, rows) in by_attribute(evaluations).items():
        table.add_row(name, str(count), *(str(row.means[first]) for row in rows))
    return table


def by_attribute(evaluations: Sequence[Evaluation]) -> dict[str, tuple[int, list[Row]]]:
    """Attribute → the number of sequences that have it, and the trackers on these; without what cannot be scored."""
    scored = [s for s in evaluations[0].benchmark.sequences if evaluations[0].table[s.name]]
    names = sorted({name for sequence in scored for name in sequence.attributes})
    members = {name: [s.name for s in scored if name in s.attributes] for name in names}
    return {name: (len(chosen), compare(evaluations, chosen)) for name, chosen in members.items()}


def sequence_table(evaluations: Sequence[Evaluation]) -> Table:
    """Of each sequence, each tracker's headline measure; or of a single tracker all measures, mean score and time."""
    benchmark, measures = evaluations[0].benchmark, evaluations[0].benchmark.rules.measures
    if len(evaluations) > 1:
        columns = [f"{title(measures[0])} of {e.tracker}" for e in evaluations]
        measures = measures[:1]
    else:
        columns = [*map(title, measures), "mean score", "ms per frame"]
    table = new_table("sequence", "frames", *columns)
    for place, s in enumerate(benchmark.sequences):
        cells = [_number(e.table[s.name].get(measure, math.nan)) for e in evaluations for measure in measures]
        if len(evaluations) == 1:
            result = evaluations[0].results[place]
            updates = slice(1, None) if len(result.boxes) > 1 else slice(None)
            cells += [_number(result.scores[updates].mean()), _number(1000 * result.seconds[updates].mean(), 1)]
        table.add_row(s.name, str(s.length), *cells)
    return table


def count_runs(sequences: Sequence[Clip]) -> str:
    """How many sequences there are, and how many runs if they were started from several frames."""
    videos = len({sequence.video for sequence in sequences})
    started = any(sequence.skipped for sequence in sequences)
    return f"{videos} sequences" + (f", {len(sequences)} runs from several starts" if started else "")


def few(sequences: Sequence[Clip]) -> str:
    """A warning where there are few sequences."""
    videos = len({sequence.video for sequence in sequences})
    if videos >= FEW:
        return ""
    what = "One sequence has no interval" if videos == 1 else f"{videos} sequences are few for an interval"
    return f"{what}: what is measured here may well be otherwise on other videos."


def title(measure: str) -> str:
    """A measure's name as people write it."""
    return measure.upper() if len(measure) <= 4 else measure.replace("_", " ")


def describe(difference: Interval | None) -> str:
    """A paired difference; where its interval holds 0 it is called no difference."""
    if difference is None:
        return ""
    verdict = ", no difference" if difference.low <= 0 <= difference.high else ""
    return f"{difference.text('+.3f')}{verdict}"


def describe_times(seconds: FloatArray) -> str:
    """Median, mean, 95th and 99th percentile in milliseconds; empty if a time is unknown."""
    if not len(seconds) or not np.isfinite(seconds).all():
        return ""
    values = (np.median(seconds), np.mean(seconds), *np.percentile(seconds, (95, 99)))
    return ", ".join(f"{1000 * value:.1f}" for value in values)


def _speed(evaluations: Sequence[Evaluation], threads: int) -> str:
    if all(math.isnan(evaluation.fps) for evaluation in evaluations):
        return ""
    most = max(evaluation.jobs for evaluation in evaluations)
    load = f"; under load, since up to {most} trackers ran at once" if most > 1 else ""
    counted = f"of the updates alone, without decoding, {threads} thread{'s' * (threads > 1)}{load}"
    return f"FPS, ms: frames per second and milliseconds a frame {counted}"


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
    """Print each part that is not empty as a paragraph; lines of tables are never wrapped, so they stay Markdown."""
    console = Console(width=1000, color_system=None)
    for part in parts:
        if isinstance(part, Table) and not part.row_count:
            continue
        with console.capture() as captured:
            console.print(part, markup=False, highlight=False, soft_wrap=True)
        if text := "\n".join(line.rstrip() for line in captured.get().strip().splitlines()):
            print(text, end="\n\n")
