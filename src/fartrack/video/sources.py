"""Where frames come from: one iterator for a video file, a folder of pictures, a webcam and a stream."""

from __future__ import annotations

import re
import time as clock
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from fartrack.errors import FartrackError
from fartrack.geometry import Image
from fartrack.video.ahead import ReadAhead

NOMINAL_FPS = 25.0
"""Frames a second where the source tells no time, as in a folder of pictures."""

PICTURES = {".bmp", ".jpeg", ".jpg", ".jp2", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""Extensions (any case) of the files that a folder of pictures is made of."""

OPEN_TIMEOUT, READ_TIMEOUT = 10.0, 15.0  # seconds, streams only


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a source.

    `index` is 0-based and counts from the true first frame of the source, whatever `start` was. `time` is
    the presentation time in seconds after that first frame, and it always grows. `image` is uint8,
    height × width × 3, BGR, upright (rotation metadata is applied).
    """

    index: int
    time: float
    image: Image


Frames = Generator[Frame, None, int]
"""Yields the frames from `start` on and returns the number of frames that the source holds."""


class FrameSource(Iterator[Frame]):
    """An open source of frames: iterate it once, use it as a context manager or call `close()`.

    Attributes: `name` (as the user wrote it, without a password), `first` (the first frame of the
    iteration, ready at once, so that a box can be drawn on it), `fps` (nominal frames a second, None if
    unknown), `frame_count` (an estimate for the whole source, None if unknown), `live` (it has no known
    end) and `waits` (no frame is lost while nobody reads: False for a webcam and a stream that is sent as
    it is filmed). Iteration raises `FartrackError` after the last good frame of a damaged source.
    """

    def __init__(
        self,
        frames: Frames,
        name: str,
        *,
        start: int,
        fps: float | None,
        frame_count: int | None,
        live: bool,
        waits: bool = True,
    ) -> None:
        """Read the first frame of `frames`, so that what cannot be read fails here, with `FartrackError`."""
        self.name, self.fps, self.frame_count, self.live, self.waits = name, fps, frame_count, live, waits
        try:
            self.first = next(frames)
        except StopIteration as end:
            if not end.value:
                raise FartrackError(f"{name} holds no picture that can be decoded; check or convert it.") from None
            raise FartrackError(
                f"{name} has {end.value} frames, so it cannot start at frame {start}; "
                f"give a start from 0 to {end.value - 1}."
            ) from None
        self._begun = False
        self._others = ReadAhead(frames, newest=not waits)

    def __next__(self) -> Frame:
        """The next frame; what was taken is not given again."""
        if not self._begun:
            self._begun = True
            return self.first
        return next(self._others)

    @contextmanager
    def reading_ahead(self) -> Iterator[None]:
        """Within this context a thread reads the next frames while the last one is worked on.

        Frames and errors are the same in the same order, at most two of them ahead. Only of a source that does
        not wait are those frames dropped that a newer one overtakes before they are taken, so that slow work
        does not lag ever further behind: their numbers are missing from `Frame.index`, and `Frame.time` leaps.
        The first frame of the iteration is never dropped. Frames that were read and not taken come next.
        """
        try:
            self._others.start()
            yield
        finally:
            self._others.stop()

    def close(self) -> None:
        """Release the file or device; may be called again.

        If a thread is in the midst of a read that hangs, the device is released when that returns.
        """
        self._others.close()

    def __enter__(self) -> Self:
        """Return the source itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the source."""
        self.close()


def frames_from_source(source: str | Path | int, *, start: int = 0) -> FrameSource:
    """Open anything that holds frames, and read its first one.

    `source` is a video file, a picture, a folder of pictures (in natural order, img2 before img10; their
    sizes may differ; their times are nominal, 25 a second), the number of a webcam (0 or "0"; a file of
    that name is "./0") or the URL of a stream. `start` skips to the frame of that index, exactly: skipped
    frames are decoded and counted, never sought.

    Raises `FartrackError`, here, for what is missing, empty, without pictures, unreachable or not a video
    and for a `start` that the source does not have; and while iterating, after the last good frame, for a
    file that is cut off or damaged, a picture that cannot be read and a camera or stream that breaks off.
    """
    if start < 0:
        raise FartrackError(f"The start frame is {start}, but frames are counted from 0; give 0 or more.")
    if isinstance(source, int) or (isinstance(source, str) and source.isdecimal()):
        return _open_webcam(int(source), start)
    if isinstance(source, str) and "://" in source:
        return _open_video(source, re.sub(r"//[^/@]*@", "//", source), start, path=None)
    path = Path(source)
    try:
        if not path.exists():
            raise FartrackError(f"There is no file or folder {path}; check the path.")
        if path.is_file() and path.stat().st_size == 0:
            raise FartrackError(f"{path} is empty (0 bytes); record, download or copy it again.")
        if path.is_dir() or path.suffix.lower() in PICTURES:
            return _open_pictures(path, start)
        return _open_video(f"file:{path}", str(path), start, path)
    except OSError as error:
        raise FartrackError(f"{path} cannot be read: {error.strerror}; check its permissions.") from error


# --- a folder of pictures ---------------------------------------------------------------------------------


def _natural_key(path: Path) -> list[str | int]:
    parts = re.split(r"([0-9]+)", path.name.casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def _list_pictures(folder: Path) -> list[Path]:
    paths = [p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith(".")]
    if not paths:
        known = ", ".join(sorted(s[1:] for s in PICTURES))
        raise FartrackError(f"The folder {folder} holds no pictures; give one with files of {known}.")
    return sorted(paths, key=_natural_key)


def _open_pictures(path: Path, start: int) -> FrameSource:
    paths = _list_pictures(path) if path.is_dir() else [path]
    frames = _read_pictures(paths, start)
    return FrameSource(frames, str(path), start=start, fps=None, frame_count=len(paths), live=False)


def _read_pictures(paths: list[Path], start: int) -> Frames:
    for index in range(start, len(paths)):
        yield Frame(index, index / NOMINAL_FPS, _read_picture(paths[index]))
    return len(paths)


def _read_picture(path: Path) -> Image:
    data = np.frombuffer(path.read_bytes(), np.uint8)
    with _quiet_opencv():
        try:  # IMREAD_COLOR turns grey, alpha and 16 bits into 8-bit BGR and applies the EXIF orientation
            image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        except cv2.error:
            image = None
    if image is None:
        raise FartrackError(f"The picture {path} is broken or cut off; replace or remove it.")
    return np.asarray(image, np.uint8)


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)


# --- a webcam ---------------------------------------------------------------------------------------------


def _open_webcam(number: int, start: int) -> FrameSource:
    with _quiet_opencv():
        camera = cv2.VideoCapture(number)
    if not camera.isOpened():
        raise FartrackError(f"Webcam {number} cannot be opened; plug it in or try another number.")
    name = f"webcam {number}"
    fps = camera.get(cv2.CAP_PROP_FPS)
    frames = _read_webcam(camera, name, start)
    rate = fps if fps > 0 else None
    return FrameSource(frames, name, start=start, fps=rate, frame_count=None, live=True, waits=False)


def _read_webcam(camera: cv2.VideoCapture, name: str, start: int) -> Frames:
    index, begin, last = 0, 0.0, -1.0
    try:
        while True:
            good, image = camera.read()
            if not good:
                raise FartrackError(
                    f"The {name} stopped (frames read: {index}); check its cable and what else uses it."
                )
            now = clock.monotonic()
            begin = begin if index else now
            last = max(now - begin, last + 1e-3)
            if index >= start:
                yield Frame(index, last, np.asarray(image, np.uint8))
            index += 1
    finally:
        camera.release()


# --- a video file or stream -------------------------------------------------------------------------------


def _open_video(url: str, name: str, start: int, path: Path | None) -> FrameSource:
    try:
        if path:
            container = av.open(url, metadata_errors="replace")
        else:
            options = {"rtsp_transport": "tcp"} if url.lower().startswith("rtsp") else {}
            timeout = (OPEN_TIMEOUT, READ_TIMEOUT)
            container = av.open(url, options=options, timeout=timeout, metadata_errors="replace")
    except av.InvalidDataError as error:
        raise FartrackError(
            f"{name} is not a video, or it is cut off before its index; convert, download or copy it again."
        ) from error
    except (av.FFmpegError, OSError, ValueError) as error:
        late = isinstance(error, av.error.ExitError)
        reason = f"no answer in {OPEN_TIMEOUT:g} s" if late else getattr(error, "strerror", None) or error
        mend = "permissions" if path else "address and the network"
        raise FartrackError(f"{name} cannot be opened ({reason}); check its {mend}.") from error
    # the cover of a song is a video track too
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        container.close()
        raise FartrackError(f"{name} has no video track; give a file or stream with pictures.")
    stream = streams[0]
    rate = stream.average_rate or stream.guessed_rate
    fps = float(rate) if rate else None
    seconds = container.duration / av.time_base if container.duration else None
    live = path is None and seconds is None
    count = stream.frames or (round(seconds * fps) if seconds and fps else None)
    # what has a size is a recording, and HLS and DASH are served in pieces of seconds: both wait to be fetched
    waits = not live or container.size > 0 or container.format.name in ("hls", "dash")
    if not live:
        stream.thread_type = "AUTO"  # frame threads are faster but late
    frames = _read_video(container, stream, name, start, fps=fps or NOMINAL_FPS, seconds=seconds, path=path)
    return FrameSource(frames, name, start=start, fps=fps, frame_count=count, live=live, waits=waits)


def _read_video(
    container: InputContainer,
    stream: VideoStream,
    name: str,
    start: int,
    *,
    fps: float,
    seconds: float | None,
    path: Path | None,
) -> Frames:
    index, begin, last = 0, 0.0, -1.0 / fps
    with container:
        pictures = _Pictures(container, stream)
        for picture in pictures:
            if index == 0:
                begin = picture.time or 0.0
            now = last + 1 / fps if picture.time is None else picture.time - begin
            last = now if now > last else last + 1 / fps
            if index >= start:
                yield Frame(index, last, _upright(picture))
            index += 1
        live = path is None and seconds is None
        if live and pictures.broken:
            raise FartrackError(
                f"The stream {name} broke off (frames read: {index}); check the network and open it again."
            )
        whole = 0 < stream.frames <= index
        if not live and index and not whole and (pictures.damaged or pictures.short(path, seconds)):
            part = f", up to {last:.1f} s of {seconds:.1f} s" if seconds else ""
            part = f" of about {stream.frames}" if stream.frames else part
            raise FartrackError(
                f"{name} is damaged or cut off (frames read: {index}{part}); "
                "record, download or copy it again for the rest."
            )
    return index


class _Pictures:
    """The pictures that can be decoded, in the order of presentation, and what was met on the way."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container, self._stream = container, stream
        self.damaged = False  # some of the video could not be read or decoded
        self.broken = False  # reading itself failed
        self._end_time, self._end_byte = 0.0, 0  # of all packets of all tracks

    def __iter__(self) -> Iterator[av.VideoFrame]:
        started = False
        try:
            # every track is read, so that a sound track that outlasts the pictures counts as content
            for packet in self._container.demux():
                if packet.pts is not None and packet.time_base:
                    self._end_time = max(
                        self._end_time, float((packet.pts + (packet.duration or 0)) * packet.time_base)
                    )
                    self._end_byte = max(self._end_byte, (packet.pos or 0) + packet.size)
                if packet.stream.index != self._stream.index:
                    continue
                try:
                    if packet.is_corrupt:
                        raise av.InvalidDataError(0, "corrupt packet")
                    pictures = self._stream.decode(packet)
                except av.FFmpegError:
                    self.damaged |= started  # recordings may begin between two key frames
                    continue
                started |= bool(pictures)
                yield from pictures
        except av.FFmpegError:
            self.damaged = self.broken = True
            with suppress(av.FFmpegError):
                yield from self._stream.decode(None)

    def short(self, path: Path | None, seconds: float | None) -> bool:
        """Whether the content, read to its end without an error, is less than what the file declares.

        The declared duration alone is no proof, as the last frame of a variable rate may last long.
        """
        if path is None or not path.is_file():
            return False
        size = path.stat().st_size
        unread = seconds is not None and self._end_time < seconds - 0.5 and self._end_byte < 0.95 * size
        return unread or _is_cut(path, size)


def _upright(picture: av.VideoFrame) -> Image:
    image = picture.to_ndarray(format="bgr24")
    turns = round(picture.rotation / 90) % 4  # anticlockwise, like those of rot90
    return np.ascontiguousarray(np.rot90(image, turns), np.uint8)


def _is_cut(path: Path, size: int) -> bool:
    """Whether the outermost elements of an MP4, MOV, AVI, Matroska or WebM file reach beyond its end."""
    position = 0
    with path.open("rb") as file:
        while position < size:
            file.seek(position)
            length = _element_length(file.read(16))
            if not length:
                return False
            position += length
    return position > size


BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"sidx", b"styp", b"uuid", b"udta"}


def _element_length(head: bytes) -> int:
    """Bytes of the element that begins with `head` (16 bytes), or 0 if it does not say or is not known."""
    if head[:4] == b"RIFF":
        length = int.from_bytes(head[4:8], "little")
        return 8 + length if 0 < length < 2**32 - 1 else 0
    if head[:4] in (b"\x1aE\xdf\xa3", b"\x18S\x80g"):  # EBML header, Matroska segment
        width = 9 - head[4].bit_length() if len(head) > 4 else 9
        ones = (1 << 7 * width) - 1
        length = int.from_bytes(head[4 : 4 + width], "big") & ones
        return 4 + width + length if width < 9 and length < ones else 0
    if head[4:8] in BOXES:
        length = int.from_bytes(head[:4], "big")
        return int.from_bytes(head[8:16], "big") if length == 1 else length
    return 0
