"""Several targets are followed each as if it were alone."""

import numpy as np
import pytest
from test_tracker import RedFinder
from test_tracker import frame as red_frame

import fartrack
from fartrack import FartrackError, MultiTracker, Track, Tracker
from fartrack.targets import parse_targets
from fartrack.tracking.multi import TargetTracker


@pytest.fixture(scope="module")
def tracker():
    return fartrack.load(precision="fp32", threads=1)


def test_each_target_is_followed_as_alone(tracker, demo_clip):
    frames, boxes = demo_clip
    boxes = [boxes[0], np.add(boxes[0], (6, -4, 5, 3))]
    many = MultiTracker(tracker)
    assert [many.add(frames[0], box) for box in boxes] == [0, 1]
    states = [tracker.start(frames[0], box) for box in boxes]
    for frame in frames[1:25]:  # past the first new template
        alone = [tracker.step(state, frame) for state in states]
        states = [state for state, _ in alone]
        found = many.update(frame)
        for number, (_, track) in enumerate(alone):
            assert found[number].box == track.box
            assert found[number].score == pytest.approx(track.score, abs=1e-4)


def test_targets_come_and_go(tracker, demo_clip):
    frames, boxes = demo_clip
    many = MultiTracker(tracker)
    assert many.update(frames[0]) == {}
    first = many.add(frames[0], boxes[0])
    many.update(frames[1])
    second = many.add(frames[1], boxes[1])
    assert list(many.update(frames[2])) == [first, second]
    many.remove(first)
    assert list(many.update(frames[3])) == [second]
    assert many.add(frames[3], boxes[3]) not in (first, second)
    with pytest.raises(FartrackError, match=rf"There is no target {first}; those followed are \[1, 2\]\."):
        many.remove(first)


# --- targets with anchors: a red square that the network finds, and nothing else ---------------------------


def targets(*options, start=0):
    return parse_targets(options, start)


def states(follower, images, first=0):
    """For each frame, the boxes of the targets by name."""
    found = [follower.update(first + i, image) for i, image in enumerate(images)]
    return [{target.name: track.box for target, track in tracks.items()} for tracks in found]


HERE = (100.0, 80.0, 40.0, 30.0)


def test_targets_begin_end_and_are_corrected_on_their_frames(tmp_path):
    (tmp_path / "t.csv").write_text(
        "name,frame,end,x,y,w,h\na,0,1,100,80,40,30\na,5,,104,80,40,30\nb,2,,5,5,10,10\nb,4,,90,70,40,30\n"
    )
    follower = TargetTracker(Tracker(RedFinder()), parse_targets([], 0, tmp_path / "t.csv"))
    found = states(follower, [red_frame(HERE)] * 8)
    assert [sorted(boxes) for boxes in found] == [["a"], ["a"], ["b"], ["b"], ["b"], ["a", "b"], ["a", "b"], ["a", "b"]]
    assert found[2]["b"] == found[3]["b"] == (5, 5, 10, 10)  # nothing red is there
    assert found[4]["b"] == (90, 70, 40, 30) and np.allclose(found[5]["b"], HERE, atol=1)  # corrected, and found
    assert found[5]["a"] == (104, 80, 40, 30) and np.allclose(found[6]["a"], HERE, atol=1)
    assert follower.unreached() == []


def test_one_target_is_followed_as_by_the_tracker_itself(tracker, demo_clip):
    frames, boxes = demo_clip
    follower = TargetTracker(tracker, targets(",".join(map(str, boxes[0]))))
    alone = [tracker.init(frames[0], boxes[0]), *map(tracker.update, frames[1:25])]
    found = [follower.update(i, image) for i, image in enumerate(frames[:25])]
    assert [list(tracks.values()) for tracks in found] == [[track] for track in alone]


def test_a_frame_that_was_dropped_is_made_up_for():
    """Of a live source, frames are passed over: a target begins on the first one after."""
    follower = TargetTracker(Tracker(RedFinder()), targets("a=100,80,40,30", "b@3=100,80,40,30", "b@9=1,1,9,9"))
    assert list(states(follower, [red_frame(HERE)])[0]) == ["a"]
    assert states(follower, [red_frame(HERE)], first=5)[0]["b"] == HERE
    assert [anchor.frame for anchor in follower.unreached()] == [9]


def test_a_correction_while_tracking():
    follower = TargetTracker(Tracker(RedFinder()), targets("a=10,10,50,50", "b@1=100,80,40,30"))
    (a, b), image = follower.targets, red_frame(HERE)
    follower.update(0, image)
    assert follower.correct(a, 0, image, (90, 70, 40, 30)) == Track((90, 70, 40, 30), 1.0)
    assert [(anchor.frame, anchor.box) for anchor in a.anchors] == [(0, (90, 70, 40, 30))]
    found = states(follower, [image] * 2, first=1)
    assert all(np.allclose(boxes["a"], HERE, atol=1) for boxes in found) and found[1].keys() == {"a", "b"}
    follower.correct(b, 2, image, (12, 12, 20, 20))
    assert [anchor.frame for anchor in b.anchors] == [1, 2]
    with pytest.raises(FartrackError, match="no area"):
        follower.correct(a, 2, image, (1, 1, 0, 5))
    assert len(a.anchors) == 1 and a in follower.update(3, image)  # and it is followed as before


def test_frames_are_bgr():
    with pytest.raises(FartrackError, match="BGR"):
        TargetTracker(Tracker(RedFinder(), color="rgb"), targets("1,2,3,4"))
