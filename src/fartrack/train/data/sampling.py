"""Training samples: sets of templates, the search crops that share them, and the boxes to find there.

Lengths are in units of the target's sqrt(w · h). Every draw depends on the given random generator alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from fartrack.config import check_choice, check_numbers
from fartrack.errors import FartrackError
from fartrack.geometry import UNIT, Crop, FloatArray, Image
from fartrack.model.config import ModelConfig
from fartrack.model.vocabulary import BINS, NO_TRAJECTORY, encode
from fartrack.train.data.augment import Cutout, Tone, degrade, draw_aspect, stretched
from fartrack.train.data.store import Store

NEAR, FAR, FAR_SHARE = 0.12, 0.55, 0.35
"""Deviations (Laplace) of the search window's center from the target for slow and fast motion; the share of fast."""
SCALE = 0.18
"""Deviation of the logarithm of the search window's scale."""
PAPER_CENTER, PAPER_SCALE, PAPER_SHARE = 3.5, 0.5, 0.1
"""The paper's jitter: width of the uniform offset of the center, deviation of the scale; and the share that has it."""
PAPER_GRAY, PAPER_LIGHT = 0.05, 0.2
"""The paper's colors: share of sample sets that are gray, and the most by which a crop's brightness changes."""
ASPECT, WRONG_ASPECT, WRONG_SHAPE = 0.08, 0.25, 0.15
"""Deviations of the logarithm of the error of the past boxes' aspect, and the share with the larger one."""
DRIFT = 0.3
"""The error of a past box's sides grows by up to this share of the last one's from box to box."""
NO_SHAPE = 0.05
"""Share of search crops whose past boxes are squares of the usual size, so that they tell only the place."""
SEEK_SHARE, SEEK_SCALE = 0.08, 2.5
"""Share of search crops as for a lost target: anywhere in a window of up to this scale, without past boxes."""
WRONG_TRAJECTORY = 0.05
"""Share of search crops whose past boxes are shifted at random."""
DOUBTFUL_TEMPLATE = 0.1
"""Share of the later templates that are clearly off the target."""
OCCLUDER = 0.15
"""Share of search crops with another object in front of the target."""
LOOK_ALIKE = 0.4
"""Share of distractors that look like the target; half of these have other colors."""
FILL = 0.5
"""Share of a still's search crops that, far beyond its border, show another picture instead of plain padding."""
GRAY = 0.08
"""Share of sample sets without color."""
ROTATE = 0.1
"""Share of search crops with a pasted target where it is rotated by any angle."""

ABSENT: FloatArray = np.full(4, np.nan)
"""The corners of a target that is not in the crop."""

TemplateCrop = tuple[Image, FloatArray]
"""A template crop, and the corners of the box that the tracker knows in it."""

SearchCrop = tuple[Image, FloatArray, NDArray[np.int64]]
"""A search crop, the target's corners in it, and the trajectory's tokens."""


@dataclass(frozen=True)
class SamplingConfig:
    """What samples are made of. Shares need not sum to one.

    Attributes:
        clips: share of sample sets out of one sequence.
        stills: share of sample sets out of one labeled still.
        regions: share of sample sets whose target is a random region of any picture, without a label.
        paste: of labeled stills with a mask, the share that is pasted over other pictures.
        searches: search crops that share one set of templates.
        reach: most frames between the first template of a set and its other crops.
        drop_trajectory: share of search crops without past boxes.
        distractor: share of search crops with another object beside the target.
        light: share of crops with quite another exposure than the others of their set.
        bend: of later crops with a pasted target, the share where it is warped; a third of these mirrored.
        absent: share of search crops without the target.
        augment: whether crops change in color, sharpness and aspect ratio.
        paper: the paper's jitter and colors alone; no occluders, doubtful templates or wrong past boxes.
    """

    clips: float = 0.45
    stills: float = 0.43
    regions: float = 0.12
    paste: float = 0.5
    searches: int = 3
    reach: int = 100
    drop_trajectory: float = 0.15
    distractor: float = 0.25
    light: float = 0.15
    bend: float = 0.0
    absent: float = 0.0
    augment: bool = True
    paper: bool = False

    def __post_init__(self) -> None:
        """Check every field once; errors name the field."""
        shares = "clips stills regions paste drop_trajectory distractor light bend absent"
        check_numbers(self, **{name: (0, 1) for name in shares.split()}, searches=(1, 64), reach=(1, 10_000))
        check_choice(self, "augment", (False, True))
        check_choice(self, "paper", (False, True))
        if self.clips + self.stills + self.regions == 0:
            raise FartrackError("clips, stills and regions are all 0; one of them must be above 0.")


@dataclass(frozen=True)
class SampleSet:
    """One set of templates and the search crops that share it.

    Attributes:
        templates: ``(T, S, S, 3)`` uint8 RGB, the first frame's first.
        template_boxes: ``(T, 4)`` the corners, in each template's frame, of the box that the tracker knows.
        search: ``(K, S, S, 3)`` uint8 RGB.
        trajectory: ``(K, 4 · trajectory)`` tokens, oldest box first.
        boxes: ``(K, 4)`` the target's corners in the search crop's frame, NaN where it is not in the crop.
    """

    templates: Image
    template_boxes: NDArray[np.float32]
    search: Image
    trajectory: NDArray[np.int64]
    boxes: NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """A picture with the target's image box, and its boxes in earlier frames, oldest first, where known."""

    image: Image
    box: FloatArray
    history: FloatArray | None = None

    def stretched(self, aspect: float) -> View:
        """The view with every aspect ratio times ``aspect``."""
        image, factor = stretched(self.image, aspect)
        return View(image, self.box * factor, None if self.history is None else self.history * factor)


class Sampler:
    """Draws sample sets from a store."""

    def __init__(self, store: Store, model: ModelConfig, config: SamplingConfig) -> None:
        """Index the store by what samples are drawn from.

        Raises:
            FartrackError: the store lacks what a share above 0 asks for.
        """
        self.store, self.model, self.config, self.masked = store, model, config, store.masked
        self.still_targets = np.flatnonzero(store.sequence[store.owner] < 0)
        self.clips = [targets for targets in store.sequences() if len(targets) > 1]
        weight = np.sqrt([len(targets) for targets in self.clips])
        self.clip_weight = weight / weight.sum()
        available = {"clips": len(self.clips), "stills": len(self.still_targets), "regions": len(store.sizes)}
        for name, count in available.items():
            if getattr(config, name) > 0 and count == 0:
                raise FartrackError(f"The prepared data hold nothing for {name}; set its share to 0 or add data.")
        weights = np.array([getattr(config, name) for name in available])
        self.kinds = (list(available), weights / weights.sum())

    def draw(self, rng: np.random.Generator, templates: int) -> SampleSet:
        """One sample set with this many templates."""
        names, weights = self.kinds
        aspect = draw_aspect(rng) if self.config.augment and not self.config.paper else 1.0
        count = templates + self.config.searches
        match names[int(rng.choice(len(names), p=weights))]:
            case "clips":
                targets = self.clips[int(rng.choice(len(self.clips), p=self.clip_weight))]
                views = [view.stretched(aspect) for view in self._clip(rng, targets, count)]
            case "stills":
                target = int(rng.choice(self.still_targets))
                if self.store.masks[target, 0] >= 0 and rng.random() < self.config.paste:
                    return self._finish(rng, *self._pasted(rng, target, templates, aspect))
                views = [self._natural(target).stretched(aspect)] * count
            case _:
                views = [self._region(rng).stretched(aspect)] * count
        z = [self._template(rng, view, later=i > 0) for i, view in enumerate(views[:templates])]
        return self._finish(rng, z, [self._search(rng, view) for view in views[templates:]])

    def _unpublished(self, share: float) -> float:
        """The share of something that the paper does not do."""
        return 0.0 if self.config.paper else share

    def _degrade(self, rng: np.random.Generator, crop: Image) -> Image:
        return degrade(rng, crop) if self.config.augment and not self.config.paper else crop

    def _clip(self, rng: np.random.Generator, targets: NDArray[np.int64], count: int) -> list[View]:
        """Views of one sequence: the first template's frame, and others within reach of it."""
        first = int(rng.integers(len(targets)))
        low, high = max(first - self.config.reach, 0), min(first + self.config.reach, len(targets) - 1)
        views = []
        for pick in [first, *rng.integers(low, high + 1, count - 1).tolist()]:
            step = 1 if pick >= first else -1  # time runs away from the first template
            steps = np.clip(pick - step * np.arange(self.model.trajectory, 0, -1), 0, len(targets) - 1)
            target = int(targets[pick])
            views.append(View(self.store.image_of(target), self.store.boxes[target], self.store.boxes[targets[steps]]))
        return views

    def _natural(self, target: int) -> View:
        """A target in its own picture."""
        return View(self.store.image_of(target), self.store.boxes[target])

    def _region(self, rng: np.random.Generator) -> View:
        """A random region of a random picture as the target."""
        image = self.store.image(int(rng.integers(len(self.store.sizes))))
        height, width = image.shape[:2]
        size = np.exp(rng.uniform(np.log(0.12), np.log(0.5))) * np.sqrt(width * height)
        stretch = np.exp(rng.normal(0, 0.35))
        w, h = min(size * stretch, 0.9 * width), min(size / stretch, 0.9 * height)
        return View(image, np.array([rng.uniform(0, width - w), rng.uniform(0, height - h), w, h]))

    def _template(self, rng: np.random.Generator, view: View, later: bool) -> TemplateCrop:
        """A template crop; the first's box is as a careful user draws it, a later one's as a tracker finds it."""
        shift, scale = self._template_jitter(rng, later)
        x, y, w, h = view.box
        center = np.array([x + w / 2, y + h / 2]) + shift * np.sqrt(w * h)
        sides = np.array([w, h]) * scale * self._template_aspect(rng, later)
        box = np.concatenate([center - sides / 2, sides])
        window = Crop.template(box, self.model.template_factor)
        crop = self._degrade(rng, window.extract(view.image, self.model.template_size))
        return crop, window.to_crop(box).clip(0, 1)

    def _template_aspect(self, rng: np.random.Generator, later: bool) -> FloatArray:
        """Factors ``(2,)`` on the sides of a template's box: how well a user draws its shape, or a tracker finds it."""
        if self.config.paper:
            return np.ones(2)
        return cast(FloatArray, np.exp(rng.normal(0, 0.15 if later else 0.03) * np.array([1, -1])))

    def _template_jitter(self, rng: np.random.Generator, later: bool) -> tuple[FloatArray, float]:
        """How far a template's window is off: center ``(2,)`` and scale."""
        if self.config.paper:
            return np.zeros(2), 1.0
        if later and rng.random() < self._unpublished(DOUBTFUL_TEMPLATE):
            angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1.5)
            return radius * np.array([np.cos(angle), np.sin(angle)]), float(np.exp(rng.normal(0, 0.3)))
        deviation = 0.05 if later else 0.02
        return rng.laplace(0, deviation, 2), float(np.exp(rng.normal(0, 1.5 * deviation)))

    def _search_jitter(self, rng: np.random.Generator, seek: bool) -> tuple[FloatArray, float, float]:
        """Where a target lies in its window: the offset of its center ``(2,)``, the window's scale, and the logarithm
        of the error of its aspect ratio; ``seek`` is for a lost target."""
        if self.config.paper:
            offset, (wide, high) = rng.uniform(-0.5, 0.5, 2) * PAPER_CENTER, rng.normal(0, PAPER_SCALE, 2)
            scale = float(np.exp((wide + high) / 2))  # of the sides, each with a scale of its own
            return offset * scale, scale, (wide - high) / 2
        if seek:
            scale = np.exp(rng.uniform(0, np.log(SEEK_SCALE)))
            offset = rng.uniform(-0.5, 0.5, 2) * self.model.search_factor * scale
        elif rng.random() < PAPER_SHARE:
            offset = rng.uniform(-0.5, 0.5, 2) * PAPER_CENTER
            scale = np.exp(rng.normal(0, PAPER_SCALE))
        else:
            offset = rng.laplace(0, FAR if rng.random() < FAR_SHARE else NEAR, 2)
            scale = np.exp(rng.normal(0, SCALE))
        scale = float(np.clip(scale, 0.35, 3.0))
        reach = self.model.search_factor / 2 * scale  # the target's center stays in the window
        wrong = rng.random() < WRONG_SHAPE
        aspect = float(rng.normal(0, WRONG_ASPECT if wrong else ASPECT))
        return np.clip(offset, -0.95 * reach, 0.95 * reach), scale, aspect

    def _last_box(self, rng: np.random.Generator, box: FloatArray, seek: bool) -> FloatArray:
        """Where a tracker may have found an image box's target one frame before, or seeks it."""
        offset, scale, aspect = self._search_jitter(rng, seek)
        center = box[:2] + box[2:] / 2 - offset * np.sqrt(box[2] * box[3])
        sides = box[2:] * scale * np.exp(aspect * np.array([1, -1]))
        return np.concatenate([center - sides / 2, sides])

    def _search(self, rng: np.random.Generator, view: View) -> SearchCrop:
        """A search crop around the last of the past boxes: real ones with noise, or invented ones."""
        seek = rng.random() < self._unpublished(SEEK_SHARE)
        if view.history is not None and len(view.history) and not seek and rng.random() < self._unpublished(0.5):
            history = view.history.copy()
            size, noise = np.sqrt(history[-1, 2] * history[-1, 3]), 0.06
            history[:, :2] += rng.laplace(0, noise * size, 2)
            history[:, 2:] *= np.exp(rng.normal(0, noise, 2))
            if rng.random() < self._unpublished(WRONG_SHAPE):
                history = drifting(rng, history, new=rng.normal(0, DRIFT, 2))
                size = np.sqrt(history[-1, 2] * history[-1, 3])
            reach = 0.48 * self.model.search_factor * size
            if np.abs(history[-1, :2] + history[-1, 2:] / 2 - view.box[:2] - view.box[2:] / 2).max() > reach:
                history = self._past(rng, self._last_box(rng, view.box, seek), view.box)  # frames between are missing
        else:
            history = self._past(rng, self._last_box(rng, view.box, seek), view.box)
        last = history[-1] if len(history) else self._last_box(rng, view.box, seek)
        window = Crop.around(last, self.model.search_factor)
        tokens = self._tokens(rng, window.to_crop(history), seek)
        if rng.random() < self.config.absent:
            return self._without_target(rng, view, window.side), ABSENT, tokens
        crop = window.extract(view.image, self.model.search_size)
        if view.history is None and rng.random() < self._unpublished(FILL):
            crop = self._fill(rng, crop, window, view.image)
        box = window.to_crop(view.box)
        crop = self._clutter(rng, crop, box, lambda: Cutout.around(view.image, view.box))
        return self._degrade(rng, crop), box, tokens

    def _past(self, rng: np.random.Generator, last: FloatArray, box: FloatArray) -> FloatArray:
        """Invented past boxes ``(trajectory, 4)`` that end with ``last``: towards the target, in any steady motion, or
        at rest."""
        count = self.model.trajectory
        age = np.arange(count - 1, -1, -1)[:, None]
        size = np.sqrt(last[2] * last[3])
        kind = rng.random()
        velocity = np.zeros(2)
        if kind < 0.45:
            velocity = (box[:2] + box[2:] / 2 - last[:2] - last[2:] / 2) * rng.uniform(0.3, 1.2)
        elif kind < 0.75:
            velocity = rng.laplace(0, 0.15 * size, 2)
        past = np.repeat(last[None], count, axis=0)
        past[:, :2] -= age * velocity
        past += rng.normal(0, 0.02 * size, (count, 4)) * (age > 0)
        if rng.random() < self._unpublished(WRONG_SHAPE):
            past = drifting(rng, past, known=np.log(last[2:] / box[2:]))
        return past

    def _tokens(self, rng: np.random.Generator, corners: FloatArray, seek: bool) -> NDArray[np.int64]:
        """Corners ``(trajectory, 4)`` in the crop's frame → tokens; at times dropped, or wrong, or without a shape."""
        if rng.random() < self._unpublished(NO_SHAPE):
            center, half = (corners[:, :2] + corners[:, 2:]) / 2, 0.5 / self.model.search_factor
            corners = np.concatenate([center - half, center + half], axis=1)
        chance, drop = rng.random(), self.config.drop_trajectory
        if seek or chance < drop:
            return np.full(corners.size, NO_TRAJECTORY)
        if chance < drop + self._unpublished(WRONG_TRAJECTORY):
            corners = corners + np.tile(rng.laplace(0, 0.25, 2), 2)
        return encode(corners).reshape(-1)

    def _clutter(
        self, rng: np.random.Generator, crop: Image, box: FloatArray, own: Callable[[], Cutout | None]
    ) -> Image:
        """At times, paste a distractor beside the target (corners ``box``, cut out by ``own``) or an occluder over part
        of it."""
        S = self.model.search_size
        size = float(np.sqrt(np.prod(box[2:] - box[:2]))) * S
        center = (box[:2] + box[2:]) / 2 * S
        half = float((box[2:] - box[:2]).max()) / 2 * S
        for share, beside in ((self.config.distractor, True), (self._unpublished(OCCLUDER), False)):
            if rng.random() >= share:
                continue
            cutout = own() if beside and rng.random() < LOOK_ALIKE else None
            if cutout is not None and rng.random() < 0.5:
                cutout = cutout.recolored(rng)
            if cutout is None and len(self.masked):
                cutout = Cutout.of(self.store, int(rng.choice(self.masked)))
            if cutout is None:
                continue
            other = size * np.exp(rng.normal(0, 0.25)) * (1.0 if beside else 0.6)
            distance = half + other * rng.uniform(0.4, 1.5) if beside else half * rng.uniform(0.4, 1.1)
            angle = rng.uniform(0, 2 * np.pi)
            place = center + distance * np.array([np.cos(angle), np.sin(angle)])
            crop = crop.copy()
            cutout.paste(crop, place, max(other, 4.0), rng.normal(0, 0.3), 1.0, bool(rng.random() < 0.5))
        return crop

    def _pasted(
        self, rng: np.random.Generator, target: int, templates: int, aspect: float
    ) -> tuple[list[TemplateCrop], list[SearchCrop]]:
        """Template and search crops of a masked target, its aspect ratio times ``aspect``, pasted over other pictures;
        some of the templates show it in its own."""
        own, S = Cutout.of(self.store, target), self.model.template_size
        natural = cache(lambda: self._natural(target).stretched(aspect))
        tilt = rng.normal(0, 0.1)
        z: list[TemplateCrop] = []
        for later in [False, *[True] * (templates - 1)]:
            if rng.random() < 0.4:
                z.append(self._template(rng, natural(), later))
                continue
            shift, scale = self._template_jitter(rng, later)
            angle, stretch = tilt + rng.normal(0, 0.1), aspect * float(np.exp(rng.normal(0, 0.06)))
            shown, mirror = self._bent(rng, own) if later else (own, False)
            ratio = shown.mask.shape[1] / shown.mask.shape[0] * stretch
            size = S / Crop.template([0, 0, 100 * ratio**0.5, 100 * ratio**-0.5], self.model.template_factor).side
            size *= 100 / scale
            crop = self._background(rng, S)
            pasted = shown.paste(crop, S / 2 - shift * size, size, angle, stretch, mirror) / S
            sides = (pasted[2:] - pasted[:2]) * scale * self._template_aspect(rng, later)
            box = np.concatenate([0.5 - sides / 2, 0.5 + sides / 2]).clip(0, 1)
            z.append((self._degrade(rng, crop), box))
        return z, [self._pasted_search(rng, own, aspect, tilt) for _ in range(self.config.searches)]

    def _pasted_search(self, rng: np.random.Generator, own: Cutout, aspect: float, tilt: float) -> SearchCrop:
        """See :meth:`_search`: an object, its aspect ratio times ``aspect`` and rotated by about ``tilt``, over another
        picture."""
        S = self.model.search_size
        seek = rng.random() < self._unpublished(SEEK_SHARE)
        offset, scale, wider = self._search_jitter(rng, seek)
        size = S / self.model.search_factor / scale
        crop = self._background(rng, S)
        stretch = aspect * float(np.exp(rng.normal(0, 0.12)))
        angle = rng.uniform(-np.pi, np.pi) if rng.random() < ROTATE else rng.normal(0, 0.15)
        shown, mirror = self._bent(rng, own)
        box = shown.paste(crop, S / 2 + offset * size, size, tilt + angle, stretch, mirror) / S
        crop = self._clutter(rng, crop, box, lambda: own)
        sides = (box[2:] - box[:2]) * np.exp(wider * np.array([1, -1]))
        sides = sides / (self.model.search_factor * np.sqrt(np.prod(sides)))  # as any window lies on its last box
        past = self._past(rng, np.concatenate([0.5 - sides / 2, sides]), UNIT.to_image(box))
        tokens = self._tokens(rng, UNIT.to_crop(past), seek)
        if rng.random() < self.config.absent:
            return self._without_target(rng, None, 0.0), ABSENT, tokens
        return self._degrade(rng, crop), box, tokens

    def _bent(self, rng: np.random.Generator, own: Cutout) -> tuple[Cutout, bool]:
        """The target, at times in another shape, and whether it is to be mirrored."""
        if self.config.bend == 0 or rng.random() >= self.config.bend:
            return own, False
        return own.warped(rng, float(rng.uniform(0.02, 0.12))), bool(rng.random() < 1 / 3)

    def _without_target(self, rng: np.random.Generator, view: View | None, side: float) -> Image:
        """A search crop without the target: half of the time a window of this side elsewhere in its picture, where
        there is room, else one of another picture; at times another object lies in it."""
        S, crop = self.model.search_size, None
        if view is not None and rng.random() < 0.5:
            # At least a quarter of the window's side shows the picture.
            room = np.maximum(np.array(view.image.shape[1::-1]) - side / 4, 0)
            for _ in range(4):
                x, y = (room * rng.random(2) - side / 4).tolist()
                window = Crop(x, y, side)
                corners = window.to_crop(view.box)
                if (corners[2:] <= 0).any() or (corners[:2] >= 1).any():
                    crop = window.extract(view.image, S)
                    break
        if crop is None:
            crop = self._background(rng, S)
        if len(self.masked) and rng.random() < 0.5:
            cutout = Cutout.of(self.store, int(rng.choice(self.masked)))
            size = S / self.model.search_factor * np.exp(rng.normal(0, 0.4))
            cutout.paste(crop, rng.uniform(0.25, 0.75, 2) * S, size, rng.normal(0, 0.3), 1.0, bool(rng.random() < 0.5))
        return self._degrade(rng, crop)

    def _fill(self, rng: np.random.Generator, crop: Image, window: Crop, image: Image) -> Image:
        """The crop of a window, another picture instead of padding where it reaches far beyond its own."""
        S, (height, width) = self.model.search_size, image.shape[:2]
        corners = window.to_crop([0, 0, width, height]) * S
        # Whole pixels of the crop, without those that the border is mixed into.
        x0, y0 = np.clip(np.ceil(corners[:2] + 0.5), 0, S).astype(int)
        x1, y1 = np.clip(np.floor(corners[2:] - 0.5), 0, S).astype(int)
        if max(x1 - x0, 0) * max(y1 - y0, 0) > 0.75 * S**2:
            return crop
        filled = self._background(rng, S)
        filled[y0:y1, x0:x1] = crop[y0:y1, x0:x1]
        return filled

    def _background(self, rng: np.random.Generator, size: int) -> Image:
        """A random window of a random picture."""
        image = self.store.image(int(rng.integers(len(self.store.sizes))))
        height, width = image.shape[:2]
        side = float(np.exp(rng.uniform(np.log(0.3), 0))) * min(height, width)
        window = Crop(rng.uniform(0, width - side), rng.uniform(0, height - side), side)
        return window.extract(image, size)

    def _finish(self, rng: np.random.Generator, z: list[TemplateCrop], x: list[SearchCrop]) -> SampleSet:
        """Colors and mirroring, which the crops of a set have in common but for small differences; BGR → RGB."""
        crops = [*(crop for crop, _ in z), *(crop for crop, _, _ in x)]
        boxes = np.stack([*(box for _, box in z), *(box for _, box, _ in x)])
        tokens = np.stack([token for *_, token in x])
        if self.config.augment:
            paper = self.config.paper
            common = Tone.of(gray=bool(rng.random() < PAPER_GRAY)) if paper else Tone.draw(rng, 1.0, GRAY)
            crops = [common.then(self._tone(rng)).apply(crop) for crop in crops]
        if rng.random() < 0.5:
            crops = [cast(Image, cv2.flip(crop, 1)) for crop in crops]
            boxes = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], axis=1)
            tokens = mirror_tokens(tokens)
        rgb = [cv2.cvtColor(crop, cv2.COLOR_BGR2RGB) for crop in crops]
        T, corners = len(z), boxes.astype(np.float32)
        return SampleSet(np.stack(rgb[:T]), corners[:T], np.stack(rgb[T:]), tokens, corners[T:])

    def _tone(self, rng: np.random.Generator) -> Tone:
        """How a crop's colors differ from those of its set."""
        if self.config.paper:
            gain = rng.uniform(1 - PAPER_LIGHT, 1 + PAPER_LIGHT)
            return Tone.of(gain, 128 * (gain - 1))
        return Tone.light(rng) if rng.random() < self.config.light else Tone.draw(rng, 0.4)


def drifting(
    rng: np.random.Generator, past: FloatArray, new: FloatArray | float = 0.0, known: FloatArray | float = 0.0
) -> FloatArray:
    """Past boxes ``(n, 4)``, oldest first, whose sides go wrong more and more, as a tracker's do.

    The sides of the last are off by the factors ``exp(known)`` already, and by ``exp(new)`` more in the end.
    """
    age = np.arange(len(past) - 1, -1, -1)[:, None]
    share = np.maximum(1 - age * rng.uniform(0, DRIFT), 0)
    sides = past[:, 2:] * np.exp(new * share + known * (share - 1))
    return np.concatenate([past[:, :2] + past[:, 2:] / 2 - sides / 2, sides], axis=1)


def mirror_tokens(tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Trajectory tokens ``(K, 4 · trajectory)`` of the crop with left and right exchanged (x → 1 − x)."""
    boxes = tokens.reshape(len(tokens), -1, 4)
    # The vocabulary's range is symmetric about the crop's middle, so x → 1 − x is bin → BINS − 1 − bin.
    mirrored = boxes[..., [2, 1, 0, 3]].copy()
    x = mirrored[..., [0, 2]]
    mirrored[..., [0, 2]] = np.where(x == NO_TRAJECTORY, x, BINS - 1 - x)
    return mirrored.reshape(tokens.shape)
