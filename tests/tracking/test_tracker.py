"""The loop with a plain engine that finds a red rectangle in the search crop, so that every number is known."""

import copy
import pickle
import zlib
from dataclasses import replace

import numpy as np
import pytest

from fartrack.engines.base import encode_templates
from fartrack.errors import FartrackError
from fartrack.geometry import UNIT, iou
from fartrack.model.config import ModelConfig
from fartrack.model.vocabulary import BINS, encode
from fartrack.tracking.multi import MultiTracker
from fartrack.tracking.settings import TrackerSettings
from fartrack.tracking.tracker import GRID, Tracker


class RedFinder:
    """Finds what is red; ``sure`` is the probability it gives to the right bin."""

    def __init__(self, sure=0.999, identities=2):
        self.config = ModelConfig(identities=identities, attention="cached" if identities <= 2 else "joint")
        self.sure = sure
        self.seen = []  # (trajectory, rows) of every call
        self.taken = []  # (center color, identity) of every template
        self.shown = []  # (crop, box) of every template

    def begin_templates(self, crops, identities, boxes):
        self.shown += zip(crops, boxes, strict=True)
        self.taken += [(crop[56, 56].tolist(), int(i)) for crop, i in zip(crops, identities, strict=True)]
        features = np.full((len(crops), 1, 1, 49, 4), identities[0], np.float32)
        features[:, 0, 0, :, 1:] = crops.reshape(-1, 7, 16, 7, 16, 3).mean(axis=(2, 4)).reshape(-1, 49, 3) - 100.0
        return features, None

    def search(self, crops, trajectory, kv_cache):
        self.seen.append((trajectory.copy(), kv_cache.copy()))
        logits = np.zeros((len(crops), 4, BINS), np.float32)
        for row, crop in zip(logits, crops, strict=True):
            red = (crop[..., 0] > 150) & (crop[..., 1] < 100)
            if red.any():
                rows, columns = np.nonzero(red)
                top, left = ((224 - side) // 2 for side in crop.shape[:2])  # a smaller crop is the center of the window
                corners = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                corners = (corners + np.array([left, top, left, top])) / 224
                row[range(4), encode(corners)] = np.log(self.sure / (1 - self.sure) * (BINS - 1))
        return logits

    def search_scored(self, crops, trajectory, kv_cache):
        scores = np.tile(np.arange(49, dtype=np.float32), kv_cache.shape[-2] // 49 + 1)[: kv_cache.shape[-2]]
        return self.search(crops, trajectory, kv_cache), np.tile(scores, (len(crops), 1))


class Whimsical:
    """An engine whose every answer hangs on all that it is shown of a target, and on nothing else."""

    def __init__(self, identities=2):
        self.config = ModelConfig(identities=identities, attention="cached" if identities <= 2 else "joint")
        self.calls = []  # (search crops, template tokens) of every call
        self.parts = []  # of templates, each as it was encoded

    def drawn(self, *arrays):
        return np.random.default_rng(zlib.crc32(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)))

    def begin_templates(self, *templates):
        drawn = [self.drawn(*one).random((1, 1, 49, 2), np.float32) for one in zip(*templates, strict=True)]
        self.parts.append("first")
        return np.stack(drawn), np.stack(drawn) if self.config.attention == "cached" else None

    def finish_templates(self, tokens):
        self.parts.append("rest")
        return -tokens

    def search(self, crops, trajectory, kv_cache):
        self.calls.append((len(crops), kv_cache.shape[-2]))
        logits = np.zeros((len(crops), 4, BINS), np.float32)
        for row, shown in zip(logits, zip(crops, trajectory, kv_cache, strict=True), strict=True):
            rng = self.drawn(*shown)
            row[range(4), encode(rng.uniform([0.3, 0.3, 0.55, 0.55], [0.45, 0.45, 0.7, 0.7]))] = 20
        return logits

    def search_scored(self, crops, trajectory, kv_cache):
        scores = [
            self.drawn(*shown).random(kv_cache.shape[-2]) for shown in zip(crops, trajectory, kv_cache, strict=True)
        ]
        return self.search(crops, trajectory, kv_cache), np.float32(scores)


def frame(box, size=(320, 240)):
    image = np.full((size[1], size[0], 3), 90, np.uint8)
    x, y, w, h = (round(v) for v in box)
    image[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] = (20, 30, 220)  # BGR
    return image


def test_follows_motion_and_scale():
    tracker = Tracker(RedFinder())
    tracker.init(frame((100, 80, 40, 30)), (100, 80, 40, 30))
    for i in range(1, 40):
        truth = (100 + 3 * i, 80 + 2 * i, 40 + i, 30 + i)
        track = tracker.update(frame(truth))
        assert iou(track.box, truth) > 0.93
        assert track.score > 0.9


def test_init_reports_the_given_box_clipped():
    track = Tracker(RedFinder()).init(frame((0, 0, 40, 30)), (-10, -5, 50, 35))
    assert track.box == (0, 0, 40, 30)
    assert track.score == 1


def test_rgb_and_bgr_agree():
    truth = (100, 80, 40, 30)
    tracks = []
    for color in ("bgr", "rgb"):
        tracker = Tracker(RedFinder(), color=color)
        images = [frame(truth), frame((104, 82, 40, 30))]
        if color == "rgb":
            images = [np.ascontiguousarray(image[..., ::-1]) for image in images]
        tracker.init(images[0], truth)
        tracks.append(tracker.update(images[1]))
    assert tracks[0] == tracks[1]


def test_target_leaving_is_awaited_at_the_border_at_its_size():
    tracker = Tracker(RedFinder())
    tracker.init(frame((280, 100, 30, 30)), (280, 100, 30, 30))
    for x in range(280, 335, 5):
        track = tracker.update(frame((x, 100, 30, 30)))
        assert track.box[0] + track.box[2] <= 320
    x, y, w, h = tracker.state.trajectory[-1]
    assert 0 <= x + w / 2 <= 320 and 0 <= y + h / 2 <= 240
    assert x > 280 and w >= 5 and h > 25


def test_lost_target_lowers_the_score_and_holds_the_box():
    tracker = Tracker(RedFinder())
    tracker.init(frame((100, 80, 40, 30)), (100, 80, 40, 30))
    for _ in range(3):
        track = tracker.update(np.full((240, 320, 3), 90, np.uint8))
        assert track.score < 0.1
        assert track.box == (100, 80, 40, 30)
    assert iou(tracker.update(frame((110, 90, 40, 30))).box, (110, 90, 40, 30)) > 0.9


@pytest.mark.parametrize("size", [2, 4, 9])
def test_tiny_targets(size):
    tracker = Tracker(RedFinder())
    tracker.init(frame((100, 80, size, size)), (100, 80, size, size))
    for i in range(1, 20):
        track = tracker.update(frame((100 + i, 80, size, size)))
        assert np.hypot(track.box[0] - 100 - i, track.box[1] - 80) < 1.5


def test_a_frame_of_another_size_scales_the_past():
    tracker = Tracker(RedFinder())
    tracker.init(frame((100, 80, 40, 30)), (100, 80, 40, 30))
    track = tracker.update(frame((200, 160, 80, 60), size=(640, 480)))
    assert iou(track.box, (200, 160, 80, 60)) > 0.93
    assert tracker.state.size == (640, 480)


def test_boxes_lie_on_the_grid():
    tracker = Tracker(RedFinder())
    tracker.init(frame((100, 80, 40, 30)), (100, 80, 40, 30))
    tracker.update(frame((103, 81, 41, 31)))
    kept = tracker.state.trajectory[-1] / GRID
    assert (kept == np.round(kept)).all()


def test_neighbors_of_a_tie_between_two_steps_take_the_same_one():
    tracker = Tracker(RedFinder())
    state = tracker.start(frame((100, 80, 40, 30)), (100, 80, 40, 30))
    (region,) = tracker.search_regions(state, frame((100, 80, 40, 30)))
    region = replace(region, window=UNIT)
    tie = 337.5 * GRID
    for x in (tie - 1e-6, tie, tie + 2e-6):
        box, _ = tracker._box(region, np.array([x, 50, x + 40, 80]), state.recovery, 1.0)
        assert box.tolist() == [338 * GRID, 50, 40, 30]


def test_trajectory_tokens_are_the_past_boxes_in_the_search_window():
    engine = RedFinder()
    tracker = Tracker(engine)
    tracker.init(frame((100, 80, 40, 40)), (100, 80, 40, 40))
    tracker.update(frame((110, 80, 40, 40)))
    tracker.update(frame((120, 80, 40, 40)))
    first, second = (call[0][0].reshape(3, 4) for call in engine.seen)
    centered = encode([0.375, 0.375, 0.625, 0.625])  # a square box fills the middle quarter of a factor-4 window
    np.testing.assert_array_equal(first, np.tile(centered, (3, 1)))
    assert np.abs(second[-1] - centered).max() <= 1
    assert second[0, 0] < second[-1, 0]  # the older box lies to the left


def test_step_is_pure():
    tracker = Tracker(RedFinder())
    state = tracker.start(frame((100, 80, 40, 30)), (100, 80, 40, 30))
    image = frame((104, 80, 40, 30))
    before = state.trajectory.copy()
    first, second = tracker.step(state, image), tracker.step(state, image)
    assert first[1] == second[1]
    assert (state.trajectory == before).all() and state.frame == 0
    assert tracker.state is None


def test_templates_are_taken_at_the_interval_from_sure_frames_only():
    truth = (100, 80, 40, 30)
    for sure, expected in ((0.999, 4), (0.3, 1)):
        tracker = Tracker(RedFinder(sure), TrackerSettings(interval=5, template_score=0.5))
        tracker.init(frame(truth), truth)
        for _ in range(16):
            tracker.update(frame(truth))
        assert len(tracker.state.memory.history) == expected


class Misled(RedFinder):
    """Off by ``shift`` of the search window's side when it is asked with more than one template."""

    def __init__(self, shift):
        super().__init__()
        self.shift = shift

    def search(self, crops, trajectory, kv_cache):
        logits = super().search(crops, trajectory, kv_cache)
        if kv_cache.shape[-2] == 49:
            return logits
        return np.roll(np.log(0.999 / 0.001 * BINS) * (logits > 0), round(self.shift * BINS / 2), axis=-1)


@pytest.mark.parametrize(
    ("agreement", "shift", "sure", "taken", "asked", "right"),
    [
        (0.0, 0.1, 0.999, [0, 5, 10, 15], [], []),
        (0.5, 0.1, 0.999, [0, 5], [*range(9, 17)], [*range(9, 17)]),  # the first one's box is believed
        (0.5, 0.1, 0.3, [0, 5], [*range(9, 17)], []),  # it is not sure enough
        (0.1, 0.1, 0.999, [0, 5, 10, 15], [9, 14], [9, 14]),  # that much agreement there is
        (0.5, 0.0, 0.999, [0, 5, 10, 15], [9, 14], [*range(6, 17)]),
    ],
)
def test_the_first_template_is_asked_the_frame_before_another_is_taken(agreement, shift, sure, taken, asked, right):
    """The target is a quarter of the window's side: off by a tenth of that along both axes, it has an IoU of 0.22."""
    truth = (100, 80, 40, 40)
    engine = Misled(shift)
    tracker = Tracker(engine, TrackerSettings(interval=5, agreement=agreement, template_score=0.5))
    state = tracker.start(frame(truth), truth)
    alone, good = [], []
    for number in range(1, 17):
        engine.sure, engine.seen = sure if number > 5 else 0.999, []  # so that there is a second template
        state, track = tracker.step(state, frame(truth))
        alone += [number] * any(rows.shape[-2] == 49 for _, rows in engine.seen)
        good += [number] * bool(iou(track.box, truth) > 0.9)
    assert [template.frame for template in state.memory.history] == taken
    assert alone == [1, 2, 3, 4, 5, *asked] and good == [1, 2, 3, 4, 5, *right]


def test_no_frame_bears_more_than_a_search_and_one_of_check_and_template():
    truth, engine = (100, 80, 40, 40), RedFinder()
    tracker = Tracker(engine, TrackerSettings(interval=5, agreement=0.5, min_window=0.4, lost_score=0.2))
    state = tracker.start(frame(truth), truth)
    work = []
    for i in range(1, 22):
        engine.seen, engine.taken = [], []
        (look,) = tracker.search_regions(state, frame((100 + i, 80, 40, 40)))
        ((state, _),) = tracker.step_batch([state], [[look]])
        (rows,) = (rows for _, rows in engine.seen)
        work.append((len(look.crop), rows.shape[-2] // 49, len(engine.taken)))
    usual, checks = [(96, n, 0) for n in range(6)], (160, 1, 0)
    joins = [(96, n, 1) for n in range(6)]
    period = lambda n: [usual[n]] * 3 + [checks, joins[n]]  # noqa: E731
    assert work == [usual[1]] * 4 + [joins[1]] + period(2) + period(3) + period(4) + [usual[5]]


def test_where_the_target_has_gone_from_the_checked_place_the_first_template_is_asked_again():
    truth, other = (100, 80, 40, 40), (130, 80, 40, 40)
    tracker = Tracker(RedFinder(), TrackerSettings(interval=5, agreement=0.5))
    state = tracker.start(frame(truth), truth)
    for number in range(1, 15):
        place = other if number >= 10 else truth
        state, track = tracker.step(state, frame(place))
        assert state.agreed == {9: True, 10: True}.get(number) and iou(track.box, place) > 0.9
    assert [template.frame for template in state.memory.history] == [0, 5, 11]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda state: pickle.loads(pickle.dumps(state))])
def test_a_state_copied_between_a_check_and_its_template_goes_on_alike(copied):
    boxes = [(60 + 3 * i, 80 + i, 40, 30 + i) for i in range(30)]
    settings = TrackerSettings(interval=4, agreement=0.4, min_window=0.4, retention=0.5)
    tracker, other = Tracker(RedFinder(), settings), Tracker(RedFinder(), settings)
    state, agreed = tracker.start(frame(boxes[0]), boxes[0]), 0
    for box in boxes[1:]:
        once, again = tracker.step(state, frame(box)), other.step(copied(state), frame(box))
        assert once[1] == again[1] and np.array_equal(once[0].memory.kv_cache, again[0].memory.kv_cache)
        state, agreed = once[0], agreed + bool(state.agreed)
    assert agreed == 6  # at frames 7, 11, …, 27
    assert [template.frame for template in state.memory.history] == [0, *range(4, 30, 4)]


class AtOnce(Whimsical):
    """Encodes a template on the frame from which it is taken."""

    def begin_templates(self, *templates):
        return encode_templates(super(), *templates), None


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("likeness", [-10, 1])  # every template is taken, or most are only compared
def test_templates_are_encoded_on_two_frames(likeness, several):
    settings = TrackerSettings(interval=3, retention=0.5, lost_score=0.2, likeness=likeness, patience=10**9)
    images = np.random.default_rng(0).integers(0, 256, (20, 240, 320, 3), np.uint8)
    tracks = []
    for engine in (Whimsical(), AtOnce()):
        many = MultiTracker(Tracker(engine, settings))
        for box in [(100, 80, 40, 30), (200, 100, 50, 70)][: 1 + several]:
            many.add(images[0], box)
        parts = [set(engine.parts)]
        for image in images[1:]:
            engine.parts.clear()
            tracks.append(many.update(image))
            parts.append(set(engine.parts))
        first, rest = ([i for i, part in enumerate(parts) if name in part] for name in ("first", "rest"))
        taken = sorted({template.frame for state in many.states.values() for template in state.memory.history})
        assert first == [*range(0, 20, 3)] == taken if likeness < 0 else len(first) > 2 * len(taken)
        assert rest == (first if type(engine) is AtOnce else [frame + 1 for frame in taken if frame < 19])
    assert tracks[:19] == tracks[19:]


def test_template_shows_the_target_in_rgb():
    engine = RedFinder()
    Tracker(engine).init(frame((100, 80, 40, 30)), (100, 80, 40, 30))
    assert engine.taken == [([220, 30, 20], 0)]


def test_memory_is_bounded():
    truth = (100, 80, 40, 30)
    tracker = Tracker(RedFinder(), TrackerSettings(interval=1, capacity=6))
    tracker.init(frame(truth), truth)
    for _ in range(50):
        tracker.update(frame(truth))
    assert len(tracker.state.memory.history) == 6
    assert tracker.engine.seen[-1][1].shape[-2] == 5 * 49


def test_pruned_tokens_are_removed_from_the_next_frame_on():
    truth = (100, 80, 40, 30)
    engine = RedFinder()
    tracker = Tracker(engine, TrackerSettings(interval=2, retention=0.5))
    tracker.init(frame(truth), truth)
    for _ in range(6):
        tracker.update(frame(truth))
    # Taken on frame 0, scored on 1, pruned from 2 on; so for those taken on frames 2 and 4.
    kept = round(0.5 * 49)
    assert [call[1].shape[-2] for call in engine.seen] == [49, kept, kept + 49, 2 * kept, 2 * kept + 49, 3 * kept]
    assert all(len(t.keep) == kept for t in tracker.state.memory.history[:-1])
    assert tracker.state.memory.history[0].keep.tolist() == list(range(49 - kept, 49))


def shapes(tracker, boxes, images=None):
    """Width and height of what the network is shown on each frame while it follows a target through these places, and
    the tracks."""
    images = images or [frame(box) for box in boxes]
    state, seen, tracks = tracker.start(images[0], boxes[0]), [], []
    for image in images[1:]:
        (look,) = tracker.search_regions(state, image)
        assert look.pixels.shape == (*look.shown[::-1], 3) and len(look.crop) == max(look.shown)
        ((state, track),) = tracker.step_batch([state], [[look]])
        seen.append(look.shown)
        tracks.append(track)
    return seen, tracks


def sides(tracker, boxes, images=None):
    """The sides of the crops that a tracker looks at, and its tracks; see :func:`shapes`."""
    seen, tracks = shapes(tracker, boxes, images)
    return [max(shown) for shown in seen], tracks


def test_a_slow_target_is_looked_at_closely():
    boxes = [(100 + i, 80, 40, 40) for i in range(6)]  # a fortieth of its size a frame
    seen, tracks = sides(Tracker(RedFinder(), TrackerSettings(min_window=0.4)), boxes)
    assert set(seen) == {96}  # 6 of 14 tokens: the smallest window, and as many missing on either side
    for track, truth in zip(tracks, boxes[1:], strict=True):
        assert iou(track.box, truth) > 0.93
    assert set(sides(Tracker(RedFinder(), TrackerSettings(min_window=0.7)), boxes)[0]) == {160}
    assert set(sides(Tracker(RedFinder()), boxes)[0]) == {224}


def test_the_first_template_is_asked_about_more_of_the_window_and_all_of_it_once_it_disagrees():
    boxes, settings = [(100, 80, 40, 40)] * 9, TrackerSettings(min_window=0.4, interval=3, agreement=0.5)
    assert sides(Tracker(RedFinder(), settings), boxes)[0] == [96, 96, 96, 96, 160, 96, 96, 160]
    misled = Misled(0.1)
    misled.sure = 0.6  # enough to follow the target, and too little to have its box believed
    doubtful = replace(settings, template_score=0.7, confident_score=0.5)
    tracker = Tracker(misled, doubtful)
    state = tracker.start(frame(boxes[0]), boxes[0])
    state = replace(state, memory=state.memory.add(replace(state.memory.history[0], frame=1)), frame=1)
    seen = []
    for box in boxes:
        (look,) = tracker.search_regions(state, frame(box))
        state, _ = tracker.step(state, frame(box))
        seen.append(len(look.crop))
    assert seen == [96, 192] + [224] * 7  # it is seen to jump; and the whole one where it has not agreed
    unasked = replace(settings, agreement=0)
    assert set(sides(Tracker(RedFinder(), unasked), boxes)[0]) == {96}


def test_a_long_target_is_given_room_along_its_length_and_a_fast_one_where_it_moves():
    tracker = Tracker(RedFinder(), TrackerSettings(min_window=0.3))
    tall = [(100 + i, 60, 30, 90) for i in range(6)]
    seen, tracks = shapes(tracker, tall)
    # Of the window of 4 · √(30 · 90) = 208 pixels 0.14 and 0.43, 0.12 around that, 4 times the last step along x.
    assert seen == [(96, 128)] * 5
    for track, truth in zip(tracks, tall[1:], strict=True):
        assert iou(track.box, truth) > 0.93
    assert shapes(tracker, [(x, y, h, w) for y, x, w, h in tall])[0] == [(128, 96)] * 5
    sideways, _ = shapes(tracker, [(60 + 12 * i, 80, 40, 40) for i in range(6)])
    down, _ = shapes(tracker, [(60, 60 + 12 * i, 40, 40) for i in range(6)])
    assert sideways[0] == (96, 96) and sideways[-1][0] == sideways[-1][1] + 32 > 128  # one token less on either end
    assert down == [size[::-1] for size in sideways]


def test_a_check_shows_more_of_either_side():
    settings = TrackerSettings(min_window=0.3, interval=3, agreement=0.5)
    seen, _ = shapes(Tracker(RedFinder(), settings), [(100, 60, 30, 90)] * 9)
    assert seen[4] == (160, 160) and seen[3] == seen[5] == (96, 128)


def test_a_fast_or_large_target_is_given_room():
    tracker = Tracker(RedFinder(), TrackerSettings(min_window=0.3))
    slow, _ = sides(tracker, [(60 + i, 80, 40, 40) for i in range(6)])
    fast, tracks = sides(tracker, [(60 + 16 * i, 80, 40, 40) for i in range(6)])
    long, _ = sides(tracker, [(60 + i, 80, 120, 20) for i in range(6)])
    assert slow[-1] < fast[-1] < 224 and slow[-1] < long[-1]
    assert iou(tracks[-1].box, (140, 80, 40, 40)) > 0.93
    stopping, _ = sides(tracker, [(60 + 16 * min(i, 3), 80, 40, 40) for i in range(9)])
    assert stopping[-1] == slow[-1]  # the speed is forgotten with the trajectory


def test_an_unsure_tracker_looks_at_the_whole_window():
    tracker = Tracker(RedFinder(sure=0.5), TrackerSettings(min_window=0.4, confident_score=0.6))
    assert sides(tracker, [(100, 80, 40, 40)] * 4)[0] == [96, 224, 224]  # the first box is sure
    truth = (100, 80, 40, 40)
    lost, empty = frame(truth), np.full((240, 320, 3), 90, np.uint8)
    images = [lost, lost, empty, lost, lost]
    tracker = Tracker(RedFinder(), TrackerSettings(min_window=0.4))
    assert sides(tracker, [truth] * 5, images)[0] == [96, 96, 224, 96]


def test_targets_looked_at_differently_are_followed_as_each_alone():
    together, alone = (Tracker(RedFinder(), TrackerSettings(min_window=0.4)) for _ in range(2))
    truths = [(100, 80, 40, 40), (200, 20, 30, 90), (20, 150, 50, 40)]
    images = [frame(truth) for truth in truths]
    states = [together.start(image, truth) for image, truth in zip(images, truths, strict=True)]
    looks = [together.search_regions(*pair) for pair in zip(states, images, strict=True)]
    assert len({len(look.crop) for (look,) in looks}) > 1
    expected = [alone.step(*pair)[1] for pair in zip(states, images, strict=True)]
    assert [track for _, track in together.step_batch(states, looks)] == expected


@pytest.mark.parametrize("identities", [2, 5])
@pytest.mark.parametrize("change", [{}, {"agreement": 0.3, "min_window": 0.4}])
def test_several_targets_are_followed_as_each_alone(identities, change):
    settings = TrackerSettings(interval=2, retention=0.5, capacity=5, **change)
    together, alone = (Tracker(Whimsical(identities), settings) for _ in range(2))
    images = np.random.default_rng(0).integers(0, 256, (9, 240, 320, 3), np.uint8)
    boxes = [(100, 80, 40, 30), (10, 20, 30, 30), (200, 100, 50, 70), (100, 80, 40, 31)]
    states = [together.start(images[0], box) for box in boxes]
    states[1], _ = together.step(states[1], images[1])  # so that these two are a frame ahead of the others
    states[3], _ = together.step(states[3], images[1])
    before = len(together.engine.calls)
    for image in images[2:]:
        expected = [alone.step(state, image) for state in states]
        found = together.step_batch(states, [together.search_regions(state, image) for state in states])
        assert [track for _, track in found] == [track for _, track in expected]
        assert len({track.box for _, track in found}) == len(boxes)
        states = [state for state, _ in found]
        for state, (other, _) in zip(states, expected, strict=True):
            assert np.array_equal(state.trajectory, other.trajectory)
            assert (state.frame, state.size, state.agreed) == (other.frame, other.size, other.agreed)
            assert len(state.memory.history) == len(other.memory.history)
            for one, same in zip(state.memory.history, other.memory.history, strict=True):
                assert np.array_equal(one.kv_cache, same.kv_cache) and one.frame == same.frame
                assert np.array_equal(one.keep, same.keep) if one.keep is not None else same.keep is None
    calls = together.engine.calls[before:]
    assert max(count for count, _ in calls) > 1  # in as few calls as their sizes allow
    assert len(calls) < len(alone.engine.calls) / 1.2


def test_targets_of_different_frames_are_followed_at_once():
    tracker = Tracker(RedFinder())
    truths = [(100, 80, 40, 30), (200, 20, 30, 60)]
    images = [frame(truth) for truth in truths]
    states = [tracker.start(image, truth) for image, truth in zip(images, truths, strict=True)]
    found = tracker.step_batch(states, [tracker.search_regions(*pair) for pair in zip(states, images, strict=True)])
    assert [iou(track.box, truth) > 0.93 for (_, track), truth in zip(found, truths, strict=True)] == [True, True]
    assert tracker.step_batch([], []) == []


def test_a_template_made_anew_keeps_the_tokens_that_it_had():
    engine, images = Whimsical(identities=3), np.random.default_rng(0).integers(0, 256, (9, 240, 320, 3), np.uint8)
    settings = TrackerSettings(interval=1, templates=3, capacity=4, retention=0.5)
    tracker, moved = Tracker(engine, settings), 0
    tracker.init(images[0], (100, 80, 40, 30))
    for image in images[1:]:
        before = {template.frame: template for template in tracker.state.memory.history}
        tracker.update(image)
        for template in tracker.state.memory.history:
            known = template.crop[None], np.array([template.identity]), template.box[None]
            whole = engine.begin_templates(*known)[0][0]
            kept = slice(None) if template.keep is None else template.keep
            assert np.array_equal(template.kv_cache, whole[..., kept, :])
            old = before.get(template.frame, template)
            if old.identity != template.identity and old.keep is not None:
                moved += 1
                assert np.array_equal(old.keep, template.keep)
    assert moved > 0


@pytest.mark.parametrize("sides", [(40, 30), (100, 20), (16, 120), (12, 12)])
def test_a_template_shows_its_target_and_is_told_its_box(sides):
    engine = RedFinder()
    tracker = Tracker(engine, TrackerSettings(interval=1))
    tracker.init(frame((100, 80, *sides)), (100, 80, *sides))
    for i in range(1, 4):
        tracker.update(frame((100 + 2 * i, 80 + i, *sides)))
    assert len(engine.shown) == 4
    for crop, box in engine.shown:
        rows, columns = np.nonzero((crop[..., 0] > 150) & (crop[..., 1] < 100))
        seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert box.dtype == np.float32 and 0 < box.min() < box.max() < 1
        np.testing.assert_allclose(seen, 112 * box, atol=2)  # a crop's pixel, and the width of a bin


@pytest.mark.parametrize(
    ("sides", "least", "tokens"),
    [((40, 40), 0.7, 25), ((60, 30), 0.7, 25), ((72, 24), 0.7, 49), ((40, 40), 0.5, 25), ((40, 40), 0.8, 49)],
)
def test_of_later_templates_the_center_is_kept_if_that_holds_the_target(sides, least, tokens):
    """Of seven tokens a side five hold a target twice as long as wide, and none that is three times as long."""
    engine = RedFinder()
    tracker = Tracker(engine, TrackerSettings(interval=1, min_template=least))
    tracker.init(frame((100, 80, *sides)), (100, 80, *sides))
    for i in range(1, 4):
        tracker.update(frame((100 + 2 * i, 80 + i, *sides)))
    first, *later = tracker.state.memory.history
    assert first.kv_cache.shape[-2] == 49 and first.keep is None
    assert [template.kv_cache.shape[-2] for template in later] == 3 * [tokens]
    for template in later if tokens == 25 else ():
        assert template.keep.tolist() == [7 * row + column for row in range(1, 6) for column in range(1, 6)]
        assert template.box.min() >= 1 / 7 and template.box.max() <= 6 / 7
    assert engine.seen[-1][1].shape[-2] == 49 + 2 * tokens


def test_nothing_is_scored_where_everything_is_kept():
    truth = (100, 80, 40, 30)
    engine = Whimsical()
    tracker = Tracker(engine)
    tracker.init(frame(truth), truth)
    tracker.update(frame(truth))
    assert engine.calls == [(1, 49)]
    assert tracker.state.memory.history[0].keep is None


def test_with_an_identity_for_every_slot_moved_templates_are_made_anew():
    truth = (100, 80, 40, 30)
    engine = RedFinder(identities=3)
    tracker = Tracker(engine, TrackerSettings(interval=1, templates=3, capacity=3))
    tracker.init(frame(truth), truth)
    for _ in range(4):
        tracker.update(frame(truth))
    rows = engine.seen[-1][1][0, 0, 0, :, 0].reshape(3, 49)
    np.testing.assert_array_equal(rows.mean(1), [0, 1, 2])


def test_single_template_is_never_renewed():
    truth = (100, 80, 40, 30)
    engine = RedFinder()
    tracker = Tracker(engine, TrackerSettings(templates=1, interval=1))
    tracker.init(frame(truth), truth)
    for _ in range(5):
        tracker.update(frame(truth))
    assert len(engine.taken) == 1


def test_two_threads_at_one_tracker_are_told():
    class Meanwhile(RedFinder):
        def search(self, *shown):
            tracker.state = replace(tracker.state)  # as an update of another thread would
            return super().search(*shown)

    tracker = Tracker(Meanwhile())
    tracker.init(frame((100, 80, 40, 30)), (100, 80, 40, 30))
    with pytest.raises(FartrackError, match=r"Another thread used this tracker meanwhile; .*deepcopy"):
        tracker.update(frame((100, 80, 40, 30)))


def test_update_before_init():
    with pytest.raises(FartrackError, match="call init"):
        Tracker(RedFinder()).update(frame((1, 1, 5, 5)))


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "x",
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 3)),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_bad_frames_are_named(bad):
    with pytest.raises(FartrackError, match="frame"):
        Tracker(RedFinder()).init(bad, (1, 1, 2, 2))


def test_bad_color_and_settings():
    with pytest.raises(FartrackError, match="color"):
        Tracker(RedFinder(), color="hsv")
    with pytest.raises(FartrackError, match="interval"):
        TrackerSettings(interval=0)
    with pytest.raises(FartrackError, match="capacity"):
        TrackerSettings(templates=5, capacity=3)
    with pytest.raises(FartrackError, match=r"^retention is 'half'"):
        TrackerSettings(retention="half")


def test_no_more_templates_than_the_model_takes():
    engine = RedFinder()
    engine.config = ModelConfig(templates=3)
    assert Tracker(engine).settings.templates == 3
    assert Tracker(engine, TrackerSettings(templates=2)).settings.templates == 2
