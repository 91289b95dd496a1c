"""Several targets are followed each as if it were alone."""

import numpy as np
import pytest

import fartrack
from fartrack import FartrackError, MultiTracker


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
