"""Where results go: an annotated video, CSV, JSON and plain text, each complete or not there at all."""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import av
import cv2
import numpy as np

from fartrack.errors import FartrackError
from fartrack.geometry import Image
from fartrack.version import __version__
from fartrack.video.frames import NOMINAL_FPS, Frame, FrameSource

if TYPE_CHECKING:
    from fartrack.tracking.tracker import Track

MUXERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""Extensions (any case) of the videos that can be written, H.264 in all of them, and FFmpeg's names."""

CLOCK = 90_000
"""Ticks a second of the written video's time: whole numbers for all usual frame rates."""

BT601, LIMITED = 6, 1
"""FFmpeg's numbers of the colours that are written, told in the file so that players need not guess."""

COLOURS = np.array([(58, 58, 235), (20, 176, 250), (88, 205, 60)], float)
"""BGR of the scores 0 (red), 0.5 (amber) and 1 (green)."""


# --- drawing ----------------------------------------------------------------------------------------------


def draw_track(image: Image, track: Track, label: str | None = None) -> Image:
    """Return a copy of `image` (uint8 BGR) with the box of `track` (x, y, w, h in pixels) and its score.

    The box goes from green over amber to red as the score falls from 1 to 0; line and text grow with the
    picture. `label` stands before the score. A box that is not finite is left out.
    """
    canvas = image.copy()
    if not all(math.isfinite(v) for v in (*track.box, track.score)):
        return canvas
    height, width = canvas.shape[:2]
    line = max(2, round(min(height, width) / 270))
    rgb = [np.interp(track.score, (0.0, 0.5, 1.0), COLOURS[:, c]) for c in range(3)]
    colour, dark = tuple(round(float(v)) for v in rgb), (24, 24, 24)

    x, y, w, h = track.box
    # far outside the picture OpenCV's fixed-point drawing would overflow
    left, right = (round(min(max(v, -9.0 * line), width + 9.0 * line)) for v in (x, x + w))
    top, bottom = (round(min(max(v, -9 * line), height + 9 * line)) for v in (y, y + h))
    cv2.rectangle(canvas, (left, top), (right, bottom), dark, line + 2)
    cv2.rectangle(canvas, (left, top), (right, bottom), colour, line)

    text = f"{label} {track.score:.2f}" if label else f"{track.score:.2f}"
    font, size = cv2.FONT_HERSHEY_SIMPLEX, max(0.4, min(height, width) / 900)
    stroke = max(1, round(size * 1.6))
    (text_width, text_height), base = cv2.getTextSize(text, font, size, stroke)
    pad = max(2, round(text_height * 0.4))
    tag_width, tag_height = text_width + 2 * pad, text_height + base // 2 + 2 * pad
    tag_x = min(max(left - line, 0), max(width - tag_width, 0))
    places = (top - line - tag_height, bottom + line, max(top, 0))  # above, below, inside
    tag_y = next((v for v in places if 0 <= v <= height - tag_height), 0)
    cv2.rectangle(canvas, (tag_x, tag_y), (tag_x + tag_width, tag_y + tag_height), colour, cv2.FILLED)
    origin = (tag_x + pad, tag_y + pad + text_height)
    cv2.putText(canvas, text, origin, font, size, dark, stroke, cv2.LINE_AA)
    return canvas


# --- sinks ------------------------------------------------------------------------------------------------


class Sink(ABC):
    """Takes the frames of a source with their tracks, in order.

    As a context manager it closes on a normal exit and discards on an exception. To keep what there is of a
    damaged source, call `close()` before raising on: a closed sink has nothing left to discard.
    """

    @abstractmethod
    def write(self, frame: Frame, track: Track) -> None:
        """Add one frame and its track; `FartrackError` if it cannot be stored (a full disk)."""

    @abstractmethod
    def close(self) -> None:
        """Finish and put the file in its place, over an older one; does nothing the second time.

        `FartrackError`, and nothing new in that place, if it cannot be stored.
        """

    @abstractmethod
    def discard(self) -> None:
        """Drop what was written, an older file stays as it was; does nothing after `close()`."""

    def __enter__(self) -> Self:
        """Return the sink itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close after success, discard after an exception."""
        if kind is None:
            self.close()
        else:
            self.discard()


class FileSink(Sink):
    """One file, written beside its final place under a temporary name and renamed when it is complete."""

    def __init__(self, path: str | Path) -> None:
        """Create the temporary file; `FartrackError` if `path` is no place for a file."""
        self.path = Path(path)
        self._closed = False
        with self._storing():
            if self.path.is_dir():
                raise FartrackError(f"The output {self.path} is a folder; give the name of a file.")
            if self.path.exists() and not self.path.is_file():  # renaming would put a file in its place
                raise FartrackError(f"The output {self.path} is a device or pipe; give the name of a file.")
            self._place = self.path.resolve()  # a link stays, what it points to is replaced
            if not self._place.parent.is_dir():
                raise FartrackError(f"There is no folder {self.path.parent} for {self.path.name}; create it first.")
            self._part = self._place.with_name(f".{self._place.name}.{os.getpid()}.part")
            self._part.touch()

    def write(self, frame: Frame, track: Track) -> None:
        """Add one frame and its track; `FartrackError` if it cannot be stored (a full disk)."""
        with self._storing():
            self._write(frame, track)

    def close(self) -> None:
        """Finish the file and put it in its place."""
        if self._closed:
            return
        try:
            with self._storing():
                self._finish()
                self._release()
                self._part.replace(self._place)
                self._closed = True
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove the temporary file; does nothing after `close()`."""
        if not self._closed:
            self._closed = True
            with suppress(OSError, av.FFmpegError):
                self._release()
            self._part.unlink(missing_ok=True)

    @contextmanager
    def _storing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, av.FFmpegError) as error:
            reason = error.strerror or error
            raise FartrackError(
                f"{self.path} cannot be written ({reason}); make room or give another place."
            ) from error

    @abstractmethod
    def _write(self, frame: Frame, track: Track) -> None: ...

    @abstractmethod
    def _finish(self) -> None:
        """Write what is still due."""

    @abstractmethod
    def _release(self) -> None:
        """Close what is open."""


class VideoSink(FileSink):
    """The frames with the box drawn on them, as H.264 (yuv420p) in MP4, MOV or Matroska.

    Frames keep their times, counted from the first one written. An odd width or height grows by one pixel;
    frames of another size than the first are scaled to it.
    """

    def __init__(self, path: str | Path, fps: float | None = None, label: str | None = None) -> None:
        """Check `path`, as in `FileSink`, and its extension; `fps` is nominal, `label` as in `draw_track`."""
        suffix = Path(path).suffix.lower()
        if suffix not in MUXERS:
            known = ", ".join(MUXERS)
            raise FartrackError(f"The video {path} has no known extension; use one of {known}.")
        super().__init__(path)
        self._label = label
        options = {} if suffix == ".mkv" else {"movflags": "faststart"}
        # without the prefix FFmpeg takes what stands before a colon in a name for a protocol
        self._container = av.open(f"file:{self._part}", "w", format=MUXERS[suffix], options=options)
        rate = Fraction(fps or NOMINAL_FPS).limit_denominator(1001)
        self._stream = self._container.add_stream("libx264", rate, {"crf": "20", "preset": "veryfast"})
        context = self._stream.codec_context
        context.time_base = Fraction(1, CLOCK)
        context.colorspace, context.color_range = BT601, LIMITED
        self._size = (0, 0)
        self._begin, self._last = 0.0, -1  # seconds, ticks

    def _write(self, frame: Frame, track: Track) -> None:
        image = draw_track(frame.image, track, self._label)
        height, width = image.shape[:2]
        if self._last < 0:
            self._size, self._begin = (width, height), frame.time
            self._stream.width, self._stream.height = width + width % 2, height + height % 2
            self._stream.pix_fmt = "yuv420p"
        elif (width, height) != self._size:
            image = np.asarray(cv2.resize(image, self._size, interpolation=cv2.INTER_AREA), np.uint8)
            width, height = self._size
        image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        self._last = max(round((frame.time - self._begin) * CLOCK), self._last + 1)
        # OpenCV rounds where FFmpeg's default conversion truncates to a greenish tint
        yuv = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420), np.uint8)
        picture = av.VideoFrame.from_ndarray(yuv, format="yuv420p")
        picture.pts, picture.time_base = self._last, Fraction(1, CLOCK)
        self._container.mux(self._stream.encode(picture))

    def _finish(self) -> None:
        if self._last < 0:
            raise FartrackError(f"There was no frame to write to {self.path}; check the source.")
        self._container.mux(self._stream.encode(None))

    def _release(self) -> None:
        self._container.close()


class _LinesSink(FileSink):
    head = tail = ""

    def __init__(self, path: str | Path) -> None:
        """Check `path` as in `FileSink`."""
        super().__init__(path)
        self._file = self._part.open("w", encoding="utf-8", newline="\n")
        self._file.write(self.head)

    def _write(self, frame: Frame, track: Track) -> None:
        self._file.write(self._line(frame, track))

    def _finish(self) -> None:
        self._file.write(self.tail)

    def _release(self) -> None:
        self._file.close()

    @abstractmethod
    def _line(self, frame: Frame, track: Track) -> str: ...


class CsvSink(_LinesSink):
    """A header, then `frame,time,x,y,w,h,score` a line: 0-based index, seconds, pixels, score 0 to 1."""

    head = "frame,time,x,y,w,h,score\n"

    def _line(self, frame: Frame, track: Track) -> str:
        return ",".join(map(str, _row(frame, track).values())) + "\n"


class JsonSink(_LinesSink):
    """One object: `fartrack` (version), `source`, `boxes` (what the numbers mean) and the list `frames`."""

    tail = "\n  ]\n}\n"

    def __init__(self, path: str | Path, source: str) -> None:
        """Check `path` as in `FileSink`; `source` is the name that the file tells."""
        about = {"fartrack": __version__, "source": source, "boxes": "x,y,w,h in pixels, from the top left"}
        self.head = json.dumps(about, indent=2, ensure_ascii=False)[:-2] + ',\n  "frames": ['
        self._comma = ""
        super().__init__(path)

    def _line(self, frame: Frame, track: Track) -> str:
        line = f"{self._comma}\n    {json.dumps(_row(frame, track))}"
        self._comma = ","
        return line


class TextSink(_LinesSink):
    """`x,y,w,h` a line and a frame, in pixels, as the GOT-10k benchmark writes results."""

    def _line(self, frame: Frame, track: Track) -> str:
        row = _row(frame, track)
        return ",".join(str(row[key]) for key in "xywh") + "\n"


def _row(frame: Frame, track: Track) -> dict[str, float]:
    box = (round(float(v), 3) for v in track.box)
    score = round(float(track.score), 4)
    return {
        "frame": frame.index,
        "time": round(frame.time, 6),
        **dict(zip("xywh", box, strict=True)),
        "score": score,
    }


class SinkGroup(Sink):
    """Several sinks as one; a file is in its place only if it is complete, whatever became of the others."""

    def __init__(self, sinks: Iterable[Sink]) -> None:
        """Take over `sinks`."""
        self.sinks = tuple(sinks)

    def write(self, frame: Frame, track: Track) -> None:
        """Hand the frame to every sink."""
        for sink in self.sinks:
            sink.write(frame, track)

    def close(self) -> None:
        """Close every sink; if one fails, those after it are discarded."""
        try:
            for sink in self.sinks:
                sink.close()
        finally:
            self.discard()

    def discard(self) -> None:
        """Discard every sink that is not closed."""
        for sink in self.sinks:
            sink.discard()


def open_sinks(
    source: FrameSource,
    *,
    video: str | Path | None = None,
    csv: str | Path | None = None,
    json: str | Path | None = None,
    txt: str | Path | None = None,
    label: str | None = None,
) -> SinkGroup:
    """Open the outputs that have a path, all or none, for the frames of `source`.

    Raises `FartrackError` at once for a path that is a folder, that cannot be written, that is the source
    itself or another output, and for a video extension other than those of `MUXERS`.
    """
    outputs: list[tuple[str | Path | None, Callable[[Path], FileSink]]] = [
        (video, lambda path: VideoSink(path, source.fps, label)),
        (csv, CsvSink),
        (json, lambda path: JsonSink(path, source.name)),
        (txt, TextSink),
    ]
    taken = {Path(source.name.removeprefix("file://")).resolve()}
    sinks = SinkGroup(())
    try:
        for given, make in outputs:
            if given is None:
                continue
            path = Path(given)
            if path.resolve() in taken:
                raise FartrackError(f"The output {path} is the source or another output; give another name.")
            taken.add(path.resolve())
            sinks.sinks += (make(path),)
    except BaseException:
        sinks.discard()
        raise
    return sinks
