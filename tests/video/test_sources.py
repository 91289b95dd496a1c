"""Every source yields the right pictures at the right times, or one clear sentence."""

import functools
import http.server
import os
import socket
import struct
import subprocess
import sys
import threading

import av
import cv2
import numpy as np
import pytest
from material import (
    FASTSTART,
    FRAGMENTED,
    N,
    mark,
    marked,
    read,
    read_damaged,
    refused,
    write_sound,
    write_video,
)

import fartrack.video.containers as sources
from fartrack.video import frames_from_source


def uneven(n=N):
    return np.round(np.cumsum(np.random.default_rng(1).uniform(0.012, 0.3, n)), 3) - 0.05


# --- whole files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {}),
        ("faststart.mp4", {"options": FASTSTART}),
        ("fragments.mp4", {"options": FRAGMENTED}),
        ("a.mov", {}),
        ("a.mkv", {}),
        ("a.webm", {"codec": "libvpx"}),
        ("a.avi", {"codec": "mpeg4"}),
        ("a.ts", {}),
        ("a.mp4", {"codec": "mpeg4"}),
        ("sound.mp4", {"audio": 3.0}),
        ("sound.mkv", {"audio": 3.0}),
        ("a: b?.mp4", {}),
    ],
)
def test_constant_rate(tmp_path, name, options):
    path = write_video(tmp_path / name, **options)
    with frames_from_source(path) as source:
        assert source.name == str(path)
        assert source.fps == pytest.approx(25) and not source.live
        if not options.get("audio"):
            assert source.frame_count == N
        frames = list(source)
    assert [f.index for f in frames] == [mark(f) for f in frames] == list(range(N))
    assert [f.time for f in frames] == pytest.approx([i / 25 for i in range(N)], abs=1e-3)
    assert all(f.image.shape == (64, 96, 3) and f.image.dtype == np.uint8 for f in frames)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_variable_rate(tmp_path, name):
    times = uneven()
    frames = read(write_video(tmp_path / name, times=times))
    assert [mark(f) for f in frames] == list(range(N))
    assert [f.time for f in frames] == pytest.approx(list(times - times[0]), abs=1.5e-3)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_gaps_and_a_long_pause_raise_no_false_alarm(tmp_path, name):
    times = [0, 0.04, 0.08, 2.0, 2.04, 6.0]
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    frames = read(write_video(tmp_path / name, 6, times=times, codec=codec))
    assert [mark(f) for f in frames] == list(range(6))
    assert [f.time for f in frames] == pytest.approx(times, abs=2e-3)


def test_last_frame_that_lasts_long(tmp_path):
    """Matroska may declare a duration far beyond the last time stamp."""
    path = write_video(tmp_path / "a.mkv")
    data = bytearray(path.read_bytes())
    at = data.index(b"\x44\x89\x88") + 3  # Duration, a double in milliseconds
    assert struct.unpack(">d", data[at : at + 8])[0] == pytest.approx(1000 * N / 25)
    data[at : at + 8] = struct.pack(">d", 9000.0)
    path.write_bytes(data)
    assert [mark(f) for f in read(path)] == list(range(N))


def test_edit_list(tmp_path):
    """An MP4 that was trimmed without re-encoding shows fewer frames than it stores."""
    whole, trimmed = write_video(tmp_path / "whole.mp4"), tmp_path / "trimmed.mp4"
    options = {"use_editlist": "1", "avoid_negative_ts": "disabled"}
    with av.open(str(whole)) as source, av.open(str(trimmed), "w", options=options) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                shift = round(10 / 25 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                target.mux(packet)
    with av.open(str(trimmed)) as container:
        assert container.streams.video[0].frames == N
    frames = read(trimmed)
    assert [mark(f) for f in frames] == list(range(10, N))
    assert [f.index for f in frames] == list(range(N - 10)) and frames[0].time == 0


@pytest.mark.parametrize("size", [(97, 65), (1, 1), (33, 2)])
def test_odd_sizes(tmp_path, size):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "bgr0"
        image = marked(3, *size)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format="bgr0")))
        container.mux(stream.encode(None))
    (frame,) = read(path)
    assert np.array_equal(frame.image, image)


@pytest.mark.parametrize(
    ("matrix", "corner", "shape"),
    [
        ((1, 0, 0, 1), (0, 0), (64, 96)),
        ((0, 1, -1, 0), (0, -1), (96, 64)),  # a quarter turn clockwise: the red corner comes to the right
        ((-1, 0, 0, -1), (-1, -1), (64, 96)),
        ((0, -1, 1, 0), (-1, 0), (96, 64)),
    ],
)
def test_rotation(tmp_path, matrix, corner, shape):
    def red_corner(index, width, height):
        image = np.zeros((height, width, 3), np.uint8)
        image[:24, :24] = (0, 0, 255)
        return image

    path = write_video(tmp_path / "a.mp4", 2, draw=red_corner)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44  # the display matrix of the track header, 16.16 and 2.30 fixed point
    a, b, c, d = (65536 * v for v in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    frames = read(path)
    assert len(frames) == 2
    for frame in frames:
        assert frame.image.shape[:2] == shape and frame.image.flags.c_contiguous
        rows = slice(0, 16) if corner[0] == 0 else slice(-16, None)
        columns = slice(0, 16) if corner[1] == 0 else slice(-16, None)
        assert frame.image[rows, columns, 2].min() > 150  # red there
        assert frame.image[..., 2].mean() < 40  # and nowhere else


def test_a_title_that_is_not_utf8(tmp_path):
    path = write_video(tmp_path / "a.mkv")
    data = path.read_bytes()
    assert data.count(b"Lavf") >= 1
    path.write_bytes(data.replace(b"Lavf", b"L\xe4vf").replace(b"Lavc", b"L\xe4vc"))
    assert [mark(f) for f in read(path)] == list(range(N))


def test_iterates_once_and_closes(tmp_path):
    with frames_from_source(write_video(tmp_path / "a.mp4")) as source:
        assert mark(source.first) == 0
        assert [mark(next(iter(source))) for _ in range(3)] == [0, 1, 2]
        assert [mark(f) for f in source] == list(range(3, N))
        assert list(source) == []
    source.close()
    with frames_from_source(str(tmp_path / "a.mp4")) as source:
        pass
    assert [mark(f) for f in source] == [0]  # only the frame that was read at the opening


# --- start ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 1, 11, N - 1])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_start_is_exact(tmp_path, name, start):
    times = uneven()
    frames = read(write_video(tmp_path / name, times=times), start=start)
    assert [f.index for f in frames] == [mark(f) for f in frames] == list(range(start, N))
    assert frames[0].time == pytest.approx(times[start] - times[0], abs=1.5e-3)


def test_start_beyond_the_end_and_negative(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    assert f"has {N} frames" in refused(path, start=N) and f"from 0 to {N - 1}" in refused(path, start=N + 5)
    assert "-1" in refused(path, start=-1)
    folder = write_pictures(tmp_path / "p", ["1.png", "2.png"])
    assert "has 2 frames" in refused(folder, start=2)


# --- damaged files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"options": FASTSTART}),
        ("vfr.mp4", {"options": FASTSTART, "times": uneven()}),
        ("sound.mp4", {"options": FASTSTART, "audio": 1.0}),
        ("a.mkv", {}),
        ("vfr.mkv", {"times": uneven()}),
        ("a.webm", {"codec": "libvpx"}),
        ("a.avi", {"codec": "mpeg4"}),
    ],
)
def test_cut_off(tmp_path, name, options):
    path = write_video(tmp_path / name, **options)
    data = path.read_bytes()
    counts = []
    for part in (0.3, 0.6, 0.9):
        path.write_bytes(data[: int(part * len(data))])
        frames, sentence = read_damaged(path)
        assert [mark(f) for f in frames] == list(range(len(frames)))
        assert str(path) in sentence and f"frames read: {len(frames)}" in sentence
        assert f"of about {N}" in sentence or "of 1.0 s" in sentence or "vfr.mkv" in name
        assert abs(len(frames) - part * N) <= 4
        counts.append(len(frames))
    assert 0 < counts[0] < counts[1] < counts[2] < N


@pytest.mark.parametrize(("name", "options"), [("a.mp4", {"codec": "mpeg4"}), ("a.avi", {"codec": "mpeg4"})])
def test_a_cut_behind_the_last_frame_is_no_damage(tmp_path, name, options):
    path = write_video(tmp_path / name, **options)
    path.write_bytes(path.read_bytes()[:-40])
    assert [mark(f) for f in read(path)] == list(range(N))


@pytest.mark.parametrize("part", [0.01, 0.3, 0.97])
def test_mp4_without_its_index_does_not_open(tmp_path, part):
    path = write_video(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    assert "cut off before its index" in refused(path)


@pytest.mark.parametrize(
    ("name", "options"), [("a.mp4", {"options": FASTSTART}), ("a.mkv", {}), ("a.avi", {"codec": "mpeg4"})]
)
def test_zeros_from_the_middle_on(tmp_path, name, options):
    """As a download leaves it that reserved its space first."""
    path = write_video(tmp_path / name, 2 * N, draw=lambda i, *size: marked(i // 2, *size), **options)
    data = path.read_bytes()
    half = len(data) // 2
    path.write_bytes(data[:half] + bytes(len(data) - half))
    frames, _ = read_damaged(path)
    assert N // 2 < len(frames) < N * 3 // 2
    assert [mark(f) for f in frames[:-1]] == [i // 2 for i in range(len(frames) - 1)]  # the last one is torn


def test_start_behind_the_damage_tells_of_the_damage(tmp_path):
    path = write_video(tmp_path / "a.mkv")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "damaged or cut off" in refused(path, start=N - 1)


def test_what_is_not_a_video(tmp_path, capfd):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("hello, this is not a film\n" * 99)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("no picture")
    with av.open(str(tmp_path / "sound.m4a"), "w", format="mp4") as container:
        write_sound(container, container.add_stream("aac", rate=16000, layout="mono"), 0.5)
    assert "no file or folder" in refused(tmp_path / "missing.mp4")
    assert "empty" in refused(tmp_path / "empty.mp4")
    assert "not a video" in refused(tmp_path / "text.mp4")
    assert "no video track" in refused(tmp_path / "sound.m4a")
    assert "no pictures" in refused(tmp_path / "folder")
    assert capfd.readouterr() == ("", "")


def test_cover_of_a_song_is_no_video(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt = 96, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        sound = container.add_stream("aac", rate=16000, layout="mono")
        container.mux(cover.encode(av.VideoFrame.from_ndarray(marked(0), format="bgr24")))
        container.mux(cover.encode(None))
        write_sound(container, sound, 0.5)
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1
    assert "no video track" in refused(path)


# --- pictures ---------------------------------------------------------------------------------------------


def write_pictures(folder, names):
    folder.mkdir()
    for i, name in enumerate(names):
        cv2.imwrite(str(folder / name), marked(i))
    return folder


def test_folder_in_natural_order(tmp_path):
    names = ["img1.png", "img2.PNG", "img10.bmp", "img11.png", "img100.png", "x.webp"]
    folder = write_pictures(tmp_path / "p", names)
    (folder / "groundtruth.txt").write_text("1,2,3,4")
    (folder / ".hidden.png").write_bytes(b"not a picture")
    (folder / "img3").mkdir()
    with frames_from_source(folder) as source:
        assert source.frame_count == 6 and source.fps is None and not source.live
        frames = list(source)
    assert [f.index for f in frames] == [mark(f) for f in frames] == list(range(6))
    assert [f.time for f in frames] == pytest.approx([i / 25 for i in range(6)])
    assert [mark(f) for f in read(folder, start=4)] == [4, 5]
    assert [mark(f) for f in read(folder / "img10.bmp")] == [2]


def test_kinds_of_pictures_become_bgr(tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    color = np.full((8, 10, 3), (10, 100, 200), np.uint8)
    cv2.imwrite(str(folder / "1.png"), color[..., 1])
    cv2.imwrite(str(folder / "2.png"), np.dstack([color, np.full((8, 10), 128, np.uint8)]))
    cv2.imwrite(str(folder / "3.png"), color.astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "4.png"), cv2.resize(color, (31, 17)))
    gray, alpha, deep, large = (f.image for f in read(folder))
    assert np.array_equal(gray, np.full((8, 10, 3), 100, np.uint8))
    assert np.array_equal(alpha, color) and np.array_equal(deep, color)
    assert large.shape == (17, 31, 3) and {i.dtype for i in (gray, alpha, deep, large)} == {np.dtype(np.uint8)}


@pytest.mark.parametrize("content", [b"", b"not a picture", None])
def test_broken_picture(tmp_path, content):
    folder = write_pictures(tmp_path / "p", ["1.jpg", "2.jpg", "3.jpg", "4.jpg"])
    broken = folder / "3.jpg"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2] if content is None else content)
    frames, sentence = read_damaged(folder)
    assert [mark(f) for f in frames] == [0, 1] and str(broken) in sentence


# --- streams and webcams ----------------------------------------------------------------------------------


@pytest.fixture
def serve(tmp_path):
    """The address of a server that offers the folder tmp_path."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_http(tmp_path, serve):
    write_video(tmp_path / "a.mp4", options=FASTSTART)
    write_video(tmp_path / "cut.mp4", options=FASTSTART)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "cut.mp4").read_bytes()[:40000])
    with frames_from_source(f"{serve}/a.mp4") as source:
        assert source.frame_count == N and not source.live
        assert [mark(f) for f in source] == list(range(N))
    frames, _ = read_damaged(f"{serve}/cut.mp4")
    assert 3 < len(frames) < N and [mark(f) for f in frames] == list(range(len(frames)))
    assert "missing.mp4" in refused(f"{serve}/missing.mp4")


def test_live_stream(tmp_path, serve):
    """A stream without a declared end is live, and ends when it ends."""
    write_video(tmp_path / "a.mkv", options={"live": "1"})
    with frames_from_source(f"{serve}/a.mkv") as source:
        assert source.live and source.frame_count is None
        frames = list(source)
    assert [f.index for f in frames] == [mark(f) for f in frames] == list(range(N))
    assert [f.time for f in frames] == pytest.approx([i / 25 for i in range(N)], abs=1e-3)


def test_unreachable_streams(monkeypatch, capfd):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        sentence = refused(f"rtsp://user:secret@127.0.0.1:{port}/camera")  # bound, not listening
        assert f"rtsp://127.0.0.1:{port}/camera" in sentence and "secret" not in sentence
        listener.listen()  # accepts, never answers
        monkeypatch.setattr(sources, "OPEN_TIMEOUT", 0.3)
        assert "no answer in 0.3 s" in refused(f"http://127.0.0.1:{port}/a.mp4")
    assert "cannot be opened" in refused("nonsense://somewhere")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("number", [97, "97"])
def test_no_such_webcam(capfd, number):
    assert "Webcam 97" in refused(number)
    assert capfd.readouterr() == ("", "")


class FakeCamera:
    """A camera of five frames."""

    def __init__(self, number):
        self.number, self.count, self.released = number, 0, False
        FakeCamera.last = self

    def isOpened(self):  # noqa: N802
        return self.number < 2

    def get(self, _):
        return 30.0 * self.number

    def read(self):
        self.count += 1
        return (True, marked(self.count - 1)) if self.count <= 5 else (False, None)

    def release(self):
        self.released = True


def test_webcam(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", FakeCamera)
    with frames_from_source("1") as source:
        assert source.live and source.fps == 30 and source.frame_count is None and source.name == "webcam 1"
        frames = [f for f, _ in zip(source, range(3), strict=False)]
    assert [f.index for f in frames] == [mark(f) for f in frames] == [0, 1, 2]
    assert frames[0].time == 0 and frames[0].time < frames[1].time < frames[2].time
    assert FakeCamera.last.released
    frames, sentence = read_damaged(0)
    assert [mark(f) for f in frames] == list(range(5)) and "webcam 0" in sentence
    assert frames_from_source(0).fps is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_collects_an_open_video_of_its_parent(tmp_path):
    """The decoder's threads are the parent's alone; a child that waited for them would wait for ever."""
    write_video(tmp_path / "a.mp4")
    script = f"""
import gc, os, sys
from fartrack.video import frames_from_source
source = frames_from_source({str(tmp_path / "a.mp4")!r})
next(source)
cycle = [source]
cycle.append(cycle)
del source, cycle
if child := os.fork():
    sys.exit(os.waitpid(child, 0)[1])
gc.collect()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
