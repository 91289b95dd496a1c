"""Where results go: an annotated video, a file of text or a folder of them, each complete or not there at all."""

import errno
import io
import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Self

import av
import cv2
import numpy as np

from fartrack.errors import FartrackError
from fartrack.files import check_folder, replacing
from fartrack.targets import Target
from fartrack.tracking.tracker import Track
from fartrack.video.drawing import draw_tracks
from fartrack.video.formats import FORMATS, Run
from fartrack.video.frames import NOMINAL_FPS, Frame, FrameSource

MUXERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""Extensions (any case) of the videos that can be written, H.264 in all of them, and FFmpeg's names."""

CLOCKS = (90_000, 1_000, 100)
"""Ticks a second of the written video's time: for all usual frame rates, for videos of days, and of years."""

LONGEST = 2**31
"""Ticks below which FFmpeg writes the time between two frames to an MP4."""

LARGEST = 16_384
"""Width and height that x264 encodes at most."""

BT601, LIMITED = 6, 1
"""FFmpeg's numbers of the colors that are written, told in the file so that players need not guess."""

log = logging.getLogger("fartrack")


class _Closing(ABC):
    """A context that closes on a normal exit and discards on an exception."""

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def discard(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


class Sink(_Closing):
    """Takes the frames of a source with their tracks, in order, and writes one file.

    It is written beside its final place under a temporary name and renamed when it is complete. What is no ordinary
    file, a pipe or device or an open descriptor such as /dev/stdout, is written to as it is. To keep what there is of
    a damaged source, call `close()` before raising on. All methods raise `FartrackError` for what cannot be stored.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the file, for a pipe once somebody reads it; `FartrackError` if `path` is no place for one."""
        self.path, self.descriptor = Path(path), _descriptor(Path(path))
        self._part: Path | None = None
        self._special: BinaryIO | None = None
        with self._storing(), ExitStack() as stack:
            self._take_place(stack)
            self._open(stack)
            stack.push(self._end)
            self._stack = stack.pop_all()

    def _take_place(self, stack: ExitStack) -> None:
        if self.path.is_dir():
            raise FartrackError(f"The output {self.path} is a folder; give the name of a file.")
        check_folder(self.path)
        place = Path(os.path.realpath(self.path))  # a link stays, what it points to is replaced
        if not self.path.exists():
            check_folder(place)
        if self.descriptor is not None:
            self._special = stack.enter_context(os.fdopen(os.dup(self.descriptor), "wb"))
        elif self.path.exists() and not self.path.is_file():
            self._special = stack.enter_context(self.path.open("wb"))
        else:
            if self.path.is_symlink() and place.is_symlink():  # to itself
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            self._part = stack.enter_context(replacing(place))
            self._part.touch()

    def write(self, frame: Frame, found: Track | Mapping[Target, Track]) -> None:
        """Add one frame and its track, or those of several targets."""
        with self._storing():
            self._write(frame, found if isinstance(found, Mapping) else {Target(): found})

    def close(self) -> None:
        """Finish the file and put it in its place, over an older one; does nothing the second time."""
        with self._storing():
            self._stack.close()

    def discard(self) -> None:
        """Drop what was written, an older file stays as it was; does nothing after `close()`."""
        with suppress(Exception), self._stack:
            raise InterruptedError

    def _end(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._finish()

    @contextmanager
    def _storing(self) -> Iterator[None]:
        try:
            yield
        except FartrackError:
            raise
        except Exception as error:  # of the system, of FFmpeg, of a name in no known encoding
            reason = getattr(error, "strerror", None) or error
            raise FartrackError(
                f"{self.path} cannot be written ({reason}); make room or give another place."
            ) from error

    @abstractmethod
    def _open(self, stack: ExitStack) -> None:
        """Open `_part`, or take `_special`."""

    @abstractmethod
    def _write(self, frame: Frame, found: Mapping[Target, Track]) -> None: ...

    def _finish(self) -> None:
        """Write what is still due."""


def _descriptor(path: Path) -> int | None:
    """The open descriptor that a path such as -, /dev/stdout or /dev/fd/3, or a link to one, stands for."""
    if str(path) == "-":
        return 1
    with suppress(OSError):
        for _ in range(40):
            if match := re.fullmatch("/(?:dev|proc/self)/fd/([0-9]+)", str(path.absolute())):
                return int(match[1])
            path = path.parent / path.readlink()  # an error where it is none
    return None


class VideoSink(Sink):
    """The frames with the box drawn on them, as H.264 (yuv420p) in MP4, MOV or Matroska.

    Frames keep their times, counted from the first one written, and the shape of their pixels. An odd width or height
    grows by one pixel; frames of another size than the first are scaled to it, and those that are larger than H.264
    allows to a whole part of it.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float | None = None,
        *,
        seconds: float | None = None,
        sample_aspect_ratio: Fraction = Fraction(1),
    ) -> None:
        """Check `path`, as in `Sink`, and its extension; `fps` is nominal, `seconds` the most it lasts, if known."""
        self._muxer = MUXERS.get(Path(path).suffix.lower())
        if self._muxer is None:
            known = ", ".join(MUXERS)
            raise FartrackError(f"The video {path} has no known extension; use one of {known}.")
        self._rate = Fraction(fps or NOMINAL_FPS).limit_denominator(1001)
        coarse = seconds if seconds and self._muxer != "matroska" else 0
        self._clock = next((clock for clock in CLOCKS if coarse * clock < LONGEST), 1)
        self._ratio = sample_aspect_ratio
        self._size = (0, 0)
        self._begin, self._last = 0.0, -1  # seconds, ticks
        super().__init__(path)

    def _open(self, stack: ExitStack) -> None:
        flags = "faststart" if self._part else "frag_keyframe+empty_moov"  # a pipe cannot be gone back in
        mp4 = {"movflags": flags, "video_track_timescale": str(self._clock)}
        options = {} if self._muxer == "matroska" else mp4
        # without the prefix FFmpeg takes what stands before a colon in a name for a protocol
        target = f"file:{self._part}" if self._part else self._special
        self._container = stack.enter_context(av.open(target, "w", format=self._muxer, options=options))
        # without B-frames, whose times in an MP4 are told by offsets that a long pause breaks
        options = {"crf": "20", "preset": "veryfast", "bf": "0"}
        self._stream = self._container.add_stream("libx264", self._rate, options)
        context = self._stream.codec_context
        context.time_base = Fraction(1, self._clock)
        context.colorspace, context.color_range = BT601, LIMITED
        context.sample_aspect_ratio = self._ratio

    def _write(self, frame: Frame, found: Mapping[Target, Track]) -> None:
        image = draw_tracks(frame.image, found)
        if self._last < 0:
            part = -(-max(image.shape[:2]) // LARGEST)
            width, height = self._size = tuple(-(-side // part) for side in image.shape[1::-1])
            self._begin = frame.time
            self._stream.width, self._stream.height = width + width % 2, height + height % 2
            self._stream.pix_fmt = "yuv420p"
        width, height = self._size
        if image.shape[1::-1] != self._size:
            image = np.asarray(cv2.resize(image, self._size, interpolation=cv2.INTER_AREA), np.uint8)
        image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        self._last = max(round((frame.time - self._begin) * self._clock), self._last + 1)
        # OpenCV rounds where FFmpeg's default conversion truncates to a greenish tint
        yuv = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420), np.uint8)
        picture = av.VideoFrame.from_ndarray(yuv, format="yuv420p")
        picture.pts, picture.time_base = self._last, Fraction(1, self._clock)
        self._container.mux(self._stream.encode(picture))

    def _finish(self) -> None:
        if self._last < 0:
            raise FartrackError(f"There was no frame to write to {self.path}; check the source.")
        self._container.mux(self._stream.encode(None))


class TextSink(Sink):
    """A file in one of the text formats."""

    def __init__(self, path: str | Path, kind: str, run: Run | None = None) -> None:
        """Check `path` as in `Sink`; `kind` is one of `FORMATS`."""
        self._format = FORMATS[kind](run or Run())
        super().__init__(path)

    def _open(self, stack: ExitStack) -> None:
        file = self._special or stack.enter_context((self._part or self.path).open("wb"))
        # a file's name may hold what is not UTF-8
        text = io.TextIOWrapper(file, "utf-8", "replace", newline="\n", line_buffering=self._special is not None)
        self._file = stack.enter_context(text)
        self._file.write(self._format.head())

    def _write(self, frame: Frame, found: Mapping[Target, Track]) -> None:
        self._file.write(self._format.frame(frame, found))

    def _finish(self) -> None:
        self._file.write(self._format.tail())


class FolderSink(TextSink):
    """A new folder with a text file a frame, named as its picture, and `classes.txt`."""

    def _take_place(self, stack: ExitStack) -> None:
        if self.path.exists() or self.path.is_symlink():
            raise FartrackError(f"{self.path} exists already; give the name of a new folder.")
        check_folder(self.path)
        self._part = stack.enter_context(replacing(self.path))
        self._part.mkdir()

    def _open(self, stack: ExitStack) -> None:
        pass

    def _write(self, frame: Frame, found: Mapping[Target, Track]) -> None:
        self._put(Path(self._format.run.picture(frame.index)).stem, self._format.frame(frame, found))

    def _finish(self) -> None:
        self._put("classes", self._format.tail())

    def _put(self, stem: str, text: str) -> None:
        assert self._part
        (self._part / f"{stem}.txt").write_text(text, "utf-8", "replace", newline="\n")


class SinkGroup(_Closing):
    """Several sinks as one; when one fails, it is discarded and the others go on."""

    def __init__(self) -> None:
        """Begin without any."""
        self.sinks: list[Sink] = []  # those that have not failed
        self.errors: list[FartrackError] = []  # what the others failed with

    def write(self, frame: Frame, found: Track | Mapping[Target, Track]) -> None:
        """Hand the frame to every sink; the first error is raised once none is left."""
        self._each(lambda sink: sink.write(frame, found))
        if self.errors and not self.sinks:
            raise self.errors[0]

    def close(self) -> None:
        """Close every sink, then raise the first error of all, once."""
        try:
            self._each(Sink.close)
        finally:
            self.discard()
        errors, self.errors = self.errors, []
        if errors:
            raise errors[0]

    def discard(self) -> None:
        """Discard every sink that is not closed."""
        for sink in self.sinks:
            sink.discard()

    def _each(self, action: Callable[[Sink], None]) -> None:
        for sink in [*self.sinks]:
            try:
                action(sink)
            except FartrackError as error:
                sink.discard()
                self.sinks.remove(sink)
                self.errors.append(error)


def _is_one_of(path: Path, files: Iterable[Path]) -> bool:
    """Whether a path leads to one of the files, by a link of any kind too."""
    with suppress(OSError):
        stat = path.stat()
        return any(os.path.samestat(stat, file.stat()) for file in files)
    return False


def open_sinks(
    source: FrameSource,
    *,
    video: str | Path | None = None,
    targets: Sequence[Target] = (),
    about: Mapping[str, Any] | None = None,
    **outputs: str | Path | None,
) -> SinkGroup:
    """Open the outputs that have a path, all or none, for the frames of `source`; they are named by their formats, as
    in `FORMATS`, and `about` is told in the JSON. `FartrackError` at once for a path that is a folder, that cannot be
    written, that is a file of the source or another output, or a video extension other than those of `MUXERS`."""
    height, width = source.first.image.shape[:2]
    ratio = source.sample_aspect_ratio
    pictures = source.files if len(source.files) > 1 else ()
    run = Run(source.name, targets, (width, height), source.fps, ratio, pictures, about or {})

    def make(kind: str, path: Path) -> Sink:
        if kind == "video":
            return VideoSink(path, source.fps, seconds=source.seconds, sample_aspect_ratio=ratio)
        return (FolderSink if FORMATS[kind].folder else TextSink)(path, kind, run)

    taken: set[str] = set()
    sinks = SinkGroup()
    try:
        for kind, given in {"video": video, **outputs}.items():
            if given is None:
                continue
            path, place = Path(given), os.path.realpath(given)
            if place in taken or _is_one_of(path, source.files):
                raise FartrackError(f"The output {path} is the source or another output; give another name.")
            taken.add(place)
            sinks.sinks.append(make(kind, path))
    except BaseException:
        sinks.discard()
        raise
    if video and max(width, height) > LARGEST:
        limit = f"H.264 takes at most {LARGEST:,} pixels a side"
        log.warning("%s: %s, so frames of %d×%d are made smaller.", video, limit, width, height)
    return sinks
