"""Colors, degradation, and above all: where a pasted object is said to lie, it lies."""

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

from fartrack.train.data import augment
from fartrack.train.data.augment import LARGEST_WARPED, Cutout, Tone, degrade

S = 200


def blob(rng):
    """A random mask that touches all four edges of its array."""
    canvas = np.zeros((160, 160), np.uint8)
    center = np.array([80, 80])
    for _ in range(rng.integers(1, 4)):
        axes = tuple(rng.integers(12, 40, 2).tolist())
        place = tuple((center + rng.integers(-20, 21, 2)).tolist())
        cv2.ellipse(canvas, place, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    rows, columns = np.flatnonzero(canvas.any(1)), np.flatnonzero(canvas.any(0))
    return canvas[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(bool)


def painted_extent(crop):
    """Corners of what is more than half white."""
    white = crop[..., 0] > 127
    rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


@pytest.mark.parametrize("seed", range(60))
def test_the_extent_is_what_is_painted(seed):
    rng = np.random.default_rng(seed)
    mask = blob(rng)
    cutout = Cutout(np.full((*mask.shape, 3), 255, np.uint8), mask)
    crop = np.zeros((S, S, 3), np.uint8)
    extent = cutout.paste(
        crop,
        rng.uniform(80, 120, 2),
        np.exp(rng.uniform(np.log(12), np.log(75))),
        rng.uniform(-np.pi, np.pi),
        np.exp(rng.uniform(-0.3, 0.3)),
        bool(seed % 2),
    )
    # A slanted mask's stairs and its soft edge leave up to a pixel either way.
    np.testing.assert_allclose(extent, painted_extent(crop), atol=1.5)


@pytest.mark.parametrize("size", [10, 30, 90])
def test_a_rectangle_lies_exactly_where_it_is_put(size):
    mask = np.ones((30, 60), bool)
    cutout, crop = Cutout(np.full((30, 60, 3), 255, np.uint8), mask), np.zeros((S, S, 3), np.uint8)
    extent = cutout.paste(crop, np.array([100.0, 90.0]), size, 0, 1.2, False)
    half = size * np.sqrt([2 * 1.2, 0.5 / 1.2]) / 2
    np.testing.assert_allclose(extent, [*(np.array([100, 90]) - half), *(np.array([100, 90]) + half)], atol=1e-6)
    np.testing.assert_allclose(extent, painted_extent(crop), atol=1)


def test_a_quarter_turn_exchanges_the_sides():
    cutout = Cutout(np.full((20, 80, 3), 255, np.uint8), np.ones((20, 80), bool))
    extent = cutout.paste(np.zeros((S, S, 3), np.uint8), np.array([100.0, 100.0]), 40, np.pi / 2, 1, False)
    np.testing.assert_allclose(extent, [90, 60, 110, 140], atol=1e-6)


def test_a_thin_object_that_is_shrunk_has_an_extent():
    mask = np.eye(150, dtype=bool)
    cutout = Cutout(np.full((150, 150, 3), 255, np.uint8), mask)
    extent = cutout.paste(np.zeros((S, S, 3), np.uint8), np.array([100.0, 100.0]), 12, 0, 1, False)
    np.testing.assert_allclose(extent, [94, 94, 106, 106], atol=1)


def test_only_the_object_is_laid_over():
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 256, (S, S, 3), np.uint8)
    mask = np.zeros((40, 40), bool)
    mask[:, :10] = mask[:10] = mask[:, -10:] = True  # an arch: what is under it stays
    crop = ground.copy()
    Cutout(np.full((40, 40, 3), 7, np.uint8), mask).paste(crop, np.array([100.0, 100.0]), 40, 0, 1, False)
    changed = (crop != ground).any(-1)
    assert (crop[82:118, 82:88] == 7).all()
    assert not changed[94:, 94:106].any()
    assert not changed[:79].any()
    assert not changed[121:].any()


def test_mirroring_exchanges_left_and_right():
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = 255
    halves = {}
    for mirror in (False, True):
        crop = np.full((S, S, 3), 128, np.uint8)
        Cutout(pixels, np.ones((20, 40), bool)).paste(crop, np.array([100.0, 100.0]), 80, 0, 1, mirror)
        halves[mirror] = crop[100, 70, 0], crop[100, 130, 0]
    assert halves == {False: (255, 0), True: (0, 255)}


def test_an_object_half_outside_keeps_its_whole_extent():
    cutout = Cutout(np.full((40, 40, 3), 255, np.uint8), np.ones((40, 40), bool))
    crop = np.zeros((S, S, 3), np.uint8)
    extent = cutout.paste(crop, np.array([0.0, 100.0]), 40, 0, 1, False)
    np.testing.assert_allclose(extent, [-20, 80, 20, 120], atol=1e-6)
    np.testing.assert_array_equal(painted_extent(crop), [0, 80, 20, 120])


def test_an_object_near_an_edge_is_the_same_as_within():
    """Only the pixels where an object comes to lie are computed: a crop with a margin shows the same."""
    rng = np.random.default_rng(5)
    cutout = Cutout(rng.integers(0, 256, (37, 53, 3), np.uint8), rng.random((37, 53)) < 0.8)
    small, large = (np.full((side, side, 3), 90, np.uint8) for side in (S, S + 200))
    for center, size, angle in (((30.0, 50.0), 40.0, 0.3), ((1.5, 198.2), 90.0, -1.0), ((120.0, 80.0), 12.0, 2.0)):
        one, two = small.copy(), large.copy()
        cutout.paste(one, np.array(center), size, angle, 1.2, False)
        cutout.paste(two, np.array(center) + 100, size, angle, 1.2, False)
        difference = np.abs(one.astype(int) - two[100 : 100 + S, 100 : 100 + S])
        assert difference.max() <= 2  # the interpolation is in fixed point
        assert (one != 90).any()


@pytest.mark.parametrize("seed", range(20))
def test_a_bent_object_is_all_there_and_of_its_own_pixels(seed):
    """White on black: what is warped stays white within its mask, which reaches its array's edges, as any does."""
    rng = np.random.default_rng(seed)
    mask = blob(rng)
    cutout = Cutout(np.full((*mask.shape, 3), 255, np.uint8) * mask[..., None], mask)
    pale = []
    for strength in (0.0, 0.03, 0.12):
        warped = cutout.warped(np.random.default_rng(seed), strength)
        assert warped.pixels.shape[:2] == warped.mask.shape and warped.pixels.dtype == np.uint8
        assert all(edge.any() for edge in (warped.mask[0], warped.mask[-1], warped.mask[:, 0], warped.mask[:, -1]))
        assert warped.mask.sum() == pytest.approx(mask.sum(), rel=0.02 + 6 * strength)
        inner = cv2.erode(warped.mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        pale.append((warped.pixels[inner] < 250).mean())
        if strength == 0:
            np.testing.assert_array_equal(warped.mask, mask)
            np.testing.assert_array_equal(warped.pixels, cutout.pixels)
        else:
            again = cutout.warped(np.random.default_rng(seed), strength)
            np.testing.assert_array_equal(again.mask, warped.mask)
            assert warped.mask.shape != mask.shape or (warped.mask != mask).any()
    assert max(pale) < 0.02


def test_a_bent_object_keeps_its_parts_in_order():
    """Four quarters, each in a color of its own: each stays whole and where it was, but not of its shape."""
    colors = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 0]], np.uint8)
    pixels = colors.reshape(2, 2, 3).repeat(60, 0).repeat(60, 1)
    cutout = Cutout(pixels, np.ones((120, 120), bool))
    for seed in range(10):
        warped = cutout.warped(np.random.default_rng(seed), 0.05)
        centers = []
        for color in colors.astype(int):
            rows, columns = np.nonzero((np.abs(warped.pixels.astype(int) - color).max(-1) < 30) & warped.mask)
            assert 0.5 * 60**2 < len(rows) < 1.7 * 60**2
            centers.append((columns.mean(), rows.mean()))
        (a, b), (c, d) = np.array(centers).reshape(2, 2, 2)
        assert a[0] < b[0] and c[0] < d[0] and a[1] < c[1] and b[1] < d[1]


def test_a_large_object_is_shrunk_before_it_is_bent():
    cutout = Cutout(np.full((600, 300, 3), 200, np.uint8), np.ones((600, 300), bool))
    assert cutout.warped(np.random.default_rng(0), 0).mask.shape == (LARGEST_WARPED, LARGEST_WARPED // 2)


def test_a_tone_without_strength_changes_nothing():
    crop = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    np.testing.assert_array_equal(Tone.draw(np.random.default_rng(1), 0.0).apply(crop), crop)


def test_contrast_turns_around_middle_gray():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    changed = Tone.of([0.5, 1.0, 2.0], [0.0, 10.0, 0.0]).apply(ramp).astype(int)
    assert changed[128].tolist() == [[128, 138, 128]]
    assert changed[28].tolist() == [[78, 38, 0]]
    assert changed[228].tolist() == [[178, 238, 255]]


def test_gray_takes_out_all_color():
    crop = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    gray = Tone.draw(np.random.default_rng(1), 1.0, gray=1.0).apply(crop)
    assert (gray == gray[..., :1]).all()
    assert gray.std() > 5
    colors = (Tone.draw(np.random.default_rng(seed), 1.0, gray=0.0) for seed in range(50))
    assert not any(tone.gray for tone in colors)


def test_two_tones_are_one_after_the_other():
    crop = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    first, second = (Tone.draw(np.random.default_rng(seed), 1.0) for seed in (1, 2))
    np.testing.assert_array_equal(first.then(second).apply(crop), second.apply(first.apply(crop)))
    gray = Tone.of(gray=True)
    for both in (first.then(gray), gray.then(first)):
        np.testing.assert_array_equal(both.apply(crop), gray.apply(first.apply(crop)))


def test_another_light_is_darker_or_brighter():
    crop = np.full((4, 4, 3), 60, np.uint8)
    means = [Tone.light(np.random.default_rng(seed)).apply(crop).mean() for seed in range(200)]
    assert np.mean(np.array(means) < 30) > 0.1
    assert np.mean(np.array(means) > 120) > 0.1
    assert Tone.light(np.random.default_rng(0)).apply(np.zeros_like(crop)).max() == 0  # an exposure, no added light


def test_what_a_box_holds_is_an_ellipse_of_it():
    image = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
    cutout = Cutout.around(image, np.array([10.0, 5.0, 20.0, 30.0]))
    np.testing.assert_array_equal(cutout.pixels, image[5:35, 10:30])
    assert cutout.mask.mean() == pytest.approx(np.pi / 4, abs=0.03)
    assert cutout.mask[15, 0]
    assert not cutout.mask[0, 0]
    assert Cutout.around(image, np.array([-20.0, 5.0, 30.0, 30.0])).pixels.shape == (30, 10, 3)
    assert Cutout.around(image, np.array([58.0, 5.0, 30.0, 30.0])) is None
    assert Cutout.around(image, np.array([80.0, 50.0, 30.0, 30.0])) is None


def test_degrading_is_a_matter_of_probability(monkeypatch):
    crop = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    rng = np.random.default_rng(1)
    monkeypatch.setattr(augment, "DEGRADE", 0.0)
    assert all(degrade(rng, crop) is crop for _ in range(20))
    monkeypatch.setattr(augment, "DEGRADE", 0.5)
    changed = [degrade(rng, crop) is not crop for _ in range(400)]
    assert 150 < sum(changed) < 250  # five deviations of 400 fair coins


@pytest.mark.parametrize("size", [32, 112, 224])
def test_degraded_crops_show_the_same_thing(size, monkeypatch):
    monkeypatch.setattr(augment, "DEGRADE", 1.0)
    coarse = np.random.default_rng(0).integers(40, 216, (4, 4, 3), np.uint8)
    crop = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    before, changed = crop.copy(), 0
    for seed in range(40):
        worse = degrade(np.random.default_rng(seed), crop)
        assert worse.shape == crop.shape
        assert worse.dtype == np.uint8
        changed += not np.array_equal(worse, crop)
        assert np.corrcoef(worse.ravel(), crop.ravel())[0, 1] > 0.8, seed
    assert changed > 20  # the slightest blur of a small crop is none
    np.testing.assert_array_equal(crop, before)
