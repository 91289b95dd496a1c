"""The loop with a plain engine that finds a red rectangle in the search crop, so that every number is known."""

import numpy as np
import pytest

from fartrack.errors import FartrackError
from fartrack.geometry import iou
from fartrack.model.config import ModelConfig
from fartrack.tracker import GRID, Tracker, TrackerSettings
from fartrack.vocabulary import BINS, encode


class RedFinder:
    """Finds what is red; ``sure`` is the probability it gives to the right bin."""

    def __init__(self, sure=0.999, identities=2):
        self.config = ModelConfig(identities=identities, attention="cached" if identities <= 2 else "joint")
        self.sure = sure
        self.seen = []  # (trajectory, rows) of every call
        self.taken = []  # (centre colour, identity) of every template

    def memorise(self, crops, identities):
        self.taken += [(crop[56, 56].tolist(), int(i)) for crop, i in zip(crops, identities, strict=True)]
        return np.full((len(crops), 1, 1, 49, 2), identities[0], np.float32)

    def search(self, crops, trajectory, memory):
        self.seen.append((trajectory.copy(), memory.copy()))
        logits = np.zeros((1, 4, BINS), np.float32)
        red = (crops[0, ..., 0] > 150) & (crops[0, ..., 1] < 100)
        if red.any():
            rows, columns = np.nonzero(red)
            corners = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 224
            logits[0, range(4), encode(corners)] = np.log(self.sure / (1 - self.sure) * (BINS - 1))
        return logits

    def search_scored(self, crops, trajectory, memory):
        scores = np.tile(np.arange(49, dtype=np.float32), memory.shape[-2] // 49 + 1)[: memory.shape[-2]]
        return self.search(crops, trajectory, memory), scores[None]


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


def test_trajectory_tokens_are_the_past_boxes_in_the_search_window():
    engine = RedFinder()
    tracker = Tracker(engine)
    tracker.init(frame((100, 80, 40, 40)), (100, 80, 40, 40))
    tracker.update(frame((110, 80, 40, 40)))
    tracker.update(frame((120, 80, 40, 40)))
    first, second = (call[0][0].reshape(3, 4) for call in engine.seen)
    centred = encode([0.375, 0.375, 0.625, 0.625])  # a square box fills the middle quarter of a factor-4 window
    np.testing.assert_array_equal(first, np.tile(centred, (3, 1)))
    assert np.abs(second[-1] - centred).max() <= 1
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
