"""`fartrack bench`: tables, raw figures, a picture; and one sentence for whatever is wrong."""

import json
import statistics

import pytest

from fartrack.cli.evaluate import first_boxes, parse_numbers, parse_sizes
from fartrack.errors import FartrackError

CODE = """
import time


class Still:
    def init(self, frame, box):
        self.box = box

    def update(self, frame):
        time.sleep(0.001)
        return self.box
"""


@pytest.fixture
def run(tmp_path, command_in):
    """A function that runs the command in a folder with a tracker; it returns what it says."""
    (tmp_path / "still.py").write_text(CODE)
    return command_in(tmp_path, "bench", "still")


def test_a_model_and_another_tracker(run, tmp_path):
    pytest.importorskip("matplotlib")
    short = ("--rounds", "2", "--frames", "3", "--warm-up", "1", "--sizes", "160x90", "--set", "interval=7")
    out = run("--tracker", "still:Still,pico", *short, "--json", "speed.json", "--plot", "speed.png")
    assert "times Still |" in out
    assert "saved speed.json" in out
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.part"))

    found = json.loads((tmp_path / "speed.json").read_text())
    assert found["trackers"]["pico"]["settings"]["interval"] == 7
    still, pico = found["runs"]
    assert (still["tracker"], pico["tracker"], pico["size"], pico["threads"]) == ("Still", "pico", [160, 90], 1)
    for record in found["runs"]:
        frames = [value for times in record["rounds"] for value in times]
        assert (len(record["rounds"]), len(frames)) == (2, 6)
        summary = record["summary"]
        assert summary["median"] == pytest.approx(statistics.median(frames))
        assert summary["fps"] == pytest.approx(1000 / statistics.mean(frames))
        pairs = zip(record["rounds"], still["rounds"], strict=True)
        ratios = [statistics.median(own) / statistics.median(first) for own, first in pairs]
        assert summary["ratio"] == pytest.approx(statistics.median(ratios))
        assert record["first_box"] > 0
    assert [(number, name) for number, name, *_ in found["turns"]] == [
        *((0, "Still"), (0, "pico"), (1, "Still"), (1, "pico"), (2, "pico"), (2, "Still"))
    ]


def test_the_box_of_a_clip_is_given_or_lies_beside_it(tmp_path):
    (tmp_path / "a.txt").write_text("1,2,3,4\n5,6,7,8\n")
    assert first_boxes([str(tmp_path / "a.mp4")], []) == [(1, 2, 3, 4)]
    assert first_boxes(["a", "b"], ["1,2,3,4", "5 6 7 8"]) == [(1, 2, 3, 4), (5, 6, 7, 8)]
    assert first_boxes([], []) == []


def test_sizes_and_threads():
    assert parse_sizes("640x360, 1280X720,640×360") == [(640, 360), (1280, 720)]
    assert parse_numbers("2, 1,2", "--threads") == [2, 1]
    for text in ("", "640", "640x", "axb", "640x360x3", "-640x360", "8x8", "9999x100", "640x360,"):
        with pytest.raises(FartrackError, match=r"such as 640x360\.$"):
            parse_sizes(text)
    for text in ("", "two", "1,", "1.5"):
        with pytest.raises(FartrackError, match=r"^--threads is .* such as 1,2\.$"):
            parse_numbers(text, "--threads")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--tracker", "nobody"], "There is no tracker 'nobody'"),
        (["--tracker", "pico,pico"], "Two trackers are called pico"),
        (["--set", "interval=0"], "interval is 0; it must lie between"),
        (["--tracker", "raw:results"], "published results"),
        (["--sizes", "large"], "'large' is not a size"),
        (["--threads", "many"], "--threads is 'many'; list whole numbers"),
        (["--threads", "1,4096"], "threads is 4096; this machine has"),
        (["--threads", "0"], "threads is 0; this machine has"),
        (["clip.mp4"], "There is no box for clip.mp4; give CLIP --box x,y,w,h, or put it into clip.txt"),
        (["a.mp4", "a.mp4", "--box", "1,2,3,4", "--box", "1,2,3,4"], "named twice"),
        (["a.mp4", "b.mp4", "--box", "1,2,3,4"], "There are 1 boxes for 2 clips"),
        (["--box", "1,2,3,4"], "CLIP --box"),
        (["clip.mp4", "--box", "1,2,3"], "1,2,3"),
        (["clip.mp4", "--box", "1,2,3,4"], "There is no file or folder clip.mp4"),
        (["--json", "nowhere/speed.json"], "There is no folder nowhere"),
        (["--engine", "abacus", "--sizes", "32x32"], "There is no engine 'abacus'"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(run, tmp_path, arguments, told):
    message = run(*arguments, code=2)
    assert message.startswith("fartrack: ")
    assert told in message
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "speed.json").exists()
