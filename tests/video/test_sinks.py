"""Results are whole or not there, and say what was tracked."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

import fartrack
from fartrack.errors import FartrackError
from fartrack.targets import Target
from fartrack.video import (
    Frame,
    TextSink,
    VideoSink,
    draw_track,
    frames_from_source,
    open_sinks,
)
from fartrack.video.formats import Run

ONE = Target()
MAKERS = {
    "a.mp4": VideoSink,
    "a.mkv": VideoSink,
    "a.csv": lambda path: TextSink(path, "csv"),
    "a.json": lambda path: TextSink(path, "json", Run("film.mp4")),
    "a.jsonl": lambda path: TextSink(path, "jsonl"),
    "a.mot": lambda path: TextSink(path, "mot"),
    "a.coco": lambda path: TextSink(path, "coco", Run("film.mp4", [ONE])),
    "a.xml": lambda path: TextSink(path, "cvat", Run("film.mp4", [ONE])),
    "a.txt": lambda path: TextSink(path, "txt"),
}


@dataclass(frozen=True)
class Track:
    box: tuple[float, float, float, float]
    score: float
    state: str = "tracking"


def frame(index, time=None, size=(64, 48)):
    image = np.full((size[1], size[0], 3), 16 + 8 * index, np.uint8)
    return Frame(index, index / 25 if time is None else time, image)


AWAY = Track((-900.0, -900.0, 5.0, 5.0), 0.9)  # a box beyond the picture, so that only its tag is seen
TRACKS = [Track((1 + i, 2.25, 30.123456, 40), 1 - i / 8) for i in range(5)]


def write_five(sink):
    for i, track in enumerate(TRACKS):
        sink.write(frame(7 + i), track)


def marks(path):
    """The index of each frame, told by the gray of its lower right corner."""
    with frames_from_source(path) as source:
        return [round((float(f.image[-12:-4, -12:-4].mean()) - 16) / 8) for f in source]


# --- whole or not at all ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_a_file_appears_only_when_it_is_closed(tmp_path, name):
    path = tmp_path / name
    path.write_text("older")
    sink = MAKERS[name](path)
    write_five(sink)
    assert path.read_text() == "older" and len(list(tmp_path.iterdir())) == 2
    sink.close()
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() != b"older"
    whole = path.read_bytes()
    sink.close()
    sink.discard()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("count", [0, 5])
def test_an_exception_leaves_nothing(tmp_path, name, count):
    path = tmp_path / name
    path.write_text("older")
    with pytest.raises(RuntimeError), MAKERS[name](path) as sink:
        for _ in range(count):
            sink.write(frame(1), AWAY)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "older"


@pytest.mark.parametrize("name", MAKERS)
def test_what_was_closed_before_an_exception_stays(tmp_path, name):
    """As for a source that is cut off: its frames are kept, then the error goes on."""
    with pytest.raises(FartrackError, match="cut off"), MAKERS[name](tmp_path / name) as sink:
        write_five(sink)
        sink.close()
        raise FartrackError("cut off")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_video_without_frames_is_refused(tmp_path):
    with pytest.raises(FartrackError, match="no frame"), VideoSink(tmp_path / "a.mp4"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["a.csv", "a.mp4"])
def test_a_full_disk_is_one_sentence(tmp_path, name, monkeypatch):
    touch = Path.touch
    monkeypatch.setattr(Path, "touch", lambda self: self.symlink_to("/dev/full") or touch(self))
    with (
        pytest.raises(FartrackError, match=r"a\.\w+ cannot be written \(No space left"),
        MAKERS[name](tmp_path / name) as sink,
    ):
        for i in range(100):
            sink.write(frame(i % 20), AWAY)
    assert list(tmp_path.iterdir()) == []


# --- the text formats -------------------------------------------------------------------------------------


def test_csv(tmp_path):
    with TextSink(tmp_path / "a.csv", "csv") as sink:
        write_five(sink)
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0] == "frame,time,x,y,w,h,score,state"
    assert lines[1] == "7,0.28,1.0,2.25,30.123,40.0,1.0,tracking" and lines[5].startswith("11,0.44,5.0,")
    assert len(lines) == 6


def test_json(tmp_path):
    with TextSink(tmp_path / "a.json", "json", Run('fi"lm.mp4')) as sink:
        write_five(sink)
    result = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert result["fartrack"] == fartrack.__version__ and result["source"] == 'fi"lm.mp4'
    assert result["boxes"].startswith("x,y,w,h in pixels") and len(result["frames"]) == 5
    row = {"frame": 8, "time": 0.32, "x": 2.0, "y": 2.25, "w": 30.123, "h": 40.0, "score": 0.875, "state": "tracking"}
    assert result["frames"][1] == row


def test_json_without_frames(tmp_path):
    TextSink(tmp_path / "a.json", "json", Run("x")).close()
    assert json.loads((tmp_path / "a.json").read_text())["frames"] == []


def test_text(tmp_path):
    with TextSink(tmp_path / "a.txt", "txt") as sink:
        write_five(sink)
    assert np.allclose(np.loadtxt(tmp_path / "a.txt", delimiter=","), [t.box for t in TRACKS], atol=5e-4)
    assert (tmp_path / "a.txt").read_text().startswith("1.0,2.25,30.123,40.0\n")


def test_numpy_numbers(tmp_path):
    track = Track(tuple(np.float32([1, 2, 3, 4])), np.float32(0.5))
    for name, make in MAKERS.items():
        with make(tmp_path / name) as sink:
            sink.write(frame(0), track)
    assert (tmp_path / "a.csv").read_text().endswith("0,0.0,1.0,2.0,3.0,4.0,0.5,tracking\n")


# --- the video --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".MP4"])
def test_video_keeps_times_and_pictures(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    times = [3.0, 3.04, 3.05, 3.5, 5.123, 5.2]
    with VideoSink(path, 25) as sink:
        for i, time in enumerate(times):
            sink.write(frame(i, time), AWAY)
    with frames_from_source(path) as source:
        assert [f.time for f in source] == pytest.approx([t - 3 for t in times], abs=1e-3)
    assert marks(path) == list(range(6))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    data = path.read_bytes()
    assert suffix == ".mkv" or data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("fps", [25, 29.97, 30000 / 1001, 60, None])
def test_video_rate(tmp_path, fps):
    with VideoSink(tmp_path / "a.mp4", fps) as sink:
        for i in range(20):
            sink.write(frame(i, i / (fps or 25)), AWAY)
    with frames_from_source(tmp_path / "a.mp4") as source:
        assert source.fps == pytest.approx(fps or 25, rel=1e-4)


def test_equal_times_do_not_stop_the_video(tmp_path):
    with VideoSink(tmp_path / "a.mp4", 25) as sink:
        for i in range(4):
            sink.write(frame(i, 0.0), AWAY)
    assert marks(tmp_path / "a.mp4") == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [(65, 49), (1, 1), (17, 300)])
def test_odd_sizes_grow_by_one(tmp_path, size):
    with VideoSink(tmp_path / "a.mp4") as sink:
        sink.write(frame(9, size=size), Track((math.nan,) * 4, 0.5))
    with frames_from_source(tmp_path / "a.mp4") as source:
        image = source.first.image
    assert image.shape == (size[1] + size[1] % 2, size[0] + size[0] % 2, 3)
    assert abs(image.astype(int) - 88).max() <= 3  # the added row and column too


def test_other_sizes_are_scaled_to_the_first(tmp_path):
    with VideoSink(tmp_path / "a.mp4") as sink:
        for i, size in enumerate([(65, 49), (200, 100), (50, 90), (64, 48)]):
            sink.write(frame(i, size=size), AWAY)
    assert marks(tmp_path / "a.mp4") == [0, 1, 2, 3]
    with frames_from_source(tmp_path / "a.mp4") as source:
        assert {f.image.shape for f in source} == {(50, 66, 3)}


def test_video_shows_the_box(tmp_path):
    with VideoSink(tmp_path / "a.mp4") as sink:
        sink.write(frame(0, size=(320, 240)), {Target(1, "car"): Track((100, 100, 120, 80), 0.2)})
    with frames_from_source(tmp_path / "a.mp4") as source:
        image = source.first.image.astype(int)
    for y, x in ((100, 200), (180, 200), (140, 100), (140, 220)):
        around = image[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3)
        assert any(green > 150 and red < 130 for _, green, red in around)
    assert np.abs(image[120:160, 120:200] - 16).max() < 12


# --- drawing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("score", "strong", "weak"), [(1.0, 1, 2), (0.5, 2, 0), (0.0, 2, 1)])
def test_colors(score, strong, weak):
    image = np.zeros((240, 320, 3), np.uint8)
    b, g, r = color = draw_track(image, Track((100, 100, 100, 80), score))[180, 150].astype(int)
    assert color[strong] > 190 and color[weak] < 110
    assert (g > 150) == (score >= 0.5) and (r > 150) == (score <= 0.5) and b < 110
    assert not image.any()  # it drew on a copy


def test_the_box_of_a_lost_target_is_dashed():
    image = np.zeros((240, 320, 3), np.uint8)
    box = (100.0, 100.0, 100.0, 80.0)
    whole = draw_track(image, Track(box, 0.1))[180, 101:199].any(-1)
    dashed = draw_track(image, Track(box, 0.1, "lost"))[180, 101:199].any(-1)
    assert whole.all() and 0.3 < dashed.mean() < 0.8
    assert np.count_nonzero(np.diff(dashed.astype(int))) > 4


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (320, 240), (1920, 1080)])
@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 1, 1),
        (-1e9, -1e9, 2e9, 2e9),
        (1e12, 5, 3, 3),
        (5, 5, 0, 0),
        (0, 0, 320, 240),
        (5, math.inf, 1, 1),
    ],
)
def test_drawing_bears_any_box(size, box):
    image = np.full((size[1], size[0], 3), 90, np.uint8)
    drawn = draw_track(image, Track(box, 0.7), "a label")
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert (drawn != image).any() == all(map(math.isfinite, box))


@pytest.mark.parametrize("box", [(100, 100, 60, 60), (100, 0, 60, 60), (0, 0, 320, 240), (300, 200, 60, 60)])
def test_the_score_is_always_in_the_picture(box):
    image = np.zeros((240, 320, 3), np.uint8)
    plain, named = (draw_track(image, Track(box, 1.0), label) for label in (None, "x"))
    assert np.count_nonzero(named[..., 1] > 150) > np.count_nonzero(plain[..., 1] > 150) + 100


# --- the factory ------------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path):
    (tmp_path / "in").mkdir()
    with VideoSink(tmp_path / "in" / "film.mp4") as sink:
        for i in range(3):
            sink.write(frame(i), AWAY)
    with frames_from_source(tmp_path / "in" / "film.mp4") as opened:
        yield opened


def test_all_outputs_together(tmp_path, source):
    names = {kind: tmp_path / f"out.{kind}" for kind in ("csv", "json", "txt")}
    with open_sinks(source, video=tmp_path / "out.mp4", **names) as sinks:
        for f in source:
            sinks.write(f, AWAY)
    assert marks(tmp_path / "out.mp4") == [0, 1, 2]
    assert json.loads(names["json"].read_text())["source"] == source.name
    assert len(names["csv"].read_text().splitlines()) == 4 and len(names["txt"].read_text().splitlines()) == 3
    assert len(list(tmp_path.iterdir())) == 5


def test_no_outputs(source):
    with open_sinks(source) as sinks:
        sinks.write(source.first, AWAY)
    assert sinks.sinks == []


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ({"video": "out.avi"}, r"out.avi .*\.mp4, \.mov, \.mkv"),
        ({"video": "out"}, r"\.mp4, \.mov, \.mkv"),
        ({"csv": "no/such/a.csv"}, "no folder .*such"),
        ({"txt": "in"}, "is a folder"),
        ({"video": "in/film.mp4"}, "is the source"),
        ({"video": "in/../in/film.mp4"}, "is the source"),
        ({"video": "link.mp4"}, "is the source"),
        ({"csv": "a.out", "txt": "a.out"}, "another output"),
        ({"csv": "in/film.mp4/a.csv"}, "no folder"),
        ({"json": "x" * 300}, "cannot be written"),
    ],
)
def test_refused_outputs_leave_nothing(tmp_path, source, outputs, words):
    (tmp_path / "link.mp4").symlink_to(tmp_path / "in" / "film.mp4")
    before = sorted(tmp_path.rglob("*"))
    film = Path(source.name).read_bytes()
    wanted = {"json": tmp_path / "fine.json"} | {k: tmp_path / v for k, v in outputs.items()}
    with pytest.raises(FartrackError, match=words) as caught:
        open_sinks(source, **wanted)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before and Path(source.name).read_bytes() == film


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(tmp_path, source):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(FartrackError, match="Permission denied"):
        open_sinks(source, csv=tmp_path / "locked" / "a.csv")


def test_a_source_that_is_cut_off_keeps_its_results(tmp_path):
    """The pattern for callers: close the sinks, then let the error go on."""
    film = tmp_path / "film.mkv"
    with VideoSink(film) as sink:
        rng = np.random.default_rng(0)
        for i in range(20):
            sink.write(Frame(i, i / 25, rng.integers(0, 255, (64, 64, 3), np.uint8)), AWAY)
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    with (
        pytest.raises(FartrackError, match="damaged or cut off"),
        frames_from_source(film) as source,
        open_sinks(source, csv=tmp_path / "a.csv", video=tmp_path / "a.mp4") as sinks,
    ):
        try:
            for f in source:
                sinks.write(f, AWAY)
        except FartrackError:
            sinks.close()
            raise
    rows = (tmp_path / "a.csv").read_text().splitlines()
    with frames_from_source(tmp_path / "a.mp4") as result:
        assert 3 < len(list(result)) == len(rows) - 1 < 20
