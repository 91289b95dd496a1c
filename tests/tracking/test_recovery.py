import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_tracker import RedFinder, frame

from fartrack import MultiTracker
from fartrack.geometry import Crop, iou
from fartrack.tracking.recovery import (
    GROWING,
    RATE_FACTOR,
    THUMBNAIL,
    WATCH_INTERVAL,
    WATCHED,
    WIDEST,
    Recovery,
    cover,
    is_cut,
    is_plain,
    seek,
    thumbnail,
    told,
)
from fartrack.tracking.settings import TrackerSettings
from fartrack.tracking.tracker import Tracker

HERE, THERE = (100, 80, 40, 30), (240, 150, 40, 30)


def nothing(seed=0):
    """A frame with texture, but without the target."""
    noise = np.random.default_rng(seed).integers(60, 120, (240, 320, 1))
    return np.repeat(noise, 3, axis=2).astype(np.uint8)


def followed(images, **settings):
    tracker = Tracker(RedFinder(), TrackerSettings(**{"lost_score": 0.2} | settings))
    tracker.init(images[0], HERE)
    return tracker, [tracker.update(image) for image in images[1:]]


def statuses(images, **settings):
    """What recovery says after each frame but the first."""
    tracker, _ = followed(images[:1], **settings)
    found = []
    for image in images[1:]:
        tracker.update(image)
        found.append(tracker.state.recovery.status)
    return found


def test_a_target_that_goes_is_lost_and_found_where_it_was():
    images = [frame(HERE)] * 3 + [nothing(i) for i in range(20)] + [frame(HERE)] * 6
    _, tracks = followed(images, patience=3)
    states = [track.state for track in tracks]
    assert states[:2] == ["tracking", "tracking"] and set(states[2:22]) == {"lost"}
    assert tracks[3].score > 0 and {track.score for track in tracks[4:22]} == {0}
    recovered = statuses(images, patience=3)
    assert recovered[:5] == ["tracking", "tracking", "uncertain", "uncertain", "lost"]
    assert set(recovered[5:22]) == {"lost"}
    assert states[-1] == "tracking" and iou(tracks[-1].box, HERE) > 0.9
    gone = [track for track in tracks if track.state == "lost"]
    assert len({track.box for track in gone}) == 1 and iou(gone[0].box, HERE) > 0.9  # the last sure one


def test_a_target_that_comes_back_elsewhere_is_found_within_a_turn_over_the_frame():
    images = [frame(HERE)] * 3 + [nothing(i) for i in range(30)] + [frame(THERE)] * 20
    _, tracks = followed(images)
    back = next(i for i, track in enumerate(tracks[32:]) if track.state == "tracking" and iou(track.box, THERE) > 0.8)
    assert back <= 14


def with_red(*boxes):
    """A frame with what the engine takes for the target in several places."""
    image = frame(boxes[0])
    for x, y, w, h in boxes[1:]:
        image[y : y + h, x : x + w] = (20, 30, 220)
    return image


GONE_THEN_THERE = [frame(HERE)] * 3 + [nothing(i) for i in range(30)] + [frame(THERE)] * 30


def test_a_target_found_elsewhere_is_followed_back_to_where_it_was_lost():
    back = [with_red(HERE, THERE)] * 8
    tracker, tracks = followed(GONE_THEN_THERE + back, interval=5)
    before, after = tracks[-9], tracks[-8:]
    assert before.state == "tracking" and iou(before.box, THERE) > 0.8
    first = next(i for i, track in enumerate(after) if iou(track.box, HERE) > 0.9)
    assert first < WATCH_INTERVAL and after[first].state == "lost"
    assert {track.state for track in after[first + 1 :]} == {"tracking"} and iou(after[-1].box, HERE) > 0.9
    assert tracker.state.recovery.watch is None
    taken = [template.frame for template in tracker.state.memory.history]
    assert not [number for number in taken if 30 < number < 60]  # what the other one looked like is forgotten


def test_the_place_of_a_loss_is_watched_for_a_while():
    tracker, tracks = followed(GONE_THEN_THERE)
    since = next(number for number, track in enumerate(tracks, 1) if number > 32 and track.state == "tracking")
    assert tracker.state.recovery.watch.since == since and iou(tracker.state.recovery.watch.place, HERE) > 0.9
    rest = since + WATCHED - len(GONE_THEN_THERE) + 1
    _, tracks = followed(GONE_THEN_THERE + [frame(THERE)] * rest + [with_red(HERE, THERE)] * 8)
    assert {track.state for track in tracks[since:]} == {"tracking"} and iou(tracks[-1].box, THERE) > 0.8


def test_a_target_that_moves_back_to_where_it_was_lost_is_watched_no_longer():
    x, y, w, h = THERE
    way = [frame((x - 7 * i, y - 3.5 * i, w, h)) for i in range(1, 21)]  # the frame's last box is HERE
    tracker, tracks = followed(GONE_THEN_THERE + way + [frame(HERE)] * WATCH_INTERVAL)
    assert tracker.state.recovery.watch is None and iou(tracks[-1].box, HERE) > 0.8
    assert {track.state for track in tracks[-20:]} == {"tracking"}


def test_what_does_not_look_like_the_target_where_it_was_lost_is_not_followed():
    hollow = with_red(HERE, THERE)
    x, y, w, h = HERE
    hollow[y + 2 : y + h - 2, x + 2 : x + w - 2] = 90
    _, tracks = followed(GONE_THEN_THERE + [hollow] * 8)
    assert {track.state for track in tracks[-8:]} == {"tracking"} and iou(tracks[-1].box, THERE) > 0.8


def test_black_frames_move_nothing():
    black = np.zeros((240, 320, 3), np.uint8)
    _, tracks = followed([frame(HERE)] * 3 + [black] * 50 + [frame(HERE)] * 8)
    assert all(iou(track.box, HERE) > 0.9 for track in tracks)
    assert [tracks[i].state for i in (1, 30, -1)] == ["tracking", "lost", "tracking"]


def test_what_is_beyond_the_frame_does_not_count_as_something_to_see():
    black = np.zeros((240, 320, 3), np.uint8)
    for window in (Crop(40, 20, 200), Crop(-60, -70, 400), Crop(250, 100, 120.5), Crop(-3, -3, 30)):
        assert is_plain(window.extract(black, 224), window, (320, 240))
        assert not is_plain(window.extract(nothing(), 224), window, (320, 240))
    beyond = Crop(400, 20, 100)
    assert not is_plain(beyond.extract(black, 224), beyond, (320, 240))  # nothing is known
    corner = (4, 6, 60, 50)  # a window that reaches far beyond the frame
    tracker = Tracker(RedFinder(), TrackerSettings(lost_score=0.2))
    tracker.init(frame(corner), corner)
    for image in [frame(corner)] * 2 + [black] * 10:
        track = tracker.update(image)
    assert track.state == "lost" and tracker.state.score == 0 and tracker.state.recovery.turn == 0


def test_templates_taken_shortly_before_a_loss_are_dropped():
    images = [frame(HERE)] * 8 + [nothing(i) for i in range(4)]
    tracker, _ = followed(images, interval=2)
    assert [template.frame for template in tracker.state.memory.history] == [0, 2, 4]


def test_a_doubtful_frame_changes_no_size_and_gives_no_template():
    tracker = Tracker(RedFinder(), TrackerSettings(interval=1, lost_score=0.2))
    tracker.init(frame(HERE), HERE)
    tracker.engine.sure = 0.15
    track = tracker.update(frame((104, 80, 60, 60)))
    assert tracker.state.recovery.status == "uncertain" and track.box[2:] == (40, 30) and track.box[0] > 100
    assert len(tracker.state.memory.history) == 1


def test_without_recovery_whatever_is_found_is_followed():
    images = [frame(HERE)] * 2 + [frame((100, 80, 80, 60))] + [nothing(i) for i in range(6)]
    _, tracks = followed(images, lost_score=0)
    assert {track.state for track in tracks} == {"tracking"}
    assert iou(tracks[1].box, (100, 80, 80, 60)) > 0.93


def test_sizes_change_as_fast_as_is_usual():
    still = Recovery(np.array([0.0, 0, 40, 30]))
    sides, rate = still.limited(still.sure, np.array([80.0, 31]), 0.2)
    np.testing.assert_allclose(sides, [40 * np.exp(0.2), 31])
    quick = Recovery(still.sure, rate=np.array([0.15, 0.15]))
    sides, _ = quick.limited(still.sure, np.array([80.0, 31]), 0.2)
    np.testing.assert_allclose(sides[0], 40 * np.exp(0.15 * RATE_FACTOR))
    assert rate[0] > rate[1] > 0  # what was found counts, not what was allowed
    approaching = [(100 - 4 * i, 80 - 3 * i, 40 + 8 * i, 30 + 6 * i) for i in range(10)]  # a fifth larger at first
    tracker = Tracker(RedFinder(), TrackerSettings(lost_score=0.2))
    tracker.init(frame(approaching[0]), approaching[0])
    assert all(iou(tracker.update(frame(truth)).box, truth) > 0.9 for truth in approaching[1:])


@given(st.integers(50, 2000), st.integers(50, 2000), st.floats(16, 600))
def test_windows_cover_the_frame(width, height, side):
    windows = cover((width, height), side)
    assert all(side - 1e-6 <= window.side <= side * WIDEST + 1e-6 for window in windows)
    for length, starts in ((width, {w.x for w in windows}), (height, {w.y for w in windows})):
        reach = 0.0
        for start in sorted(starts):
            assert start <= reach + 1e-6 or length <= windows[0].side
            reach = start + windows[0].side
        assert reach >= length - 1e-6 or length <= windows[0].side


def test_the_search_widens_and_then_covers_the_frame():
    sure = np.array([100.0, 80, 40, 30])
    turns = [seek(sure, (640, 360), 4.0, turn) for turn in range(40)]
    assert [len(windows) for windows in turns] == [1] * GROWING + [2] * (40 - GROWING)
    sides = [window.side for window, *_ in turns]
    assert sides[0] == pytest.approx(4 * 1200**0.5) and sides[:GROWING] == sorted(sides[:GROWING])
    assert max(sides) == pytest.approx(WIDEST * sides[0])
    tiles = len(cover((640, 360), sides[0]))
    covering = [windows[1] for windows in turns[GROWING : GROWING + tiles]]  # each of them once in so many turns
    for x, y in [(5, 5), (630, 5), (5, 350), (630, 350), (320, 180)]:
        assert any(w.x <= x <= w.x + w.side and w.y <= y <= w.y + w.side for w in covering)


def test_the_search_waits_while_there_is_nothing_to_see():
    black = np.zeros((240, 320, 3), np.uint8)
    tracker, _ = followed([frame(HERE)] * 3 + [black] * 30)
    assert tracker.state.recovery.status == "lost" and tracker.state.recovery.turn == 0
    for i in range(3):
        tracker.update(nothing(i))
    assert tracker.state.recovery.turn == 3


def scene(box, seed):
    """A frame with large patches, other ones for another seed, and the target in them."""
    patches = np.random.default_rng(seed).integers(0, 120, (6, 8, 1)).repeat(40, 0).repeat(40, 1).repeat(3, 2)
    image, (x, y, w, h) = patches.astype(np.uint8), box
    image[y : y + h, x : x + w] = (20, 30, 220)
    return image


def test_a_cut_is_noticed_and_the_whole_frame_searched_at_once():
    gone = (0, 0, 0, 0)
    images = [scene(HERE, 1)] * 4 + [scene(gone, 2)] * 2 + [scene(THERE, 2)] * 12
    _, tracks = followed(images)
    states = [track.state for track in tracks]
    assert states[:4] == ["tracking"] * 3 + ["lost"]  # not after three doubtful frames
    back = next(i for i, track in enumerate(tracks[5:]) if track.state == "tracking" and iou(track.box, THERE) > 0.8)
    assert back <= 8
    _, tracks = followed([scene(HERE, 1)] * 4 + [scene(HERE, 2)] * 4)  # the target stays: nothing is lost
    assert {track.state for track in tracks} == {"tracking"}


def test_thumbnails_tell_cuts():
    one, other = (thumbnail(scene(HERE, seed)) for seed in (1, 2))
    assert one.shape == THUMBNAIL[::-1] and abs(one.mean()) < 1e-3
    assert is_cut(one, other) and is_cut(one, -one) and not is_cut(one, one) and not is_cut(one, 0.8 * one)
    assert not is_cut(one, np.zeros_like(one))  # one color is no scene


@pytest.mark.parametrize(("lost_score", "made"), [(0.2, 5), (0.0, 0)])
def test_targets_share_a_frame_s_thumbnail_which_is_made_for_recovery_alone(monkeypatch, lost_score, made):
    calls = []
    monkeypatch.setattr("fartrack.tracking.tracker.thumbnail", lambda image: calls.append(image) or thumbnail(image))
    many = MultiTracker(Tracker(RedFinder(), TrackerSettings(lost_score=lost_score)))
    for _ in range(3):
        many.add(frame(HERE), HERE)
    images = [frame(HERE), nothing()]
    for image in images:
        many.update(image)
    assert len(calls) == made  # three where they begin, and one a frame
    assert [id(image) for image in calls[3:]] == [id(image) for image in images[: made // 2]]


def test_what_does_not_look_like_the_target_is_not_followed():
    """The engine takes anything red for the target; here its outline alone, around what surrounds it."""
    changed = frame(HERE)
    x, y, w, h = HERE
    changed[y + 2 : y + h - 2, x + 2 : x + w - 2] = 90
    images = [frame(HERE)] * 3 + [changed] * 20
    tracker, tracks = followed(images, interval=5)
    states = [track.state for track in tracks]
    assert states[3:6] == ["tracking", "lost", "lost"]
    # Compared when a template is due, and from then on.
    assert statuses(images, interval=5)[3:6] == ["tracking", "uncertain", "uncertain"]
    assert set(states[8:]) == {"lost"} and tracks[-1].score == 0
    assert [template.frame for template in tracker.state.memory.history] == [0]
    _, tracks = followed(images, interval=5, likeness=-10)
    assert {track.state for track in tracks} == {"tracking"}


@pytest.mark.parametrize(
    ("sought", "score", "before", "state"),
    [
        (False, 0.5, "tracking", "tracking"),
        (False, 0.49, "tracking", "uncertain"),
        (False, 0.3, "uncertain", "uncertain"),
        (False, 0.29, "tracking", "lost"),
        (False, 0.49, "lost", "lost"),
        (False, 0.5, "lost", "tracking"),
        (True, 0.0, "tracking", "lost"),
    ],
)
def test_the_state_that_is_told(sought, score, before, state):
    assert told(sought, score, before) == state


def test_a_found_target_must_be_about_as_large_as_it_was():
    recovery = Recovery(np.array([0.0, 0, 40, 30]))
    assert recovery.plausible(np.array([50.0, 50, 60, 40]))
    assert not recovery.plausible(np.array([50.0, 50, 160, 40]))


def test_each_of_several_targets_has_its_own_state():
    many = MultiTracker(Tracker(RedFinder(), TrackerSettings(lost_score=0.2)))
    first = many.add(frame(HERE), HERE)
    for _ in range(5):
        many.update(nothing())
    second = many.add(frame(THERE), THERE)
    tracks = many.update(frame(THERE))
    assert tracks[first].state == "lost" and tracks[second].state == "tracking"


def test_a_lost_target_does_not_take_the_place_of_another():
    other = (170, 80, 40, 30)
    many = MultiTracker(Tracker(RedFinder(), TrackerSettings(lost_score=0.2)))
    lost, kept = many.add(frame(HERE), HERE), many.add(frame(other), other)
    for _ in range(12):  # the engine takes anything red for the target
        states = many.states
        states[lost] = many.tracker.step(states[lost], nothing())[0]
        states[kept] = many.tracker.step(states[kept], frame(other))[0]
    for _ in range(12):
        tracks = many.update(frame(other))
    assert tracks[kept].state == "tracking" and iou(tracks[kept].box, other) > 0.9
    assert tracks[lost].state == "lost"
    alone = MultiTracker(Tracker(RedFinder(), TrackerSettings(lost_score=0.2)))
    number = alone.add(frame(HERE), HERE)
    for image in [nothing()] * 12 + [frame(other)] * 12:
        track = alone.update(image)[number]
    assert track.state == "tracking"  # so it would have taken it


def test_where_a_target_was_lost_another_one_is_left_alone():
    many = MultiTracker(Tracker(RedFinder(), TrackerSettings(lost_score=0.2)))
    one = many.add(GONE_THEN_THERE[0], HERE)
    for image in GONE_THEN_THERE[1:]:
        many.update(image)
    assert many.states[one].recovery.watch is not None
    other = many.add(with_red(HERE, THERE), HERE)
    tracks = [many.update(with_red(HERE, THERE)) for _ in range(12)]
    assert iou(tracks[-1][one].box, THERE) > 0.8 and iou(tracks[-1][other].box, HERE) > 0.9
    assert {each[other].state for each in tracks} == {"tracking"} and tracks[-1][one].state == "tracking"
