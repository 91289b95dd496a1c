"""What a source gives: frames, one after the other."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import InitVar, dataclass
from fractions import Fraction
from itertools import chain
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
"""Yields the frames of a source, those before `start` as it likes, and returns how many the source holds."""


@dataclass(eq=False, repr=False)
class FrameSource(Iterator[Frame]):
    """An open source of frames: iterate it once, use it as a context manager or call `close()`.

    `first`, the first frame of the iteration, is ready at once, so that a box can be drawn on it. `FartrackError` is
    raised on construction, if that cannot be read, and by the iteration after the last good frame of a damaged source.
    """

    frames: InitVar[Frames]
    name: str  # as the user wrote it, without a password
    start: int
    fps: float | None = None  # nominal frames a second, if known
    frame_count: int | None = None  # an estimate for the whole source, if known
    seconds: float | None = None  # its duration, if known
    files: Sequence[Path] = ()  # what it is read from
    live: bool = False  # it has no known end
    waits: bool = True  # no frame is lost while nobody reads, unlike a webcam's or those sent as they are filmed
    sample_aspect_ratio: Fraction = Fraction(1)  # width to height of a pixel on the screen

    def __post_init__(self, frames: Frames) -> None:
        """Read up to the first frame of the iteration."""
        try:
            self.first = next(frames)
            while self.first.index < self.start:
                self.first = next(frames)
        except StopIteration as end:
            if not end.value:
                raise FartrackError(f"{self.name} holds no picture that can be decoded; check or convert it.") from None
            raise FartrackError(
                f"{self.name} has {end.value} frames, so it cannot start at frame {self.start}; "
                f"give a start from 0 to {end.value - 1}."
            ) from None
        self._others = ReadAhead(frames, newest=not self.waits)
        self._all = chain([self.first], self._others)

    def __next__(self) -> Frame:
        """The next frame; what was taken is not given again."""
        return next(self._all)

    @contextmanager
    def reading_ahead(self) -> Iterator[None]:
        """Within this context a thread reads the next frames while the last one is worked on.

        Frames and errors are the same in the same order; those that were read and not taken come next. Only where the
        source does not wait, frames (but the first) that a newer one overtakes before they are taken are dropped.
        """
        try:
            self._others.start()
            yield
        finally:
            self._others.stop()

    def close(self) -> None:
        """Release the file or device, where a read hangs once it returns; may be called again."""
        self._others.close()

    def __enter__(self) -> Self:
        """Return the source itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the source."""
        self.close()
