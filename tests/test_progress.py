"""Progress: a bar on a terminal, and a plain line now and then where stderr is a file."""

import io

import pytest
from rich.console import Console

import fartrack.progress
from fartrack.progress import Meter, progress


@pytest.fixture
def log(monkeypatch):
    """A file that takes the place of stderr, and a clock that goes on by 10 s whenever it is read."""
    file, clock = io.StringIO(), iter(range(0, 10_000, 10))
    monkeypatch.setattr(fartrack.progress, "console", Console(file=file))
    monkeypatch.setattr(fartrack.progress.time, "perf_counter", lambda: float(next(clock)))
    return file


def test_a_log_gets_a_line_now_and_then(log):
    with Meter("training", 40, "steps a second", done=10) as meter:
        for step in range(10, 40):
            meter.reach(step + 1, what=f"training, loss {0.5:.3f}")
    lines = log.getvalue().splitlines()
    assert 5 < len(lines) < 30
    assert all(line.startswith("training, loss 0.500: ") and line.endswith(" steps a second") for line in lines)
    assert all(" of 40, " in line for line in lines)


def test_what_is_timed_is_not_said_to_have_a_speed(log):
    with Meter("timing", None, live=False) as meter:
        for turn in range(9):
            meter.reach(turn, 9)
    assert log.getvalue().splitlines()[0].startswith("timing: ")
    assert all(line.endswith(" of 9") for line in log.getvalue().splitlines())


def test_what_is_short_says_nothing(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(fartrack.progress, "console", Console(file=file))
    assert list(progress(range(100), "opening")) == list(range(100))
    assert not file.getvalue()


def test_a_terminal_has_a_bar(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(fartrack.progress, "console", Console(file=file, force_terminal=True))
    assert list(progress(iter("ab"), "opening [x]")) == ["a", "b"]
    assert "opening [x]" in file.getvalue()
