"""A table of the kinds of file that broke other tools, each made here, with what it must give."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from material import N, mark, marked, read, write_video

from fartrack.errors import FartrackError
from fartrack.geometry import iou
from fartrack.video import TextSink, VideoSink, frames_from_source, open_sinks

CASES = Path(__file__).parents[3] / "shared" / "cases"


# --- makers -----------------------------------------------------------------------------------------------


def corner(index=0, width=96, height=64):
    """A picture with one red corner, the upper left."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:24, :24] = (0, 0, 255)
    return image


def with_matrix(a, b, c, d):
    """A video whose header says how to show it."""

    def make(path):
        data = bytearray(write_video(path, 3, draw=corner).read_bytes())
        at = data.index(b"tkhd") + 44  # 16.16 and 2.30 fixed point
        data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
        path.write_bytes(data)

    return make


def with_exif(orientation):
    """A video of JPEGs that say how to show them."""

    def make(path):
        tiff = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x112, 3, 1, orientation, 0)
        jpeg = cv2.imencode(".jpg", corner())[1].tobytes()
        jpeg = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff + jpeg[2:]
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mjpeg", rate=25)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
            for i in range(3):
                packet = av.Packet(jpeg)
                packet.pts = packet.dts = i
                packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 25), True
                container.mux(packet)

    return make


def with_tracks(*tracks):
    """A video of several tracks: (codec, frames, size, disposition) each, with marked frames."""

    def make(path):
        with av.open(str(path), "w") as container:
            streams = []
            for codec, _, size, disposition in tracks:
                stream = container.add_stream(codec, rate=25)
                stream.width, stream.height = size
                stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
                stream.disposition, stream.bit_rate = disposition, 8_000_000
                streams.append(stream)
            for stream, (_, count, size, _) in zip(streams, tracks, strict=True):
                for i in range(count):
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(marked(i, *size), format="bgr24")))
                container.mux(stream.encode(None))

    return make


def undecodable_first(path):
    with_tracks(("libx264", N, (192, 128), 1), ("mpeg4", N, (96, 64), 1))(path)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))


def animation(path):
    animated = cv2.Animation()
    animated.frames, animated.durations = [marked(i) for i in range(N)], np.array([40] * (N - 1) + [400])
    assert cv2.imwriteanimation(str(path), animated, [cv2.IMWRITE_WEBP_QUALITY, 100])


def pages(path):
    assert cv2.imwritemulti(str(path), [marked(i) for i in range(N)])


def thumbnail(path):
    assert cv2.imwritemulti(str(path), [marked(0), marked(0, 24, 16)])


def put_together(path):
    """Two transport streams, of which the packets between are flagged corrupt, as their counters do not fit."""
    first, second = (write_video(path.with_name(name), N // 2).read_bytes() for name in ("1.ts", "2.ts"))
    path.write_bytes(first + second)


def null_frames(codec):
    """An AVI in which frames 5, 6 and 15 are empty: they repeat the one before."""

    def make(path):
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25, options={"bf": "0"})
            stream.width, stream.height, stream.bit_rate = 96, 64, 8_000_000
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for i in range(N):
                if i not in (5, 6, 15):
                    picture = av.VideoFrame.from_ndarray(marked(i), format="bgr24")
                    picture.pts, picture.time_base = i, Fraction(1, 25)
                    container.mux(stream.encode(picture))
            container.mux(stream.encode(None))

    return make


def deep(dtype, low, high, suffix):
    """A folder of pictures whose values fill a band: black is low, white is high, and one is all of it."""

    def make(path):
        path.mkdir()
        for i in range(8):
            values = np.linspace(low, high, 64 * 96).reshape(64, 96)
            values[16:48, 16:48] = low + i / 7 * (high - low)
            assert cv2.imwrite(str(path / f"{i}{suffix}"), values.astype(dtype))

    return make


def deep_video(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "gray16le"
        for i in range(8):
            values = np.linspace(7000, 7510, 64 * 96).reshape(64, 96)
            values[16:48, 16:48] = 7000 + i / 7 * 510
            container.mux(stream.encode(av.VideoFrame.from_ndarray(values.astype(np.uint16), format="gray16le")))
        container.mux(stream.encode(None))


# --- what they must give ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    make: Callable[[Path], None]
    marks: list[int] = field(default_factory=lambda: list(range(N)))
    seconds: float = (N - 1) / 25  # the time of the last frame
    said: str = ""  # in the log


PLACES = {"upper left": (0, 0), "upper right": (0, -1), "lower left": (-1, 0), "lower right": (-1, -1)}

EXIF = ("upper left", "upper right", "lower right", "lower left")

UPRIGHT = {
    "hflip.mp4": (with_matrix(-1, 0, 0, 1), "upper right", False),
    "vflip.mp4": (with_matrix(1, 0, 0, -1), "lower left", False),
    "half turn.mp4": (with_matrix(-1, 0, 0, -1), "lower right", False),
    "clockwise.mp4": (with_matrix(0, 1, -1, 0), "upper right", True),
    "anticlockwise.mp4": (with_matrix(0, -1, 1, 0), "lower left", True),
    "transpose.mp4": (with_matrix(0, 1, 1, 0), "upper left", True),
    "transverse.mov": (with_matrix(0, -1, -1, 0), "lower right", True),
    "zero.mp4": (with_matrix(0, 0, 0, 0), "upper left", False),
    **{
        f"exif {orientation}.{suffix}": (with_exif(orientation), place, orientation > 4)
        for suffix in ("avi", "mkv")
        for orientation, place in enumerate([*EXIF, *EXIF], start=1)
    },
}

KINDS = {
    "still first.mp4": Kind(
        with_tracks(("mjpeg", 1, (96, 64), 0), ("libx264", N, (96, 64), 1)), said="passing over 0 (a still, 96×64)"
    ),
    "large still first.mkv": Kind(
        with_tracks(("mjpeg", 1, (192, 128), 1), ("libx264", N, (96, 64), 1)), said="passing over 0 (a still, 192×128)"
    ),
    "cover.mp4": Kind(
        with_tracks(("mjpeg", 1, (192, 128), 1024), ("libx264", N, (96, 64), 1)), said="passing over 1 (a still"
    ),
    "default second.mkv": Kind(
        with_tracks(("libx264", 9, (192, 128), 0), ("libx264", N, (96, 64), 1)), said="reading track 1 (h264, 96×64)"
    ),
    "larger second.mkv": Kind(
        with_tracks(("libx264", 9, (96, 64), 1), ("libx264", N, (192, 128), 1)), said="reading track 1 (h264, 192×128)"
    ),
    "more frames second.mp4": Kind(
        with_tracks(("libx264", 9, (96, 64), 1), ("libx264", N, (96, 64), 1)), said="reading track 1"
    ),
    "undecodable first.mp4": Kind(undecodable_first, said="passing over 0 (of an unknown kind)"),
    "animation.webp": Kind(animation),
    "animation.png": Kind(animation),
    "animation.gif": Kind(animation),
    "webp named.png": Kind(lambda path: (animation(path.with_name("a.webp")), path.with_name("a.webp").rename(path))),
    "animation.avif": Kind(animation, said="passing over 0 (a still"),
    "pages.tif": Kind(pages),
    "thumbnail.tif": Kind(thumbnail, [0], 0),
    "put together.ts": Kind(put_together, [*range(N // 2), *range(N // 2)]),
    "null frames.avi": Kind(null_frames("mpeg4"), [*range(5), 4, 4, *range(7, 15), 14, *range(16, N)]),
    "null jpegs.avi": Kind(null_frames("mjpeg"), [*range(5), 4, 4, *range(7, 15), 14, *range(16, N)]),
    "b-frames.avi": Kind(lambda path: write_video(path, options={})),
}

DEEP = {
    "14 bits": (deep(np.uint16, 7000, 7510, ".png"), "values from 700"),
    "10 bits": (deep(np.uint16, 0, 1023, ".tif"), "values from "),
    "signed": (deep(np.int16, -500, 900, ".tiff"), "values from -500 to 900"),
    "float": (deep(np.float32, -3.5, 4.25, ".tif"), "values from -3.5 to 4.25"),
    "double": (deep(np.float64, 1e9, 1e9 + 1, ".tif"), "values from 1e+09"),
    "16 bits": (deep(np.uint16, 0, 65535, ".png"), ""),
    "gray16.mkv": (deep_video, "values from 700"),
}


@pytest.mark.parametrize("name", UPRIGHT)
def test_flips_and_turns(tmp_path, name):
    make, place, turned = UPRIGHT[name]
    make(tmp_path / name)
    frames = read(tmp_path / name)
    assert len(frames) == 3
    rows, columns = (slice(0, 16) if at == 0 else slice(-16, None) for at in PLACES[place])
    for frame in frames:
        assert frame.image.shape[:2] == ((96, 64) if turned else (64, 96)) and frame.image.flags.c_contiguous
        assert frame.image[rows, columns, 2].min() > 150  # red there
        assert frame.image[..., 2].mean() < 40  # and nowhere else


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_at_its_time(tmp_path, name, caplog):
    kind = KINDS[name]
    kind.make(tmp_path / name)
    with frames_from_source(tmp_path / name) as source:
        frames = list(source)
    assert [mark(frame) for frame in frames] == kind.marks
    assert [frame.index for frame in frames] == list(range(len(kind.marks)))
    assert frames[-1].time == pytest.approx(kind.seconds, abs=0.002)
    steps = np.diff([frame.time for frame in frames])
    assert steps == pytest.approx(0.04, abs=0.002)
    assert kind.said in caplog.text and bool(kind.said) == bool(caplog.text) and caplog.text.count("\n") <= 1
    if name != "thumbnail.tif":
        assert [mark(frame) for frame in read(tmp_path / name, start=6)] == kind.marks[6:]


@pytest.mark.parametrize("name", DEEP)
def test_more_than_8_bits(tmp_path, name, caplog):
    make, said = DEEP[name]
    make(tmp_path / name)
    frames = read(tmp_path / name)
    levels = [int(np.median(frame.image[20:44, 20:44])) for frame in frames]
    assert levels == pytest.approx([255 * i / 7 for i in range(8)], abs=3)
    assert {(frame.image.dtype, frame.image.shape) for frame in frames} == {(np.dtype(np.uint8), (64, 96, 3))}
    assert caplog.text.count("more than 8 bits") == bool(said) and said in caplog.text
    later = read(tmp_path / name, start=5)
    assert np.array_equal(later[0].image, frames[5].image)  # one rule for all, wherever it starts


def test_contrast_of_values_that_are_no_numbers(tmp_path):
    values = np.full((64, 96), np.nan, np.float32)
    cv2.imwrite(str(tmp_path / "nan.tif"), values)
    assert not read(tmp_path / "nan.tif")[0].image.any()


@pytest.mark.parametrize("kind", ["a.webp", "a.png", "a.tif"])
def test_an_animation_in_a_folder_is_refused(tmp_path, kind):
    (pages if kind.endswith("tif") else animation)(tmp_path / kind)
    with pytest.raises(FartrackError, match=f"{kind} holds several pictures"):
        frames_from_source(tmp_path)


def test_a_burst_of_stills_is_refused(tmp_path):
    with_tracks(*[("mjpeg", 1, (96, 64), 1)] * 3)(tmp_path / "burst.mp4")
    with pytest.raises(FartrackError, match="holds 3 stills and no video"):
        frames_from_source(tmp_path / "burst.mp4")


@pytest.mark.parametrize("name", ["a.webp", "a.png"])
def test_an_animation_that_is_cut_off(tmp_path, name):
    path = tmp_path / name
    animation(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(FartrackError, match="cut off"):
        read(path)


# --- what is written --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("gap", [600, 3600, 86_400, 40 * 86_400])
def test_a_long_gap_is_kept(tmp_path, suffix, gap):
    times = [*np.arange(20) / 25, *(gap + np.arange(20, 40) / 25)]
    path = tmp_path / f"a{suffix}"
    with VideoSink(path, 25, seconds=times[-1]) as sink:
        for i, time in enumerate(times):
            sink.write(frame_of(i // 2, time), Box())
    frames = read(path)
    assert [round((float(f.image[-12:-4, 4:40].mean()) - 16) / 8) for f in frames] == [i // 2 for i in range(40)]
    assert [frame.time for frame in frames] == pytest.approx(times, abs=2e-3)
    with av.open(str(path)) as container:  # no time is told by an offset, which a long gap would break
        assert all(packet.pts == packet.dts for packet in container.demux(video=0) if packet.size)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize(("ratio", "matrix"), [((64, 45), None), ((4, 3), (0, 1, -1, 0))])
def test_pixels_that_are_not_square(tmp_path, suffix, ratio, matrix):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(*ratio)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(marked(0), format="bgr24")))
        container.mux(stream.encode(None))
    if matrix:
        a, b, c, d = matrix
        data = bytearray(path.read_bytes())
        at = data.index(b"tkhd") + 44
        data[at : at + 20] = struct.pack(">5i", a << 16, b << 16, 0, c << 16, d << 16)
        path.write_bytes(data)
    expected = Fraction(*(ratio[::-1] if matrix else ratio))
    out, text = tmp_path / f"out{suffix}", tmp_path / "out.json"
    with frames_from_source(path) as source, open_sinks(source, video=out, json=text) as sinks:
        assert source.sample_aspect_ratio == expected
        sinks.write(source.first, Box())
    with av.open(str(out)) as container:
        assert container.streams.video[0].sample_aspect_ratio == expected
    size = (64, 96) if matrix else (96, 64)
    assert f'"width": {size[0]},\n  "height": {size[1]},' in text.read_text()
    assert f'"sample_aspect_ratio": "{expected.numerator}:{expected.denominator}"' in text.read_text()


def test_very_wide_frames(tmp_path, caplog):
    cv2.imwrite(str(tmp_path / "wide.png"), np.full((40, 17_000, 3), 90, np.uint8))
    outputs = {"video": tmp_path / "a.mp4", "csv": tmp_path / "a.csv"}
    with frames_from_source(tmp_path / "wide.png") as source, open_sinks(source, **outputs) as sinks:
        assert "H.264 takes at most 16,384 pixels a side" in caplog.text
        sinks.write(source.first, Box())
    assert read(tmp_path / "a.mp4")[0].image.shape == (20, 8_500, 3)
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 2


def test_when_one_sink_fails_the_others_are_finished(tmp_path, monkeypatch):
    def fail(self, frame, track, write=TextSink._write):
        if self.path.suffix == ".csv":
            raise RuntimeError("anything")
        write(self, frame, track)

    monkeypatch.setattr(TextSink, "_write", fail)
    outputs = {"video": tmp_path / "a.mp4", "csv": tmp_path / "a.csv", "txt": tmp_path / "a.txt"}
    with (
        pytest.raises(FartrackError, match=r"a\.csv cannot be written \(anything\)"),
        frames_from_source(write_video(tmp_path / "in.mp4")) as source,
        open_sinks(source, **outputs) as sinks,
    ):
        for frame in source:
            sinks.write(frame, Box())
    assert len(read(tmp_path / "a.mp4")) == len((tmp_path / "a.txt").read_text().splitlines()) == N
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "a.txt", "in.mp4"]


def frame_of(index, time):
    from fartrack.video import Frame

    return Frame(index, time, marked(index))


@dataclass(frozen=True)
class Box:
    box: tuple = (-900.0, -900.0, 5.0, 5.0)  # beyond the picture
    score: float = 0.9
    state: str = "tracking"


# --- the shared cases -------------------------------------------------------------------------------------

SHARED = {
    "base.mp4": 40,
    "hflip.mp4": 40,
    "transpose.mp4": 40,
    "thumb0.mp4": 40,
    "anim.webp": 40,
    "anim_apng.png": 10,
    "concat_reset.ts": 80,
    "sar.mp4": 40,
    "thermal14": 8,
    "gap3600.mkv": 40,
}


@pytest.mark.skipif(not CASES.is_dir(), reason="no shared/cases beside the repository")
@pytest.mark.parametrize("name", SHARED)
def test_shared_cases_are_tracked(tmp_path, name):
    import fartrack

    truth = np.loadtxt(CASES / "truth.txt", delimiter=",")
    tracker = fartrack.load(threads=1)
    with frames_from_source(CASES / name) as source, open_sinks(source, video=tmp_path / "a.mp4") as sinks:
        times, boxes = [], []
        for frame, track in fartrack.api.track_frames(tracker, source, truth[0]):
            sinks.write(frame, track)
            times.append(frame.time)
            boxes.append(track.box)
    assert len(boxes) == SHARED[name]
    steps = np.diff(times)
    assert steps[steps < 1] == pytest.approx(0.04, abs=0.001)
    few = min(len(boxes), 40)
    assert iou(np.array(boxes[:few]), truth[:few]).mean() > (0.7 if name == "thermal14" else 0.85)
    written = read(tmp_path / "a.mp4")
    assert [frame.time for frame in written] == pytest.approx(times, abs=0.001)
