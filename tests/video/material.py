"""Small videos of marked frames, and what reads them."""

from fractions import Fraction

import av
import numpy as np
import pytest

from fartrack.errors import FartrackError
from fartrack.video import Frame, frames_from_source

N = 24
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}
FASTSTART = {"movflags": "faststart"}


def marked(index, width=96, height=64):
    """A picture whose left half tells its index; the right half is noise, so that files have some bytes."""
    image = np.random.default_rng(index).integers(0, 255, (height, width, 3), np.uint8)
    image[:, : width // 2] = 16 + 8 * index
    return image


def mark(frame: Frame):
    return round((float(frame.image[4:-4, 4 : frame.image.shape[1] // 2 - 4].mean()) - 16) / 8)


def write_video(path, n=N, *, times=None, codec="libx264", size=(96, 64), audio=0.0, options=None, draw=marked):
    """A video of `n` marked frames at 25 a second, or at `times` (seconds), and `audio` seconds of sound."""
    base = Fraction(1, 1000) if times is not None else Fraction(1, 25)
    with av.open(str(path), "w", options=options or {}) as container:
        fast = {"deadline": "good", "cpu-used": "5"} if codec == "libvpx" else {}  # the same whatever the machine does
        video = container.add_stream(codec, rate=25, options={"g": "8"} | fast)
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        video.codec_context.time_base = base
        if codec in ("mpeg4", "libvpx"):
            video.bit_rate = 8_000_000
        if audio:
            sound = container.add_stream("aac", rate=16000, layout="mono")
        for i in range(n):
            picture = av.VideoFrame.from_ndarray(draw(i, *size), format="bgr24")
            picture.pts, picture.time_base = i if times is None else round(times[i] * 1000), base
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        if audio:
            write_sound(container, sound, audio)
    return path


def write_sound(container, stream, seconds):
    for i in range(round(seconds * 16000 / 1024)):
        wave = np.zeros((1, 1024), np.float32)
        chunk = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        chunk.sample_rate, chunk.pts, chunk.time_base = 16000, 1024 * i, Fraction(1, 16000)
        container.mux(stream.encode(chunk))
    container.mux(stream.encode(None))


def read(source, **options):
    with frames_from_source(source, **options) as opened:
        return list(opened)


def read_damaged(source):
    """The frames before the error, and its sentence."""
    frames = []
    with pytest.raises(FartrackError) as caught, frames_from_source(source) as opened:
        frames.extend(opened)  # extend keeps what came before the error
    return frames, one_sentence(caught.value)


def one_sentence(error):
    text = str(error)
    assert "\n" not in text and text.endswith(".") and ". " not in text and "; " in text
    return text


def refused(source, **options):
    with pytest.raises(FartrackError) as caught:
        frames_from_source(source, **options)
    return one_sentence(caught.value)
