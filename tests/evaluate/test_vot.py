"""The tracker process speaks TraX as the VOT toolkit does; the messages here are those that its client sends."""

import io
import os
import runpy
import subprocess
import sys

import cv2
import numpy as np
import pytest

from fartrack.errors import FartrackError
from fartrack.evaluate.vot import serve
from fartrack.tracking.tracker import Track

HELLO = '@@TRAX:hello "trax.version=1" "trax.name=fartrack" "trax.image=path" "trax.region=rectangle"'

DRIFT = """
class Drift:
    def init(self, frame, box):
        print("noise on the same stream")
        self.box = list(box)

    def update(self, frame):
        self.box[0] += 1
        return self.box
"""


class Bright:
    """Stays where it is; its score is the gray of the frame's first pixel."""

    def init(self, frame, box):
        self.box = tuple(box)

    def update(self, frame):
        return Track(self.box, frame[0, 0, 0] / 255)


def write_picture(path, gray=51):
    path.write_bytes(cv2.imencode(".png", np.full((40, 60, 3), gray, np.uint8))[1].tobytes())
    return path


def talk(*messages, tracker=None):
    replies = io.StringIO()
    serve(tracker or Bright(), io.StringIO("".join(f"{message}\n" for message in messages)), replies)
    return replies.getvalue().splitlines()


def test_a_conversation(tmp_path):
    first, second = write_picture(tmp_path / "1.png"), write_picture(tmp_path / "2.png", 204)
    assert talk(
        f'@@TRAX:initialize "file://{first}" "1.5000,2.0000,30.0000,4.0000" ',
        f'@@TRAX:frame "file://{second}" ',
        "not a message",
        f'@@TRAX:initialize "file://{second}" "5.0000,6.0000,7.0000,8.0000" "key=value"',
        f'@@TRAX:frame "file://{first}" "key=value"',
        "@@TRAX:quit ",
        "@@TRAX:frame",
    ) == [
        HELLO,
        '@@TRAX:state "1.5000,2.0000,30.0000,4.0000" "confidence=1.0000"',
        '@@TRAX:state "1.5000,2.0000,30.0000,4.0000" "confidence=0.8000"',
        '@@TRAX:state "5.0000,6.0000,7.0000,8.0000" "confidence=1.0000"',
        '@@TRAX:state "5.0000,6.0000,7.0000,8.0000" "confidence=0.2000"',
    ]


def test_the_other_side_may_just_go_away():
    assert talk() == [HELLO]


def test_names_with_quotes_spaces_and_backslashes(tmp_path):
    path = write_picture(tmp_path / 'a "b" \\n ü%20.png')
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    assert len(talk(f'@@TRAX:initialize "file://{escaped}" "1,2,3,4"')) == 2


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ('@@TRAX:initialize "file:///nowhere/1.png" "1,2,3,4"', "no file or folder"),
        ('@@TRAX:initialize "file://{picture}" "1,2,3,4,5,6"', "not four numbers"),
        ('@@TRAX:initialize "file://{picture}" "1,2,0,4"', "no area"),
        ('@@TRAX:initialize "file://{picture}"', "with 1 arguments is not known"),
        ('@@TRAX:dance "x"', "'dance'"),
    ],
)
def test_what_is_wrong_is_said_to_the_other_side_and_raised(tmp_path, message, sentence):
    picture, replies = write_picture(tmp_path / "1.png"), io.StringIO()
    with pytest.raises(FartrackError, match=sentence):
        serve(Bright(), io.StringIO(message.format(picture=picture) + "\n"), replies)
    last = replies.getvalue().splitlines()[-1]
    assert last.startswith('@@TRAX:quit "trax.reason=')
    assert sentence in last


def run_process(folder, tracker):
    (folder / "drift_tracker.py").write_text(DRIFT)
    path = os.pathsep.join([str(folder), *sys.path])
    command = [sys.executable, "-m", "fartrack.evaluate.vot", tracker]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, **pipes)


def test_a_process_answers_each_message_before_the_next(tmp_path):
    picture = write_picture(tmp_path / "1.png")
    with run_process(tmp_path, "drift_tracker:Drift") as process:

        def ask(message):
            if message:
                process.stdin.write(message + "\n")
                process.stdin.flush()
            return next(line.strip() for line in process.stdout if line.startswith("@@TRAX:"))

        assert ask("") == HELLO
        assert ask(f'@@TRAX:initialize "file://{picture}" "1,2,3,4"').startswith('@@TRAX:state "1.0000,2.0000,')
        # a tracker without a score reports none
        assert ask(f'@@TRAX:frame "file://{picture}"') == '@@TRAX:state "2.0000,2.0000,3.0000,4.0000"'
        assert ask(f'@@TRAX:frame "file://{picture}"') == '@@TRAX:state "3.0000,2.0000,3.0000,4.0000"'
        process.stdin.write("@@TRAX:quit\n")
        process.stdin.flush()
        assert process.wait(20) == 0


def test_a_process_without_a_tracker_says_so(tmp_path):
    with run_process(tmp_path, "nonesuch") as process:
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 2
        assert "no tracker 'nonesuch'" in errors
        assert "Traceback" not in errors


def test_help_has_a_short_name(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vot", "-h"])
    monkeypatch.delitem(sys.modules, "fartrack.evaluate.vot")
    with pytest.raises(SystemExit) as end:
        runpy.run_module("fartrack.evaluate.vot", run_name="__main__")
    assert end.value.code == 0 and "--threads" in capsys.readouterr().out
