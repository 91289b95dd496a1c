"""What a source gives: frames, one after the other."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Self

from fartrack.errors import FartrackError
from fartrack.geometry import Image
from fartrack.video.ahead import ReadAhead

NOMINAL_FPS = 25.0
"""Frames a second where the source tells no time, as in a folder of pictures."""


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
    unknown), `frame_count` (an estimate for the whole source, None if unknown), `seconds` (its duration, None if
    unknown), `sample_aspect_ratio` (width to height of a pixel on the screen), `files` (what it is read from), `live`
    (it has no known end) and `waits` (no frame is lost while nobody reads: False for a webcam and a stream that is
    sent as it is filmed). Iteration raises `FartrackError` after the last good frame of a damaged source.
    """

    seconds: float | None = None
    sample_aspect_ratio = Fraction(1)
    files: Sequence[Path] = ()

    def __init__(
        self,
        frames: Frames,
        name: str,
        *,
        start: int,
        fps: float | None = None,
        frame_count: int | None = None,
        live: bool = False,
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

    def __exit__(self, *_: object) -> None:
        """Close the source."""
        self.close()
