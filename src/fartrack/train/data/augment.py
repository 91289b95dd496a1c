"""Augmentation of crops: color, blur, low resolution, aspect ratio, and objects pasted over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from numpy.typing import ArrayLike

from fartrack.datasets.pictures import Mask, mask_extent
from fartrack.geometry import FloatArray, Image
from fartrack.train.data.store import Store

STRETCH = 0.2  # share of sample sets and clips that are stretched along one axis, so that long targets are not rare
DEGRADE = 0.25  # share of crops that are blurred, noisy or of low resolution
LARGEST_WARPED = 160  # longest side in pixels to which an object is shrunk before it is warped


def draw_aspect(rng: np.random.Generator) -> float:
    """The factor on the aspect ratio of a sample set or clip, 1 for most."""
    return float(np.exp(rng.normal(0, 0.6))) if rng.random() < STRETCH else 1.0


def stretched(image: Image, aspect: float) -> tuple[Image, FloatArray]:
    """A picture with its aspect ratio times ``aspect`` and about as many pixels, and the factors ``(4,)`` on an image
    box x, y, w, h in it."""
    if aspect == 1:
        return image, np.ones(4)
    height, width = image.shape[:2]
    size = max(round(width * aspect**0.5), 1), max(round(height * aspect**-0.5), 1)
    resized = cast(Image, cv2.resize(image, size, interpolation=cv2.INTER_LINEAR))
    return resized, np.array([size[0] / width, size[1] / height] * 2)


@dataclass(frozen=True)
class Tone:
    """A change of color: the new value ``table (256, 3)`` of each old one, then a conversion to gray, or not."""

    table: Image
    gray: bool = False

    @classmethod
    def draw(cls, rng: np.random.Generator, strength: float, gray: float = 0.0) -> Tone:
        """A random change; ``strength`` 1 is strong (contrast ± 25 %, brightness ± 20 of 255), 0 is none."""
        gain = np.exp(strength * (rng.normal(0, 0.25) + rng.normal(0, 0.08, 3)))
        return cls.of(gain, strength * rng.normal(0, 20), bool(rng.random() < gray))

    @classmethod
    def light(cls, rng: np.random.Generator) -> Tone:
        """Another exposure, between about a fifth and five times as long, a little tinted."""
        gain = np.exp(rng.normal(0, 0.8) + rng.normal(0, 0.08, 3))
        return cls.of(gain, 128 * (gain - 1))

    @classmethod
    def of(cls, gain: ArrayLike = 1.0, shift: ArrayLike = 0.0, gray: bool = False) -> Tone:
        """The values of each channel times ``gain`` around middle gray, plus ``shift``; a number, or one a channel."""
        levels = np.repeat(np.arange(256)[:, None], 3, axis=1)
        return cls(np.clip((levels - 128) * np.asarray(gain) + 128 + shift, 0, 255).astype(np.uint8), gray)

    def then(self, other: Tone) -> Tone:
        """This change and then the other, as one."""
        return Tone(np.take_along_axis(other.table, self.table.astype(np.intp), axis=0), self.gray or other.gray)

    def apply(self, crop: Image) -> Image:
        """The crop in these colors."""
        crop = cast(Image, cv2.LUT(crop, self.table[None]))
        if self.gray:
            crop = cast(Image, cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR))
        return crop


def degrade(rng: np.random.Generator, crop: Image) -> Image:
    """At times (:data:`DEGRADE`), one of: Gaussian blur, motion blur, low resolution, noise."""
    if rng.random() >= DEGRADE:
        return crop
    size = crop.shape[0]
    match rng.integers(4):
        case 0:
            result = cv2.GaussianBlur(crop, (0, 0), rng.uniform(0.6, 2.0) * size / 224)
        case 1:
            length, angle = rng.integers(3, 12), rng.uniform(0, np.pi)
            kernel = np.zeros((length, length), np.float32)
            middle, reach = (length - 1) / 2, (length - 1) / 2 * np.array([np.cos(angle), np.sin(angle)])
            ends = [tuple(np.round(middle + sign * reach).astype(int).tolist()) for sign in (-1, 1)]
            cv2.line(kernel, ends[0], ends[1], 1.0)
            result = cv2.filter2D(crop, -1, kernel / kernel.sum())
        case 2:
            small = max(int(size * rng.uniform(0.15, 0.6)), 8)
            result = cv2.resize(crop, (small, small), interpolation=cv2.INTER_AREA)
            result = cv2.resize(result, (size, size), interpolation=cv2.INTER_LINEAR)
        case _:
            noise = rng.normal(0, rng.uniform(2, 10), crop.shape)
            result = np.clip(crop + noise, 0, 255).astype(np.uint8)
    return cast(Image, result)


@dataclass(frozen=True)
class Cutout:
    """A masked object cut out of its picture: pixels ``(h, w, 3)`` BGR and mask ``(h, w)``, both to its edges."""

    pixels: Image
    mask: Mask

    @classmethod
    def around(cls, image: Image, box: FloatArray) -> Cutout | None:
        """The ellipse in an image box, as far as it lies in the image; None if that is too little."""
        height, width = image.shape[:2]
        x0, y0, x1, y1 = np.round([*box[:2], *(box[:2] + box[2:])]).clip(0, [width, height] * 2).astype(int).tolist()
        if x1 - x0 < 4 or y1 - y0 < 4:
            return None
        x, y = (2 * (np.arange(side) + 0.5) / side - 1 for side in (x1 - x0, y1 - y0))
        return cls(image[y0:y1, x0:x1], x**2 + y[:, None] ** 2 <= 1)

    @classmethod
    def of(cls, store: Store, target: int) -> Cutout:
        """A target of a store that has a mask."""
        found = store.cutout(target)
        assert found is not None
        x, y, mask = found
        return cls(store.image_of(target)[y : y + mask.shape[0], x : x + mask.shape[1]], mask)

    def recolored(self, rng: np.random.Generator) -> Cutout:
        """The object with its hue turned by 40° to 320° and another brightness."""
        hsv = cv2.cvtColor(self.pixels, cv2.COLOR_BGR2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(np.int32) + rng.integers(20, 160)) % 180  # OpenCV's hue has 180 steps
        hsv[..., 2] = np.clip(hsv[..., 2] * rng.uniform(0.5, 1.5), 0, 255).astype(np.uint8)
        return Cutout(cast(Image, cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)), self.mask)

    def warped(self, rng: np.random.Generator, strength: float) -> Cutout:
        """The object after an elastic deformation: 4 × 4 points move by a deviation of ``strength`` of its size."""
        height, width = self.mask.shape
        scale = min(LARGEST_WARPED / max(height, width), 1.0)  # no crop shows more of it
        inner = max(round(width * scale), 2), max(round(height * scale), 2)
        edge = round(2 * strength * max(inner))
        pixels = cv2.resize(self.pixels, inner, interpolation=cv2.INTER_AREA)
        mask = cv2.resize(self.mask.astype(np.float32), inner, interpolation=cv2.INTER_AREA)
        shape = inner[0] + 2 * edge, inner[1] + 2 * edge
        moved = rng.normal(0, strength * np.sqrt(inner[0] * inner[1]), (2, 4, 4)).astype(np.float32)
        x, y = (cv2.resize(shift, shape, interpolation=cv2.INTER_CUBIC) for shift in moved)
        x += np.arange(shape[0], dtype=np.float32) - edge
        y += np.arange(shape[1], dtype=np.float32)[:, None] - edge
        warped_mask = cv2.remap(mask, x, y, cv2.INTER_LINEAR) > 0.5
        if warped_mask.any(1).sum() < 2 or warped_mask.any(0).sum() < 2:
            return self
        part = mask_extent(warped_mask)
        warped = cv2.remap(pixels, x[part], y[part], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return Cutout(cast(Image, warped), warped_mask[part])

    def paste(
        self, crop: Image, center: FloatArray, size: float, angle: float, stretch: float, mirror: bool
    ) -> FloatArray:
        """Paste the object over a crop ``(S, S, 3)``, in place → its extent there, unclipped corners x0, y0, x1, y1.

        Its ``center``, its ``size`` (sqrt(w · h) before it is rotated) and its extent are in the crop's pixels,
        ``angle`` in radians; ``stretch`` is a factor on its aspect ratio.
        """
        height, width = self.mask.shape
        pixels, alpha = self.pixels, self.mask.astype(np.float32)
        scale = size / np.sqrt(width * height)
        if scale < 0.5:  # shrink over whole areas first, so that nothing aliases
            small = (max(round(width * scale * 1.5), 2), max(round(height * scale * 1.5), 2))
            pixels = cast(Image, cv2.resize(pixels, small, interpolation=cv2.INTER_AREA))
            alpha = np.asarray(cv2.resize(alpha, small, interpolation=cv2.INTER_AREA), np.float32)
        fit = np.array([width * scale / pixels.shape[1], height * scale / pixels.shape[0]])
        fit *= np.sqrt([stretch, 1 / stretch])
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear = rotation * (fit * [-1 if mirror else 1, 1])
        middle = np.array([pixels.shape[1], pixels.shape[0]]) / 2
        offset = center - linear @ middle

        rows, columns = np.nonzero(alpha > 0.5 * alpha.max())  # a thin object, shrunk, is faint everywhere
        if len(rows) == 0:
            return np.array([*center, *center])
        hull = cv2.convexHull(np.stack([columns, rows], 1).astype(np.int32))[:, 0]
        corners = (hull[:, None] + np.array([[0, 0], [1, 0], [0, 1], [1, 1]])).reshape(-1, 2) @ linear.T + offset

        # Only where it goes, with a pixel to spare for the interpolation.
        reach = np.abs(linear) @ middle + 1
        low = np.clip(np.floor(center - reach), 0, crop.shape[1::-1]).astype(int)
        high = np.clip(np.ceil(center + reach) + 1, 0, crop.shape[1::-1]).astype(int)
        if (high > low).all():
            # OpenCV counts from pixel centers: the half pixels of both frames move into the offset.
            matrix = np.column_stack([linear, offset - low + linear @ [0.5, 0.5] - 0.5])
            shape = (high - low).tolist()
            weight = cv2.warpAffine(alpha, matrix, shape, flags=cv2.INTER_LINEAR)[..., None]
            warped = cv2.warpAffine(pixels, matrix, shape, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            part = crop[low[1] : high[1], low[0] : high[0]]
            np.copyto(part, (warped * weight + part * (1 - weight) + 0.5).astype(np.uint8))
        return np.concatenate([corners.min(0), corners.max(0)])
