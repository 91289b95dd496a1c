"""Masks that are estimated cover what they should, or there is none."""

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

from fartrack.train.data.masks import estimate_mask, with_masks
from fartrack.train.data.store import Picture, Target


def scene(rng, axes=(40, 25), centre=(110, 80), size=(220, 160), colour=(40, 60, 210)):
    """An ellipse on textured ground, and its mask."""
    ground = cv2.resize(rng.integers(60, 200, (8, 11, 1), np.uint8), size)[..., None] * np.array([0.9, 1.0, 0.5])
    mask = np.zeros(size[::-1], np.uint8)
    cv2.ellipse(mask, centre, axes, 20, 0, 360, 1, -1)
    image = np.where(mask[..., None] > 0, np.array(colour), ground) + rng.normal(0, 6, (*size[::-1], 3))
    return image.clip(0, 255).astype(np.uint8), mask.astype(bool)


def box_of(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return tuple(map(float, (columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0])))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("axes", "centre"), [((40, 25), (110, 80)), ((12, 8), (60, 50)), ((30, 22), (12, 80))])
def test_an_object_of_its_own_colour_is_found(seed, axes, centre):
    """In the open, small, and half outside the picture."""
    image, mask = scene(np.random.default_rng(seed), axes, centre)
    found = estimate_mask(image, box_of(mask))
    assert found.shape == mask.shape and found.dtype == bool
    assert (found & mask).sum() / (found | mask).sum() > 0.85
    np.testing.assert_array_equal(estimate_mask(image, box_of(mask)), found)


def test_no_mask_is_better_than_a_wrong_one():
    rng = np.random.default_rng(0)
    image, mask = scene(rng)
    x, y, w, h = box_of(mask)
    assert estimate_mask(image, (x - 40, y - 30, w + 80, h + 60)) is None  # the box is far too large for what is in it
    assert estimate_mask(image, (x + 20, y + 15, w - 40, h - 30)) is None  # all of it one colour, inside and around
    assert estimate_mask(image, (0, 0, 220, 160)) is None  # there is no ground
    assert estimate_mask(image, (x, y, 3, 3)) is None
    assert estimate_mask(image, (-30, -30, 25, 25)) is None  # outside
    assert estimate_mask(np.full((100, 100, 3), 90, np.uint8), (30, 30, 40, 40)) is None


def test_masks_that_are_known_stay():
    image, mask = scene(np.random.default_rng(1))
    own = np.zeros_like(mask)
    own[70:90, 100:120] = True
    known, unknown = Target((100, 70, 20, 20), own), Target(box_of(mask))
    filled = with_masks(Picture(image, (known, unknown), sequence="a"))
    assert filled.sequence == "a" and filled.image is image
    assert filled.targets[0].mask is own and filled.targets[1].box == unknown.box
    assert (filled.targets[1].mask & mask).sum() > 0.9 * mask.sum()
