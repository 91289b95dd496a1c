"""Several targets of one video at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter

import numpy as np
from numpy.typing import ArrayLike

from fartrack.errors import FartrackError
from fartrack.geometry import Box, Image, box_iou, clip_box
from fartrack.targets import Anchor, Target
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
        small = self.tracker.thumbnail(frame)
        regions = [self.tracker.search_regions(state, frame, small) for state in states]
        found = self.tracker.step_batch(states, regions)
        placed = [self._apart(*pair, found) for pair in zip(states, found, strict=True)]
        self.states = dict(zip(numbers, (state for state, _ in placed), strict=True))
        return dict(zip(numbers, (track for _, track in placed), strict=True))

    @staticmethod
    def _apart(before: State, after: tuple[State, Track], found: list[tuple[State, Track]]) -> tuple[State, Track]:
        """The state and track of a target; one that is found in another one's place is lost."""
        state, known = after[0], [other.recovery for other, _ in found if other is not after[0]]
        others = [recovery.sure for recovery in known if recovery.status == "tracking"]
        sought = before.recovery.status == "lost" or state.recovery.found
        if not sought or not any(box_iou(state.trajectory[-1], box) > 0.5 for box in others):
            return after
        factor = np.tile(np.array(state.size) / np.array(before.size), 2)
        last = before.recovery.scaled(factor)
        recovery = replace(last, status="lost", doubtful=last.doubtful + 1, found=False)
        return replace(state, recovery=recovery, told="lost"), Track(clip_box(recovery.sure, *state.size), 0.0, "lost")


class TargetTracker:
    """Follows targets through a video, each from the first box that a user drew for it, anew from every further one."""

    def __init__(self, tracker: Tracker, targets: Sequence[Target]) -> None:
        """Follow these targets with the tracker's engine and settings.

        Raises:
            FartrackError: the tracker is for RGB frames.
        """
        if tracker.color != "bgr":
            raise FartrackError("Videos are read in BGR order; load the tracker with color='bgr'.")
        self.targets = targets
        self._many = MultiTracker(tracker)
        self._numbers: dict[Target, int] = {}
        self._last = -1

    def update(self, index: int, image: Image) -> dict[Target, Track]:
        """The targets on the frame of this index (which grows, with gaps where frames were dropped), in their order.

        Raises:
            FartrackError: the frame, or the box of a target that begins here, cannot be used.
        """
        begun: dict[Target, Anchor] = {}
        for target in self.targets:
            anchor = next((a for a in reversed(target.anchors) if a.frame <= index), None)
            if anchor is None:
                continue
            over = anchor.end is not None and index > anchor.end
            if over or anchor.frame > self._last:
                self._drop(target)
                begun |= {} if over else {target: anchor}
        tracks = self._many.update(image)
        found = {target: tracks[number] for target, number in self._numbers.items()}
        found |= {target: self._start(target, image, anchor.box) for target, anchor in begun.items()}
        self._last = index
        return {target: found[target] for target in self.targets if target in found}

    def correct(self, target: Target, index: int, image: Image, box: Box) -> Track:
        """Start a target anew from a box on the frame that was last given to :meth:`update`; its track there.

        Raises:
            FartrackError: the box cannot be used.
        """
        track = self._start(target, image, box)
        target.anchors[:] = [*(a for a in target.anchors if a.frame != index), Anchor(index, box)]
        target.anchors.sort(key=attrgetter("frame"))
        return track

    def unreached(self) -> list[Anchor]:
        """The boxes for frames that have not come."""
        return [anchor for target in self.targets for anchor in target.anchors if anchor.frame > self._last]

    def _start(self, target: Target, image: Image, box: Box) -> Track:
        number = self._many.add(image, box)
        self._drop(target)
        self._numbers[target] = number
        state = self._many.states[number]
        return Track(clip_box(state.trajectory[-1], *state.size), 1.0)

    def _drop(self, target: Target) -> None:
        if target in self._numbers:
            self._many.remove(self._numbers.pop(target))
