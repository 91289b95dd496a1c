"""A rolled-over clip becomes a batch that holds exactly what the tracker's network was shown, masks included."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

import fartrack.tracking.tracker
from fartrack.engines.base import encode_templates
from fartrack.engines.torch import TorchEngine
from fartrack.errors import FartrackError
from fartrack.geometry import Crop
from fartrack.model.losses import coordinate_loss
from fartrack.model.vocabulary import encode
from fartrack.tracking.settings import TrackerSettings
from fartrack.tracking.templates import best_tokens
from fartrack.tracking.tracker import Tracker
from fartrack.train.data.batches import Batch
from fartrack.train.data.clips import Clip
from fartrack.train.objective import forward_exits, losses, prune
from fartrack.train.rollout import roll

FRAMES = 9
SETTINGS = TrackerSettings(templates=3, interval=2, retention=0.5, template_score=0, hold_score=0, lost_score=0)
STILL = replace(SETTINGS, hold_score=1)  # the box stays where it is


@pytest.fixture
def network(tiny, random_network):
    """Templates of 4 × 4 tokens."""
    return random_network(tiny(patch=8), seed=3)  # with others the boxes leave the windows


def follow(network, settings, seed):
    """A clip of noise on which the truth is what the tracker finds, so that nothing is lost; and what it saw."""
    rng = np.random.default_rng(seed)
    frames = [rng.integers(0, 256, (90, 120, 3), np.uint8) for _ in range(FRAMES)]
    tracker = Tracker(TorchEngine(network), settings)
    boxes, looks = [(40.0, 30.0, 24.0, 30.0)], []
    state = tracker.start(frames[0], boxes[0])
    for frame in frames[1:]:
        looks += tracker.search_regions(state, frame)
        state, track = tracker.step(state, frame)
        boxes.append(track.box)
    return Clip(frames, np.array(boxes)), looks


def masks(batch, clips, clip):
    """Of each template of a clip, by its number: its mask on each frame on which it was used, in order."""
    found = {}
    index, valid = batch.index[clip::clips], batch.valid.reshape(*batch.index.shape, -1)[clip::clips]
    for row, numbers in enumerate(index.tolist()):
        for slot, number in enumerate(numbers):
            if valid[row, slot].any():
                found.setdefault(number, []).append(valid[row, slot])
    return found


def test_the_batch_is_what_the_tracker_saw(network):
    clips, looks = zip(*(follow(network, SETTINGS, seed) for seed in (0, 1)), strict=True)
    batch, lost = roll(Tracker(TorchEngine(network), SETTINGS), clips)
    assert lost == 0
    assert batch.search.shape[0] == 2 * (FRAMES - 1)
    for clip in range(2):
        assert len({look.window for look in looks[clip]}) > 4  # the tracker moves
        for row, look in enumerate(looks[clip]):
            place = 2 * row + clip
            np.testing.assert_array_equal(batch.search[place], look.crop)
            np.testing.assert_array_equal(batch.trajectory[place], look.tokens)
            truth = look.window.to_crop(clips[clip].boxes[row + 1])
            np.testing.assert_allclose(batch.boxes[place], truth, atol=1e-6)


def test_each_template_is_stored_once(network):
    clips = [follow(network, SETTINGS, seed)[0] for seed in (0, 1)]
    batch, _ = roll(Tracker(TorchEngine(network), SETTINGS), clips)
    taken = range(0, FRAMES - 1, 2)
    assert batch.templates.shape == (2 * len(taken), 32, 32, 3)
    assert len({crop.tobytes() for crop in batch.templates.numpy()}) == 2 * len(taken)
    assert batch.index.shape == (2 * (FRAMES - 1), 3)
    for clip in range(2):
        used = sorted(masks(batch, 2, clip))
        assert len(used) == len(taken)
        for number, frame in zip(used, taken, strict=True):
            box = clips[clip].boxes[frame]
            window = Crop.template(box, 2)
            if frame == 0:
                np.testing.assert_array_equal(
                    batch.templates[number], window.extract(clips[clip].frames[0], 32)[..., ::-1]
                )
            np.testing.assert_allclose(batch.template_boxes[number], window.to_crop(box).clip(0, 1), atol=1e-6)
        assert batch.identities[used].tolist() == [0] + [1] * (len(taken) - 1)
        assert set(batch.index[clip::2, 0].tolist()) == {used[0]}  # the first template is never given up


def test_a_mask_is_decided_once_and_carried_on(network):
    clips = [follow(network, SETTINGS, seed)[0] for seed in (0, 1)]
    batch, _ = roll(Tracker(TorchEngine(network), SETTINGS), clips)
    every = [mask for clip in range(2) for mask in masks(batch, 2, clip).values()]
    for first, *later in every:
        assert first.all()  # the frame that decides sees all of it
        for mask in later:
            assert mask.sum() == 8
            assert torch.equal(mask, later[0])
    assert len({tuple(later[0].tolist()) for _, *later in every if later}) > 1
    # On the first frames there is one template, and the places of the others are masked.
    assert batch.valid.reshape(-1, 2, 3, 16)[:2, :, 1:].sum() == 0
    assert batch.valid.reshape(-1, 2, 3, 16)[2:, :, :2].any(-1).all()


@pytest.mark.parametrize(("retention", "count"), [(0.3, 5), (0.75, 12), (1.0, 16)])
def test_as_many_tokens_are_kept_as_are_asked_for(network, retention, count):
    settings = replace(SETTINGS, retention=retention)
    batch, _ = roll(Tracker(TorchEngine(network), settings), [follow(network, settings, 0)[0]])
    later = [mask for _, *later in masks(batch, 1, 0).values() for mask in later]
    assert {int(mask.sum()) for mask in later} == {count}


@pytest.mark.parametrize("attention", ["cached", "joint"])
@pytest.mark.parametrize("retention", [0.5, 1.0])
def test_the_batch_gives_the_logits_that_the_tracker_had(
    tiny, random_network, recipe, monkeypatch, attention, retention
):
    network = random_network(tiny(patch=8, attention=attention, identities=2 if attention == "cached" else 3))
    settings = replace(STILL, retention=retention)
    clip, _ = follow(network, settings, 0)
    decode, had = fartrack.tracking.tracker.decode, []

    def record(logits):
        had.append(torch.from_numpy(logits.copy()))
        return decode(logits)

    monkeypatch.setattr(fartrack.tracking.tracker, "decode", record)
    batch, _ = roll(Tracker(TorchEngine(network), settings), [clip])
    had = torch.stack(had)
    with torch.no_grad():
        (last,) = forward_exits(network, batch, (network.config.depth,))
        terms = losses(network, batch, replace(recipe, model=network.config))
        torch.testing.assert_close(last.logits_B4V, had, rtol=1e-3, atol=1e-3)
        expected = coordinate_loss(had, batch.boxes, recipe.loss.smoothing)
    assert terms["cross_entropy"].item() == pytest.approx(expected.item(), rel=1e-4)
    if retention < 1:  # and the masks are of consequence
        with torch.no_grad():
            unmasked = replace(batch, valid=torch.ones_like(batch.valid))
            (free,) = forward_exits(network, unmasked, (network.config.depth,))
        assert not torch.allclose(free.logits_B4V, had, rtol=1e-2, atol=1e-2)


def moving(places):
    """A clip on which a target of 20 × 20 pixels stands at these places."""
    frames = [np.full((100, 400, 3), 90, np.uint8) for _ in places]
    return Clip(frames, np.array([(x, 40.0, 20.0, 20.0) for x in places]))


def test_a_target_that_leaves_the_window_is_found_again(network):
    """The window reaches 40 pixels to each side of its center, and the tracker does not follow."""
    clip = moving([20.0, 35, 50, 65, 80, 95, 110])
    batch, lost = roll(Tracker(TorchEngine(network), STILL), [clip])
    assert lost == 2  # on the third frame and the fifth
    believed = [20.0, 20, 50, 50, 80, 80]
    assert len(batch.boxes) == len(believed)
    for row, x in enumerate(believed):
        window = Crop.around((x, 40, 20, 20), 4)
        np.testing.assert_allclose(batch.boxes[row], window.to_crop(clip.boxes[row + 1]), atol=1e-6)
        past = np.array([(x, 40.0, 20.0, 20.0)] * 3)  # the whole of it is set upon the truth
        np.testing.assert_array_equal(batch.trajectory[row], encode(window.to_crop(past)).reshape(-1))


def test_a_frame_on_which_the_target_has_jumped_is_left_out(network):
    clip = moving([20.0, 20, 20, 300, 300, 300])
    batch, lost = roll(Tracker(TorchEngine(network), STILL), [clip])
    assert lost == 2  # on the frame of the jump, and on the next, on which the tracker is set upon it
    assert len(batch.boxes) == len(batch.search) == len(batch.index) == len(batch.valid) == 4
    np.testing.assert_allclose(batch.boxes, [[0.375, 0.375, 0.625, 0.625]] * 4)


def test_clips_with_nothing_to_learn_from_are_refused(network):
    with pytest.raises(FartrackError, match="On no frame of these clips is the target near where it was"):
        roll(Tracker(TorchEngine(network), STILL), [moving([20.0, 300, 160])])


@pytest.mark.parametrize("attention", ["cached", "joint"])
def test_pruning_keeps_what_a_tracker_would(tiny, random_network, attention):
    """Two sets of two templates and three crops each: the first crop of a set decides, as the tracker's memory does."""
    network = random_network(tiny(patch=8, attention=attention)).train()
    rng = np.random.default_rng(0)
    batch = Batch(
        templates=torch.from_numpy(rng.integers(0, 256, (4, 32, 32, 3), np.uint8)),
        identities=torch.tensor([0, 1, 0, 1]),
        template_boxes=torch.from_numpy(np.sort(rng.random((4, 4), np.float32), axis=1)),
        index=torch.tensor([[0, 1], [2, 3]]),
        search=torch.from_numpy(rng.integers(0, 256, (6, 64, 64, 3), np.uint8)),
        trajectory=torch.from_numpy(rng.integers(0, 600, (6, 4 * network.config.trajectory))),
        boxes=torch.zeros(6, 4),
    )
    valid = prune(network, batch, 0.3)
    assert network.training
    assert valid.shape == (2, 2 * 16)
    engine = TorchEngine(network)
    for i in range(2):
        own = slice(2 * i, 2 * i + 2)
        crops, boxes = batch.templates[own].numpy(), batch.template_boxes[own].numpy()
        rows = encode_templates(engine, crops, batch.identities[own].numpy(), boxes)
        memory = np.concatenate(rows, axis=-2)[None]
        first = slice(3 * i, 3 * i + 1)
        _, scores = engine.search_scored(batch.search[first].numpy(), batch.trajectory[first].numpy(), memory)
        for slot, place in enumerate(np.split(scores[0], 2)):
            kept = torch.zeros(16, dtype=torch.bool)
            kept[best_tokens(place, 0.3)] = True
            assert torch.equal(valid[i, 16 * slot : 16 * slot + 16], kept)
            assert kept.sum() == 5
