"""Clips of real sequences hold their frames and boxes; those made of stills have boxes that enclose the object."""

import numpy as np
import pytest

pytest.importorskip("torch")

from fartrack.datasets.pictures import Picture, Target
from fartrack.errors import FartrackError
from fartrack.geometry import Crop
from fartrack.train.data import augment
from fartrack.train.data.augment import Cutout, Tone
from fartrack.train.data.clips import FRAME, ClipSampler, walk
from fartrack.train.data.store import Store, write_store

TARGET_BGR = (10, 60, 240)  # of the stores that conftest makes


@pytest.fixture
def plain_tone(monkeypatch):
    """No change of colors or aspect ratios."""
    monkeypatch.setattr(augment, "STRETCH", 0)
    monkeypatch.setattr(Tone, "draw", classmethod(lambda cls, *_: cls.of()))


def found(frame):
    """The corners of what has the target's color, if anything has."""
    near = np.abs(frame.astype(int) - TARGET_BGR).max(-1) <= 2
    if not near.any():
        return None
    rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def corners(box):
    return np.concatenate([box[:2], box[:2] + box[2:]])


def test_real_clips_are_stretches_of_one_sequence(synthetic_store, plain_tone):
    store = Store.open(synthetic_store(textured=True))
    sampler, seen = ClipSampler(store, 5, 0), set()
    for number in range(40):
        clip = sampler.draw(np.random.default_rng(number))
        assert len(clip.frames) == 5 and clip.boxes.shape == (5, 4)
        for frame, box in zip(clip.frames, clip.boxes, strict=True):
            np.testing.assert_array_equal(found(frame), corners(box))
        # Which pictures they are, as they stand in the store or mirrored.
        pictures = {store.image(i).tobytes(): (i, False) for i in range(len(store.sizes))}
        pictures |= {store.image(i)[:, ::-1].tobytes(): (i, True) for i in range(len(store.sizes))}
        places, mirrored = zip(*(pictures[frame.tobytes()] for frame in clip.frames), strict=True)
        assert len(set(mirrored)) == 1
        assert len({store.sequence[place] for place in places}) == 1 and store.sequence[places[0]] >= 0
        assert set(np.diff(places)) in ({1}, {-1})
        seen.add((mirrored[0], places[1] > places[0]))
    assert len(seen) == 4  # forwards and backwards, mirrored and not


def test_frames_without_a_target_have_no_part_in_a_clip(tmp_path, plain_tone):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 40, 50, 3), np.uint8)
    targets = [(Target((5.0 + i, 6, 20, 10)),) if i != 2 else () for i in range(5)]
    write_store(tmp_path, [Picture(image, t, sequence="a") for image, t in zip(images, targets, strict=True)])
    clip = ClipSampler(Store.open(tmp_path), 4, 0).draw(np.random.default_rng(3))
    assert sorted(np.abs(np.diff(clip.boxes[:, 0]))) == [1, 1, 2]
    with pytest.raises(FartrackError, match="no sequence of 5 frames"):
        ClipSampler(Store.open(tmp_path), 5, 0)


def test_the_box_of_a_synthetic_clip_encloses_its_object(tmp_path, plain_tone, monkeypatch):
    rows, columns = np.mgrid[:40, :60]
    mask = ((columns + 0.5 - 30) / 30) ** 2 + ((rows + 0.5 - 20) / 20) ** 2 < 1
    images = [np.full((40, 60, 3), color, np.uint8) for color in (TARGET_BGR, (230, 60, 10))]
    write_store(tmp_path, [Picture(image, (Target((0, 0, 60, 40), mask),)) for image in images])
    sampler = ClipSampler(Store.open(tmp_path), 6, 1)
    of, paste, asked, laid = Cutout.of, Cutout.paste, [], []

    def alternate(store, target):
        """The target is red, the other object blue, unless it is a look-alike."""
        asked.append(target)
        return of(store, (len(asked) - 1) % 2)

    def record(self, *arguments):
        laid.append(tuple(self.pixels[0, 0]) == TARGET_BGR)
        return paste(self, *arguments)

    monkeypatch.setattr(Cutout, "of", alternate)
    monkeypatch.setattr(Cutout, "paste", record)
    monkeypatch.setattr(Crop, "extract", lambda self, image, size: np.full((size, size, 3), 90, np.uint8))
    free = covered = 0
    for seed in range(60):
        laid.clear()
        clip = sampler.draw(np.random.default_rng(seed))
        assert [frame.shape for frame in clip.frames] == [(FRAME, FRAME, 3)] * 6 and len(laid) == 12
        assert len({tuple(pair) for pair in zip(laid[::2], laid[1::2], strict=True)}) == 1  # one order for all frames
        if all(laid):
            continue
        for frame, box in zip(clip.frames, clip.boxes, strict=True):
            x0, y0, x1, y1 = corners(box)
            assert x0 < x1 and y0 < y1
            inside = np.clip([x0, y0, x1, y1], 0, FRAME)
            seen = found(frame)
            if laid[1]:  # the target is in front
                free += 1
                np.testing.assert_allclose(seen, inside, atol=2)  # the rim is mixed with the ground
            elif seen is not None:
                covered += 1
                assert (seen[:2] > inside[:2] - 2).all() and (seen[2:] < inside[2:] + 2).all()
    assert min(free, covered) > 50


def test_draws_depend_on_the_generator_alone(synthetic_store):
    store = Store.open(synthetic_store())
    for synthetic in (0, 0.5, 1):
        sampler = ClipSampler(store, 4, synthetic)
        one, other = sampler.draw(np.random.default_rng(5)), sampler.draw(np.random.default_rng(6))
        again = ClipSampler(store, 4, synthetic).draw(np.random.default_rng(5))
        np.testing.assert_array_equal(one.frames, again.frames)
        np.testing.assert_array_equal(one.boxes, again.boxes)
        assert not np.array_equal(one.boxes, other.boxes)


def test_the_share_of_synthetic_clips(synthetic_store, plain_tone):
    sampler = ClipSampler(Store.open(synthetic_store()), 2, 0.25)
    clips = [sampler.draw(np.random.default_rng(number)) for number in range(200)]
    synthetic = np.mean([clip.frames[0].shape == (FRAME, FRAME, 3) for clip in clips])
    assert synthetic == pytest.approx(0.25, abs=0.08)


def test_what_the_data_lack_is_named(synthetic_store):
    store = Store.open(synthetic_store(masks=False))
    assert len(ClipSampler(store, 12, 0).sequences) == 3
    with pytest.raises(FartrackError, match="no sequence of 13 frames; lower frames or add data"):
        ClipSampler(store, 13, 0.5)
    with pytest.raises(FartrackError, match="no masked objects for synthetic clips; set synthetic to 0"):
        ClipSampler(store, 12, 0.5)
    stills = Store.open(synthetic_store(clips=0))
    assert ClipSampler(stills, 12, 1).sequences == []
    with pytest.raises(FartrackError, match="no sequence of 12 frames"):
        ClipSampler(stills, 12, 0.5)


@pytest.mark.parametrize("axes", [None, 2])
def test_a_walk_is_smooth_and_begins_at_zero(axes):
    walks = np.stack([walk(np.random.default_rng(seed), 50, 0.1, axes) for seed in range(300)])
    assert walks.shape == (300, 50) if axes is None else (300, 50, 2)
    assert (walks[:, 0] == 0).all()
    speed = np.diff(walks, axis=1)
    assert speed[:, 0].std() == pytest.approx(0.1, rel=0.15)
    assert speed[:, -1].std() == pytest.approx(0.1, rel=0.15)  # it neither dies down nor grows
    assert np.corrcoef(speed[:, 20].ravel(), speed[:, 21].ravel())[0, 1] > 0.8


def test_a_stretched_clip_keeps_its_boxes_on_the_target(synthetic_store, plain_tone, monkeypatch):
    store = Store.open(synthetic_store(textured=True))
    sampler, ratios = ClipSampler(store, 5, 0), []
    for number in range(10):
        drawn = []
        for share in (0, 1):
            monkeypatch.setattr(augment, "STRETCH", share)
            drawn.append(sampler.draw(np.random.default_rng(number)))
        before, clip = drawn
        ratios.append(float((clip.boxes[0, 2] / clip.boxes[0, 3]) / (before.boxes[0, 2] / before.boxes[0, 3])))
        for frame, box, old in zip(clip.frames, clip.boxes, before.frames, strict=True):
            assert frame.shape[0] * frame.shape[1] == pytest.approx(old.shape[0] * old.shape[1], rel=0.05)
            x0, y0, x1, y1 = corners(box)
            inside = frame[round(y0) + 2 : round(y1) - 2, round(x0) + 2 : round(x1) - 2]
            assert np.abs(inside.astype(int) - TARGET_BGR).max() <= 3  # the resized edge is blurred, its middle not
    assert min(ratios) < 0.7 and max(ratios) > 1.4
