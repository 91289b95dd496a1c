"""`fartrack calibrate`: the tables, the picture, what is written, and one sentence for whatever is wrong."""

import json
import shutil

import cv2
import numpy as np
import pytest

from fartrack.packages import SHIPPED, open_package
from fartrack.tracking.calibration import Calibration

FRAMES, SEQUENCES = 8, 3

CODE = """
class Still:
    def init(self, frame, box):
        self.box = box

    def update(self, frame):
        return self.box
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, demo_clip):
    """A folder with a tracker without scores in ``mine.py``, a model in ``own``, and sequences in ``data``: the demo,
    of which after half of the frames nothing is left, and the truth is elsewhere."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "mine.py").write_text(CODE)
    model = shutil.copytree(SHIPPED / "pico", folder / "own") / "model.json"
    record = {key: value for key, value in json.loads(model.read_text()).items() if key != "score"}
    model.write_text(json.dumps(record, indent=1) + "\n")
    for number in range(SEQUENCES):
        sequence = folder / "data" / f"s{number}"
        sequence.mkdir(parents=True)
        for frame in range(FRAMES):
            image = demo_clip[0][10 * number + frame]
            seen = frame < FRAMES // 2
            cv2.imwrite(str(sequence / f"{frame:04}.png"), image if seen else np.full_like(image, 90))
        boxes = [demo_clip[1][10 * number + frame] for frame in range(FRAMES // 2)]
        boxes += [(600, 340, 8, 8)] * (FRAMES - FRAMES // 2)
        (sequence / "groundtruth.txt").write_text("".join(",".join(map(str, box)) + "\n" for box in boxes))
    return folder


@pytest.fixture
def run(place, command_in):
    """A function that runs the command in that folder; it returns what it says."""
    return command_in(place, "calibrate", "mine")


def test_a_model_is_calibrated(run, place):
    pytest.importorskip("matplotlib")
    ours = ("--tracker", "own", "--engine", "onnxruntime", "--data", "data")
    before = (place / "own" / "model.json").read_text()
    out = run(*ours, "--results", "r", "--plot", "p.png")
    assert f"own on folder: {SEQUENCES * (FRAMES - 1)} frames of {SEQUENCES} sequences" in out
    assert "| held out |" in out
    assert f"Failures (IoU under 0.1): {SEQUENCES * FRAMES // 2} frames of {SEQUENCES} sequences" in out
    assert (place / "p.png").read_bytes().startswith(b"\x89PNG")
    assert (place / "own" / "model.json").read_text() == before

    assert "saved own/model.json" in run(*ours, "--results", "r", "--write")
    written = open_package(place / "own").calibration
    assert isinstance(written, Calibration)
    assert f"sigmoid({written.slope:.4f} · logit(raw score) {written.bias:+.4f})" in out

    # The scores are calibrated now, and the fit is the same, since it undoes that.
    assert "holds results of another own" in run(*ours, "--results", "r", code=2)
    again = run(*ours, "--results", "again", "--write")
    assert "the model's own" in again
    refitted = open_package(place / "own").calibration
    assert refitted.slope == pytest.approx(written.slope, abs=0.01)
    assert refitted.bias == pytest.approx(written.bias, abs=0.01)
    record = json.loads((place / "own" / "model.json").read_text())
    assert record.pop("score") and record == json.loads(before)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--tracker", "pico", "--write"], "pico is no model folder of yours"),
        (["--tracker", "mine:Still", "--write"], "mine:Still is no model folder of yours"),
        (["--tracker", "pico,own"], "One tracker is calibrated at a time"),
        (["--tracker", "nobody"], "There is no tracker 'nobody'"),
        (["--tracker", "mine:Still"], "Still has frames without a score"),
        (["--tracker", "own", "--only", "s1"], "1 of the sequences can be scored"),
        (["--tracker", "own", "--plot", "nowhere/p.png"], "There is no folder nowhere"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(run, place, arguments, told):
    before = (place / "own" / "model.json").read_text()
    message = run(*arguments, "--engine", "onnxruntime", "--data", "data", "--results", "wrong", code=2)
    assert message.startswith("fartrack: ")
    assert told in message
    assert len(message.splitlines()) == 1
    assert (place / "own" / "model.json").read_text() == before
