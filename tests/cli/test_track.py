"""The command keeps its promise: it does the work, or says in one sentence what to fix and leaves nothing behind."""

import csv as csv_format
import errno
import inspect
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from rich.console import Console

import fartrack
import fartrack.cli.track as track
import fartrack.progress as progress
from fartrack.api import DEFAULT_MODEL
from fartrack.cli import main
from fartrack.engines.opening import open_engine
from fartrack.model.config import ModelConfig
from fartrack.packages import open_package, shipped
from fartrack.tracking.tracker import Tracker

FRAMES = 10
BOX = "108,95,91,84"
FIRST = [108.0, 95.0, 91.0, 84.0]
COMMAND = [sys.executable, "-c", "from fartrack.cli import main; main()"]


def write_clip(path, images, **options):
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "4", "preset": "ultrafast", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = images[0].shape[1], images[0].shape[0], "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))


def write_sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for i in range(16):
            chunk = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            chunk.sample_rate, chunk.pts = 16000, 1024 * i
            container.mux(stream.encode(chunk))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def material(tmp_path_factory, demo_clip):
    """A folder of good and bad sources; tests work on copies."""
    folder = tmp_path_factory.mktemp("material")
    images = demo_clip[0][:FRAMES]
    write_clip(folder / "clip.mp4", images)
    write_clip(folder / "whole.mp4", images, movflags="faststart")
    data = (folder / "whole.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(data[: len(data) * 3 // 5])
    data = (folder / "clip.mp4").read_bytes()
    (folder / "noindex.mp4").write_bytes(data[: len(data) * 3 // 5])
    write_sound(folder / "sound.m4a")
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video\n" * 100)
    for name in ("pictures", "onebroken", "allbroken", "nothing"):
        (folder / name).mkdir()
    for i, image in enumerate(images[:4]):
        cv2.imwrite(str(folder / "pictures" / f"{i}.jpg"), image)
        cv2.imwrite(str(folder / "onebroken" / f"{i}.jpg"), image)
    (folder / "onebroken" / "2.jpg").write_bytes(b"\xff\xd8 broken")
    (folder / "allbroken" / "0.jpg").write_bytes(b"\xff\xd8 broken")
    (folder / "nothing" / "readme.txt").write_text("no pictures")
    return folder


@pytest.fixture
def place(tmp_path, material, monkeypatch):
    """A folder of its own with the material in it, in which the command runs."""
    place = tmp_path / "place"
    shutil.copytree(material, place)
    monkeypatch.chdir(place)
    return place


@pytest.fixture(scope="session")
def engine():
    return open_engine(open_package(DEFAULT_MODEL), threads=1)


@pytest.fixture
def one_engine(monkeypatch, engine):
    """Spare the loading of the model where a test is about something else."""
    monkeypatch.setattr(track, "load", lambda *_, **__: Tracker(engine))


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command in this process and return its exit code, stdout and stderr."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the process is pytest's

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fartrack", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


def holdings(folder):
    return {path.relative_to(folder): path.read_bytes() if path.is_file() else None for path in Path(folder).rglob("*")}


@pytest.fixture
def refused(command):
    """Run the command on something it must refuse, and return the sentence; nothing may change where it runs."""

    def run(*arguments):
        before = holdings(".")
        code, out, err = command(*arguments)
        assert code == 2
        assert out == ""
        assert holdings(".") == before
        return one_sentence(err)

    return run


def one_sentence(err):
    assert err.startswith("fartrack: ") and err.endswith(".\n") and err.count("\n") == 1, err
    assert "Traceback" not in err and "Error" not in err
    return err


def rows_of_csv(path):
    with Path(path).open(newline="") as file:
        return list(csv_format.DictReader(file))


def count_frames(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


# --- it does the work -------------------------------------------------------------------------------------


def test_track_writes_all_four_outputs(place, command):
    args = ("-o", "out.mp4", "--csv", "out.csv", "--json", "out.json", "--txt", "out.txt")
    code, out, err = command("track", "clip.mp4", "--box", BOX, "--threads", 1, *args)
    assert (code, err) == (0, "")
    assert f"tracked {FRAMES} frames" in out
    assert [line for line in out.splitlines() if line.startswith("saved")] == [f"saved {name}" for name in args[1::2]]

    assert count_frames("out.mp4") == FRAMES
    rows = rows_of_csv("out.csv")
    assert [int(row["frame"]) for row in rows] == list(range(FRAMES))
    assert [float(rows[0][key]) for key in "xywh"] == FIRST and float(rows[0]["score"]) == 1
    assert all(0 < float(row["score"]) < 1 for row in rows[1:])
    objects = json.loads(Path("out.json").read_text())["frames"]
    lines = [[float(v) for v in line.split(",")] for line in Path("out.txt").read_text().splitlines()]
    assert len(objects) == len(lines) == FRAMES
    for row, entry, line in zip(rows, objects, lines, strict=True):
        assert [float(row[key]) for key in "xywh"] == [entry[key] for key in "xywh"] == line


def test_the_box_follows_the_cup(place, command, one_engine, demo_clip):
    x, y, w, h = demo_clip[1][0]
    assert command("track", "clip.mp4", "--box", f"{x},{y},{w},{h}", "--txt", "out.txt")[0] == 0
    found = np.loadtxt("out.txt", delimiter=",")
    assert fartrack.geometry.iou(found, demo_clip[1][:FRAMES]).min() > 0.6


@pytest.mark.parametrize("start", [3, FRAMES - 1])
def test_start_counts_frames_from_0(place, command, one_engine, start):
    assert command("track", "clip.mp4", "--box", BOX, "--start", start, "--csv", "out.csv")[0] == 0
    rows = rows_of_csv("out.csv")
    assert [int(row["frame"]) for row in rows] == list(range(start, FRAMES))
    assert float(rows[0]["x"]) == FIRST[0] and float(rows[0]["score"]) == 1


def test_a_folder_of_pictures(place, command, one_engine):
    assert command("track", "pictures", "--box", BOX, "--csv", "out.csv")[0] == 0
    assert len(rows_of_csv("out.csv")) == 4


@pytest.mark.parametrize(
    ("within", "source", "output"),
    [
        (".", "clip.mp4", "clip-tracked.mp4"),
        (".", "pictures", "pictures-tracked.mp4"),
        ("pictures", ".", "pictures-tracked.mp4"),
        ("nothing", "../pictures/", "pictures-tracked.mp4"),
    ],
)
def test_without_an_output_a_video_is_named_after_the_source(
    place, command, one_engine, monkeypatch, within, source, output
):
    monkeypatch.chdir(place / within)
    code, out, _ = command("track", source, "--box", BOX)
    assert code == 0 and f"saved {output}\n" in out
    assert count_frames(output) > 0


@pytest.mark.parametrize("box", ["-20,-10,150,120", "0,0,30,30", "610,330,30,30", "630,350,400,400", "300,200,1,1"])
def test_boxes_at_and_beyond_the_border(place, command, one_engine, box):
    assert command("track", "clip.mp4", "--box", box, "--txt", "out.txt")[0] == 0
    x, y, w, h = np.loadtxt("out.txt", delimiter=",").T
    assert (x >= 0).all() and (y >= 0).all() and (w > 0).all() and (h > 0).all()
    assert (x + w <= 640).all() and (y + h <= 360).all()


@pytest.mark.parametrize(
    "name", ["12:30.mp4", "a[/b].mp4", "[red]x.mp4", "100%d.mp4", "-o.mp4", "schön 視頻.mp4", "caf\udce9.mp4"]
)
def test_unusual_names(place, command, one_engine, monkeypatch, name):
    source = place / name
    source.parent.mkdir(exist_ok=True)
    shutil.copy("clip.mp4", source)
    (place / "to").mkdir()
    monkeypatch.chdir("to")
    monkeypatch.setattr(progress, "console", Console(file=io.StringIO(), force_terminal=True))  # with the progress bar
    # "-o" and its value in one, as the name may begin with a dash
    code, _, _ = command("track", f"../{name}", "--box", BOX, f"--output={source.name}")
    assert code == 0
    assert [path.name for path in Path.cwd().iterdir()] == [source.name]
    assert count_frames(place / "to" / source.name) == FRAMES


def test_a_named_output_is_replaced(place, command, one_engine):
    Path("out.csv").write_text("old")
    assert command("track", "clip.mp4", "--box", BOX, "--csv", "out.csv")[0] == 0
    assert len(rows_of_csv("out.csv")) == FRAMES


def test_without_a_box_one_is_drawn(place, command, one_engine, monkeypatch):
    seen = []
    monkeypatch.setattr(track, "select_box", lambda image: seen.append(image.shape) or tuple(FIRST))
    assert command("track", "clip.mp4", "--csv", "out.csv")[0] == 0
    assert seen == [(360, 640, 3)]
    assert float(rows_of_csv("out.csv")[0]["w"]) == FIRST[2]


def test_demo(place, command):
    code, out, err = command("demo", "-o", "demo.mp4", "--threads", 1)
    assert code == 0 and all(line.startswith("tracking the demo: ") for line in err.splitlines())  # on a slow machine
    measured, times, saved = out.splitlines()
    assert times.startswith("milliseconds a frame, median, mean, 95 %, 99 %: ")
    assert measured.startswith("mean IoU 0.") and " FPS (" in measured and saved == "saved demo.mp4"
    assert float(measured.split()[2]) > 0.5
    assert count_frames("demo.mp4") == fartrack.demo.CLIP_LENGTH


def test_models_and_version(command):
    code, out, _ = command("models")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("| ")]
    assert code == 0 and [name for name, *_ in rows[1:]] == shipped()
    assert {row[0]: row[1:3] for row in rows}["pico"] == ["6", "2.98 M"]
    docs = Path(__file__).parents[2] / "docs"
    for name, _, _, ao, median, under in rows[1:]:  # what is told is what was measured
        assert re.search(rf"\| (\*\*FARTrack )?{name}(\*\*)? \| {re.escape(ao)} \|", (docs / "accuracy.md").read_text())
        assert re.search(rf"\| {name} \| .*\| {median} \[.*\| {under} \|", (docs / "performance.md").read_text())
    assert command("version") == command("--version") == (0, f"{fartrack.__version__}\n", "")


# --- a live source and the windows ------------------------------------------------------------------------


class Camera:
    """Stands in for cv2.VideoCapture: some frames at once, and then what the test wants; None for them again and again.

    They come faster than any tracker follows, so that of those only the newest is sure to be tracked.
    """

    def __init__(self, images, end):
        self.images, self.end, self.released = list(images), end, False

    def isOpened(self):  # noqa: N802
        return True

    def get(self, _):
        return 25.0

    def read(self):
        if self.end is None:
            time.sleep(0.001)
            self.images.append(self.images[0])
        if self.images:
            return True, self.images.pop(0)
        if isinstance(self.end, BaseException):
            raise self.end
        return self.end

    def release(self):
        self.released = True


class View:
    """Stands in for LiveView; the user ends the show with picture ``last``, and presses r at some of them."""

    def __init__(self, last=10**9, redraws=(), chosen=1):
        self.last, self.shown, self.closed, self.redraws, self.chosen = last, [], False, redraws, chosen

    def show(self, image):
        self.shown.append(image)
        self.redraw = len(self.shown) in self.redraws
        return len(self.shown) < self.last

    def close(self):
        self.closed = True


@pytest.fixture
def camera(monkeypatch, demo_clip):
    def plug(end, count=5):
        made = Camera(demo_clip[0][:count], end)
        monkeypatch.setattr(cv2, "VideoCapture", lambda number: made)
        return made

    return plug


def test_control_c_ends_a_webcam_and_keeps_the_outputs(place, command, one_engine, camera):
    made = camera(KeyboardInterrupt())
    code, out, err = command("track", "0", "--box", BOX, "-o", "out.mp4", "--csv", "out.csv")
    numbers = [int(row["frame"]) for row in rows_of_csv("out.csv")]
    assert (code, err) == (0, "") and f"tracked {len(numbers)} frames" in out
    assert numbers == sorted(set(numbers)) and (numbers[0], numbers[-1]) == (0, 4)
    assert count_frames("out.mp4") == len(numbers)
    assert made.released


def test_a_webcam_that_stops(place, command, one_engine, camera):
    made = camera((False, None))
    code, _, err = command("track", "0", "--box", BOX, "--csv", "out.csv")
    assert code == 2 and "webcam 0 stopped" in one_sentence(err)
    assert rows_of_csv("out.csv")[-1]["frame"] == "4"
    assert made.released


def test_a_webcam_without_outputs_is_shown_until_the_user_ends_it(place, command, one_engine, camera, monkeypatch):
    made, view, before = camera(None), View(last=4), holdings(".")
    monkeypatch.setattr(track, "LiveView", lambda: view)
    code, out, _ = command("track", "0", "--box", BOX)
    assert code == 0 and "tracked 3 frames" in out  # the first is shown bare, before tracking begins
    assert len(view.shown) == 4 and view.closed and made.released
    assert not np.array_equal(view.shown[0], view.shown[1])  # the box is drawn
    assert holdings(".") == before


def test_no_webcam(place, refused, one_engine):
    assert "Webcam 99" in refused("track", "99", "--box", BOX)


@pytest.fixture
def no_display(monkeypatch):
    tkinter = pytest.importorskip("tkinter")

    def fail(*_, **__):
        raise tkinter.TclError("no display name and no $DISPLAY environment variable")

    monkeypatch.setattr(tkinter, "Tk", fail)


def test_no_display(place, refused, one_engine, no_display, camera):
    Path("out.mp4").write_text("old")
    assert "--box x,y,w,h" in refused("track", "clip.mp4", "-o", "out.mp4")
    assert "no display" in refused("track", "clip.mp4", "--box", BOX, "--show", "-o", "out.mp4")
    camera(KeyboardInterrupt())
    assert "no display" in refused("track", "0", "--box", BOX)


def interrupted(monkeypatch, frame, times=1):
    """Ctrl-C while this frame is tracked, counted from 1, and so many times while the outputs are closed."""
    step, close, came = Tracker.search_regions, track.VideoSink._finish, []

    def interrupt(self, state, *arguments):
        if state.frame + 1 == frame:
            raise KeyboardInterrupt
        return step(self, state, *arguments)

    def again(self):
        came.append(0)
        if len(came) < times:
            raise KeyboardInterrupt
        close(self)

    monkeypatch.setattr(Tracker, "search_regions", interrupt)
    monkeypatch.setattr(track.VideoSink, "_finish", again)


OUTPUTS = ("-o", "out.mp4", "--csv", "out.csv", "--export", "yolo=labels", "--export", "coco=coco.json")


def test_control_c_on_a_file_keeps_the_frames_that_are_finished(place, command, one_engine, monkeypatch):
    interrupted(monkeypatch, frame=4)
    code, out, err = command("track", "clip.mp4", "--box", BOX, *OUTPUTS)
    assert code == 130 and err == "fartrack: Stopped before the end; the first 4 frames are kept.\n"
    assert "tracked 4 frames" in out and "saved out.mp4" in out
    assert count_frames("out.mp4") == len(rows_of_csv("out.csv")) == 4 == len(list(Path("labels").glob("0*.txt")))
    assert len(json.loads(Path("coco.json").read_text())["images"]) == 4
    assert not list(place.rglob("*.part"))


def test_a_second_control_c_stops_at_once(place, command, one_engine, monkeypatch):
    interrupted(monkeypatch, frame=4, times=2)
    Path("out.csv").write_text("old")
    before = holdings(".")
    code, _, err = command("track", "clip.mp4", "--box", BOX, *OUTPUTS)
    assert (code, err) == (130, "") and holdings(".") == before


def test_control_c_before_the_first_frame_leaves_nothing(place, command, one_engine, monkeypatch):
    def interrupt(self, frame, box):
        raise KeyboardInterrupt

    monkeypatch.setattr(Tracker, "start", interrupt)
    Path("out.csv").write_text("old")
    before = holdings(".")
    code, _, err = command("track", "clip.mp4", "--box", BOX, *OUTPUTS)
    assert (code, err) == (130, "")
    assert holdings(".") == before


# --- bad input: one sentence, and nothing is left ---------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ("700,10,20,20", "outside the 640×360 frame"),
        ("-50,-50,50,50", "outside the 640×360 frame"),
        ("5,5,0,10", "no area"),
        ("5,5,10,-3", "no area"),
        ("nan,1,2,3", "not finite"),
        ("1,2,inf,3", "not finite"),
        ("0,0,1e400,1", "not finite"),
        ("0,0,1e200,1e200", "far larger"),
        ("1,2,3", "not four numbers"),
        ("1,2,3,4,5", "not four numbers"),
        ("a,b,c,d", "not four numbers"),
        ("1;2;3;4", "not four numbers"),
        ("1,2\n,3", "not four numbers"),
        ("", "not four numbers"),
        ("9" * 5000, "not four numbers"),
    ],
)
def test_bad_boxes(place, refused, one_engine, box, words):
    sentence = refused("track", "clip.mp4", "--box", box, "-o", "out.mp4", "--csv", "out.csv")
    assert words in sentence and len(sentence) < 200


def test_a_drawn_box_is_checked_too(place, refused, one_engine, monkeypatch):
    monkeypatch.setattr(track, "select_box", lambda image: (700.0, 0.0, 5.0, 5.0))
    assert "outside" in refused("track", "clip.mp4", "-o", "out.mp4")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("missing.mp4", "no file or folder missing.mp4"),
        ("two\nlines.mp4", "two lines.mp4"),
        ("a:cat:.mp4", "a:cat:.mp4"),
        ("x" * 300, "cannot be read"),
        ("empty.mp4", "empty.mp4 is empty"),
        ("sound.m4a", "sound.m4a has no video track"),
        ("text.mp4", "text.mp4 is not a video"),
        ("noindex.mp4", "cut off before its index"),
        ("nothing", "nothing holds no pictures"),
        ("allbroken", "0.jpg is broken"),
        ("", "holds no pictures"),
        ("http://127.0.0.1:9/x.mp4", "cannot be opened"),
    ],
)
def test_bad_sources(place, refused, one_engine, source, words):
    assert words in refused("track", source, "--box", BOX, "-o", "out.mp4", "--json", "out.json")


@pytest.mark.parametrize(("source", "least", "most"), [("cut.mp4", 3, FRAMES - 1), ("onebroken", 2, 2)])
def test_what_a_damaged_source_holds_is_kept(place, command, one_engine, source, least, most):
    code, out, err = command("track", source, "--box", BOX, "-o", "out.mp4", "--csv", "out.csv", "--json", "out.json")
    assert code == 2
    assert source in one_sentence(err)
    rows = rows_of_csv("out.csv")
    assert least <= len(rows) <= most
    assert count_frames("out.mp4") == len(json.loads(Path("out.json").read_text())["frames"]) == len(rows)
    assert f"tracked {len(rows)} frames" in out and "saved out.mp4" in out
    assert not list(place.rglob("*.part"))


@pytest.mark.parametrize(("start", "words"), [(-1, "counted from 0"), (FRAMES, "0 to 9"), (10**9, "0 to 9")])
def test_bad_starts(place, refused, one_engine, start, words):
    assert words in refused("track", "clip.mp4", "--box", BOX, "--start", start, "-o", "out.mp4")


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (("-o", "out.gif"), "extension"),
        (("-o", "out"), "extension"),
        (("-o", "absent/out.mp4"), "no folder absent"),
        (("--csv", "absent/out.csv"), "no folder absent"),
        (("--csv", "clip.mp4/out.csv"), "no folder clip.mp4"),
        (("--json", "pictures"), "is a folder"),
        (("--csv", ""), "is a folder"),
        (("--txt", "/"), "is a folder"),
        (("-o", "clip.mp4"), "is the source"),
        (("-o", "pictures/../clip.mp4"), "is the source"),
        (("--csv", "clip.mp4"), "is the source"),
        (("--csv", "out", "--json", "out"), "another output"),
        (("--txt", "x" * 300), "cannot be written"),
    ],
)
def test_bad_outputs(place, refused, one_engine, monkeypatch, outputs, words):
    monkeypatch.setattr(track, "select_box", lambda image: pytest.fail("the outputs come before the drawing"))
    assert words in refused("track", "clip.mp4", "--json", "good.json", *outputs)


def test_a_link_or_url_of_the_source_is_the_source(place, refused, one_engine):
    Path("link.mp4").symlink_to("clip.mp4")
    assert "is the source" in refused("track", "clip.mp4", "--box", BOX, "-o", "link.mp4")
    assert "is the source" in refused("track", f"file://{place}/clip.mp4", "--box", BOX, "-o", "clip.mp4")


class Blind:
    """A network that sees nothing, so that every box stays where it is."""

    config = ModelConfig()

    def begin_templates(self, crops, identities, boxes):
        return np.zeros((len(crops), 1, 1, 49, 2), np.float32), None

    def search(self, crops, trajectory, kv_cache):
        return np.zeros((len(crops), 4, 600), np.float32)


IDLE = f"""
import sys
import fartrack.cli

with sys.modules["fartrack.cli.main"].stopped_at_once():
    import fartrack.cli.track
    import numpy as np
    from fartrack.model.config import ModelConfig
    from fartrack.tracking.tracker import Tracker

{inspect.getsource(Blind)}

fartrack.cli.track.load = lambda *_, **__: Tracker(Blind())
fartrack.cli.main()
"""


def start(*arguments, **options):
    """The command in a process of its own, with a stub for the network."""
    command = [sys.executable, "-c", IDLE, *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=options.pop("stdout", subprocess.PIPE), **options)


def test_standard_output_is_written_to_where_it_stands(place):
    Path("all.csv").write_text("before\n")
    for _ in range(2):
        with Path("all.csv").open("a") as file:
            process = start("track", "clip.mp4", "--box", BOX, "--csv", "/dev/stdout", stdout=file)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0 and b"saved /dev/stdout" in said
    lines = Path("all.csv").read_text().splitlines()
    assert lines[0] == "before" and lines.count("frame,time,x,y,w,h,score,state") == 2 and len(lines) == 3 + 2 * FRAMES
    assert not list(place.rglob("*.part"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize(("option", "name"), [("--csv", "pipe"), ("-o", "pipe.mp4"), ("-o", "pipe.mkv")])
def test_pipes_are_written_to(place, option, name):
    os.mkfifo(name)
    process = start("track", "clip.mp4", "--box", BOX, option, name)
    with Path("read").open("wb") as copy, subprocess.Popen(["cat", name], stdout=copy):
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, b"") and Path(name).is_fifo()
    assert (len(rows_of_csv("read")) if option == "--csv" else count_frames("read")) == FRAMES


def wait_until_it_waits(process):
    """Return once a process has run for a while and now sleeps: however busy the machine, it waits for something."""
    stat, before = Path(f"/proc/{process.pid}/stat"), None
    while True:
        state, *fields = stat.read_text().rpartition(")")[2].split()
        used = int(fields[10]) + int(fields[11])  # in ticks
        if state == "S" and used > 20 and used == before:
            return
        before = used
        time.sleep(0.3)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")
@pytest.mark.parametrize("signal_name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("arguments", [("pipe", "--csv", "out.csv"), ("clip.mp4", "-o", "out.mp4", "--csv", "pipe")])
def test_a_stop_while_a_pipe_is_opened(place, signal_name, arguments):
    os.mkfifo("pipe")
    before = sorted(place.rglob("*"))
    process = start("track", *arguments, "--box", BOX)
    wait_until_it_waits(process)
    begin = time.monotonic()
    process.send_signal(getattr(signal, signal_name))
    _, said = process.communicate(timeout=20)
    assert time.monotonic() - begin < 10
    assert process.returncode in (130, -signal.SIGINT) and said == b""
    assert sorted(place.rglob("*")) == before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs signals")
@pytest.mark.parametrize("signal_name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_stop_in_the_first_second(place, signal_name):
    write_clip("long.mp4", [np.zeros((48, 64, 3), np.uint8)] * 3000)  # no machine tracks it before the signal
    script = "from fartrack.cli import main; print('up', flush=True); main()"  # Python itself has started
    command = [sys.executable, "-c", script, "track", "long.mp4", "--box", "10,10,20,20", "-o", "o.mp4"]
    for delay in (0.1, 0.3, 0.6):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout.readline() == b"up\n"
        time.sleep(delay)
        process.send_signal(getattr(signal, signal_name))
        _, said = process.communicate(timeout=20)
        assert process.returncode in (130, -getattr(signal, signal_name), -signal.SIGINT)
        assert said == b"" or (said.startswith(b"fartrack: Stopped") and said.endswith(b"are kept.\n")), said
        assert not list(place.rglob("*.part"))


def test_a_hang_up_is_ignored_under_nohup(place):
    script = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + IDLE
    process = subprocess.Popen([sys.executable, "-c", script, "track", "clip.mp4", "--box", BOX, "--csv", "out.csv"])
    time.sleep(0.3)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0 and len(rows_of_csv("out.csv")) == FRAMES


def test_no_output_is_a_picture_of_the_source(place, refused, one_engine):
    os.link("pictures/1.jpg", "hard.jpg")
    Path("soft.jpg").symlink_to("pictures/2.jpg")
    for name in ("pictures/0.jpg", "hard.jpg", "soft.jpg"):
        assert "is the source" in refused("track", "pictures", "--box", BOX, "--csv", name)


def test_a_link_to_itself_is_no_output(place, refused, one_engine):
    Path("loop.csv").symlink_to("loop.csv")
    assert "loop.csv cannot be written" in refused("track", "clip.mp4", "--box", BOX, "--csv", "loop.csv")


@pytest.mark.parametrize("name", ["run.1", "run.2", "a.tar", "clip.MP4", "pictures.v2"])
def test_default_names_differ(place, command, monkeypatch, name):
    monkeypatch.setattr(track, "load", lambda *_, **__: Tracker(Blind()))
    (Path("pictures") if name == "pictures.v2" else Path("clip.mp4")).rename(name)
    assert command("track", name, "--box", BOX)[0] == 0
    assert Path(f"{name.removesuffix('.MP4')}-tracked.mp4").is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux only")
def test_a_name_that_is_not_utf8(place):
    name = os.fsdecode(b"caf\xe9")
    Path("clip.mp4").rename(f"{name}.mp4")
    outputs = [f"--output={name}-o.mp4", "--csv", f"{name}.csv", "--json", f"{name}.json"]
    process = start("track", f"{name}.mp4", "--box", BOX, *outputs, env=os.environ | {"LC_ALL": "C"})
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, b"")
    assert json.loads(Path(f"{name}.json").read_bytes())["source"] == "caf?.mp4"
    assert count_frames(f"{name}-o.mp4") == len(rows_of_csv(f"{name}.csv")) == FRAMES


SECRETS = ["rtsp://user:p@ss@127.0.0.1:9/x", "http://127.0.0.1:9/x.mp4?token=p@ss", "http://u:p/p@ss@127.0.0.1:9/"]


@pytest.mark.parametrize("source", SECRETS)
def test_secrets_are_never_told(place, command, one_engine, source):
    for arguments in (("track", source, "--box", BOX), (source,), ("track", "clip.mp4", source), ("demo", source)):
        code, out, err = command(*arguments)
        assert code == 2 and err and "ss" not in (out + err).replace("address", "").replace("passes", "")


def test_an_output_that_is_a_link_stays_one(place, command, one_engine):
    Path("real").mkdir()
    Path("out.csv").symlink_to("real/rows.csv")
    for _ in range(2):  # the link leads first to nothing, then to a file
        assert command("track", "clip.mp4", "--box", BOX, "--csv", "out.csv")[0] == 0
        assert Path("out.csv").is_symlink() and len(rows_of_csv("real/rows.csv")) == FRAMES
        Path("real/rows.csv").write_text("old")


def test_a_folder_that_is_not_writable(place, refused, one_engine, monkeypatch):
    def deny(self, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", deny)
    assert "cannot be written (Permission denied)" in refused("track", "clip.mp4", "--box", BOX, "-o", "out.mp4")


def test_the_default_name_is_never_overwritten(place, refused, one_engine):
    Path("clip-tracked.mp4").write_text("precious")
    assert "clip-tracked.mp4 exists already" in refused("track", "clip.mp4", "--box", BOX)


def test_a_full_disk_of_one_output_leaves_the_others(place, command, one_engine, monkeypatch):
    def fill(self, frame, track, write=fartrack.video.TextSink._write):
        if frame.index == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, frame, track)

    monkeypatch.setattr(fartrack.video.TextSink, "_write", fill)
    Path("out.csv").write_text("old")
    code, out, err = command("track", "clip.mp4", "--box", BOX, "-o", "out.mp4", "--csv", "out.csv")
    assert code == 2 and "out.csv cannot be written (No space left" in one_sentence(err)
    assert Path("out.csv").read_text() == "old" and count_frames("out.mp4") == FRAMES
    assert "saved out.mp4" in out and "saved out.csv" not in out and not list(place.rglob("*.part"))


# --- several targets, corrections, exports ----------------------------------------------------------------


@pytest.fixture
def blind(monkeypatch):
    monkeypatch.setattr(track, "load", lambda *_, **__: Tracker(Blind()))


def followed(path="out.csv"):
    """The frames of each target."""
    frames = {}
    for row in rows_of_csv(path):
        frames.setdefault(row.get("target"), []).append(int(row["frame"]))
    return frames


def test_several_targets(place, command, blind):
    boxes = ("--box", f"cup={BOX}", "--box", "dog@4=30,40,50,60", "--box", "cup@7=200,100,50,50", "--box", "9,9,9,9")
    outputs = ("--csv", "out.csv", "--json", "out.json", "-o", "out.mp4", "--export", "mot=out.mot")
    code, out, err = command("track", "clip.mp4", *boxes, *outputs)
    assert (code, err) == (0, "") and f"tracked {FRAMES} frames" in out and "saved out.mot" in out
    assert followed() == {"cup": list(range(10)), "dog": list(range(4, 10)), "3": list(range(10))}
    rows = {(row["target"], int(row["frame"])): row for row in rows_of_csv("out.csv")}
    assert [float(rows["cup", i]["x"]) for i in (0, 6, 7, 9)] == [108, 108, 200, 200]
    assert rows["cup", 7]["score"] == "1.0" != rows["cup", 6]["score"]
    result = json.loads(Path("out.json").read_text())
    assert [(t["id"], t["name"], [a["frame"] for a in t["anchors"]]) for t in result["targets"]] == [
        (1, "cup", [0, 7]), (2, "dog", [4]), (3, "3", [0]),
    ]  # fmt: skip
    assert result["model"] == "pico" and result["settings"]["interval"] == 20 and result["fps"] == 25
    assert len(result["frames"]) == len(rows) == len(Path("out.mot").read_text().splitlines()) == 26
    assert count_frames("out.mp4") == FRAMES
    with fartrack.video.frames_from_source("out.mp4", start=9) as frames:
        corners = [frames.first.image[y - 3 : y + 4, x].astype(int) for x, y in ((225, 150), (55, 100))]
    cup, dog = ([int(v) for v in corner[np.ptp(corner, axis=1).argmax()]] for corner in corners)
    assert cup[1] > max(cup[0], cup[2]) and dog[2] > dog[1] > dog[0]  # green and orange


def test_a_single_target_is_the_same_by_whatever_way_it_is_given(place, command, one_engine):
    Path("one.csv").write_text(f"x,y,w,h\n{BOX}\n")
    Path("one.json").write_text(json.dumps([dict(zip("xywh", FIRST, strict=True))]))
    ways = (("--box", BOX), ("--targets", "one.csv"), ("--targets", "one.json"), ("--box", f"@0={BOX}"))
    for number, way in enumerate(ways):
        assert command("track", "clip.mp4", *way, "--csv", f"{number}.csv", "-o", f"{number}.mp4")[0] == 0
        for kind in ("csv", "mp4"):
            assert Path(f"{number}.{kind}").read_bytes() == Path(f"0.{kind}").read_bytes()
    assert command("track", "clip.mp4", "--box", f"cup={BOX}", "--csv", "named.csv")[0] == 0
    named = [line.rpartition(",") for line in Path("named.csv").read_text().splitlines()]
    assert [line[0] for line in named] == Path("0.csv").read_text().splitlines()
    assert [line[2] for line in named] == ["target"] + ["cup"] * FRAMES


def test_targets_of_a_file_come_and_go(place, command, blind):
    Path("t.csv").write_text("name,frame,end,x,y,w,h\na,3,5,10,10,50,50\na,8,,10,10,50,50\nb,4,4,9,9,9,9\n")
    outputs = ("--csv", "out.csv", "-o", "out.mp4", "--export", "yolo=labels")
    assert command("track", "clip.mp4", "--targets", "t.csv", *outputs)[0] == 0
    assert followed() == {"a": [3, 4, 5, 8, 9], "b": [4]}
    assert count_frames("out.mp4") == 7 == len(list(Path("labels").glob("0*.txt")))  # from frame 3 on


def test_tracking_begins_on_the_first_frame_with_a_box(place, command, blind):
    assert (
        command("track", "clip.mp4", "--start", 6, "--box", "a=9,9,9,9", "--box", "b@4=9,9,9,9", "--csv", "out.csv")[0]
        == 0
    )
    assert followed() == {"b": list(range(4, 10)), "a": list(range(6, 10))}


def test_txt_of_a_target_that_ends_has_a_line_for_every_frame(place, command, blind):
    Path("t.csv").write_text(f"end,x,y,w,h\n6,{BOX}\n")
    assert command("track", "clip.mp4", "--targets", "t.csv", "--txt", "out.txt")[0] == 0
    assert np.isnan(np.loadtxt("out.txt", delimiter=",")).all(1).tolist() == [False] * 7 + [True] * 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--box", "a=1,2,3"), "not four numbers"),
        (("--box", "a=9,9,9,9", "--box", "b@7=700,9,9,9"), "b: The box 700,9,9,9 lies outside the 640×360 frame"),
        (("--box", "a@10=9,9,9,9"), "cannot start at frame 10"),
        (("--box", "a=9,9,9,9", "--box", "a@0=8,8,8,8"), "a has two boxes on frame 0"),
        (("--targets", "missing.csv"), "missing.csv cannot be read"),
        (("--targets", "pictures"), "pictures cannot be read"),
        (("--box", BOX, "--export", "mot"), "'mot' is not FORMAT=PATH; the formats are csv, json, jsonl, txt, mot"),
        (("--box", BOX, "--export", "voc=a"), "'voc=a' is not FORMAT=PATH"),
        (("--box", BOX, "--export", "csv=a", "--csv", "b"), "two outputs of the format csv"),
        (("--box", BOX, "--export", "mot=a", "--export", "coco=a"), "another output"),
        (("--box", BOX, "--export", "yolo=pictures"), "pictures exists already"),
        (("--box", BOX, "--export", "mot=clip.mp4"), "is the source"),
        (("--box", "1,2,3,4", "--box", "5,6,7,8", "--txt", "a.txt"), "txt holds one target only"),
    ],
)
def test_bad_targets_and_exports(place, refused, blind, arguments, words):
    assert words in refused("track", "clip.mp4", *arguments, "--json", "good.json")


def test_a_box_beyond_the_end_is_told_and_the_rest_is_kept(place, command, blind):
    boxes = ("--box", f"cup={BOX}", "--box", f"dog@99={BOX}")
    code, _, err = command("track", "clip.mp4", *boxes, "--csv", "out.csv")
    assert code == 2 and "clip.mp4 ended before frame 99" in one_sentence(err)
    assert followed() == {"cup": list(range(FRAMES))}


def test_json_lines_on_standard_output(place):
    process = start("track", "clip.mp4", "--box", f"cup={BOX}", "--export", "jsonl=-")
    out, said = process.communicate(timeout=60)
    assert process.returncode == 0 and b"saved -" in said and not Path("-").exists()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["frame"] for line in lines] == list(range(FRAMES)) and lines[0]["name"] == "cup"
    assert lines[0]["timestamp"] <= lines[-1]["timestamp"]


@pytest.mark.parametrize(("chosen", "name", "other"), [(1, "a", "b"), (2, "b", "a"), (9, "a", "b")])
def test_a_target_is_drawn_anew_in_the_window(place, command, blind, monkeypatch, chosen, name, other):
    asked = []
    view = View(redraws=(5,), chosen=chosen)  # the fourth frame, after the one that is shown before tracking
    monkeypatch.setattr(track, "LiveView", lambda: view)
    monkeypatch.setattr(track, "select_box", lambda *given: asked.append(given) or (200.0, 100.0, 50.0, 50.0))
    boxes = ("--box", f"a={BOX}", "--box", "b=9,9,9,9")
    outputs = ("--csv", "out.csv", "--json", "out.json")
    assert command("track", "clip.mp4", "--show", *boxes, *outputs)[0] == 0
    assert len(asked) == 1 and asked[0][1].endswith(name)
    boxes = {key: [float(row["x"]) for row in rows_of_csv("out.csv") if row["target"] == key] for key in "ab"}
    before = {"a": 108, "b": 9}
    assert boxes[name] == [before[name]] * 3 + [200] * 7 and boxes[other] == [before[other]] * FRAMES
    assert len(view.shown) == FRAMES + 2 and not np.array_equal(view.shown[4], view.shown[5])  # it is shown at once
    anchors = {
        t["name"]: [a["frame"] for a in t["anchors"]] for t in json.loads(Path("out.json").read_text())["targets"]
    }
    assert anchors == {name: [0, 3], other: [0]}


def test_a_drawing_that_is_cancelled_changes_nothing(place, command, blind, monkeypatch):
    def cancel(*_):
        raise fartrack.FartrackError("No box was drawn.")

    monkeypatch.setattr(track, "LiveView", lambda: View(redraws=(3,)))
    monkeypatch.setattr(track, "select_box", cancel)
    assert command("track", "clip.mp4", "--box", BOX, "--show", "--csv", "out.csv")[0] == 0
    assert {row["x"] for row in rows_of_csv("out.csv")} == {"108.0"} and len(rows_of_csv("out.csv")) == FRAMES


# --- bad models and engines -------------------------------------------------------------------------------


@pytest.fixture
def model(place):
    """A copy of the default model, to be damaged."""
    folder = place / "model"
    package = open_package(DEFAULT_MODEL)
    shutil.copytree(package.network, folder)
    shutil.copy(package.folder / "model.json", folder)
    edit_json(folder, network=".")
    return folder


def edit_json(model, **changes):
    record = json.loads((model / "model.json").read_text())
    record["config"].update(changes.pop("config", {}))
    (model / "model.json").write_text(json.dumps(record | changes))


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def fill_with_nan(path):
    path.write_bytes(b"\xff" * path.stat().st_size)


DAMAGES = {
    "no weights": (lambda m: (m / "weights.safetensors").unlink(), "weights.safetensors is missing"),
    "cut weights": (lambda m: cut(m / "weights.safetensors", 0.5), "weights.safetensors is missing, damaged"),
    "empty weights": (lambda m: cut(m / "weights.safetensors", 0), "weights.safetensors is missing, damaged"),
    "text weights": (lambda m: (m / "weights.safetensors").write_text("x" * 99), "weights.safetensors is missing"),
    "nan weights": (lambda m: fill_with_nan(m / "weights_int8.bin"), "do not fit together"),
    "no graph": (lambda m: (m / "search_int8-6.onnx").unlink(), "lacks search_int8-6.onnx; use precision fp32"),
    "no int8 weights": (lambda m: (m / "weights_int8.bin").unlink(), "template_int8-6.onnx is no readable ONNX model"),
    "cut int8 weights": (lambda m: cut(m / "weights_int8.bin", 0.2), "template_int8-6.onnx is no readable ONNX model"),
    "cut graph": (lambda m: cut(m / "template_int8-6.onnx", 0.5), "template_int8-6.onnx is no readable ONNX model"),
    "another size": (lambda m: edit_json(m, config={"search_size": 256}), "do not fit together"),
    "another trajectory": (lambda m: edit_json(m, config={"trajectory": 7}), "do not fit together"),
    "newer": (lambda m: edit_json(m, format=99, further={}), "upgrade fartrack"),
    "unknown field": (lambda m: edit_json(m, config={"color": 1}), "model.json: 'color' is no field"),
    "bad field": (lambda m: edit_json(m, config={"depth": "six"}), "model.json: depth is 'six'"),
    "no format": (lambda m: (m / "model.json").write_text("{}"), "is no FARTrack model"),
    "infinite format": (lambda m: edit_json(m, format=float("inf")), "is no FARTrack model"),
    "config is a list": (lambda m: (m / "model.json").write_text('{"format": 1, "config": [1]}'), "is no FARTrack"),
    "not json": (lambda m: (m / "model.json").write_bytes(b"\xff\xfe{"), "is no FARTrack model"),
    "deep json": (lambda m: (m / "model.json").write_text("[" * 100_000), "is no FARTrack model"),
    "no model.json": (lambda m: (m / "model.json").unlink(), "is no FARTrack model"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_models(model, refused, damage):
    harm, words = DAMAGES[damage]
    harm(model)
    sentence = refused("track", "clip.mp4", "--box", BOX, "--model", model, "--threads", 1, "-o", "out.mp4")
    assert words in sentence and str(model) in sentence


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("picoo", "use " + " or ".join(shipped())),
        ("PICO2", "use " + " or ".join(shipped())),
        ("clip.mp4", "clip.mp4 is no FARTrack model"),
        ("pictures", "pictures is no FARTrack model"),
        ("", "is no FARTrack model"),
        ("x" * 300, "xxx"),
    ],
)
def test_unknown_models(place, refused, name, words):
    assert words in refused("track", "clip.mp4", "--box", BOX, "--model", name, "-o", "out.mp4")
    assert words in refused("demo", "--model", name)


def test_unknown_engine(place, refused):
    assert "onnxruntime, openvino, torch" in refused("track", "clip.mp4", "--box", BOX, "--engine", "tensorrt")


@pytest.mark.parametrize(
    ("engine", "library", "extra"),
    [
        ("openvino", "openvino", "'fartrack[openvino]'"),
        ("torch", "torch", "'fartrack[train]'"),
        ("onnxruntime", "onnxruntime", "'fartrack'"),
    ],
)
def test_an_engine_whose_library_is_missing(place, refused, monkeypatch, engine, library, extra):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"fartrack.engines.{engine}", raising=False)
    sentence = refused("track", "clip.mp4", "--box", BOX, "--engine", engine)
    assert engine in sentence and f"pip install {extra}" in sentence


# --- usage errors, and the command as a process -----------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("track",),
        ("track", "clip.mp4", "--bogus"),
        ("track", "clip.mp4", "--start", "soon"),
        ("track", "clip.mp4", "--threads", "0"),
        ("track", "clip.mp4", "--box"),
        ("track", "clip.mp4", "extra"),
        ("follow",),
        ("export", "checkpoint.safetensors"),
    ],
)
def test_usage_errors(place, command, arguments):
    before = holdings(".")
    code, out, err = command(*arguments)
    assert code == 2 and out == "" and "Error: " in err and "Traceback" not in err
    assert holdings(".") == before


def test_help_of_every_command(command):
    for name in ("track", "demo", "models", "export", "version", "train"):
        code, out, _ = command(name, "--help")
        assert code == 0 and out.startswith("Usage: ") and command(name, "-h") == (0, out, "")


def test_as_a_process(place):
    track = [*COMMAND, "track", "clip.mp4", "--threads", "1", "--csv", "out.csv", "--box"]
    good = subprocess.run([*track, BOX], capture_output=True, text=True, check=False)
    assert good.returncode == 0 and good.stderr == "" and len(rows_of_csv("out.csv")) == FRAMES
    bad = subprocess.run([*track, "1,2,3"], capture_output=True, text=True, check=False)
    assert bad.returncode == 2 and bad.stdout == ""
    assert "not four numbers" in one_sentence(bad.stderr)


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without a signal")
@pytest.mark.parametrize("place_of_the_stop", ["Tracker.search_regions", "fartrack.video.TextSink._write"])
def test_a_stop_by_the_system_keeps_whole_frames(place, place_of_the_stop):
    """Wherever it comes: one that comes while a frame is written waits until all outputs have it."""
    stop = f"""
import os, signal
import fartrack.video
from fartrack.cli import main
from fartrack.tracking.tracker import Tracker
count, call = 0, {place_of_the_stop}
def wrapped(*arguments):
    global count
    count += 1
    if count == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    return call(*arguments)
{place_of_the_stop} = wrapped
main()
"""
    outputs = ("--csv", "out.csv", "-o", "out.mp4", "--txt", "out.txt")
    track = [sys.executable, "-c", stop, "track", "clip.mp4", "--threads", "1", *outputs, "--box", BOX]
    done = subprocess.run(track, capture_output=True, text=True, check=False)
    kept = count_frames("out.mp4")
    assert (
        done.returncode == 130
        and done.stderr == f"fartrack: Stopped before the end; the first {kept} frames are kept.\n"
    )
    assert kept == len(rows_of_csv("out.csv")) == len(Path("out.txt").read_text().splitlines()) > 1
    assert not list(place.rglob("*.part"))


def test_names_that_the_terminals_encoding_lacks(place):
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    track = [*COMMAND, "track", "clip.mp4", "--threads", "1", "--csv", "視頻.csv", "--box", BOX]
    done = subprocess.run(track, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0 and done.stderr == "" and len(rows_of_csv("視頻.csv")) == FRAMES


LEAN = """
import sys
from fartrack.cli import main
sys.argv = ["fartrack", "track", "clip.mp4", "--box", sys.argv[1], "--threads", "1", "-o", "out.mp4"]
try:
    main()
finally:
    print(sorted({"torch", "openvino", "onnx", "safetensors", "tkinter"} & set(sys.modules)), file=sys.stderr)
"""


def test_the_command_tracks_without_the_heavy_libraries(place):
    done = subprocess.run([sys.executable, "-c", LEAN, BOX], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n" and "saved out.mp4" in done.stdout
