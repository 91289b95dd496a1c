"""Training samples: sets of templates, the search crops that share them, and the boxes to be found there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from fartrack.config import check_numbers
from fartrack.errors import FartrackError
from fartrack.geometry import UNIT, Crop, FloatArray, Image
from fartrack.model.config import ModelConfig
from fartrack.model.vocabulary import BINS, NO_TRAJECTORY, encode
from fartrack.train.data.augment import Cutout, Tone, degrade, draw_aspect, stretched
from fartrack.train.data.store import Store

ABSENT: FloatArray = np.full(4, np.nan)
"""The corners of a target that is not in the crop."""


@dataclass(frozen=True)
class SamplingConfig:
    """How samples are drawn. Lengths are in units of the target's sqrt(w · h), shares need not sum to one.

    Attributes:
        clips: share of sample sets out of one sequence.
        stills: share out of one labelled still.
        regions: share whose target is a random region of any picture, without a label.
        swap: of sets from clips, the share whose target is cut out of each of its frames and laid over other pictures.
        paste: of labelled stills with a mask, the share that is cut out and laid over other pictures.
        searches: search crops that share one set of templates.
        reach: most frames between two frames of one sample set.
        near, far: deviations (Laplace) of the search window's centre from the target: slow and fast motion.
        far_share: share of fast motion.
        steady: share of search crops whose last boxes are close to the target's, as of one that is well followed; the
            other fields on how it lies in its window are of the rest.
        paper_share: share with the paper's jitter: centre uniform over ``paper_centre`` sizes, scale deviation
            ``paper_scale``.
        scale: deviation of the logarithm of the search window's scale.
        drop_trajectory, wrong_trajectory: shares of samples whose past boxes are withheld, or at random.
        doubtful_template: share of the later templates that lie clearly off the target.
        distractor, occluder: shares of search crops with another object beside, or in front of, the target.
        look_alike: of the objects beside a target, the share that look like it; half of these have other colours.
        fill: share of a still's search crops that, where they reach far beyond it, show another picture instead of
            plain padding; many stills hold little but their target.
        degrade: share of crops that are blurred, noisy or of low resolution.
        grey: share of sample sets without colour.
        light: share of crops that are in quite another light than the others of their set.
        stretch: share of sample sets that are stretched along one axis, so that long targets are not rare.
        turn: of search crops with a pasted target, the share where it is turned by any angle.
        bend: of later templates and search crops with a pasted target, the share where it has another shape; of
            these, a third are mirrored.
        absent: share of search crops without the target: another place of its picture, or another picture.
    """

    clips: float = 0.45
    stills: float = 0.43
    regions: float = 0.12
    paste: float = 0.5
    swap: float = 0.0
    searches: int = 3
    reach: int = 100
    near: float = 0.12
    far: float = 0.55
    far_share: float = 0.35
    steady: float = 0.0
    paper_share: float = 0.1
    paper_centre: float = 3.5
    paper_scale: float = 0.5
    scale: float = 0.18
    drop_trajectory: float = 0.15
    wrong_trajectory: float = 0.05
    doubtful_template: float = 0.1
    distractor: float = 0.25
    occluder: float = 0.15
    look_alike: float = 0.4
    fill: float = 0.5
    degrade: float = 0.25
    grey: float = 0.08
    light: float = 0.15
    stretch: float = 0.2
    turn: float = 0.1
    bend: float = 0.0
    absent: float = 0.0

    def __post_init__(self) -> None:
        """Check every field once; errors name the field."""
        shares = (
            "clips stills regions paste swap steady far_share paper_share drop_trajectory wrong_trajectory "
            "doubtful_template distractor occluder look_alike fill degrade grey light stretch turn bend absent"
        )
        check_numbers(self, **{name: (0, 1) for name in shares.split()})
        check_numbers(self, searches=(1, 64), reach=(1, 10_000), near=(0, 4), far=(0, 4), scale=(0, 2))
        check_numbers(self, paper_centre=(0, 8), paper_scale=(0, 2))
        if self.clips + self.stills + self.regions == 0:
            raise FartrackError("clips, stills and regions are all 0; one of them must be above 0.")


@dataclass(frozen=True)
class SampleSet:
    """One set of T templates and K search crops.

    Attributes:
        templates: ``(T, template_size, template_size, 3)`` uint8 RGB; template 0 is the first frame's.
        search: ``(K, search_size, search_size, 3)`` uint8 RGB.
        trajectory: ``(K, 4 · trajectory)`` tokens, oldest box first.
        boxes: ``(K, 4)`` float32: the target's corners in the search crop's frame; NaN where it is not in the crop.
    """

    templates: Image
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
        """The same with every aspect ratio times ``aspect``."""
        image, factor = stretched(self.image, aspect)
        return View(image, self.box * factor, None if self.history is None else self.history * factor)


class Sampler:
    """Draws sample sets from a store. Every draw depends on the given random generator alone."""

    def __init__(self, store: Store, model: ModelConfig, config: SamplingConfig) -> None:
        """Index the store by what samples are drawn from.

        Raises:
            FartrackError: the store lacks what a share above 0 asks for.
        """
        self.store, self.model, self.config = store, model, config
        still = store.sequence[store.owner] < 0
        self.still_targets = np.flatnonzero(still)
        self.masked_targets = np.flatnonzero(store.masks[:, 0] >= 0)
        self.clips = [targets for targets in store.sequences() if len(targets) > 1]
        weight = np.sqrt([len(targets) for targets in self.clips])
        self.clip_weight = weight / weight.sum()
        shares = {
            "clips": (config.clips, len(self.clips)),
            "stills": (config.stills, len(self.still_targets)),
            "regions": (config.regions, len(store.size)),
        }
        for name, (share, available) in shares.items():
            if share > 0 and available == 0:
                raise FartrackError(f"The prepared data hold nothing for {name}; set its share to 0 or add data.")
        weights = np.array([share for share, _ in shares.values()])
        self.kinds = (list(shares), weights / weights.sum())

    def draw(self, rng: np.random.Generator, templates: int) -> SampleSet:
        """One sample set with this many templates."""
        names, weights = self.kinds
        aspect = draw_aspect(rng, self.config.stretch)
        match names[int(rng.choice(len(names), p=weights))]:
            case "clips":
                targets = self.clips[int(rng.choice(len(self.clips), p=self.clip_weight))]
                if self.config.swap > 0 and rng.random() < self.config.swap:
                    masked = targets[self.store.masks[targets, 0] >= 0]
                    if len(masked) > 1:
                        picks = self._picks(rng, len(masked), templates + self.config.searches)
                        return self._finish(rng, *self._pasted(rng, masked[picks].tolist(), templates, aspect))
                views = [view.stretched(aspect) for view in self._clip(rng, targets, templates)]
            case "stills":
                target = int(rng.choice(self.still_targets))
                if self.store.masks[target, 0] >= 0 and rng.random() < self.config.paste:
                    shown = [target] * (templates + self.config.searches)
                    return self._finish(rng, *self._pasted(rng, shown, templates, aspect))
                views = [self._natural(target).stretched(aspect)] * (templates + self.config.searches)
            case _:
                views = [self._region(rng).stretched(aspect)] * (templates + self.config.searches)
        z = [self._template(rng, view, later=i > 0) for i, view in enumerate(views[:templates])]
        x = [self._search(rng, view) for view in views[templates:]]
        return self._finish(rng, z, x)

    def _picks(self, rng: np.random.Generator, length: int, count: int) -> list[int]:
        """So many places of a sequence of this length: the first template's, and others within reach of it."""
        first = int(rng.integers(length))
        low, high = max(first - self.config.reach, 0), min(first + self.config.reach, length - 1)
        return [first, *rng.integers(low, high + 1, count - 1).tolist()]

    def _clip(self, rng: np.random.Generator, targets: NDArray[np.int64], templates: int) -> list[View]:
        """Views of one sequence: the first template's frame, later ones, and the frames to search."""
        picks = self._picks(rng, len(targets), templates + self.config.searches)
        views = []
        for pick in picks:
            step = 1 if pick >= picks[0] else -1  # time runs away from the first template
            steps = np.clip(pick - step * np.arange(self.model.trajectory, 0, -1), 0, len(targets) - 1)
            target = int(targets[pick])
            image = self.store.image(int(self.store.owner[target]))
            views.append(View(image, self.store.boxes[target], self.store.boxes[targets[steps]]))
        return views

    def _natural(self, target: int) -> View:
        """A target in its own picture."""
        return View(self.store.image(int(self.store.owner[target])), self.store.boxes[target])

    def _region(self, rng: np.random.Generator) -> View:
        """A random region of a random picture as the target."""
        image = self.store.image(int(rng.integers(len(self.store.size))))
        height, width = image.shape[:2]
        size = np.exp(rng.uniform(np.log(0.12), np.log(0.5))) * np.sqrt(width * height)
        stretch = np.exp(rng.normal(0, 0.35))
        w, h = min(size * stretch, 0.9 * width), min(size / stretch, 0.9 * height)
        return View(image, np.array([rng.uniform(0, width - w), rng.uniform(0, height - h), w, h]))

    def _template(self, rng: np.random.Generator, view: View, later: bool) -> Image:
        """A template crop; the first's box is as a careful user draws it, a later one's as a tracker finds it."""
        shift, scale = self._template_jitter(rng, later)
        x, y, w, h = view.box
        size = np.sqrt(w * h)
        centre = np.array([x + w / 2, y + h / 2]) + shift * size
        box = [*(centre - np.array([w, h]) * scale / 2), w * scale, h * scale]
        crop = Crop.around(box, self.model.template_factor).extract(view.image, self.model.template_size)
        return degrade(rng, crop, self.config.degrade)

    def _template_jitter(self, rng: np.random.Generator, later: bool) -> tuple[FloatArray, float]:
        """How far a template's window is off: centre in target sizes ``(2,)``, and scale."""
        if later and rng.random() < self.config.doubtful_template:
            turn, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1.5)
            return radius * np.array([np.cos(turn), np.sin(turn)]), float(np.exp(rng.normal(0, 0.3)))
        spread = 0.05 if later else 0.02
        return rng.laplace(0, spread, 2), float(np.exp(rng.normal(0, 1.5 * spread)))

    def _steady(self, rng: np.random.Generator) -> bool:
        """Whether the last boxes of a search crop are as good as those of a target that is well followed."""
        return self.config.steady > 0 and bool(rng.random() < self.config.steady)

    def _search_jitter(self, rng: np.random.Generator) -> tuple[FloatArray, float, float]:
        """How a target lies in its window: offset of its centre in target sizes ``(2,)``, the window's scale, and the
        logarithm of what its aspect ratio is off by."""
        config = self.config
        if self._steady(rng):
            return rng.laplace(0, 0.04, 2), float(np.exp(rng.normal(0, 0.03))), float(rng.normal(0, 0.02))
        if rng.random() < config.paper_share:
            offset = rng.uniform(-0.5, 0.5, 2) * config.paper_centre
            scale = np.exp(rng.normal(0, config.paper_scale))
        else:
            offset = rng.laplace(0, config.far if rng.random() < config.far_share else config.near, 2)
            scale = np.exp(rng.normal(0, config.scale))
        scale = float(np.clip(scale, 0.35, 3.0))
        reach = self.model.search_factor / 2 * scale  # the target's centre stays in the window
        return np.clip(offset, -0.95 * reach, 0.95 * reach), scale, float(rng.normal(0, 0.08))

    def _last_box(self, rng: np.random.Generator, box: FloatArray) -> FloatArray:
        """Where a tracker may have believed an image box's target to be one frame before."""
        offset, scale, aspect = self._search_jitter(rng)
        size = np.sqrt(box[2] * box[3])
        centre = box[:2] + box[2:] / 2 - offset * size
        sides = box[2:] * scale * np.exp(aspect * np.array([1, -1]))
        return np.concatenate([centre - sides / 2, sides])

    def _search(self, rng: np.random.Generator, view: View) -> tuple[Image, FloatArray, NDArray[np.int64]]:
        """A search crop, the target's corners in it, and the trajectory's tokens."""
        if view.history is not None and len(view.history) and rng.random() < 0.5:
            history = view.history.copy()
            size, noise = np.sqrt(history[-1, 2] * history[-1, 3]), 0.02 if self._steady(rng) else 0.06
            history[:, :2] += rng.laplace(0, noise * size, 2)
            history[:, 2:] *= np.exp(rng.normal(0, noise, 2))
            reach = 0.48 * self.model.search_factor * size
            if np.abs(history[-1, :2] + history[-1, 2:] / 2 - view.box[:2] - view.box[2:] / 2).max() > reach:
                history = self._past(rng, self._last_box(rng, view.box), view.box)  # the frames between are missing
        else:
            history = self._past(rng, self._last_box(rng, view.box), view.box)
        last = history[-1] if len(history) else self._last_box(rng, view.box)
        window = Crop.around(last, self.model.search_factor)
        tokens = self._tokens(rng, window.to_crop(history))
        if rng.random() < self.config.absent:
            return self._without(rng, view, window.side), ABSENT, tokens
        crop = window.extract(view.image, self.model.search_size)
        if view.history is None and rng.random() < self.config.fill:
            crop = self._fill(rng, crop, window, view.image)
        box = window.to_crop(view.box)
        crop = self._clutter(rng, crop, box, lambda: Cutout.around(view.image, view.box))
        return degrade(rng, crop, self.config.degrade), box, tokens

    def _past(self, rng: np.random.Generator, last: FloatArray, box: FloatArray) -> FloatArray:
        """Invented past boxes ``(trajectory, 4)`` that end with ``last``: still, in steady motion, or erratic."""
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
        noise = rng.normal(0, 0.02 * size, (count, 4)) * (age > 0)
        return past + noise

    def _tokens(self, rng: np.random.Generator, corners: FloatArray) -> NDArray[np.int64]:
        """Corners ``(trajectory, 4)`` in the crop's frame → tokens; at times withheld, or at random."""
        chance = rng.random()
        if chance < self.config.drop_trajectory:
            return np.full(corners.size, NO_TRAJECTORY)
        if chance < self.config.drop_trajectory + self.config.wrong_trajectory:
            corners = corners + np.tile(rng.laplace(0, 0.25, 2), 2)
        return encode(corners).reshape(-1)

    def _clutter(
        self, rng: np.random.Generator, crop: Image, box: FloatArray, own: Callable[[], Cutout | None]
    ) -> Image:
        """At times, lay a distractor beside the target (corners ``box``, cut out by ``own``) or an occluder over part
        of it."""
        S = self.model.search_size
        size = float(np.sqrt(np.prod(box[2:] - box[:2]))) * S
        centre = (box[:2] + box[2:]) / 2 * S
        half = float((box[2:] - box[:2]).max()) / 2 * S
        for share, beside in ((self.config.distractor, True), (self.config.occluder, False)):
            if rng.random() >= share:
                continue
            cutout = own() if beside and rng.random() < self.config.look_alike else None
            if cutout is not None and rng.random() < 0.5:
                cutout = Cutout(_recolour(rng, cutout.pixels), cutout.mask)
            if cutout is None and len(self.masked_targets):
                cutout = Cutout.of(self.store, int(rng.choice(self.masked_targets)))
            if cutout is None:
                continue
            other = size * np.exp(rng.normal(0, 0.25)) * (1.0 if beside else 0.6)
            distance = half + other * rng.uniform(0.4, 1.5) if beside else half * rng.uniform(0.4, 1.1)
            turn = rng.uniform(0, 2 * np.pi)
            place = centre + distance * np.array([np.cos(turn), np.sin(turn)])
            crop = crop.copy()
            cutout.paste(crop, place, max(other, 4.0), rng.normal(0, 0.3), 1.0, bool(rng.random() < 0.5))
        return crop

    def _pasted(
        self, rng: np.random.Generator, targets: Sequence[int], templates: int, aspect: float
    ) -> tuple[list[Image], list[tuple[Image, FloatArray, NDArray[np.int64]]]]:
        """Template and search crops of one target, its aspect ratio times ``aspect``, laid over other pictures: of each
        crop, the masked target that it shows."""
        cutout = cache(lambda target: Cutout.of(self.store, target))  # of a still, all crops show the same one
        natural = cache(lambda target: self._natural(target).stretched(aspect))
        angle = rng.normal(0, 0.1)
        z: list[Image] = []
        for i, target in enumerate(targets[:templates]):
            if rng.random() < 0.4:
                z.append(self._template(rng, natural(target), later=i > 0))
                continue
            own = cutout(target)
            S = self.model.template_size
            shift, scale = self._template_jitter(rng, later=i > 0)
            size = S / self.model.template_factor / scale
            crop = self._background(rng, S)
            turn, stretch = angle + rng.normal(0, 0.1), aspect * float(np.exp(rng.normal(0, 0.06)))
            shown, mirror = self._bent(rng, own) if i > 0 else (own, False)
            shown.paste(crop, S / 2 - shift * size, size, turn, stretch, mirror)
            z.append(degrade(rng, crop, self.config.degrade))
        return z, [self._pasted_search(rng, cutout(target), aspect, angle) for target in targets[templates:]]

    def _pasted_search(
        self, rng: np.random.Generator, own: Cutout, aspect: float, angle: float
    ) -> tuple[Image, FloatArray, NDArray[np.int64]]:
        """See :meth:`_search`: an object, its aspect ratio times ``aspect`` and turned by about ``angle``, over another
        picture."""
        S = self.model.search_size
        offset, scale, wider = self._search_jitter(rng)
        size = S / self.model.search_factor / scale
        crop = self._background(rng, S)
        stretch = aspect * float(np.exp(rng.normal(0, 0.12)))
        turn = rng.uniform(-np.pi, np.pi) if rng.random() < self.config.turn else rng.normal(0, 0.15)
        shown, mirror = self._bent(rng, own)
        box = shown.paste(crop, S / 2 + offset * size, size, angle + turn, stretch, mirror) / S
        crop = self._clutter(rng, crop, box, lambda: own)
        sides = (box[2:] - box[:2]) * np.exp(wider * np.array([1, -1]))
        sides = sides / (self.model.search_factor * np.sqrt(np.prod(sides)))  # as any window lies on its last box
        last = np.concatenate([0.5 - sides / 2, sides])
        past = self._past(rng, last, UNIT.to_image(box))
        tokens = self._tokens(rng, UNIT.to_crop(past))
        if rng.random() < self.config.absent:
            return self._without(rng, None, 0.0), ABSENT, tokens
        return degrade(rng, crop, self.config.degrade), box, tokens

    def _bent(self, rng: np.random.Generator, own: Cutout) -> tuple[Cutout, bool]:
        """The target, at times in another shape, and whether it is to be mirrored."""
        if self.config.bend == 0 or rng.random() >= self.config.bend:
            return own, False
        return own.bent(rng, float(rng.uniform(0.02, 0.12))), bool(rng.random() < 1 / 3)

    def _without(self, rng: np.random.Generator, view: View | None, side: float) -> Image:
        """A search crop that does not hold the target: half of the time a window of this side elsewhere in its picture,
        where there is room, else one of another picture; at times another object lies in it."""
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
        if len(self.masked_targets) and rng.random() < 0.5:
            cutout = Cutout.of(self.store, int(rng.choice(self.masked_targets)))
            size = S / self.model.search_factor * np.exp(rng.normal(0, 0.4))
            cutout.paste(crop, rng.uniform(0.25, 0.75, 2) * S, size, rng.normal(0, 0.3), 1.0, bool(rng.random() < 0.5))
        return degrade(rng, crop, self.config.degrade)

    def _fill(self, rng: np.random.Generator, crop: Image, window: Crop, image: Image) -> Image:
        """The crop of a window, another picture instead of padding where it reaches far beyond its own."""
        S, (height, width) = self.model.search_size, image.shape[:2]
        corners = window.to_crop([0, 0, width, height]) * S
        # Whole pixels of the crop, those that the border is mixed into left out.
        x0, y0 = np.clip(np.ceil(corners[:2] + 0.5), 0, S).astype(int)
        x1, y1 = np.clip(np.floor(corners[2:] - 0.5), 0, S).astype(int)
        if max(x1 - x0, 0) * max(y1 - y0, 0) > 0.75 * S**2:
            return crop
        filled = self._background(rng, S)
        filled[y0:y1, x0:x1] = crop[y0:y1, x0:x1]
        return filled

    def _background(self, rng: np.random.Generator, size: int) -> Image:
        """A random window of a random picture."""
        image = self.store.image(int(rng.integers(len(self.store.size))))
        height, width = image.shape[:2]
        side = float(np.exp(rng.uniform(np.log(0.3), 0))) * min(height, width)
        window = Crop(rng.uniform(0, width - side), rng.uniform(0, height - side), side)
        return window.extract(image, size)

    def _finish(
        self, rng: np.random.Generator, z: list[Image], x: list[tuple[Image, FloatArray, NDArray[np.int64]]]
    ) -> SampleSet:
        """Colours and mirroring, which the crops of a set have in common but for small differences; BGR → RGB."""
        common = Tone.draw(rng, 1.0, self.config.grey)
        crops = [common.then(self._tone(rng)).apply(crop) for crop in [*z, *(crop for crop, _, _ in x)]]
        boxes = np.stack([box for _, box, _ in x])
        tokens = np.stack([token for _, _, token in x])
        if rng.random() < 0.5:
            crops = [cast(Image, cv2.flip(crop, 1)) for crop in crops]
            boxes = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], axis=1)
            tokens = mirror_tokens(tokens)
        rgb = [cv2.cvtColor(crop, cv2.COLOR_BGR2RGB) for crop in crops]
        return SampleSet(np.stack(rgb[: len(z)]), np.stack(rgb[len(z) :]), tokens, boxes.astype(np.float32))

    def _tone(self, rng: np.random.Generator) -> Tone:
        """How a crop's colours differ from those of its set."""
        return Tone.light(rng) if rng.random() < self.config.light else Tone.draw(rng, 0.4)


def _recolour(rng: np.random.Generator, pixels: Image) -> Image:
    """The same pixels with their hue turned by 40° to 320° and another brightness."""
    hsv = cv2.cvtColor(pixels, cv2.COLOR_BGR2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(np.int32) + rng.integers(20, 160)) % 180  # OpenCV's hue has 180 steps
    brightness = np.clip(hsv[..., 2] * rng.uniform(0.5, 1.5), 0, 255)
    hsv[..., 2] = brightness.astype(np.uint8)
    return cast(Image, cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR))


def mirror_tokens(tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Trajectory tokens ``(K, 4 · trajectory)`` of the crop with left and right exchanged (x → 1 − x)."""
    boxes = tokens.reshape(len(tokens), -1, 4)
    # The vocabulary's range is symmetric about the crop's middle, so x → 1 − x is bin → BINS − 1 − bin.
    mirrored = boxes[..., [2, 1, 0, 3]].copy()
    x = mirrored[..., [0, 2]]
    mirrored[..., [0, 2]] = np.where(x == NO_TRAJECTORY, x, BINS - 1 - x)
    return mirrored.reshape(tokens.shape)
