"""Frames of pictures: a folder of them, one, or a file that holds several (TIFF pages, animated WebP and PNG)."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fartrack.errors import FartrackError
from fartrack.video.containers import open_video
from fartrack.video.contrast import Contrast
from fartrack.video.frames import NOMINAL_FPS, Frame, Frames, FrameSource

PICTURES = {".bmp", ".jpeg", ".jpg", ".jp2", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""Extensions (any case) of the files that a folder of pictures is made of."""

SAMPLES = 9
"""Pictures, spread evenly over a source, whose values decide the contrast of pictures of more than 8 bits."""

Read = Callable[[int], NDArray[Any]]
"""Reads the picture of a number, as `_decode` does."""


def open_pictures(path: Path, start: int) -> FrameSource:
    """The pictures of a folder in natural order, one picture, or all pages or frames of an animation."""
    if path.is_dir():
        paths = _list_pictures(path)
        return _open(path, paths, len(paths), lambda index: _decode_single(paths[index]), start)
    count = _count_pictures(path)
    if count == 1:
        return _open(path, [path], 1, lambda _: _decode(path), start)
    if _is_tiff(path):
        return _open(path, [path], count, lambda index: _decode(path, index), start)
    with path.open("rb") as file:
        webp = file.read(4) == b"RIFF"
    return _open_webp(path, start) if webp else open_video(f"file:{path}", str(path), start, path)


def _open(path: Path, files: Sequence[Path], count: int, read: Read, start: int) -> FrameSource:
    times = [index / NOMINAL_FPS for index in range(count + 1)]
    frames = _read_pictures(str(path), times, read, start)
    return FrameSource(frames, str(path), start, frame_count=count, seconds=times[-1], files=files)


def _open_webp(path: Path, start: int) -> FrameSource:
    """An animated WebP, decoded at once, since FFmpeg does not read it."""
    whole, data = False, np.frombuffer(path.read_bytes(), np.uint8)
    with quiet_opencv(), suppress(cv2.error):
        whole, animation = cv2.imdecodeanimation(data)
    if not whole:
        raise FartrackError(f"The animation {path} is broken or cut off; download or copy it again.")
    times = [0.0, *map(float, np.cumsum(np.maximum(animation.durations, 1)) / 1000)]
    count, seconds = len(times) - 1, times[-1]
    images = [np.ascontiguousarray(image[..., :3]) for image in animation.frames]  # without transparency
    frames = _read_pictures(str(path), times, lambda index: images[index], start)
    return FrameSource(frames, str(path), start, fps=count / seconds, frame_count=count, seconds=seconds, files=[path])


def _read_pictures(name: str, times: Sequence[float], read: Read, start: int) -> Frames:
    """The pictures from `start` on; `times` are those of all, in seconds, and of the end."""
    contrast: Contrast | None = None
    count = len(times) - 1
    for index in range(start, count):
        image = read(index)
        if image.dtype != np.uint8:
            if contrast is None:
                samples = [image]
                for other in sorted({round(i) for i in np.linspace(0, count - 1, SAMPLES)}):
                    with suppress(FartrackError, OSError):  # it is told of in its place
                        samples.append(read(other))
                contrast = Contrast(name, samples[1:] or samples)
            image = contrast(image)
        yield Frame(index, times[index], image)
    return count


def _natural_key(path: Path) -> list[str | int]:
    parts = re.split(r"([0-9]+)", path.name.casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def _list_pictures(folder: Path) -> list[Path]:
    paths = [p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith(".")]
    if not paths:
        known = ", ".join(sorted(s[1:] for s in PICTURES))
        raise FartrackError(f"The folder {folder} holds no pictures; give one with files of {known}.")
    return sorted(paths, key=_natural_key)


def _count_pictures(path: Path) -> int:
    """The number of pages or animation frames; 1 where a second page of another size is but a thumbnail."""
    count = 1
    with quiet_opencv(), suppress(cv2.error):
        count = max(cv2.imcount(_opencv_name(path)), 1)
    thumbnail = count > 1 and _is_tiff(path) and _decode(path, 1).shape != _decode(path, 0).shape
    return 1 if thumbnail else count


def _opencv_name(path: Path) -> str:
    """OpenCV crashes over a name that is not UTF-8, unless it comes as bytes."""
    return os.fsencode(path)  # type: ignore[return-value]


def _is_tiff(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) in (b"II", b"MM")


def _decode_single(path: Path) -> NDArray[Any]:
    if _count_pictures(path) > 1:
        raise FartrackError(f"{path} holds several pictures; give it as the source itself, or one picture a file.")
    return _decode(path)


def _decode(path: Path, page: int | None = None) -> NDArray[Any]:
    """One picture, upright: height × width × 3, BGR; uint8, or as it is stored where it has more bits."""
    data = np.frombuffer(path.read_bytes() if page is None else b"", np.uint8)
    # the first makes gray and alpha BGR and applies the EXIF orientation, but does not read floats
    for flags in (cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH, cv2.IMREAD_UNCHANGED):
        image = None
        with quiet_opencv(), suppress(cv2.error):
            if page is not None:
                image = next(iter(cv2.imreadmulti(_opencv_name(path), page, 1, flags=flags)[1]), None)
            elif data.size:
                image = cv2.imdecode(data, flags)
        if image is not None and (image.dtype != np.uint8 or flags != cv2.IMREAD_UNCHANGED):
            return np.asarray(image[..., :3] if image.ndim == 3 else np.dstack([image] * 3))
    raise FartrackError(f"The picture {path} is broken or cut off; replace or remove it.")


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keep OpenCV from writing to stderr what becomes a sentence of ours."""
    opencv = cv2.utils.logging
    level = opencv.getLogLevel()
    opencv.setLogLevel(opencv.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        opencv.setLogLevel(level)
