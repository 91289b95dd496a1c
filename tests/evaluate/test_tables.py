"""The comparison: means over sequences with intervals, paired differences, attributes, and what is left out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fartrack.datasets.sequences import Sequence
from fartrack.evaluate.benchmarks import Benchmark
from fartrack.evaluate.metrics import Interval, Rules
from fartrack.evaluate.runner import Evaluation, Result
from fartrack.evaluate.tables import compare, describe, describe_times, print_tables

RULES = Rules(("ao", "sr50"), skip_first=True)
TRUTH = np.tile([10.0, 10, 20, 20], (3, 1))


def make(shifts, scored=None, rules=RULES):
    """An evaluation of sequences in which the tracker is off by so many pixels; ``scored``: which can be scored."""
    sequences, results = [], []
    for number, shift in enumerate(shifts):
        truth = TRUTH if scored is None or scored[number] else TRUTH[:1]
        attributes = frozenset({"FAST"} if number % 2 else {"SMALL"})
        sequences.append(Sequence(f"s{number}", (Path("a"), Path("b"), Path("c")), truth, attributes))
        boxes = TRUTH + np.array([shift, 0, 0, 0])
        results.append(Result(f"s{number}", boxes, np.ones(3), np.array([0, 0.01, 0.03])))
    return Evaluation(f"off {shifts}", Benchmark("made", sequences, rules), results)


def overlap(shift):
    return (20 - shift) / (20 + shift)


def test_a_sequence_counts_once_and_differences_are_paired():
    first, second = make([0, 2, 4]), make([1, 3, 5])
    ours, theirs = compare([first, second])
    assert ours.means["ao"].mean == pytest.approx(np.mean([overlap(s) for s in (0, 2, 4)]))
    assert ours.means["sr50"].mean == 1
    assert ours.difference is None
    expected = [overlap(s + 1) - overlap(s) for s in (0, 2, 4)]
    assert theirs.difference.mean == pytest.approx(np.mean(expected))
    assert min(expected) <= theirs.difference.low <= theirs.difference.high <= max(expected) < 0
    assert ours.means["ao"].low < theirs.means["ao"].high, "the intervals of the means overlap, the paired one is sure"
    assert first.fps == pytest.approx(2 / 0.04)


def test_a_sequence_started_often_still_counts_once():
    """Three runs of one video and one of another: the mean, its interval and the difference are those of two videos."""
    both = [make([0, 2, 4, 8]), make([1, 3, 5, 9])]
    for evaluation in both:
        for number in (1, 2):
            part = replace(evaluation.benchmark.sequences[number], name=f"s0@{number}", skipped=number)
            evaluation.benchmark.sequences[number] = part
            evaluation.results[number] = replace(evaluation.results[number], name=part.name)
    ours, theirs = compare(both)
    values = [np.mean([overlap(s) for s in (0, 2, 4)]), overlap(8)]
    assert ours.means["ao"].mean == pytest.approx(np.mean(values))
    assert (ours.means["ao"].low, ours.means["ao"].high) == pytest.approx((min(values), max(values)))
    shifted = [np.mean([overlap(s + 1) for s in (0, 2, 4)]), overlap(9)]
    assert theirs.difference.mean == pytest.approx(np.mean(shifted) - np.mean(values))


def test_a_difference_within_its_interval_is_none():
    assert describe(Interval(0.01, -0.01, 0.03)) == "+0.010 [-0.010, +0.030], no difference"
    assert describe(Interval(0.02, 0.01, 0.03)) == "+0.020 [+0.010, +0.030]"
    assert describe(None) == ""


def test_the_tables_of_attributes_and_sequences(capsys):
    both = [make([0, 2, 4, 0]), make([2, 2, 8, 0])]
    print_tables(both, both[0].benchmark, threads=1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("made, 4 sequences; means over sequences, each counting once")
    [fast] = [line for line in lines if line.startswith("| FAST")]
    assert [cell.strip() for cell in fast.split("|")[2:3]] == ["2"]
    assert f"{(overlap(2) + 1) / 2:.3f}" in fast
    [third] = [line for line in lines if line.startswith("| s2")]
    assert [cell.strip() for cell in third.split("|")[2:-1]] == ["3", f"{overlap(4):.3f}", f"{overlap(8):.3f}"]
    assert any("without decoding, 1 thread" in line for line in lines)
    [told] = [line for line in lines if line.startswith("| off [0, 2, 4, 0]")]
    assert told.split("|")[-2].strip() == "20.0, 20.0, 30.0, 30.0"  # of 10 and 30 ms alike
    assert describe_times(np.array([np.nan, 1])) == ""
    assert not any(line != line.rstrip() for line in lines)


def test_what_cannot_be_scored_is_left_out_and_said(capsys):
    partly = make([0, 2], scored=[True, False])
    whole = replace(partly.benchmark, sequences=[*partly.benchmark.sequences, *make([0, 0, 0]).benchmark.sequences[2:]])
    print_tables([partly], whole, 2)
    out = capsys.readouterr().out
    assert out.startswith("made, 1 of 3 sequences, those of which all have results")
    [line] = [line for line in out.splitlines() if line.startswith("| s1")]
    assert [cell.strip() for cell in line.split("|")[3:5]] == ["", ""]

    none = make([0, 2], scored=[False, False])
    assert compare([none]) == []
    print_tables([none], none.benchmark, 1)
    assert capsys.readouterr().out == "made: 2 sequences are tracked; only their first boxes are published.\n\n"


def test_under_load_is_said(capsys):
    loaded = replace(make([0, 2]), jobs=3)
    print_tables([loaded], loaded.benchmark, 1)
    assert "under load, since up to 3 trackers ran at once" in capsys.readouterr().out
