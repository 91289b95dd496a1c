"""Where frames come from: one iterator for a video file, a folder of pictures, a webcam and a stream."""

import time as clock
from pathlib import Path

import cv2
import numpy as np

from fartrack.errors import FartrackError, redact
from fartrack.video.ahead import interruptible
from fartrack.video.containers import open_video
from fartrack.video.frames import Frame, Frames, FrameSource
from fartrack.video.pictures import PICTURES, open_pictures, quiet_opencv

__all__ = ["PICTURES", "Frame", "FrameSource", "frames_from_source"]


def frames_from_source(source: str | Path | int, *, start: int = 0) -> FrameSource:
    """Open anything that holds frames, and read its first one.

    `source` is a video file, a picture, an animation, a folder of pictures (in natural order, img2 before img10; their
    sizes may differ; their times are nominal, 25 a second), the number of a webcam (0 or "0"; a file of that name is
    "./0") or the URL of a stream. `start` skips to the frame of that index, exactly: frames are counted, never sought.

    Raises `FartrackError`, here, for what is missing, empty, without pictures, unreachable or not a video and for a
    `start` that the source does not have; while iterating, after the last good frame, for what is cut off or damaged.
    """
    if start < 0:
        raise FartrackError(f"The start frame is {start}, but frames are counted from 0; give 0 or more.")
    if isinstance(source, int) or (isinstance(source, str) and source.isdecimal()):
        return _open_webcam(int(source), start)
    if isinstance(source, str) and "://" in source and not source.startswith("file://"):
        name = redact(source.replace(" ", "%20"))
        return interruptible(lambda: open_video(source, name, start, path=None))
    path = Path(source.removeprefix("file://") if isinstance(source, str) else source)
    try:
        if not path.exists():
            raise FartrackError(f"There is no file or folder {path}; check the path.")
        if path.is_file() and path.stat().st_size == 0:
            raise FartrackError(f"{path} is empty (0 bytes); record, download or copy it again.")
        if path.is_dir() or path.suffix.lower() in PICTURES:
            return open_pictures(path, start)
        if path.is_file():
            return open_video(f"file:{path}", str(path), start, path)
        return interruptible(lambda: open_video(f"file:{path}", str(path), start, path))  # a pipe or device
    except OSError as error:
        raise FartrackError(f"{path} cannot be read: {error.strerror}; check its permissions.") from error


def _open_webcam(number: int, start: int) -> FrameSource:
    with quiet_opencv():
        camera = cv2.VideoCapture(number)
    if not camera.isOpened():
        raise FartrackError(f"Webcam {number} cannot be opened; plug it in or try another number.")
    fps = camera.get(cv2.CAP_PROP_FPS)
    frames, rate = _read_webcam(camera, number), fps if fps > 0 else None
    return FrameSource(frames, f"webcam {number}", start, fps=rate, live=True, waits=False)


def _read_webcam(camera: cv2.VideoCapture, number: int) -> Frames:
    index, begin, last = 0, 0.0, -1.0
    try:
        while True:
            good, image = camera.read()
            if not good:
                raise FartrackError(
                    f"The webcam {number} stopped (frames read: {index}); check its cable and what else uses it."
                )
            now = clock.monotonic()
            begin = begin if index else now
            last = max(now - begin, last + 1e-3)
            yield Frame(index, last, np.asarray(image, np.uint8))
            index += 1
    finally:
        camera.release()
