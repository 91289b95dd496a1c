"""`fartrack eval`: the tables, going on after a stop, and one sentence for whatever is wrong."""

import re
import zipfile

import cv2
import numpy as np
import pytest

FRAMES, SEQUENCES = 5, 6

CODE = """
class Still:
    def init(self, frame, box):
        self.box = box

    def update(self, frame):
        return self.box, 0.5


class Off(Still):
    def update(self, frame):
        return self.box + [8, 0, 0, 0]


class Absent(Still):
    def __init__(self):
        raise RuntimeError("it is not installed")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with trackers in ``mine.py``, sequences in ``data``, and some published results."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "mine.py").write_text(CODE)
    (folder / "published").mkdir()
    for number in range(SEQUENCES):
        sequence = folder / "data" / f"s{number}"
        sequence.mkdir(parents=True)
        for frame in range(FRAMES):
            cv2.imwrite(str(sequence / f"{frame:04}.jpg"), np.full((48, 64, 3), 90, np.uint8))
        boxes = [f"{10 + number},8,20,16"] * FRAMES
        (sequence / "groundtruth.txt").write_text("\n".join(boxes) + "\n")
        if number < 2:
            (folder / "published" / f"s{number}.txt").write_text("\n".join(boxes) + "\n")
    return folder


@pytest.fixture
def run(place, command_in):
    """A function that runs the command in that folder; it returns what it says."""
    return command_in(place, "eval", "mine")


def rows(text, head):
    """Cells of the Markdown table whose head begins with a word, by the first of each row."""
    table = re.search(rf"^\| {head} .*\n\|[-|]+\n((?:\|.*\n)+)", text, re.M)
    assert table, text
    return {
        cells[0]: cells[1:] for line in table[1].splitlines() if (cells := [c.strip() for c in line.split("|")[1:-1]])
    }


def test_trackers_side_by_side(run, place):
    out = run("--tracker", "mine:Still,mine:Off", "--data", "data", "--results", "r", "--jobs", "2")
    assert "folder, 6 sequences; means over sequences, each counting once" in out
    summary = rows(out, "tracker")
    assert summary["Still"][0] == "1.000 [1.000, 1.000]"
    assert summary["Off"][0] == "0.429 [0.429, 0.429]"  # 12 of 20 + 8 pixels
    assert "-0.571 [-0.571, -0.571]" in summary["Off"]
    assert "no difference" not in out
    assert "under load, since up to 2 trackers ran at once" in out
    assert rows(out, "sequence")["s3"] == ["5", "1.000", "0.429"]
    again = run("--tracker", "mine:Still,mine:Off", "--data", "data", "--results", "r")
    assert again == out  # nothing ran: even the speed is what was measured then
    same = run("--tracker", "mine:Still,other=raw:r/folder/Still", "--data", "data", "--results", "r")
    assert "+0.000 [+0.000, +0.000], no difference" in same


@pytest.mark.parametrize("absent", ["mine:Absent", "mine:Nobody", "nobody"])
def test_a_tracker_that_is_missing_leaves_the_others(run, place, absent, capfd):
    results = f"without-{absent.partition(':')[2]}"
    options = ("--tracker", f"gone={absent},mine:Still,mine:Off", "--data", "data", "--results", results)
    told = run(*options, code=2).splitlines()
    assert told[0].startswith("fartrack: gone is left out. ") and len(told) == 2
    assert told[1].startswith("fartrack: gone could not be evaluated")
    assert {folder.name for folder in (place / results / "folder").iterdir() if [*folder.glob("s*.txt")]} == {
        "Still",
        "Off",
    }


def test_without_a_tracker_it_is_the_default_model(run):
    assert list(rows(run("--data", "data", "--results", "default", "--only", "s0"), "tracker")) == ["pico"]


def test_few_sequences_are_warned_of(run):
    once = ("--tracker", "mine:Still", "--data", "data", "--results", "few")
    out = run(*once, "--only", "s1")
    assert "One sequence has no interval" in out and rows(out, "tracker")["Still"][0] == "1.000"
    assert "6 sequences are few for an interval" in run(*once)


def test_one_tracker_in_full(run):
    out = run("--tracker", "mine:Still", "--data", "data", "--results", "one", "--only", "s1,s4")
    assert "minus that" not in out
    sequences = rows(out, "sequence")
    assert sorted(sequences) == ["s1", "s4"]
    assert sequences["s1"][:4] == ["5", "1.000", "1.000", "1.000"]
    assert sequences["s1"][-2] == "0.500"
    assert float(sequences["s1"][-1]) >= 0


def test_published_results_limit_the_sequences(run):
    out = run("--tracker", "theirs=raw:published,mine:Still", "--data", "data", "--results", "limited")
    assert "2 of 6 sequences, those of which all have results" in out
    assert rows(out, "tracker")["theirs"][-1] == ""
    assert sorted(rows(out, "sequence")) == ["s0", "s1"]


def test_several_starts(run, place, tmp_path):
    once = ("--tracker", "mine:Still,mine:Off", "--data", "data", "--results", "starts")
    run(*once)
    kept = (place / "starts" / "folder" / "Off" / "s3_time.txt").read_bytes()
    out = run(*once, "--starts", "0,2,3")
    assert "folder, 6 sequences, 18 runs from several starts; means over sequences" in out
    assert (place / "starts" / "folder" / "Off" / "s3_time.txt").read_bytes() == kept, "the first start ran before"
    assert rows(out, "tracker")["Off"][0] == "0.429 [0.429, 0.429]"
    assert rows(out, "sequence")["s3@2"] == ["3", "1.000", "0.429"]
    assert sorted(rows(out, "sequence")) == sorted(f"s{n}{at}" for n in range(6) for at in ("", "@2", "@3"))


def test_a_model_and_its_settings(run, place):
    ours = ("--tracker", "pico", "--data", "data", "--results", "ours", "--only", "s0")
    assert rows(run(*ours), "tracker")["pico"]
    told = run(*ours, "--set", "interval=3", code=2)
    assert "holds results of another pico (not the same: settings)" in told
    named = run(
        "--tracker", "often=pico,pico", *ours[2:4], "--results", "theirs", "--only", "s0", "--set", "interval=3"
    )
    assert list(rows(named, "tracker")) == ["often", "pico"]


def test_a_report_and_a_submission(run, place, tmp_path):
    pytest.importorskip("matplotlib")
    out = run("--tracker", "mine:Still", "--data", "data", "--results", "r", "--report", str(tmp_path / "report"))
    assert f"saved {tmp_path / 'report' / 'report.html'}" in out
    assert (tmp_path / "report" / "report.html").stat().st_size > 1000
    told = run("--tracker", "mine:Still", "--data", "data", "--results", "r", "--pack", str(tmp_path / "a.zip"), code=2)
    assert "no server for folder" in told
    assert not zipfile.is_zipfile(tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--tracker", "nobody", "--data", "data"], "There is no tracker 'nobody'; use pico, pico-fast"),
        (["--tracker", "pico,pico", "--data", "data"], "Two trackers are called pico"),
        (["--tracker", "mine:Nobody", "--data", "data"], "has no attribute 'Nobody'"),
        (["--tracker", "raw:nowhere", "--data", "data"], "nowhere"),
        (["--tracker", "mine:Still", "--data", "nowhere"], "nowhere"),
        (["--tracker", "mine:Still", "--data", "data", "--benchmark", "unknown"], "unknown"),
        (
            ["--tracker", "mine:Still,mine:Off", "--data", "data", "--benchmark", "got10k-test", "--pack", "a.zip"],
            "one tracker",
        ),
        (
            [
                "--tracker",
                "mine:Still",
                "--data",
                "data",
                "--starts",
                "0,5",
                "--benchmark",
                "got10k-test",
                "--pack",
                "a.zip",
            ],
            "first frames",
        ),
        (["--tracker", "mine:Still", "--data", "data", "--starts", "0,x"], "--starts is '0,x'; list whole numbers"),
        (["--tracker", "mine:Still", "--data", "data", "--starts", "-1"], "The starts are [-1]; list frames"),
        (["--tracker", "mine:Still", "--data", "data", "--starts", "4"], "No sequence shows its target"),
        (["--tracker", "pico", "--data", "data", "--set", "retention=7"], "retention is 7; it must lie between"),
        (
            ["--tracker", "pico", "--data", "data", "--set", "interval=2.5"],
            "interval is 2.5; it must be a whole number",
        ),
        (["--tracker", "pico", "--data", "data", "--set", "speed=7"], "'speed' is no field of TrackerSettings; those"),
        (["--tracker", "pico", "--data", "data", "--set", "interval"], "'interval' is not KEY=VALUE"),
        (["--tracker", "pico", "--data", "data", "--engine", "abacus"], "abacus"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(run, place, arguments, told):
    message = run(*arguments, "--results", "wrong", code=2)
    assert message.startswith("fartrack: ")
    assert told in message
    assert len(message.splitlines()) == 1
    assert not list(place.glob("wrong/**/*.txt"))
