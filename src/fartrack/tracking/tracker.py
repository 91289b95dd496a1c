"""The tracking loop: explicit state in, a track out. NumPy only; the network is behind an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fartrack.engines.base import Engine, Floats, Tokens
from fartrack.errors import FartrackError
from fartrack.geometry import PADDING_BGR, Box, Crop, FloatArray, Image, box_iou, check_box, clip_box
from fartrack.model.calibration import Calibration
from fartrack.model.vocabulary import NO_TRAJECTORY, decode, encode
from fartrack.tracking.distractors import Scene
from fartrack.tracking.recovery import GROWING, JUMP, Recovery, Status, Watch, is_cut, is_plain, seek, thumbnail, told
from fartrack.tracking.settings import TrackerSettings
from fartrack.tracking.templates import Template, TemplateMemory

Color = Literal["bgr", "rgb"]
Scalar = TypeVar("Scalar", bound=np.generic)

GRID = 0.125
"""Boxes are kept on a grid of this many pixels. Engines and machines differ by about 1e-4 px in one frame; without
the grid the loop feeds such a difference back until, some 20 frames later, the boxes are pixels apart."""

HALF = 0.5 + 1e-4
"""Added before rounding down to the grid: a value exactly between two steps, and its neighbors, go to the upper one."""

CHECKED = 0.7
"""Share of the search window's side, at least, that the first template is asked about when it is asked alone. Once it
has not agreed, that is the whole window."""

MARGIN = 0.06
"""What a search crop smaller than the window shows around the target, on every side, of the window's side."""


@dataclass(frozen=True)
class Track:
    """What is known about the target on one frame.

    Attributes:
        box: ``x, y, w, h`` in pixels of the frame, clipped to it.
        score: 0 to 1. Of a calibrated model, the chance that the box has an IoU of at least 0.5 with the truth; of
            another, the raw score: the least probability mass behind the box's four coordinates. 1 on the frame on
            which the box was given, 0 while the target is sought.
        state: ``tracking``; ``uncertain`` where the score is under 0.5; or ``lost``, from a score under 0.3 until it is
            0.5 again. After several doubtful frames a lost target is sought: then the score is 0, and the box is the
            last sure one. Without recovery always ``tracking``.
    """

    box: Box
    score: float
    state: Status = "tracking"


@dataclass(frozen=True)
class State:
    """All that a tracker remembers between two frames; an immutable value of bounded size.

    Attributes:
        frame: number of frames since the first, which is 0.
        size: width and height of the last frame.
        trajectory: ``(trajectory, 4)`` the last boxes x, y, w, h, oldest first, in that frame's pixels; at the start
            all of them the first.
        memory: the templates.
        recovery: whether the target is lost, and where it was last seen.
        thumbnail: of the last frame; None without recovery, which alone asks for it.
        score: of the last frame, raw.
        agreed: whether the first template agreed on the last frame, so that the next one may give a template; None if
            it was not asked.
        told: the state that the last frame's track told.
    """

    frame: int
    size: tuple[int, int]
    trajectory: FloatArray
    memory: TemplateMemory
    recovery: Recovery
    thumbnail: FloatArray | None
    score: float = 1.0
    agreed: bool | None = None
    told: Status = "tracking"

    def resting(self, box: FloatArray) -> State:
        """The state of a target that was at rest in an image box so far."""
        return replace(self, trajectory=np.repeat(box[None], len(self.trajectory), axis=0))


@dataclass(frozen=True)
class SearchRegion:
    """What the network is shown of a frame.

    Attributes:
        frame: the frame, in the tracker's color order.
        size: its width and height.
        trajectory, recovery: the state's, in this frame's pixels.
        window: the search window.
        thumbnail: of the frame; None without recovery.
        crop: the window's pixels, or those of its center, ``(S, S, 3)`` uint8 RGB; the whole has ``S = search_size``.
        tokens: ``(4 · trajectory,)`` the past boxes in it.
        shown: width and height in pixels of the crop's center that the network is shown; one of them is S.
        usual: those that all templates are shown, if they are, where the first is asked alone before; else None.
    """

    frame: Image
    size: tuple[int, int]
    trajectory: FloatArray
    recovery: Recovery
    thumbnail: FloatArray | None
    window: Crop
    crop: Image
    tokens: Tokens
    shown: tuple[int, int]
    usual: tuple[int, int] | None = None

    @property
    def last(self) -> FloatArray:
        """The last box's corners ``(4,)`` in the window's frame."""
        return self.window.to_crop(self.trajectory[-1])

    @property
    def pixels(self) -> Image:
        """What the network is shown, ``(height, width, 3)``."""
        return center(self.crop, *self.shown)

    def for_all(self) -> SearchRegion:
        """Of a region that the first template was asked about, what all are asked about."""
        shown = self.usual or self.shown
        return replace(self, crop=center(self.crop, max(shown), max(shown)), shown=shown, usual=None)


@dataclass(frozen=True)
class Answer:
    """What the network said about a frame.

    Attributes:
        memory: the templates, those that were undecided pruned.
        region: of the regions shown, that with the best score; it has ``usual`` if the first template alone was asked
            about it.
        logits: ``(4, V)`` of that region.
        alone: those of the first template alone, if it was asked.
    """

    memory: TemplateMemory
    region: SearchRegion
    logits: Floats
    alone: Floats | None


@dataclass(frozen=True)
class Prediction:
    """What the network predicts for a frame.

    Attributes:
        corners: ``(4,)`` in the window's frame.
        score: raw; 0 if there is nothing to see, or the first template does not confirm that a lost target is found.
        plain: whether the crop shows nothing.
        agreed: see :class:`State`.
        timely: whether it is time for a template.
        due: whether the prediction is good enough to take it.
    """

    corners: FloatArray
    score: float
    plain: bool
    agreed: bool | None
    timely: bool
    due: bool


class Tracker:
    """Follows one target through frames.

    :meth:`init` and :meth:`update` keep the state here; :meth:`start` and :meth:`step` are the same with the state
    in your hands, and may be called from several threads at once.

    Decisions: the search window is centered on the last box with the side ``search_factor · sqrt(w · h)``, never
    under 16 pixels, and padded with ImageNet's mean color beyond the image. The reported box is clipped to the
    frame; the remembered one keeps its full size while its center is held inside the frame, so that a target
    leaving at a border is awaited there at its proper size. A frame on which the network sees nothing that it would
    call the target does not move the box. If the size of the frame changes, the past boxes are scaled along.
    """

    def __init__(
        self,
        engine: Engine,
        settings: TrackerSettings | None = None,
        color: Color = "bgr",
        calibration: Calibration | None = None,
    ) -> None:
        """A tracker without a target, for frames in BGR or RGB order. The ``calibration`` of scores moves no box.

        Raises:
            FartrackError: another color order.
        """
        if color not in ("bgr", "rgb"):
            raise FartrackError(f"color is {color!r}; it must be 'bgr' or 'rgb'.")
        settings = settings or TrackerSettings()
        if settings.templates > engine.config.templates:
            settings = replace(settings, templates=engine.config.templates)
        self.engine, self.settings, self.color, self.calibration = engine, settings, color, calibration
        self.state: State | None = None

    def init(self, frame: Image, box: ArrayLike) -> Track:
        """Take the object in ``box`` (x, y, w, h in pixels) of ``frame`` (uint8 H×W×3) as the target; its track.

        Raises:
            FartrackError: the frame or the box cannot be used.
        """
        self.state = self.start(frame, box)
        return Track(clip_box(self.state.trajectory[-1], *self.state.size), 1.0)

    def update(self, frame: Image) -> Track:
        """Find the target in the next frame.

        Raises:
            FartrackError: the frame cannot be used, :meth:`init` was not called, or another thread uses this tracker.
        """
        before = self.state
        if before is None:
            raise FartrackError("The tracker has no target yet; call init(frame, box) first.")
        state, track = self.step(before, frame)
        if self.state is not before:
            raise FartrackError("Another thread used this tracker meanwhile; give each thread its own copy.deepcopy.")
        self.state = state
        return track

    def start(self, frame: Image, box: ArrayLike) -> State:
        """The state after the first frame; see :meth:`init`."""
        width, height = check_frame(frame)
        first = np.array(check_box(box, width, height))
        template = self._take_template(frame, first, number=0, identity=0)
        memory = TemplateMemory(self.settings.templates, self.settings.capacity, (template,))
        # The network's own trajectory may be empty, but the last box is always needed.
        trajectory = np.repeat(first[None], max(self.engine.config.trajectory, 1), axis=0)
        recovery = Recovery(first, scene=Scene.of(frame, first) if self.settings.recovers else None)
        return State(0, (width, height), trajectory, memory, recovery, self.thumbnail(frame))

    def step(self, state: State, frame: Image) -> tuple[State, Track]:
        """The state after the next frame, and the target's track on it; see :meth:`update`."""
        ((state, track),) = self.step_batch([state], [self.search_regions(state, frame)])
        return state, track

    def thumbnail(self, frame: Image) -> FloatArray | None:
        """A thumbnail of a frame, by which cuts are told; None without recovery, which alone asks for it.

        Raises:
            FartrackError: the frame cannot be used.
        """
        check_frame(frame)
        return thumbnail(frame) if self.settings.recovers else None

    def search_regions(self, state: State, frame: Image, small: FloatArray | None = None) -> list[SearchRegion]:
        """What the network is to be shown of the frame after ``state``: one region, or two for a lost target.

        Args:
            small: the frame's thumbnail, if it is there already.

        Raises:
            FartrackError: the frame cannot be used.
        """
        size, config = check_frame(frame), self.engine.config
        trajectory, recovery = state.trajectory, state.recovery
        if size != state.size:
            factor = np.tile(np.array(size) / np.array(state.size), 2)
            trajectory, recovery = trajectory * factor, recovery.scaled(factor)
        known = (frame, size, trajectory, recovery, self.thumbnail(frame) if small is None else small)
        if recovery.seeking:
            windows = seek(recovery.sure, size, config.search_factor, recovery.turn)
            tokens = np.full(4 * config.trajectory, NO_TRAJECTORY)
            return [
                SearchRegion(*known, window, self._cut(frame, window, config.search_size), tokens, self._whole)
                for window in windows
            ]
        window = Crop.around(trajectory[-1], config.search_factor)
        corners = window.to_crop(trajectory)
        tokens = encode(corners[len(corners) - config.trajectory :]).reshape(-1)
        usual, checks = self._shown(corners, state.score), self._checks(state)
        wide = self._least(CHECKED if state.agreed is None else 1, config.search_size)
        shown = (max(usual[0], wide), max(usual[1], wide)) if checks else usual
        crop = self._cut(frame, window.center(max(shown) / config.search_size), max(shown))
        return [SearchRegion(*known, window, crop, tokens, shown, usual if checks else None)]

    @property
    def _whole(self) -> tuple[int, int]:
        """Width and height of the whole search window, in pixels of a crop."""
        return (self.engine.config.search_size,) * 2

    def _due(self, state: State, ahead: int = 0) -> bool:
        """Whether it is time for a template on the frame after ``state``, or ``ahead`` frames later."""
        newest = state.memory.history[-1].frame
        return self.settings.templates > 1 and state.frame + 1 + ahead - newest >= self.settings.interval

    def _checks(self, state: State) -> bool:
        """Whether the first template is asked alone on the frame after ``state``: the one before a template is due."""
        sure = state.recovery.status == "tracking" and state.score >= self.settings.template_score
        return self._compares(state.memory) and sure and not state.agreed and self._due(state, ahead=1)

    def _compares(self, memory: TemplateMemory) -> bool:
        """Whether what all templates find is compared with what the first alone finds."""
        return self.settings.agreement > 0 and len(memory.history) > 1

    def _least(self, share: float, size: int) -> int:
        """The side of the center of a crop of ``size`` pixels a side: at least this share of it, and as many whole
        tokens missing on either side."""
        patch = self.engine.config.patch
        return size - 2 * patch * max(int((1 - share) * (size // patch) / 2), 0)

    def _shown(self, corners: FloatArray, score: float) -> tuple[int, int]:
        """Width and height, in pixels, of the search window's center that is shown, given the past boxes' corners
        ``(n, 4)`` in it and the last score: enough for the target to move on as it last did, and as far again; but
        one of them only one token less than the other on either end, for what is beside a long target tells where it
        ends."""
        settings = self.settings
        if settings.min_window == 1 or score < settings.confident_score:
            return self._whole
        centers = (corners[:, :2] + corners[:, 2:]) / 2
        speed = np.abs(np.diff(centers, axis=0)).max(axis=0, initial=0.0)
        radius = (corners[-1, 2:] - corners[-1, :2]) / 2 + 2 * speed + MARGIN
        width, height = (
            self._least(max(2 * share, settings.min_window), size)
            for share, size in zip(radius.tolist(), self._whole, strict=True)
        )
        least = max(width, height) - 2 * self.engine.config.patch
        return max(width, least), max(height, least)

    def step_batch(
        self, states: Sequence[State], regions: Sequence[Sequence[SearchRegion]]
    ) -> list[tuple[State, Track]]:
        """The next states and tracks of several targets, independent of one another, in as few network calls as
        their memories' sizes allow."""
        return [self.conclude(*pair) for pair in zip(states, self.answers(states, regions), strict=True)]

    def answers(self, states: Sequence[State], regions: Sequence[Sequence[SearchRegion]]) -> list[Answer]:
        """What the network says about the regions of several targets; see :meth:`step_batch`."""
        memories = [self.prepared(state.memory) for state in states]
        best = self._find(memories, dict(enumerate(regions)))
        alone = {i: logits for i, (region, logits) in best.items() if region.usual}
        best |= self._find(memories, {i: [best[i][0].for_all()] for i in alone if not self._confirms(*best[i])})
        return [Answer(memory, *best[i], alone.get(i)) for i, memory in enumerate(memories)]

    def _find(
        self, memories: list[TemplateMemory], regions: Mapping[int, Sequence[SearchRegion]]
    ) -> dict[int, tuple[SearchRegion, Floats]]:
        """Of each target's regions that with the best score, and its logits ``(4, V)``; memories that were undecided
        are pruned in their list."""
        calls: dict[tuple[int, tuple[int, int], bool], list[tuple[int, SearchRegion]]] = {}
        for index, shown in regions.items():
            for region in shown:
                scored = not region.usual and self._undecided(memories[index])
                call = self._kv_cache(memories[index], region).shape[-2], region.shown, scored
                calls.setdefault(call, []).append((index, region))
        best: dict[int, tuple[SearchRegion, Floats]] = {}
        for (_, _, scored), members in calls.items():
            crops, tokens = (stack([getattr(region, name) for _, region in members]) for name in ("pixels", "tokens"))
            kv_cache = stack([self._kv_cache(memories[index], region) for index, region in members])
            if scored:
                rows, scores = self.engine.search_scored(crops, tokens, kv_cache)
                for (index, _), own in zip(members, scores, strict=True):
                    memories[index] = self._prune(memories[index], own)
            else:
                rows = self.engine.search(crops, tokens, kv_cache)
            for (index, region), logits in zip(members, rows, strict=True):
                if index not in best or read(logits)[1] > read(best[index][1])[1]:
                    best[index] = region, logits
        return best

    @staticmethod
    def _kv_cache(memory: TemplateMemory, region: SearchRegion) -> Floats:
        """That of the templates that are asked about a region."""
        return memory.history[0].kv_cache if region.usual else memory.kv_cache

    def _confirms(self, region: SearchRegion, alone: Floats) -> bool:
        """Whether the logits of the first template alone say for sure that the target is where it was."""
        corners, score = read(alone)
        return score >= self.settings.template_score and overlap(corners, region.last) >= self.settings.agreement

    def conclude(self, state: State, answer: Answer) -> tuple[State, Track]:
        """What an answer means: the box, the track, and whether a template is taken."""
        region, before, number = answer.region, answer.region.recovery, state.frame + 1
        recovers, small = self.settings.recovers, region.thumbnail
        prediction = self._prediction(state, answer)
        box, rate = self._box(region, prediction.corners, before, prediction.score)
        cut = state.thumbnail is not None and small is not None and is_cut(state.thumbnail, small)
        score, template = self._doubted(prediction, answer, box, number, cut)
        after = State(number, region.size, region.trajectory, answer.memory, before, small, score, prediction.agreed)
        after = self._sought(after, box, prediction.plain) if before.seeking else self._followed(after, box, rate, cut)
        if template is not None and after.recovery.status == "tracking":
            scene = Scene.of(region.frame, after.trajectory[-1]) if recovers else None
            after = replace(after, memory=after.memory.add(template), recovery=replace(after.recovery, scene=scene))
        after = self._watched(after, region)
        lost = after.recovery.status == "lost"
        shown = after.recovery.sure if lost else after.trajectory[-1]
        chance = 0.0 if lost else score if self.calibration is None else float(self.calibration.apply(score))
        status = told(lost, chance, state.told) if recovers else "tracking"
        return replace(after, told=status), Track(clip_box(shown, *region.size), chance, status)

    def _prediction(self, state: State, answer: Answer) -> Prediction:
        """What the network predicts, after what the first template says of it."""
        memory, region, alone = answer.memory, answer.region, answer.alone
        settings, before = self.settings, region.recovery
        corners, score = read(answer.logits)
        part = region.window.center(len(region.crop) / self.engine.config.search_size)
        plain = settings.recovers and is_plain(region.crop, part, region.size)
        if plain:
            score = 0.0
        stayed = overlap(corners, region.last) >= settings.agreement
        if state.agreed and not stayed:
            alone = self._first(memory, region)
        agreed = None if alone is None else True
        if alone is not None and not region.usual:  # else it alone was asked, for it was sure
            first, sure = read(alone)
            agreed = overlap(first, corners) >= settings.agreement
            if not agreed and sure >= settings.template_score and not plain:
                corners, score = first, sure
        timely = before.status != "lost" and self._due(state) and not agreed
        trusted = not self._compares(memory) or bool(state.agreed and stayed)
        due = timely and score >= settings.template_score and trusted
        if before.seeking and score >= settings.found_score and len(memory.history) > 1:
            first, sure = read(self._first(memory, region))
            if sure < settings.template_score or overlap(first, corners) < 0.5:
                score = 0.0
        return Prediction(corners, score, plain, agreed, timely, due)

    def _doubted(
        self, prediction: Prediction, answer: Answer, box: FloatArray, number: int, cut: bool
    ) -> tuple[float, Template | None]:
        """The score of the image box that was predicted, 0 if what it shows is not the target; and a template, if one
        is due."""
        settings, region, before = self.settings, answer.region, answer.region.recovery
        recovers, score, template = settings.recovers, prediction.score, None
        doubtful = recovers and (prediction.timely or cut or before.status != "tracking")
        least = settings.found_score if before.seeking else settings.lost_score
        if prediction.due or (doubtful and score >= least):
            template = self._take_template(region.frame, box, number, self.engine.config.identity(1))
            if recovers and answer.memory.likeness(template) < settings.likeness:
                score = 0.0
        if recovers and score >= least and self._taken_over(region, box):
            score = 0.0
        return score, template if prediction.due else None

    def _sought(self, after: State, box: FloatArray, plain: bool) -> State:
        """The state after a frame that was searched for a lost target."""
        before = after.recovery
        found = after.score >= self.settings.found_score and before.plausible(box)
        recovery = replace(before, doubtful=before.doubtful + 1, turn=before.turn + (not plain), found=found)
        return replace(after.resting(box) if found else after, recovery=recovery)

    def _followed(self, after: State, box: FloatArray, rate: FloatArray, cut: bool) -> State:
        """The state after a frame on which the target was followed into an image box, for sure or not; its sides
        usually change at this rate."""
        settings, before, score = self.settings, after.recovery, after.score
        if score < settings.hold_score:
            box, rate = after.trajectory[-1], before.rate
        after = replace(after, trajectory=np.concatenate([after.trajectory[1:], box[None]]))
        if score >= settings.lost_score:
            return replace(after, recovery=before.at(box, rate, after.frame))
        recovery = replace(before, doubtful=before.doubtful + 1, found=False, rate=rate)
        if recovery.doubtful < settings.patience and before.status != "lost" and not cut:
            return replace(after, recovery=replace(recovery, status="uncertain"))
        if before.status != "lost":
            memory = after.memory.before(after.frame - recovery.doubtful - settings.interval)
            after = replace(after, memory=memory)
        recovery = replace(recovery, status="lost", turn=GROWING if cut else before.turn)
        return replace(after.resting(recovery.sure), recovery=recovery)

    def _watched(self, after: State, region: SearchRegion) -> State:
        """The state once the place where the target was lost has been looked at, if that is due on this frame."""
        watch = after.recovery.watch
        if watch is None or not watch.due(after.frame) or after.recovery.status != "tracking":
            return after
        there = self._returned(after.memory, region, watch, after.frame)
        if there is None:
            return after
        overlapping = box_iou(there.tolist(), after.trajectory[-1].tolist())
        if overlapping >= 0.5:
            return replace(after, recovery=replace(after.recovery, watch=None))
        if overlapping >= JUMP:
            return after
        recovery = Recovery(there, status="lost", found=True, rate=region.recovery.rate)
        return replace(after.resting(there), memory=after.memory.before(watch.since), recovery=recovery)

    def _returned(self, memory: TemplateMemory, region: SearchRegion, watch: Watch, number: int) -> FloatArray | None:
        """The image box ``(4,)`` of what is again where the target was lost, if the first template alone is sure that
        it is the target."""
        config, lost = self.engine.config, Recovery(watch.place, status="lost")
        window = Crop.around(watch.place, config.search_factor)
        crop, tokens = self._cut(region.frame, window, config.search_size), np.full_like(region.tokens, NO_TRAJECTORY)
        shown = replace(region, window=window, crop=crop, tokens=tokens, shown=self._whole)
        corners, score = read(self._first(memory, shown))
        box, _ = self._box(shown, corners, lost, score)
        if score < self.settings.found_score or not lost.plausible(box):
            return None
        template = self._take_template(region.frame, box, number, config.identity(1))
        return box if memory.history[0].likeness(template) >= self.settings.likeness else None

    def _taken_over(self, region: SearchRegion, box: FloatArray) -> bool:
        """Whether a box has jumped to what was beside the target before."""
        recovery, scene = region.recovery, region.recovery.scene
        if scene is None or box_iou(recovery.sure.tolist(), box.tolist()) >= JUMP:
            return False
        return scene.shows(Scene.of(region.frame, box, scene.step))

    def _first(self, memory: TemplateMemory, region: SearchRegion) -> Floats:
        """The logits ``(4, V)`` of the first template alone."""
        first = memory.history[0].kv_cache[None]
        logits: Floats = self.engine.search(region.pixels[None], region.tokens[None], first)[0]
        return logits

    def _box(
        self, region: SearchRegion, corners: FloatArray, recovery: Recovery, score: float
    ) -> tuple[FloatArray, FloatArray]:
        """The image box of corners, its center within the frame, and how fast its sides usually change.

        The sides of a target that is followed change as fast as is usual for it, and on a doubtful frame not at all.
        """
        low, high = np.minimum(corners[:2], corners[2:]), np.maximum(corners[:2], corners[2:])
        x, y, w, h = region.window.to_image(np.concatenate([low, high])).tolist()
        center, sides, rate = np.array([x + w / 2, y + h / 2]), np.maximum([w, h], 1.0), recovery.rate
        if self.settings.recovers and not recovery.seeking:
            last = region.trajectory[-1]
            if score >= self.settings.lost_score:
                sides, rate = recovery.limited(last, sides, self.settings.size_step)
            else:
                sides = last[2:]
        size = np.array(region.size)
        sides, center = np.clip(sides, 1.0, size), np.clip(center, 0.0, size)
        return np.floor(np.concatenate([center - sides / 2, sides]) / GRID + HALF) * GRID, rate

    def prepared(self, memory: TemplateMemory) -> TemplateMemory:
        """The memory with every chosen template encoded to the end, with the identity of the slot that it now has.

        Identities change only where every slot has its own (the paper's choice).
        """
        for slot, place in enumerate(memory.chosen):
            template = memory.history[place]
            identity = self.engine.config.identity(slot)
            if template.identity != identity:
                kv_cache, _ = self._encode(template.crop, template.box, identity)  # whole: attention is joint
                if template.keep is not None:
                    kv_cache = kv_cache[..., template.keep, :]
                memory = memory.replace(place, replace(template, identity=identity, kv_cache=kv_cache))
            elif template.rest is not None:
                (rest,) = self.engine.finish_templates(template.rest[None])
                memory = memory.replace(place, template.finished(rest))
        return memory

    def _undecided(self, memory: TemplateMemory) -> bool:
        """Whether the next frame has to score template tokens, to decide which are kept."""
        return self.settings.retention < 1 and not all(memory.history[place].pruned for place in memory.chosen)

    def _prune(self, memory: TemplateMemory, scores: Floats) -> TemplateMemory:
        """The memory whose undecided templates keep the tokens with the best of the chosen ones' scores ``(M,)``."""
        ends = np.cumsum([memory.history[place].kv_cache.shape[-2] for place in memory.chosen])
        for place, own in zip(memory.chosen, np.split(scores, ends[:-1]), strict=True):
            if not memory.history[place].pruned:
                memory = memory.replace(place, memory.history[place].prune(own, self.settings.retention))
        return memory

    def _take_template(self, frame: Image, box: FloatArray, number: int, identity: int) -> Template:
        """A template of the target in an image box of a frame; of one after the first, the center if that will do."""
        config = self.engine.config
        window = Crop.template(box, config.template_factor)
        crop = self._cut(frame, window, config.template_size)
        corners = window.to_crop(box).clip(0, 1).astype(np.float32)
        template = Template.encoded(number, crop, corners, identity, *self._encode(crop, corners, identity))
        share = self.settings.min_template if number > 0 else 1
        return template.center(self._least(max(share, *box[2:] / window.side), config.template_size) // config.patch)

    def _encode(self, crop: Image, box: Floats, identity: int) -> tuple[Floats, Floats | None]:
        """The ``kv_cache`` ``(…, M, C)`` of a template's first layers, and what the others go on from."""
        kv_cache, rest = self.engine.begin_templates(crop[None], np.array([identity], np.int64), box[None])
        return kv_cache[0], None if rest is None else rest[0]

    def _cut(self, frame: Image, window: Crop, size: int) -> Image:
        """A window of a frame, ``(size, size, 3)`` in RGB."""
        if self.color == "rgb":
            return window.extract(frame, size, padding=PADDING_BGR[::-1])
        return cast(Image, cv2.cvtColor(window.extract(frame, size), cv2.COLOR_BGR2RGB))


def read(logits: Floats) -> tuple[FloatArray, float]:
    """The corners ``(4,)`` in the window's frame that logits ``(4, V)`` tell, and their score."""
    corners, mass = decode(logits)
    return corners, float(mass.min())


def overlap(first: FloatArray, second: FloatArray) -> float:
    """IoU of corners ``(4,)`` in a crop's frame."""
    (ax, ay, ar, ab), (bx, by, br, bb) = first.tolist(), second.tolist()
    return box_iou((ax, ay, ar - ax, ab - ay), (bx, by, br - bx, bb - by))


def center(crop: Image, width: int, height: int) -> Image:
    """The center of a crop, ``(height, width, 3)``."""
    top, left = (len(crop) - height) // 2, (crop.shape[1] - width) // 2
    return np.ascontiguousarray(crop[top : top + height, left : left + width])


def stack(arrays: Sequence[NDArray[Scalar]]) -> NDArray[Scalar]:
    """Arrays of one shape as a batch; a single one is not copied."""
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)


def check_frame(frame: object) -> tuple[int, int]:
    """Width and height of a frame.

    Raises:
        FartrackError: it is not a uint8 array of H × W × 3 with pixels in it.
    """
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        found = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise FartrackError(f"The frame is {found}; give a uint8 array of height × width × 3.")
    height, width = frame.shape[:2]
    if height == 0 or width == 0:
        raise FartrackError(f"The frame of {width}×{height} pixels is empty; give one with pixels in it.")
    return width, height
