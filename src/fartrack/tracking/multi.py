"""Several targets of one video at once."""

from __future__ import annotations

from dataclasses import replace

from numpy.typing import ArrayLike

from fartrack.errors import FartrackError
from fartrack.geometry import Image, clip_box, iou
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
        found = self.tracker.step_batch(states, [self.tracker.search_regions(state, frame) for state in states])
        placed = [self._apart(*pair, found) for pair in zip(states, found, strict=True)]
        self.states = dict(zip(numbers, (state for state, _ in placed), strict=True))
        return dict(zip(numbers, (track for _, track in placed), strict=True))

    @staticmethod
    def _apart(before: State, after: tuple[State, Track], found: list[tuple[State, Track]]) -> tuple[State, Track]:
        """The state and track of a target; one that was lost and is found in another one's place is still lost."""
        state, known = after[0], [other.recovery for other, _ in found if other is not after[0]]
        others = [recovery.sure for recovery in known if recovery.status == "tracking"]
        if before.recovery.status != "lost" or not any(iou(state.trajectory[-1], box) > 0.5 for box in others):
            return after
        recovery = replace(before.recovery, doubtful=before.recovery.doubtful + 1, found=False)
        return replace(state, recovery=recovery), Track(clip_box(recovery.sure, *state.size), 0.0, "lost")
