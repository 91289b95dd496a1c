"""Frames of a video file or stream, by FFmpeg."""

from __future__ import annotations

import gc
import logging
import os
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray

from fartrack.errors import FartrackError
from fartrack.geometry import Image
from fartrack.video.contrast import Contrast
from fartrack.video.frames import NOMINAL_FPS, Frame, Frames, FrameSource

OPEN_TIMEOUT, READ_TIMEOUT = 10.0, 15.0  # seconds, streams only

PROBED = 60
"""Packets that are decoded to tell stills and broken tracks from the video, where a file has several tracks."""

FASTEST_AVI = 240
"""Frames a second up to which the empty places of an AVI are repeated frames; a higher rate is a clock."""

MP4_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"sidx", b"styp", b"uuid", b"udta"}

log = logging.getLogger("fartrack")

# A forked process must not collect what it inherited: FFmpeg's decoders and converters would wait for threads that only
# the parent has.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=gc.freeze)


def open_video(url: str, name: str, start: int, path: Path | None) -> FrameSource:
    """The frames of `url`, told of as `name`; `path` is the file that it leads to, if there is one."""
    container = _open(url, name, path)
    try:
        stream = _choose_stream(container, url, name, path)
    except BaseException:
        container.close()
        raise
    video = _Video(container, stream, name, path)
    source = FrameSource(
        video.frames(),
        name,
        start,
        fps=video.fps,
        frame_count=stream.frames or (round(video.seconds * video.fps) if video.seconds and video.fps else None),
        seconds=video.seconds,
        files=[path] if path else [],
        live=video.live,
        # what has a size is a recording, and HLS and DASH are served in pieces of seconds: both wait to be fetched
        waits=not video.live or container.size > 0 or container.format.name in ("hls", "dash"),
    )
    ratio = stream.sample_aspect_ratio or Fraction(1)
    if 0.1 < ratio < 10:
        source.sample_aspect_ratio = 1 / ratio if video.transposed else ratio
    return source


def _open(url: str, name: str, path: Path | None) -> InputContainer:
    options = {"rtsp_transport": "tcp"} if url.lower().startswith("rtsp") else {}
    timeout = None if path else (OPEN_TIMEOUT, READ_TIMEOUT)
    try:
        return av.open(url, options=options, timeout=timeout, metadata_errors="replace")
    except av.InvalidDataError:
        raise FartrackError(
            f"{name} is not a video, or it is cut off before its index; convert, download or copy it again."
        ) from None
    except (av.FFmpegError, OSError, ValueError) as error:
        late = isinstance(error, av.error.ExitError)
        reason = f"no answer in {OPEN_TIMEOUT:g} s" if late else getattr(error, "strerror", None) or "no such address"
        remedy = "permissions" if path else "address and the network"
        raise FartrackError(f"{name} cannot be opened ({reason}); check its {remedy}.") from None


def _choose_stream(container: InputContainer, url: str, name: str, path: Path | None) -> VideoStream:
    """The track that `ffmpeg` would take, but no still where there is a video; what is passed over is logged."""
    covers = [s for s in container.streams.video if s.disposition & Disposition.attached_pic]  # such as a song's
    known = [s for s in container.streams.video if s.codec_context and s not in covers]
    if not known:
        unknown = len(container.streams.video) > len(covers)
        lack = "no video track that can be decoded" if unknown else "no video track"
        raise FartrackError(f"{name} has {lack}; give a file or stream with pictures.")
    if len(container.streams.video) == 1:
        return known[0]
    counts = _count_decoded(url, path)

    def rank(stream: VideoStream) -> tuple[bool, bool, int, int, int]:
        moves = counts.get(stream.index, stream.frames or 2) > 1
        default = bool(stream.disposition & Disposition.default)
        return moves, default, stream.width * stream.height, stream.frames, -stream.index

    best = max(known, key=rank)
    look = (best.width, best.height, best.pix_fmt)
    alike = [s for s in known if (s.width, s.height, s.pix_fmt) == look and counts.get(s.index, 0) == 1]
    if best in alike and len(alike) > 1:  # a burst, or the tiles of one large picture
        raise FartrackError(f"{name} holds {len(alike)} stills and no video; convert it to a folder of pictures.")
    others = ", ".join(_describe(s, counts) for s in container.streams.video if s is not best)
    log.warning("%s: reading track %s, passing over %s.", name, _describe(best, counts), others)
    return best


def _count_decoded(url: str, path: Path | None) -> dict[int, int]:
    """How many pictures of each video track, by its index, are decoded from the first packets of a file."""
    if path is None or not path.is_file():
        return {}
    with av.open(url, metadata_errors="replace") as container, suppress(av.FFmpegError):
        tracks = [s for s in container.streams.video if s.codec_context]
        counts = {s.index: 0 for s in tracks}
        for packet in islice(container.demux(tracks), PROBED):
            with suppress(av.FFmpegError):
                counts[packet.stream.index] += len(packet.decode())
    return counts


def _describe(stream: VideoStream, counts: dict[int, int]) -> str:
    if not stream.codec_context:
        return f"{stream.index} (of an unknown kind)"
    still = stream.disposition & Disposition.attached_pic or counts.get(stream.index, stream.frames) == 1
    kind = "a still" if still else "not decodable" if counts.get(stream.index) == 0 else stream.codec_context.name
    return f"{stream.index} ({kind}, {stream.width}×{stream.height})"


class _Video:
    """A video track as it is read, and what is met on the way."""

    def __init__(self, container: InputContainer, stream: VideoStream, name: str, path: Path | None) -> None:
        self.container, self.stream, self.name, self.path = container, stream, name, path
        rate = stream.average_rate or stream.guessed_rate
        self.fps = float(rate) if rate else None
        self.seconds = container.duration / av.time_base if container.duration else None
        self.live = path is None and self.seconds is None
        if not self.live:
            stream.thread_type = "AUTO"  # frame threads are faster but late
        self.avi = container.format.name == "avi"
        self.damaged = False  # some of the video could not be read or decoded
        self.broken = False  # reading itself failed
        self.transposed = False  # the last picture was turned by a quarter, so that its pixels were too
        self._contrast: Contrast | None = None
        self._end_time, self._end_byte = 0.0, 0  # of all packets of all tracks

    def frames(self) -> Frames:
        """All frames, upright and with times that grow; then `FartrackError` where there should have been more."""
        fps = self.fps or NOMINAL_FPS
        index, offset, last = 0, 0.0, -1 / fps
        image: Image | None = None
        with self.container:
            for picture in self._pictures():
                time = picture.time
                if image is None and time is not None:
                    offset = -time
                now = last + 1 / fps if time is None else time + offset
                if now < last - 1:  # time starts anew, as where two recordings were put together
                    offset += last + 1 / fps - now
                now = now if now > last else last + 1 / fps
                if self.avi and fps <= FASTEST_AVI and image is not None:
                    repeats = round((now - last) * fps) - 1
                    for _ in range(min(repeats, self.stream.frames - index - 1)):
                        last += 1 / fps
                        yield Frame(index, last, image)
                        index += 1
                last, image = now, self._upright(picture)
                yield Frame(index, last, image)
                index += 1
            self._check_end(index, last)
        return index

    def _check_end(self, index: int, last: float) -> None:
        """Raise `FartrackError` if there should be more than `index` frames, the last at `last` seconds."""
        count, seconds = self.stream.frames, self.seconds
        if self.live and self.broken:
            raise FartrackError(
                f"The stream {self.name} broke off (frames read: {index}); check the network and open it again."
            )
        if not self.live and index and not 0 < count <= index and (self.damaged or self._is_short()):
            part = f", up to {last:.1f} s of {seconds:.1f} s" if seconds and last < seconds else ""
            part = f" of about {count}" if count else part
            raise FartrackError(
                f"{self.name} is damaged or cut off (frames read: {index}{part}); "
                "record, download or copy it again for the rest."
            )

    def _pictures(self) -> Iterator[av.VideoFrame]:
        """The pictures that can be decoded, in the order of presentation."""
        started = False
        places: deque[int] = deque()  # an AVI counts the places of frames in the order of the file
        try:
            # every track is read, so that a sound track that outlasts the pictures counts as content
            for packet in self.container.demux():
                if packet.pts is not None and packet.time_base:
                    end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                    self._end_time = max(self._end_time, end)
                    self._end_byte = max(self._end_byte, (packet.pos or 0) + packet.size)
                if packet.stream.index != self.stream.index:
                    continue
                try:
                    # others that are flagged corrupt may well decode
                    if packet.is_corrupt and (packet.pos or 0) + packet.size > self.container.size - 64 > 0:
                        raise av.InvalidDataError(0, "cut off by the end of the file")
                    pictures = self._decode(packet)
                except av.FFmpegError:
                    self.damaged |= started  # recordings may begin between two key frames
                    continue
                started |= bool(pictures)
                if self.avi and packet.dts is not None:
                    places.append(packet.dts)
                for picture in pictures:
                    if places:
                        picture.pts = places.popleft()
                    yield picture
        except av.FFmpegError:
            self.damaged = self.broken = True
            with suppress(av.FFmpegError):
                yield from self.stream.decode(None)

    def _decode(self, packet: av.Packet[Any]) -> list[av.VideoFrame]:
        if self.stream.codec_context.name == "mjpeg" and b"Exif\0\0" in bytes(packet)[:4096]:
            with suppress(cv2.error):  # OpenCV turns as the EXIF orientation says; PyAV does not hand that over
                image = cv2.imdecode(np.frombuffer(bytes(packet), np.uint8), cv2.IMREAD_COLOR)
                if image is not None:
                    picture = av.VideoFrame.from_ndarray(np.asarray(image, np.uint8), format="bgr24")
                    picture.pts, picture.time_base = packet.pts, packet.time_base
                    return [picture]
        return self.stream.decode(packet)

    def _upright(self, picture: av.VideoFrame) -> Image:
        """BGR, flipped and turned by quarters as the display matrix says."""
        parts = picture.format.components
        deep = len(parts) == 1 and parts[0].bits > 8
        image: NDArray[Any] = picture.to_ndarray(format="gray16le" if deep else "bgr24")
        if deep:
            self._contrast = self._contrast or Contrast(self.name, [image])
            image = np.dstack([self._contrast(image)] * 3)
        a, b, c, d = _display_matrix(picture)
        self.transposed = abs(a) < abs(b)
        if self.transposed:  # x and y change places, then each may be flipped
            image, a, d = image.transpose(1, 0, 2), c, b
        return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1], np.uint8)

    def _is_short(self) -> bool:
        """Whether the content, read to its end without an error, is less than what the file declares."""
        if self.path is None or not self.path.is_file():
            return False
        size = self.path.stat().st_size
        # the duration alone is no proof, as the last frame of a variable rate may last long
        late = self.seconds is not None and self._end_time < self.seconds - 0.5
        return (late and self._end_byte < 0.95 * size) or _is_cut(self.path, size)


def _display_matrix(picture: av.VideoFrame) -> tuple[int, ...]:
    """The a, b, c, d of x' = a x + c y, y' = b x + d y, in any unit."""
    try:
        matrix = picture.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV lists none where it does not know one of them
        turns = round(picture.rotation / 90) % 4  # anticlockwise
        return ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))[turns]
    if matrix is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()  # type: ignore[call-overload]
    return a, b, c, d


def _is_cut(path: Path, size: int) -> bool:
    """Whether the outermost elements of an MP4, MOV, AVI, Matroska or WebM file reach beyond its end."""
    position, length = 0, 1
    with path.open("rb") as file:
        while length and position < size:
            file.seek(position)
            length = _element_length(file.read(16))
            position += length
    return position > size


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
    if head[4:8] in MP4_BOXES:
        length = int.from_bytes(head[:4], "big")
        return int.from_bytes(head[8:16], "big") if length == 1 else length
    return 0
