"""Several targets of one video at once."""

from __future__ import annotations

from numpy.typing import ArrayLike

from fartrack.errors import FartrackError
from fartrack.geometry import Image
from fartrack.tracking.tracker import State, Track, Tracker


class MultiTracker:
    """Follows any number of targets, each as if it were alone, with as few network calls a frame as can be.

    Targets with the same number of template tokens and search crops of one size share a call.
    """

    def __init__(self, tracker: Tracker) -> None:
        """Follow with this tracker's engine and settings; a target that it follows itself is left alone."""
        self.tracker = tracker
        self.states: dict[int, State] = {}
        self._next = 0

    def add(self, frame: Image, box: ArrayLike) -> int:
        """Take the object in ``box`` (x, y, w, h in pixels) of ``frame`` as one more target.

        Returns:
            Its number, counted from 0 and never used again.

        Raises:
            FartrackError: the frame or the box cannot be used.
        """
        number, self._next = self._next, self._next + 1
        self.states[number] = self.tracker.start(frame, box)
        return number

    def remove(self, number: int) -> None:
        """Follow a target no longer.

        Raises:
            FartrackError: there is no target of this number.
        """
        if self.states.pop(number, None) is None:
            raise FartrackError(f"There is no target {number}; those followed are {sorted(self.states)}.")

    def update(self, frame: Image) -> dict[int, Track]:
        """Find every target in the next frame; their tracks by number.

        Raises:
            FartrackError: the frame cannot be used.
        """
        numbers, states = list(self.states), list(self.states.values())
        found = self.tracker.step_batch(states, [self.tracker.search_region(state, frame) for state in states])
        self.states = dict(zip(numbers, (state for state, _ in found), strict=True))
        return dict(zip(numbers, (track for _, track in found), strict=True))
