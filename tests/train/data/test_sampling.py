"""Samples: the box frames the target, the past leads up to it, and every share is honoured."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

from fartrack.datasets.pictures import Picture, Target
from fartrack.errors import FartrackError
from fartrack.geometry import PADDING_BGR
from fartrack.model.vocabulary import BIN_WIDTH, BINS, NO_TRAJECTORY, centers, encode
from fartrack.train.data import augment, sampling
from fartrack.train.data.augment import Cutout, Tone
from fartrack.train.data.sampling import Sampler, SamplingConfig, drifting, mirror_tokens
from fartrack.train.data.store import Store, write_store

GROUND_BGR = (120, 90, 60)  # of tests/train/conftest.py
CLEAN = SamplingConfig(distractor=0, light=0)
CLIPS = replace(CLEAN, clips=1, stills=0, regions=0)
STILLS = replace(CLEAN, clips=0, stills=1, regions=0, paste=0)
PASTED = replace(STILLS, paste=1)
REGIONS = replace(CLEAN, clips=0, stills=0, regions=1)


@pytest.fixture
def share(monkeypatch):
    """A function that sets one of the constant shares."""

    def set_share(name, value):
        monkeypatch.setattr(augment if name in ("STRETCH", "DEGRADE") else sampling, name, value)

    return set_share


@pytest.fixture(autouse=True)
def clean(share):
    """Nothing is pasted over the pictures or taken from them; targets are where they were, and in their shape."""
    names = "OCCLUDER FILL GRAY DOUBTFUL_TEMPLATE ROTATE STRETCH DEGRADE SEEK_SHARE NO_SHAPE WRONG_SHAPE"
    for name in names.split():
        share(name, 0)


@pytest.fixture
def model(tiny):
    return tiny(template_size=64, search_size=128)


@pytest.fixture
def sampler(synthetic_store, model):
    store = Store.open(synthetic_store())
    return lambda config, **changes: Sampler(store, replace(model, **changes), config)


@pytest.fixture
def plain_background(monkeypatch):
    """Pasted objects lie on plain ground; the store's pictures would show a second target."""
    monkeypatch.setattr(Sampler, "_background", lambda self, rng, size: np.full((size, size, 3), GROUND_BGR, np.uint8))


def reddest(crop):
    """Where an RGB crop is red; colors are changed, so that is where it is by far the reddest."""
    redness = crop[..., 0].astype(float) - crop[..., 2]
    return redness > 0.4 * redness.max()


def red_extent(crop):
    """Corners, in pixels, of the red in an RGB crop."""
    red = reddest(crop)
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def draws(sampler, count, templates=2):
    return [sampler.draw(np.random.default_rng(seed), templates) for seed in range(count)]


def test_shapes_and_types(sampler):
    for config in (CLIPS, STILLS, PASTED, REGIONS):
        for sample in draws(sampler(config), 3, templates=3):
            assert (sample.templates.shape, sample.templates.dtype) == ((3, 64, 64, 3), np.uint8)
            assert (sample.template_boxes.shape, sample.template_boxes.dtype) == ((3, 4), np.float32)
            assert (sample.search.shape, sample.search.dtype) == ((3, 128, 128, 3), np.uint8)
            assert (sample.trajectory.shape, sample.trajectory.dtype) == ((3, 12), np.int64)
            assert (sample.boxes.shape, sample.boxes.dtype) == ((3, 4), np.float32)


@pytest.mark.parametrize("config", [SamplingConfig(), CLIPS, STILLS, PASTED, REGIONS])
def test_a_draw_depends_on_its_generator_alone(sampler, config):
    first = draws(sampler(config), 4)
    again = sampler(config)
    again.draw(np.random.default_rng(99), 5)
    for one, two in zip(first, draws(again, 4), strict=True):
        for name in ("templates", "template_boxes", "search", "trajectory", "boxes"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert not np.array_equal(first[0].boxes, first[1].boxes)


@pytest.mark.parametrize("config", [CLIPS, STILLS, PASTED], ids=["clips", "stills", "pasted"])
def test_the_box_frames_the_target(sampler, plain_background, config):
    seen = 0
    for seed, sample in enumerate(draws(sampler(config), 40)):
        for crop, box in zip(sample.search, sample.boxes, strict=True):
            if config is PASTED and (box.min() < 0 or box.max() > 1):
                continue  # a turned target that the crop's edge cuts shows less than its extent
            # One pixel of soft edge and, where a pasted target is turned, half a pixel of its soft corners.
            np.testing.assert_allclose(red_extent(crop), np.clip(box * 128, 0, 128), atol=2, err_msg=str(seed))
            seen += 1
    assert seen > 60


@pytest.mark.parametrize("config", [CLIPS, STILLS, PASTED], ids=["clips", "stills", "pasted"])
def test_stretched_sets_are_longer_and_their_boxes_go_along(sampler, plain_background, share, config):
    aspects = {}
    for stretch in (0, 1):
        share("STRETCH", stretch)
        found = []
        for sample in draws(sampler(config), 40):
            sides = sample.boxes[:, 2:] - sample.boxes[:, :2]
            found.append(np.log(sides[:, 0] / sides[:, 1]).mean())
            inside = (sample.boxes.min(1) > 0.02) & (sample.boxes.max(1) < 0.98)
            if config is not PASTED:  # there a thin target that is turned has soft corners
                for crop, box in zip(sample.search[inside], sample.boxes[inside], strict=True):
                    np.testing.assert_allclose(red_extent(crop), box * 128, atol=2)
        aspects[stretch] = np.std(found)
    assert aspects[1] > aspects[0] + 0.2


def test_rotated_targets_have_the_box_of_what_is_seen(tmp_path, model, monkeypatch, share):
    """A masked bar three times as long as high: hardly turned its box is long, turned at will it often is not."""
    image = np.full((100, 200, 3), GROUND_BGR, np.uint8)
    image[30:60, 50:140] = (0, 0, 250)
    mask = np.zeros((100, 200), bool)
    mask[30:60, 50:140] = True
    write_store(tmp_path, [Picture(image, (Target((50, 30, 90, 30), mask),))])
    monkeypatch.setattr(Sampler, "_background", lambda self, rng, size: np.full((size, size, 3), GROUND_BGR, np.uint8))
    for rotated, upright in ((0, False), (1, True)):
        share("ROTATE", rotated)
        sampler, high = Sampler(Store.open(tmp_path), model, PASTED), []
        for sample in draws(sampler, 40):
            for crop, box in zip(sample.search, sample.boxes, strict=True):
                high.append(box[3] - box[1] > box[2] - box[0])
                if box.min() > 0.02 and box.max() < 0.98:
                    np.testing.assert_allclose(red_extent(crop), box * 128, atol=3)
        assert (np.mean(high) > 0.3) == upright


def test_warped_targets_have_the_box_of_what_is_seen(sampler, plain_background):
    """A rectangle, a little turned, leaves little of its box free; bent, it leaves more, yet reaches each side."""
    free = {}
    for share in (0, 1):
        gaps = []
        for sample in draws(sampler(replace(PASTED, bend=share)), 30):
            for crop, box in zip(sample.search, sample.boxes, strict=True):
                if box.min() > 0.02 and box.max() < 0.98:
                    np.testing.assert_allclose(red_extent(crop), box * 128, atol=4)
                    x0, y0, x1, y1 = (box * 128).round().astype(int)
                    gaps.append(1 - reddest(crop)[y0:y1, x0:x1].mean())
        free[share] = np.mean(gaps)
    assert free[1] > free[0] + 0.05, free


@pytest.mark.parametrize("config", [CLIPS, STILLS, PASTED], ids=["clips", "stills", "pasted"])
def test_templates_show_the_target_in_their_middle(sampler, plain_background, config):
    extents = np.array([red_extent(crop) for s in draws(sampler(config), 40) for crop in s.templates]) / 64
    center, size = (extents[:, :2] + extents[:, 2:]) / 2, np.sqrt((extents[:, 2:] - extents[:, :2]).prod(1))
    assert np.abs(center - 0.5).max() < 0.3
    np.testing.assert_allclose(np.median(center, 0), 0.5, atol=0.03)
    assert np.median(size) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("config", [CLIPS, STILLS, PASTED], ids=["clips", "stills", "pasted"])
def test_the_boxes_of_templates_frame_the_target(sampler, plain_background, monkeypatch, config):
    monkeypatch.setattr(Sampler, "_template_jitter", lambda *_: (np.zeros(2), 1.0))
    monkeypatch.setattr(Sampler, "_template_aspect", lambda *_: np.ones(2))
    for sample in draws(sampler(config), 30):
        for crop, box in zip(sample.templates, sample.template_boxes, strict=True):
            assert box.min() >= 0 and box.max() <= 1
            # One pixel of soft edge, and the soft corners of a pasted target that is turned.
            np.testing.assert_allclose(red_extent(crop), box * 64, atol=2)


def test_the_boxes_of_templates_are_mirrored_with_their_crops(sampler):
    sampler, sides = sampler(STILLS), set()
    crop, search = np.full((64, 64, 3), GROUND_BGR, np.uint8), np.zeros((128, 128, 3), np.uint8)
    crop[10:40, 4:24] = (0, 0, 250)
    for seed in range(12):
        templates, searches = [(crop, np.array([4, 10, 24, 40]) / 64)], [(search, np.ones(4), np.zeros(12, np.int64))]
        sample = sampler._finish(np.random.default_rng(seed), templates, searches)
        np.testing.assert_allclose(red_extent(sample.templates[0]), sample.template_boxes[0] * 64, atol=1)
        sides.add(bool(sample.template_boxes[0, 0] < 0.5))
    assert sides == {True, False}


@pytest.mark.parametrize("paste", [0, 1])
def test_templates_show_all_of_a_long_target(tmp_path, model, plain_background, monkeypatch, paste):
    image = np.full((300, 400, 3), GROUND_BGR, np.uint8)
    image[130:150, 150:250] = (0, 0, 250)
    write_store(tmp_path, [Picture(image, (Target((150, 130, 100, 20), (image == (0, 0, 250)).all(-1)),))])
    monkeypatch.setattr(Sampler, "_template_jitter", lambda *_: (np.zeros(2), 1.0))
    monkeypatch.setattr(Sampler, "_template_aspect", lambda *_: np.ones(2))
    wide = []
    for sample in draws(Sampler(Store.open(tmp_path), model, replace(STILLS, paste=paste)), 20):
        for crop, box in zip(sample.templates, sample.template_boxes, strict=True):
            np.testing.assert_allclose(red_extent(crop), box * 64, atol=2)
            wide.append(box[2] - box[0])
    assert np.median(wide) == pytest.approx(1 / 1.15, abs=0.02)


def test_the_boxes_of_templates_are_what_a_tracker_would_believe(sampler):
    """A first one's sides are as a user draws them, a later one's are off by more, both ways."""
    errors = {0: [], 1: []}
    for sample in draws(sampler(STILLS), 60):
        for later, (crop, box) in enumerate(zip(sample.templates, sample.template_boxes, strict=True)):
            x0, y0, x1, y1 = red_extent(crop)
            errors[later].append(np.log((box[2] - box[0]) / (box[3] - box[1])) - np.log((x1 - x0) / (y1 - y0)))
    assert np.std(errors[0]) < 0.1 < np.std(errors[1]) < 0.35
    assert abs(np.mean(errors[1])) < 0.1


def test_where_a_still_ends_another_picture_goes_on(tmp_path, model, monkeypatch, share):
    """A small red picture, all of it the target: in its windows there is padding, or the other, green picture."""
    red, green = (np.full((side, side, 3), color, np.uint8) for side, color in ((40, (0, 0, 250)), (300, (0, 250, 0))))
    write_store(tmp_path, [Picture(red, (Target((4, 4, 30, 30)),)), Picture(green, ())])
    monkeypatch.setattr(sampling.Tone, "draw", lambda *_, **__: Tone.of())
    monkeypatch.setattr(Sampler, "_background", lambda self, rng, size: cv2.resize(green, (size, size)))
    share("PAPER_SHARE", 0)
    share("FAR_SHARE", 0)
    sampler = Sampler(Store.open(tmp_path), model, STILLS)
    for fill in (0.0, 0.5, 1.0):
        share("FILL", fill)
        filled = []
        for sample in draws(sampler, 20):
            for crop, box in zip(sample.search, sample.boxes, strict=True):
                x, y = ((box[:2] + box[2:]) / 2 * 128).astype(int)
                assert crop[y, x].tolist() == [250, 0, 0]  # the target is what it was
                shown, padded = ((crop == color).all(-1).any() for color in ((0, 250, 0), PADDING_BGR[::-1]))
                assert shown != padded
                filled.append(shown)
        assert np.mean(filled) == pytest.approx(fill, abs=0.2 * (fill == 0.5))


def test_a_region_is_the_same_in_every_crop(tmp_path, model, monkeypatch):
    """On a picture whose colors tell the place, all search crops of a set say where the region lies."""
    y, x = np.mgrid[:200, :250].astype(np.uint8)
    write_store(tmp_path, [Picture(np.stack([x, y, np.zeros_like(x)], -1), ())])
    monkeypatch.setattr(sampling.Tone, "draw", lambda *_, **__: Tone.of())
    sampler = Sampler(Store.open(tmp_path), model, REGIONS)
    for sample in draws(sampler, 30):
        places = []
        for crop, box in zip(sample.search, sample.boxes, strict=True):
            column, row = (np.clip((box[:2] + box[2:]) / 2 * 128, 0, 127)).astype(int)
            places.append(crop[row, column, 2:0:-1].astype(float))
        # A crop's pixel spans up to ten of the picture's, and the place is read to one of the crop's pixels.
        assert np.ptp(places, axis=0).max() < 12
        middle = sample.templates[0, 32, 32, 2:0:-1].astype(float)
        assert np.abs(places[0] - middle).max() < 25


def test_regions_differ(sampler):
    sizes = [np.sqrt((s.boxes[0, 2:] - s.boxes[0, :2]).prod()) for s in draws(sampler(REGIONS), 20)]
    assert 0.1 < np.median(sizes) < 0.5
    assert np.std(sizes) > 0.01


@pytest.mark.parametrize("config", [CLIPS, STILLS, PASTED, REGIONS], ids=["clips", "stills", "pasted", "regions"])
def test_the_window_is_centered_on_the_last_box(sampler, share, config):
    share("WRONG_TRAJECTORY", 0)
    for sample in draws(sampler(replace(config, drop_trajectory=0)), 30):
        last = centers(sample.trajectory[:, -4:])
        np.testing.assert_allclose((last[:, :2] + last[:, 2:]) / 2, 0.5, atol=BIN_WIDTH)
        size = np.sqrt((last[:, 2:] - last[:, :2]).prod(1))
        np.testing.assert_allclose(size, 0.25, atol=2 * BIN_WIDTH)  # the search factor is 4


def test_trajectories_are_withheld_as_often_as_asked(sampler):
    for share in (0, 1):
        tokens = np.concatenate([s.trajectory for s in draws(sampler(replace(STILLS, drop_trajectory=share)), 20)])
        assert (tokens == NO_TRAJECTORY).mean() == share
    half = np.concatenate([s.trajectory for s in draws(sampler(replace(STILLS, drop_trajectory=0.5)), 100)])
    withheld = (half == NO_TRAJECTORY).all(1)
    assert ((half == NO_TRAJECTORY).any(1) == withheld).all()  # all of a crop's boxes or none
    assert 0.35 < withheld.mean() < 0.65  # five deviations of 300 fair coins


def test_wrong_trajectories_are_off(sampler, share):
    for wrong, off in ((0, False), (1, True)):
        share("WRONG_TRAJECTORY", wrong)
        config = replace(STILLS, drop_trajectory=0)
        last = centers(np.concatenate([s.trajectory for s in draws(sampler(config), 20)])[:, -4:])
        assert (np.abs((last[:, :2] + last[:, 2:]) / 2 - 0.5).mean() > 0.1) == off


def log_sides(corners):
    return np.log(corners[..., 2:] - corners[..., :2])


def test_past_boxes_have_a_wrong_shape_as_often_as_asked(sampler, share):
    """Of a still, whose last box is invented: the aspect is off the target's, and more off in the last box."""
    share("WRONG_TRAJECTORY", 0)
    off = {}
    for wrong in (0, 1):
        share("WRONG_SHAPE", wrong)
        samples = draws(sampler(replace(STILLS, drop_trajectory=0)), 60)
        past = centers(np.concatenate([sample.trajectory for sample in samples]).reshape(-1, 3, 4))
        true = np.concatenate([sample.boxes for sample in samples])[:, None]
        off[wrong] = np.abs((log_sides(past) - log_sides(true)) @ [1, -1]).mean(0)
    assert off[1][-1] > 1.7 * off[0][-1]
    assert off[1][0] < 0.95 * off[1][-1]


def test_past_boxes_of_a_clip_drift_where_asked(sampler, share):
    share("WRONG_TRAJECTORY", 0)
    share("DRIFT", 0.5)
    apart = {}
    for wrong in (0, 1):
        share("WRONG_SHAPE", wrong)
        samples = draws(sampler(replace(CLIPS, drop_trajectory=0)), 60)
        sides = log_sides(centers(np.concatenate([sample.trajectory for sample in samples]).reshape(-1, 3, 4)))
        apart[wrong] = np.abs(sides[:, -1] - sides[:, 0]).mean()
    assert apart[1] > apart[0] + 0.05, apart


def test_drifting_has_the_stated_ends():
    past = np.array([[0.0, 0, 40, 20], [10, 5, 44, 20], [20, 10, 44, 24]])
    new, known = np.log([1.5, 0.8]), np.log([1.2, 0.5])
    for seed in range(20):
        drawn = (np.random.default_rng(seed) for _ in range(3))
        none, more, less = (drifting(next(drawn), past, **error) for error in ({}, {"new": new}, {"known": known}))
        np.testing.assert_allclose(none, past)
        np.testing.assert_allclose(less[-1], past[-1])  # which was off already
        for boxes in (more, less):
            np.testing.assert_allclose(boxes[:, :2] + boxes[:, 2:] / 2, past[:, :2] + past[:, 2:] / 2)
        factors = more[:, 2:] / past[:, 2:]
        np.testing.assert_allclose(factors[-1], [1.5, 0.8])
        assert (np.diff(np.abs(np.log(factors)), axis=0) >= 0).all() and (factors[0] != [1.5, 0.8]).all()
        factors = less[:, 2:] / past[:, 2:]
        assert (np.diff(np.abs(np.log(factors)), axis=0) <= 0).all() and (factors[0] != 1).all()


def test_drifting_goes_back_to_the_truth_and_no_further(monkeypatch):
    monkeypatch.setattr(sampling, "DRIFT", 100)
    past, known = np.array([[0.0, 0, 44, 24]] * 3), np.log([1.1, 1.2])
    found = drifting(np.random.default_rng(0), past, known=known)
    np.testing.assert_allclose(found[:, 2:], [[40, 20], [40, 20], [44, 24]])


def test_past_boxes_without_a_shape_tell_the_place(sampler, share):
    share("WRONG_TRAJECTORY", 0)
    shaped = np.concatenate([s.trajectory for s in draws(sampler(replace(STILLS, drop_trajectory=0)), 10)])
    share("NO_SHAPE", 1)
    square = np.concatenate([s.trajectory for s in draws(sampler(replace(STILLS, drop_trajectory=0)), 10)])
    shaped, square = (centers(tokens.reshape(-1, 3, 4)) for tokens in (shaped, square))
    assert np.ptp(shaped[..., 2] - shaped[..., 0]) > 0.05
    told = (np.abs([shaped, square] - np.array(0.5)) < 0.98).all((0, -1))  # within what tokens can say
    assert told.mean() > 0.9
    shaped, square = shaped[told], square[told]
    np.testing.assert_allclose(square[:, 2:] - square[:, :2], 0.25, atol=2 * BIN_WIDTH)  # the search factor is 4
    places = (boxes[:, :2] + boxes[:, 2:] for boxes in (shaped, square))
    np.testing.assert_allclose(*places, atol=2 * BIN_WIDTH)


@pytest.mark.parametrize("config", [CLIPS, STILLS, PASTED, REGIONS], ids=["clips", "stills", "pasted", "regions"])
def test_a_lost_target_is_anywhere_and_has_no_past(sampler, share, config):
    places, sizes = {}, {}
    for seek in (0, 1):
        share("SEEK_SHARE", seek)
        share("PAPER_SHARE", 0)
        samples = draws(sampler(replace(config, drop_trajectory=0)), 60)
        tokens = np.concatenate([sample.trajectory for sample in samples])
        assert (tokens == NO_TRAJECTORY).all() == (tokens == NO_TRAJECTORY).any() == bool(seek)
        boxes = np.concatenate([sample.boxes for sample in samples])
        places[seek] = (boxes[:, :2] + boxes[:, 2:]) / 2
        sizes[seek] = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    assert places[1].min() > 0 and places[1].max() < 1
    counts, *_ = np.histogram2d(*places[1].T, bins=3, range=[[0, 1], [0, 1]])
    assert counts.min() >= 8, counts  # of 180: 20 in each ninth on average
    assert np.abs(places[0] - 0.5).mean() < 0.15 < 0.2 < np.abs(places[1] - 0.5).mean()
    assert 0.6 * 0.25 / 2.5 < np.quantile(sizes[1], 0.05) < 0.15 < np.median(sizes[0])  # a window 2.5 times as wide


@pytest.mark.parametrize("trajectory", [0, 1, 7])
@pytest.mark.parametrize("config", [CLIPS, STILLS, PASTED, REGIONS], ids=["clips", "stills", "pasted", "regions"])
def test_any_length_of_trajectory(sampler, config, trajectory):
    for sample in draws(sampler(config, trajectory=trajectory), 6):
        assert sample.trajectory.shape == (3, 4 * trajectory)
        assert ((sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2 > 0).all()
        assert ((sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2 < 1).all()


def test_mirrored_tokens():
    rng = np.random.default_rng(0)
    low = rng.uniform(-0.4, 1.0, (50, 7, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.05, 0.4, (50, 7, 2))], axis=-1)
    tokens = encode(boxes).reshape(50, 28)
    mirrored = mirror_tokens(tokens)
    np.testing.assert_array_equal(mirror_tokens(mirrored), tokens)
    expected = encode(np.stack([1 - boxes[..., 2], boxes[..., 1], 1 - boxes[..., 0], boxes[..., 3]], -1))
    assert np.abs(mirrored - expected.reshape(50, 28)).max() <= 1
    assert (mirrored != tokens).any(1).all()


def test_a_withheld_trajectory_is_its_own_mirror_image():
    tokens = np.full((2, 12), NO_TRAJECTORY)
    tokens[1] = np.arange(12)
    mirrored = mirror_tokens(tokens)
    assert (mirrored[0] == NO_TRAJECTORY).all()
    assert mirrored[1, :4].tolist() == [BINS - 1 - 2, 1, BINS - 1 - 0, 3]
    assert mirror_tokens(np.zeros((3, 0), np.int64)).shape == (3, 0)


@pytest.mark.parametrize("config", [CLIPS, STILLS, PASTED], ids=["clips", "stills", "pasted"])
def test_absent_targets(sampler, model, plain_background, monkeypatch, config):
    """As often as asked a crop has no target and no box, and then its templates and past boxes are as ever."""
    monkeypatch.setattr(
        Cutout, "of", lambda store, target: Cutout(np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), bool))
    )
    monkeypatch.setattr(sampling.Tone, "draw", lambda *_, **__: Tone.of())
    for share in (0.0, 0.5, 1.0):
        absent = []
        for sample in draws(sampler(replace(config, absent=share, drop_trajectory=0)), 40):
            for crop, box, tokens in zip(sample.search, sample.boxes, sample.trajectory, strict=True):
                absent.append(np.isnan(box).all())
                red = (crop[..., 0].astype(int) - crop[..., 2] > 100).any()
                if absent[-1] and config is not PASTED:  # there what is cut out is black here
                    assert not red
                assert np.isfinite(box).all() or absent[-1]
                assert (tokens < BINS).all()
        assert np.mean(absent) == pytest.approx(share, abs=0.2 * (share == 0.5))


def test_an_absent_target_in_a_picture_smaller_than_its_window(tmp_path, model):
    image = np.full((30, 40, 3), 90, np.uint8)
    write_store(tmp_path, [Picture(image, (Target((2, 2, 36, 26)),))])
    sampler = Sampler(Store.open(tmp_path), model, replace(STILLS, absent=1))
    assert all(np.isnan(sample.boxes).all() for sample in draws(sampler, 40))


def test_the_papers_jitter(sampler, share):
    """Templates lie exactly; each side of the window has a scale of its own, and the offset grows with both."""
    for name in ("STRETCH", "DEGRADE", "FILL", "SEEK_SHARE", "NO_SHAPE", "WRONG_SHAPE", "DOUBTFUL_TEMPLATE"):
        share(name, 1)  # what the paper does not do
    share("PAPER_GRAY", 0)
    own = sampler(replace(CLIPS, paper=True, drop_trajectory=0))
    rng, box = np.random.default_rng(0), np.array([40.0, 50.0, 20.0, 45.0])
    last = np.array([own._last_box(rng, box, False) for _ in range(4000)])
    scales = np.log(last[:, 2:] / box[2:])
    np.testing.assert_allclose(scales.std(0), 0.5, atol=0.03)
    assert abs(np.corrcoef(scales.T)[0, 1]) < 0.05
    offset = (last[:, :2] + last[:, 2:] / 2 - box[:2] - box[2:] / 2) / np.sqrt(last[:, 2:].prod(1, keepdims=True))
    assert 1.7 < np.abs(offset).max() <= 1.75
    np.testing.assert_allclose(offset.std(0), 3.5 / 12**0.5, rtol=0.05)
    for sample in draws(own, 20):
        assert (sample.trajectory != NO_TRAJECTORY).all()
        for crop, corners in zip(sample.templates, sample.template_boxes, strict=True):
            np.testing.assert_allclose((corners[:2] + corners[2:]) / 2, 0.5, atol=1e-6)
            np.testing.assert_allclose(red_extent(crop), corners * 64, atol=1.5)


def test_the_papers_colors(sampler):
    """Brightness alone, of every crop by at most a fifth; one sample set in twenty is gray."""
    rng, own = np.random.default_rng(0), sampler(replace(CLIPS, paper=True))
    gains = np.array([own._tone(rng).table[200] / 200 for _ in range(300)])
    assert (gains.min(1) == gains.max(1)).all()
    assert 0.79 < gains.min() < 0.82 and 1.18 < gains.max() < 1.21
    gray = [bool((sample.search[..., 0] == sample.search[..., 2]).all()) for sample in draws(own, 200)]
    assert 0.01 < np.mean(gray) < 0.1


def refuse(*_, **__):
    raise AssertionError("this was switched off")


@pytest.mark.parametrize(
    ("config", "switched_off"),
    [
        (replace(CLEAN, clips=0, stills=0.5, regions=0.5), "_clip"),
        (replace(CLEAN, clips=0.5, stills=0, regions=0.5), "_pasted"),
        (replace(CLEAN, clips=0.5, stills=0.5, regions=0), "_region"),
        (replace(CLEAN, clips=0, stills=1, regions=0, paste=0), "_pasted"),
    ],
)
def test_a_share_of_zero_is_never_drawn(sampler, monkeypatch, config, switched_off):
    monkeypatch.setattr(Sampler, switched_off, refuse)
    assert len(draws(sampler(config), 40)) == 40
    with pytest.raises(AssertionError, match="switched off"):
        draws(sampler(replace(SamplingConfig(), paste=1)), 40)


def test_clutter_of_share_zero_is_never_pasted(sampler, monkeypatch, share):
    monkeypatch.setattr(Cutout, "paste", refuse)
    assert len(draws(sampler(STILLS), 20)) == 20
    with pytest.raises(AssertionError, match="switched off"):
        draws(sampler(replace(STILLS, distractor=1)), 1)
    share("OCCLUDER", 1)
    assert len(draws(sampler(replace(STILLS, paper=True)), 5)) == 5
    with pytest.raises(AssertionError, match="switched off"):
        draws(sampler(STILLS), 1)


def test_clutter_leaves_the_picture_and_the_box_alone(sampler, share):
    """Crops are pasted over, never the store; and the target stays where it is under its occluder."""
    share("OCCLUDER", 1)
    sampler = sampler(replace(STILLS, distractor=1))
    before = sampler.store.pixels.copy()
    for sample in draws(sampler, 10):
        assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()
    np.testing.assert_array_equal(sampler.store.pixels, before)


def test_a_look_alike_needs_no_mask(synthetic_store, model, monkeypatch, share):
    """Beside the target lies what its own box holds, as it is or in other colors; without look-alikes, nothing."""
    store, laid = Store.open(synthetic_store(masks=False)), []
    monkeypatch.setattr(Cutout, "paste", lambda self, *_: laid.append(self))
    sampler = Sampler(store, model, replace(STILLS, distractor=1))
    share("LOOK_ALIKE", 0)
    assert draws(sampler, 3)
    assert laid == []
    share("LOOK_ALIKE", 1)
    draws(sampler, 20)
    assert len(laid) == 60
    targets = [Cutout.around(store.image(int(i)), box) for i, box in zip(store.owner, store.boxes, strict=True)]
    same = [any(np.array_equal(cutout.pixels, target.pixels) for target in targets) for cutout in laid]
    assert 0.3 < np.mean(same) < 0.7


def test_a_share_of_the_crops_is_in_another_light(sampler):
    def spread(light):
        """How much the mean brightness of a set's templates differs, as a factor, over many sets."""
        found = []
        for sample in draws(sampler(replace(STILLS, light=light)), 60):
            means = sample.templates.mean((1, 2, 3)) + 1
            found.append(max(means) / min(means))
        return np.array(found)

    assert np.mean(spread(0.0) > 1.6) < 0.1
    assert np.mean(spread(1.0) > 1.6) > 0.4


def test_gray_sets(sampler, share):
    for gray in (0, 1):
        share("GRAY", gray)
        for sample in draws(sampler(STILLS), 10):
            for crop in (*sample.templates, *sample.search):
                assert (np.ptp(crop.astype(int), axis=-1).max() == 0) == (gray == 1)


def test_without_augmentation_crops_keep_their_colors(sampler, share):
    for name in ("STRETCH", "DEGRADE", "GRAY"):
        share(name, 1)
    for sample in draws(sampler(replace(STILLS, augment=False)), 10):
        for crop in (*sample.templates, *sample.search):
            colors = {tuple(color) for color in crop[::16, ::16].reshape(-1, 3).tolist()}
            assert colors & {GROUND_BGR[::-1], (240, 60, 10)}


def test_the_papers_windows_have_its_jitter_alone(sampler, share):
    share("DOUBTFUL_TEMPLATE", 1)
    share("WRONG_TRAJECTORY", 1)
    for name in ("SEEK_SHARE", "NO_SHAPE", "WRONG_SHAPE"):
        share(name, 1)
    paper = sampler(replace(STILLS, paper=True, drop_trajectory=0))
    rng = np.random.default_rng(0)
    drawn = [paper._search_jitter(rng, seek=False) for _ in range(500)]
    offsets = np.array([offset / scale for offset, scale, _ in drawn])  # in sizes of the jittered box
    assert np.abs(offsets).max() < 1.75 and np.abs(offsets).mean() == pytest.approx(0.875, rel=0.15)  # uniform
    assert np.hypot(*paper._template_jitter(rng, later=True)[0]) == 0
    for sample in draws(paper, 10):
        last = centers(sample.trajectory[:, -4:])
        np.testing.assert_allclose((last[:, :2] + last[:, 2:]) / 2, 0.5, atol=BIN_WIDTH)
        assert np.ptp(last[:, 2] - last[:, 0]) > 0  # not all of them squares


def test_doubtful_templates_are_never_the_first(sampler, share):
    share("DOUBTFUL_TEMPLATE", 1)
    rng = np.random.default_rng(0)
    later = [np.hypot(*sampler(STILLS)._template_jitter(rng, later=True)[0]) for _ in range(50)]
    first = [np.hypot(*sampler(STILLS)._template_jitter(rng, later=False)[0]) for _ in range(50)]
    assert min(later) >= 0.4 > max(first)


@pytest.mark.parametrize(
    ("stored", "config", "name"),
    [
        ({"clips": 0}, CLIPS, "clips"),
        ({"stills": 0}, STILLS, "stills"),
        ({"stills": 0, "clips": 0}, REGIONS, "regions"),
    ],
)
def test_missing_data_are_named(synthetic_store, model, stored, config, name):
    store = Store.open(synthetic_store(**stored))
    with pytest.raises(FartrackError, match=f"nothing for {name}; set its share to 0"):
        Sampler(store, model, config)


def test_stills_without_masks_are_not_pasted(synthetic_store, model, share):
    share("OCCLUDER", 1)
    sampler = Sampler(Store.open(synthetic_store(masks=False)), model, replace(PASTED, distractor=1))
    for sample in draws(sampler, 5):
        assert np.isfinite(sample.boxes).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, -0.1) for name in SamplingConfig.__dataclass_fields__ if name not in ("searches", "reach")]
    + [("searches", 0), ("searches", 1.5), ("reach", 0), ("clips", 1.1), ("light", float("nan")), ("absent", "0.1")],
)
def test_a_bad_field_is_named(name, value):
    with pytest.raises(FartrackError, match=f"^{name} is "):
        SamplingConfig(**{name: value})


def test_all_shares_at_zero_are_refused():
    with pytest.raises(FartrackError, match="clips, stills and regions are all 0"):
        SamplingConfig(clips=0, stills=0, regions=0)
