"""The tracking loop: explicit state in, a track out. NumPy only; the network is behind an engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, cast, get_args

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fartrack.config import check_choice, check_numbers, from_dict
from fartrack.engines.base import Engine
from fartrack.errors import FartrackError
from fartrack.geometry import PADDING_BGR, UNIT, Box, Crop, FloatArray, Image, check_box, clip_box, iou
from fartrack.model.vocabulary import decode, encode
from fartrack.tracking.calibration import Calibration
from fartrack.tracking.templates import Rows, Template, TemplateMemory, join_rows

Color = Literal["bgr", "rgb"]
Scalar = TypeVar("Scalar", bound=np.generic)
Sparsification = Literal["sequence", "runtime"]

GRID = 0.125
"""Boxes are kept on a grid of this many pixels. Engines and machines differ by about 1e-4 px in one frame; without
the grid the loop feeds such a difference back until, some 20 frames later, the boxes are pixels apart."""

MARGIN = 0.06
"""What a look at less than the whole search window shows around the target, on every side, of the window's side."""


@dataclass(frozen=True)
class Track:
    """What is known about the target on one frame.

    Attributes:
        box: ``x, y, w, h`` in pixels of the frame, clipped to it.
        score: 0 to 1. Of a calibrated model, the chance that the box has an IoU of at least 0.5 with the truth; of
            another, the raw score: the least probability mass behind the box's four coordinates. 1 on the frame on
            which the box was given.
    """

    box: Box
    score: float


@dataclass(frozen=True)
class TrackerSettings:
    """What may be chosen at run time. Scores here are raw ones, whether or not the model is calibrated.

    Attributes:
        templates: the most templates used at once; 1 keeps to the first frame's.
        interval: frames between two templates.
        template_score: a template is taken only from a frame whose score is at least this.
        agreement: when a template is due, the first one, which alone is sure to show the target, is asked alone, at the
            price of a second network call. If the IoU of its box with that of all of them is under this, none is taken,
            and if its score is at least ``template_score``, its box is believed. The whole search window is looked at
            then. 0 does not ask.
        hold_score: on a frame whose score is under this, the box stays where it was.
        capacity: the most templates remembered, whatever the length of the video.
        retention: share of each template's tokens that are kept once the frame after it has scored them.
        adaptive: ``retention`` is that of a template whose target fills the usual part of it, a square one wholly in
            view; others keep more or less in proportion to the target's share.
        sparsification: ``sequence``, decided once a template and carried on (the paper); or ``runtime``, decided
            anew on every frame, which costs a second pass and is there to compare with.
        least_window: share of the search window's side that is looked at while the target is slow and the last score
            at least ``sure_score``; as much more as its size and its speed ask for, and the whole window when it is
            not sure. 1 always looks at all of it. The time of a frame goes with the square of the share.
        sure_score: see ``least_window``.
    """

    templates: int = 5
    interval: int = 20
    template_score: float = 0.5
    agreement: float = 0.0
    hold_score: float = 0.1
    capacity: int = 16
    retention: float = 1.0
    adaptive: bool = False
    sparsification: Sparsification = "sequence"
    least_window: float = 1.0
    sure_score: float = 0.6

    def __post_init__(self) -> None:
        """Check every field once; errors name the field."""
        check_choice(self, "adaptive", (False, True))
        check_choice(self, "sparsification", get_args(Sparsification))
        check_numbers(self, templates=(1, 16), interval=(1, 10**9), template_score=(0, 1), hold_score=(0, 1))
        check_numbers(self, capacity=(max(self.templates, 2), 4096), retention=(0.01, 1))
        check_numbers(self, agreement=(0, 1), least_window=(0.05, 1), sure_score=(0, 1))


def parse_settings(model_settings: Mapping[str, Any], changes: Iterable[str] = ()) -> TrackerSettings:
    """A model's own settings with changes on top, each written as ``key=value``, such as ``interval=40``.

    Raises:
        FartrackError: a change is not ``key=value``, its key is not a setting, or its value is not one for that key.
    """
    values = dict(model_settings)
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise FartrackError(f"The setting {change!r} is not KEY=VALUE; give one such as interval=40.")
        values[name.strip()] = _parse_value(text.strip())
    return from_dict(TrackerSettings, values)


def _parse_value(text: str) -> bool | int | float | str:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


@dataclass(frozen=True)
class State:
    """All that a tracker remembers between two frames; an immutable value of bounded size.

    Attributes:
        frame: number of frames since the first, which is 0.
        size: width and height of the last frame.
        trajectory: ``(trajectory, 4)`` the last boxes x, y, w, h, oldest first, in that frame's pixels. Before there
            are so many, the first box fills the places.
        memory: the templates.
        score: of the last frame, raw.
    """

    frame: int
    size: tuple[int, int]
    trajectory: FloatArray
    memory: TemplateMemory
    score: float = 1.0


@dataclass(frozen=True)
class Look:
    """What the network is shown of a frame.

    Attributes:
        frame: the frame, in the tracker's colour order.
        size: its width and height.
        trajectory: the state's past boxes, in this frame's pixels.
        window: the search window.
        crop: its pixels, or those of its centre, ``(S, S, 3)`` uint8 RGB; the whole window has ``S = search_size``.
        tokens: ``(4 · trajectory,)`` the past boxes in it.
    """

    frame: Image
    size: tuple[int, int]
    trajectory: FloatArray
    window: Crop
    crop: Image
    tokens: NDArray[np.int64]


class Tracker:
    """Follows one target through frames.

    :meth:`init` and :meth:`update` keep the state here; :meth:`start` and :meth:`step` are the same with the state
    in your hands.

    Decisions: the search window is centred on the last box with the side ``search_factor · sqrt(w · h)``, never
    under 16 pixels, and padded with ImageNet's mean colour beyond the image. The reported box is clipped to the
    frame; the remembered one keeps its full size while its centre is held inside the frame, so that a target
    leaving at a border is awaited there at its proper size. A frame on which the network sees nothing that it would
    call the target does not move the box. If the size of the frame changes, the past boxes are
    scaled along.
    """

    def __init__(
        self,
        engine: Engine,
        settings: TrackerSettings | None = None,
        color: Color = "bgr",
        calibration: Calibration | None = None,
    ) -> None:
        """A tracker without a target.

        Args:
            engine: the network.
            settings: by default the model's own.
            color: order of the channels of the frames: ``bgr`` as OpenCV has it, or ``rgb``.
            calibration: of the scores that tracks have; None leaves them raw. It moves no box.

        Raises:
            FartrackError: another colour order.
        """
        if color not in ("bgr", "rgb"):
            raise FartrackError(f"color is {color!r}; it must be 'bgr' or 'rgb'.")
        settings = settings or TrackerSettings()
        if settings.templates > engine.config.templates:
            settings = replace(settings, templates=engine.config.templates)
        self.engine, self.settings, self.color, self.calibration = engine, settings, color, calibration
        self.state: State | None = None
        # A template is encoded while the caller fetches the next frame.
        self._background = ThreadPoolExecutor(1, "fartrack-template") if engine.background else None

    def init(self, frame: Image, box: ArrayLike) -> Track:
        """Take the object in ``box`` (x, y, w, h in pixels) of ``frame`` (uint8 H×W×3) as the target.

        Returns:
            The track of this frame: the box, clipped to the frame, with score 1.

        Raises:
            FartrackError: the frame or the box cannot be used.
        """
        self.state = self.start(frame, box)
        return Track(clip_box(self.state.trajectory[-1], *self.state.size), 1.0)

    def update(self, frame: Image) -> Track:
        """Find the target in the next frame.

        Raises:
            FartrackError: the frame cannot be used, or :meth:`init` was not called.
        """
        if self.state is None:
            raise FartrackError("The tracker has no target yet; call init(frame, box) first.")
        self.state, track = self.step(self.state, frame)
        return track

    def start(self, frame: Image, box: ArrayLike) -> State:
        """The state after the first frame; see :meth:`init`."""
        width, height = check_frame(frame)
        first = np.array(check_box(box, width, height))
        template = self._take_template(frame, first, number=0, identity=0)
        memory = TemplateMemory(self.settings.templates, self.settings.capacity, (template,))
        # The network's own trajectory may be empty, but the last box is always needed.
        trajectory = np.repeat(first[None], max(self.engine.config.trajectory, 1), axis=0)
        return State(0, (width, height), trajectory, memory)

    def step(self, state: State, frame: Image) -> tuple[State, Track]:
        """The state after the next frame, and the target's track on it; see :meth:`update`."""
        ((state, track),) = self.follow([state], [self.look(state, frame)])
        return state, track

    def look(self, state: State, frame: Image) -> Look:
        """What the network is to be shown of the frame after ``state``.

        Raises:
            FartrackError: the frame cannot be used.
        """
        size = check_frame(frame)
        config, trajectory = self.engine.config, state.trajectory
        if size != state.size:
            trajectory = trajectory * np.tile(np.array(size) / np.array(state.size), 2)
        window = Crop.around(trajectory[-1], config.search_factor)
        corners = window.to_crop(trajectory)
        tokens = encode(corners[len(corners) - config.trajectory :]).reshape(-1)
        side = self._side(corners, state)
        crop = self._cut(frame, window.centre(side * config.patch / config.search_size), side * config.patch)
        return Look(frame, size, trajectory, window, crop, tokens)

    def _due(self, state: State) -> bool:
        """Whether it is time for a template on the frame after ``state``."""
        return (
            self.settings.templates > 1 and state.frame + 1 - state.memory.history[-1].frame >= self.settings.interval
        )

    def _side(self, corners: FloatArray, state: State) -> int:
        """How many tokens a side of the search window's centre are looked at, given the past boxes' corners ``(n, 4)``
        in it: enough for the target to move on as it last did, and as far again."""
        grid, settings = self.engine.config.search_size // self.engine.config.patch, self.settings
        # What the templates are asked about each other they are asked about everything that can be seen.
        asked = settings.agreement > 0 and self._due(state)
        if settings.least_window == 1 or state.score < settings.sure_score or asked:
            return grid
        centres = (corners[:, :2] + corners[:, 2:]) / 2
        speed = np.abs(np.diff(centres, axis=0)).max(initial=0.0)
        reach = (corners[-1, 2:] - corners[-1, :2]).max() / 2 + 2 * speed + MARGIN
        missing = int((1 - max(2 * reach, settings.least_window)) * grid / 2)  # tokens on either side
        return grid - 2 * max(missing, 0)

    def follow(self, states: Sequence[State], looks: Sequence[Look]) -> list[tuple[State, Track]]:
        """The next states and tracks of several targets, independent of one another, in as few network calls as
        their memories' sizes allow."""
        memories = [self._place(state.memory) for state in states]
        calls: dict[tuple[int, int, bool], list[int]] = {}
        for index, (memory, look) in enumerate(zip(memories, looks, strict=True)):
            call = (memory.rows.shape[-2], len(look.crop), self._scores(memory))
            calls.setdefault(call, []).append(index)
        found: dict[int, tuple[State, Track]] = {}
        for (*_, scored), members in calls.items():
            crops = stack([looks[i].crop for i in members])
            tokens = stack([looks[i].tokens for i in members])
            batch = stack([memories[i].rows for i in members])
            if not scored:
                logits = self.engine.search(crops, tokens, batch)
            else:
                logits, attention = self.engine.search_scored(crops, tokens, batch)
                for place, i in enumerate(members):
                    memories[i] = self._prune(memories[i], attention[place])
                    if self.settings.sparsification == "runtime":
                        templates = [memories[i].history[j] for j in memories[i].chosen]
                        kept = join_rows([template.rows[..., template.keep, :] for template in templates])[None]
                        logits[place] = self.engine.search(looks[i].crop[None], looks[i].tokens[None], kept)[0]
            for place, i in enumerate(members):
                found[i] = self._conclude(states[i], memories[i], looks[i], logits[place])
        return [found[i] for i in range(len(states))]

    def _conclude(
        self, state: State, memory: TemplateMemory, look: Look, logits: NDArray[np.float32]
    ) -> tuple[State, Track]:
        """What the logits ``(4, V)`` of a look mean: the box, the track, and whether a template is taken."""
        config, settings = self.engine.config, self.settings
        corners, mass = decode(logits)
        score = float(mass.min())
        width, height = look.size
        number, due = state.frame + 1, self._due(state) and score >= settings.template_score
        if due and settings.agreement > 0 and len(memory.history) > 1:
            first = memory.history[0].rows[None]
            alone, mass = decode(self.engine.search(look.crop[None], look.tokens[None], first)[0])
            if iou(UNIT.to_image(alone), UNIT.to_image(corners)) < settings.agreement:
                due = False
                if mass.min() >= settings.template_score:
                    corners, score = alone, float(mass.min())

        box = look.trajectory[-1]
        if score >= settings.hold_score:
            low, high = np.minimum(corners[:2], corners[2:]), np.maximum(corners[:2], corners[2:])
            x, y, w, h = look.window.to_image(np.concatenate([low, high])).tolist()
            w, h = min(max(w, 1.0), width), min(max(h, 1.0), height)
            centre_x, centre_y = min(max(x + w / 2, 0.0), width), min(max(y + h / 2, 0.0), height)
            box = np.round(np.array([centre_x - w / 2, centre_y - h / 2, w, h]) / GRID) * GRID

        if due:
            identity = min(1, config.identities - 1)
            memory = memory.add(self._take_template(look.frame, box, number, identity))
        state = State(number, look.size, np.concatenate([look.trajectory[1:], box[None]]), memory, score)
        if self.calibration is not None:
            score = float(self.calibration.apply(score))
        return state, Track(clip_box(box, width, height), score)

    def _place(self, memory: TemplateMemory) -> TemplateMemory:
        """The memory with every chosen template's rows made with the identity of the slot that it now has.

        They change only where every slot has an identity of its own (the paper's choice).
        """
        for slot, place in enumerate(memory.chosen):
            template = memory.history[place]
            identity = min(slot, self.engine.config.identities - 1)
            if template.identity != identity:
                anew = replace(template, identity=identity, encoded=self._encode(template.crop, identity))
                if template.keep is not None and self.settings.sparsification == "sequence":
                    anew = replace(anew, encoded=anew.rows[..., template.keep, :])
                memory = memory.replace(place, anew)
        return memory

    def _scores(self, memory: TemplateMemory) -> bool:
        """Whether the next frame has to score template tokens."""
        sparse = self.settings.retention < 1 or self.settings.adaptive
        undecided = any(memory.history[place].keep is None for place in memory.chosen)
        return sparse and (undecided or self.settings.sparsification == "runtime")

    def _prune(self, memory: TemplateMemory, attention: NDArray[np.float32]) -> TemplateMemory:
        """The memory with what this frame's attention ``(M,)`` decides about the chosen templates.

        For good where a template is undecided; at run time about every one, all rows of which stay.
        """
        chosen = memory.chosen
        ends = np.cumsum([memory.history[place].rows.shape[-2] for place in chosen])
        for place, scores in zip(chosen, np.split(attention, ends[:-1]), strict=True):
            template, retention = memory.history[place], self.settings.retention
            if self.settings.adaptive:
                retention = min(retention * template.share * self.engine.config.template_factor**2, 1.0)
            if self.settings.sparsification == "runtime":
                memory = memory.replace(place, replace(template, keep=template.best(scores, retention)))
            elif template.keep is None:
                memory = memory.replace(place, template.prune(scores, retention))
        return memory

    def _take_template(self, frame: Image, box: FloatArray, number: int, identity: int) -> Template:
        """A template of the target in an image box of a frame."""
        config = self.engine.config
        window = Crop.around(box, config.template_factor)
        crop = self._cut(frame, window, config.template_size)
        x0, y0, x1, y1 = np.clip(window.to_crop(np.array(clip_box(box, *frame.shape[1::-1]))), 0, 1).tolist()
        share = (x1 - x0) * (y1 - y0)
        return Template(number, crop, identity, self._encode(crop, identity), share)

    def _encode(self, crop: Image, identity: int) -> Rows | Future[Rows]:
        """A template's rows, or the work that makes them in the one thread that encodes."""
        if self._background:
            return self._background.submit(self._memorise, crop, identity)
        return self._memorise(crop, identity)

    def _memorise(self, crop: Image, identity: int) -> Rows:
        rows = self.engine.memorise(crop[None], np.array([identity], np.int64))
        return rows.reshape(rows.shape[1:])

    def _cut(self, frame: Image, window: Crop, size: int) -> Image:
        """A window of a frame, ``(size, size, 3)`` in RGB."""
        if self.color == "rgb":
            return window.extract(frame, size, padding=PADDING_BGR[::-1])
        return cast(Image, cv2.cvtColor(window.extract(frame, size), cv2.COLOR_BGR2RGB))


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
