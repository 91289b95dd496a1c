"""Reading ahead changes when frames are read, never which frames a file gives; live sources drop what is stale.

Where one thread has to get somewhere first, the tests wait for that with ``until``, never for a fixed time.
"""

import gc
import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

import fartrack
from fartrack import FartrackError
from fartrack.datasets.layouts import read_boxes
from fartrack.video import Frame, FrameSource, frames_from_source
from fartrack.video.ahead import AHEAD

SEQUENCES = Path(__file__).parents[3] / "shared" / "data" / "video" / "val"
CLIP, BOX = "otb-Biker", (108, 95, 91, 84)


def until(true, seconds=20):
    """Wait until ``true()``."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


def readers():
    return [thread for thread in threading.enumerate() if thread.name == "read ahead"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    assert readers() == []
    yield
    assert readers() == []


class Feed:
    """A source of numbered frames that tells the last one that was asked for, and can be made to hang or to fail."""

    def __init__(self, length=10**9, error=None, waits=True):
        self.read, self.hangs, self.closed, self.gate = 0, False, threading.Event(), threading.Event()
        self.gate.set()
        frames = self._frames(length, error)
        self.source = FrameSource(frames, "feed", start=0, fps=None, frame_count=None, live=not waits, waits=waits)

    def _frames(self, length, error):
        try:
            for index in range(length):
                self.hangs = not self.gate.is_set()
                assert self.gate.wait(30)
                yield Frame(index, index / 25, np.full((4, 4, 3), index % 256, np.uint8))
                self.read += 1
            if error:
                raise error
            return length
        finally:
            self.closed.set()


def indices(frames):
    return [frame.index for frame in frames]


# --- files: the same frames and errors in the same order --------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 3, 50])
def test_all_frames_in_order_and_then_the_end(length):
    feed = Feed(length)
    with feed.source as source, source.reading_ahead():
        assert source.first.index == 0
        assert indices(source) == list(range(length))
        assert list(source) == [] == list(source)


@pytest.mark.parametrize("length", [1, 2, 3, 10])
def test_an_error_comes_in_its_place_unchanged_and_once(length):
    error, frames = FartrackError("The end is cut off."), []
    with Feed(length, error).source as source, source.reading_ahead():
        with pytest.raises(FartrackError) as caught:
            frames.extend(source)
        assert caught.value is error
        assert indices(frames) == list(range(length))
        assert list(source) == []


def test_the_error_does_not_overtake_frames_that_are_ready():
    feed = Feed(2, FartrackError("Broken."))
    with feed.source as source, source.reading_ahead():
        until(lambda: not readers())  # the error is there, and the second frame is not taken yet
        assert indices(islice(source, 2)) == [0, 1]
        with pytest.raises(FartrackError):
            next(source)


def test_even_a_keyboard_interrupt_of_the_thread_reaches_the_consumer():
    with Feed(2, KeyboardInterrupt()).source as source, source.reading_ahead():
        assert indices(islice(source, 2)) == [0, 1]
        with pytest.raises(KeyboardInterrupt):
            next(source)


def test_at_most_two_frames_are_read_ahead():
    feed = Feed()
    with feed.source as source, source.reading_ahead():
        for taken in range(1, 5):
            next(source)
            until(lambda taken=taken: feed.read >= taken + AHEAD - 1)  # counted when the next is asked for
            time.sleep(0.02)
            assert feed.read == taken + AHEAD - 1
    assert feed.closed.is_set()


def test_what_was_read_and_not_taken_comes_next():
    feed = Feed(12, FartrackError("Cut off."))
    with feed.source as source:
        for place in range(0, 12, 3):
            assert source.__next__().index == place  # without
            with source.reading_ahead():
                assert next(source).index == place + 1
            assert readers() == []
            with source.reading_ahead():
                until(lambda: len(source._others._ready) == AHEAD or not readers())
            assert next(source).index == place + 2
        with pytest.raises(FartrackError, match="Cut off"):
            next(source)


def test_where_no_thread_can_be_started(monkeypatch):
    def fail(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    with Feed(3).source as source:
        with pytest.raises(RuntimeError, match="can't start"), source.reading_ahead():
            pass
        assert indices(source) == [0, 1, 2]


def test_contexts_within_one_another():
    with Feed(9).source as source, source.reading_ahead():
        next(source)
        with source.reading_ahead():
            next(source)
        assert indices(source) == list(range(2, 9))


def test_nothing_is_read_before_it_is_asked_for_nor_after_the_context():
    feed = Feed()
    with feed.source as source:
        assert (next(source).index, feed.read) == (0, 0)
        with source.reading_ahead():
            next(source)
        read = feed.read
        time.sleep(0.02)
        assert feed.read == read


# --- stopping ---------------------------------------------------------------------------------------------


def test_closing_ends_the_thread_and_the_frames():
    feed = Feed()
    with feed.source.reading_ahead():
        next(feed.source)
        assert len(readers()) == 1
        feed.source.close()
        assert readers() == [] and feed.closed.is_set()
        assert list(feed.source) == []
        feed.source.close()
    with feed.source.reading_ahead():  # too late
        assert readers() == [] == list(feed.source)


def test_closing_before_the_first_frame():
    feed = Feed()
    with feed.source as source, source.reading_ahead():
        pass
    assert feed.closed.is_set()


class Steady:
    """A tracker that stays where it is."""

    color = "bgr"

    def init(self, image, box):
        return fartrack.Track(box, 1.0)

    def update(self, image):
        return fartrack.Track(BOX, 0.5)


@pytest.mark.parametrize("end", ["close", "drop", "throw"])
def test_a_consumer_that_stops_early_ends_the_thread(end):
    feed = Feed()
    with feed.source as source:
        tracks = fartrack.api.track_frames(Steady(), source, BOX)
        next(tracks), next(tracks)
        assert len(readers()) == 1
        if end == "close":
            tracks.close()
        elif end == "drop":
            del tracks
            gc.collect()
        else:
            with pytest.raises(KeyboardInterrupt):
                tracks.throw(KeyboardInterrupt())
        assert readers() == []
        # the source can be gone on with, such as after another box was drawn
        again = fartrack.api.track_frames(Steady(), source, BOX)
        assert [frame.index for frame, _ in islice(again, 3)] == [2, 3, 4]
        again.close()


def test_a_tracker_that_fails_ends_the_thread():
    class Failing(Steady):
        def update(self, image):
            raise ZeroDivisionError

    with Feed().source as source, pytest.raises(ZeroDivisionError):
        list(fartrack.api.track_frames(Failing(), source, BOX))


def test_a_read_that_hangs_does_not_hang_the_consumer(monkeypatch):
    monkeypatch.setattr("fartrack.video.ahead.PATIENCE", 0.05)
    feed = Feed(waits=False)
    with feed.source as source:
        with source.reading_ahead():
            feed.gate.clear()
            until(lambda: feed.hangs)
            next(source)
        clock = time.monotonic()
    assert time.monotonic() - clock < 5
    assert len(readers()) == 1 and not feed.closed.is_set() and list(source) == []
    feed.gate.set()  # the device answers at last: it is released
    assert feed.closed.wait(20)
    until(lambda: not readers())


def test_a_read_that_hangs_for_a_while_loses_nothing(monkeypatch):
    monkeypatch.setattr("fartrack.video.ahead.PATIENCE", 0.05)
    feed = Feed(20)
    feed.gate.clear()
    with feed.source as source:
        with source.reading_ahead():
            assert next(source).index == 0
            until(lambda: feed.hangs)
        assert len(readers()) == 1
        with source.reading_ahead():
            assert len(readers()) == 1
        threading.Timer(0.1, feed.gate.set).start()
        assert indices(source) == list(range(1, 20))


EXIT = """
import sys, threading, time
import cv2, numpy as np
from fartrack.video import frames_from_source

class Camera:
    def __init__(self, number): self.reads = 0
    def isOpened(self): return True
    def get(self, _): return 25.0
    def release(self): print("released", flush=True)
    def read(self):
        self.reads += 1
        if sys.argv[1] == "hangs" and self.reads > 1:
            time.sleep(600)
        return True, np.zeros((64, 64, 3), np.uint8)

if sys.argv[1] == "file":
    source = frames_from_source(sys.argv[2])
else:
    cv2.VideoCapture = Camera
    source = frames_from_source(0)
context = source.reading_ahead()
context.__enter__()
next(source)
time.sleep(0.1)
print("end", flush=True)
"""


@pytest.mark.parametrize("kind", ["hangs", "runs", "file"])
def test_an_interpreter_exits_in_the_midst_of_reading(tmp_path, kind):
    for number in range(200):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((64, 64, 3), np.uint8))
    command = [sys.executable, "-c", EXIT, kind, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("end")


# --- live sources: the newest frame -----------------------------------------------------------------------


def test_of_a_live_source_only_the_newest_frame_is_kept():
    feed = Feed(waits=False)
    with feed.source as source, source.reading_ahead():
        until(lambda: feed.read > 20)
        assert next(source).index == 0  # the one on which the box was drawn
        last = 0
        for _ in range(4):
            read = feed.read  # this one may be on its way
            frame = next(source)
            assert frame.index >= read - 1 and frame.index > last and frame.time == frame.index / 25
            last = frame.index
            until(lambda: feed.read > last + 20)  # noqa: B023
        assert len(source._others._ready) <= 1


def test_a_live_source_that_is_slower_loses_nothing():
    feed = Feed(waits=False)
    feed.gate.clear()
    with feed.source as source, source.reading_ahead():
        assert next(source).index == 0
        threading.Timer(0.05, feed.gate.set).start()
        frame = next(source)  # waits for it
        assert frame.index >= 1


def test_the_last_frame_and_then_the_error_of_a_live_source():
    feed = Feed(30, FartrackError("The webcam stopped."), waits=False)
    with feed.source as source, source.reading_ahead():
        until(lambda: not readers())
        frames = []
        with pytest.raises(FartrackError, match="stopped"):
            frames.extend(source)
        assert indices(frames) == [0, 29]


class Camera:
    """A camera that gives as many frames as it is asked for."""

    def __init__(self, number):
        self.reads, self.released = 0, False
        Camera.last = self

    def isOpened(self):  # noqa: N802
        return True

    def get(self, _):
        return 30.0

    def read(self):
        time.sleep(0.001)
        self.reads += 1
        return True, np.zeros((64, 64, 3), np.uint8)

    def release(self):
        self.released = True


def test_a_webcam_faster_than_the_tracker(monkeypatch):
    class Slow(Steady):
        def update(self, image):
            reads = Camera.last.reads
            until(lambda: Camera.last.reads > reads + 40)
            return super().update(image)

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    with frames_from_source(0) as source:
        assert source.live and not source.waits
        frames = [frame for frame, _ in islice(fartrack.api.track_frames(Slow(), source, BOX), 5)]
    assert Camera.last.released
    steps = np.diff(indices(frames))
    assert frames[0].index == 0 and (steps[1:] > 5).all()
    assert (np.diff([frame.time for frame in frames])[1:] >= 0.005).all()


# --- which streams wait -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "format", "seconds", "waits"),
    [
        (-22, "rtsp", None, False),  # a camera
        (-22, "flv", None, False),
        (-38, "hls", None, True),  # a broadcast in pieces
        (-38, "dash", None, True),
        (48_000, "matroska,webm", None, True),  # a recording whose length is not told
        (-22, "rtsp", 12.0, True),
    ],
)
def test_streams_that_wait_for_their_reader(monkeypatch, size, format, seconds, waits):
    import av

    real = av.open("color=size=32x32:rate=5", format="lavfi")

    class Container:
        streams, duration = real.streams, seconds and round(seconds * av.time_base)

        def __init__(self):
            self.size, self.format = size, type("Format", (), {"name": format})

        def demux(self):
            return real.demux()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            real.close()

    monkeypatch.setattr(av, "open", lambda *_, **__: Container())
    with frames_from_source("rtsp://camera/stream") as source:
        assert (source.waits, source.live) == (waits, seconds is None)


# --- a real clip ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tracker():
    return fartrack.load(threads=1)


def test_tracks_of_a_real_clip_are_the_same(tracker):
    if not SEQUENCES.is_dir():
        pytest.skip("no validation sequences (shared/data/video/val) beside the repository")
    path, box = SEQUENCES / f"{CLIP}.mp4", read_boxes(SEQUENCES / f"{CLIP}.txt")[0]
    with frames_from_source(path) as source:
        frames = [frame.image for frame in islice(source, 40)]
    plain = [tracker.init(frames[0], box), *map(tracker.update, frames[1:])]
    assert list(islice(fartrack.track_video(path, box, tracker=tracker), 40)) == plain


def test_tracks_of_a_file_that_is_cut_off(tmp_path, tracker, demo_clip):
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), demo_clip[0][number])
    (tmp_path / "3.png").write_bytes(b"broken")
    plain = [tracker.init(demo_clip[0][0], BOX), *map(tracker.update, demo_clip[0][1:3])]
    tracks = []
    with pytest.raises(FartrackError, match=r"3\.png"):
        tracks.extend(fartrack.track_video(tmp_path, BOX, tracker=tracker))
    assert tracks == plain
