"""What was seen beside the target is told from it, wherever the box jumps."""

import cv2
import numpy as np
import pytest
from test_tracker import RedFinder

from fartrack.geometry import iou
from fartrack.tracking.distractors import Scene
from fartrack.tracking.settings import TrackerSettings
from fartrack.tracking.tracker import Tracker

TARGET, OTHER = (60, 60, 40, 30), (180, 110, 40, 30)


def texture(seed, height, width):
    """Soft random spots."""
    noise = np.random.default_rng(seed).normal(0, 1, (height, width, 3)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), 2.5)
    return np.clip(128 + 60 * soft / soft.std(), 0, 255).astype(np.uint8)


def shown(objects, scale=1):
    """A frame with objects: seeds of their textures and their boxes."""
    image = texture(0, 240, 320) // 3
    for seed, (x, y, w, h) in objects:
        image[y : y + h, x : x + w] = texture(seed, h, w)
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)


def boxes(*many, scale=1):
    return [scale * np.array(box, float) for box in many]


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("moved", [0, 12, -25])
def test_what_was_beside_the_target_is_no_target(scale, moved):
    now = (OTHER[0] + moved, *OTHER[1:])
    target, other = boxes(TARGET, now, scale=scale)
    before = Scene.of(shown([(1, TARGET), (2, OTHER)], scale), target)
    after = Scene.of(shown([(2, now)], scale), other, before.step)
    assert before.shows(after)
    assert before.pixels.size <= 240 * 320 * 2  # however large the frame is, it is as fine as the target needs


def test_a_target_that_jumps_is_one():
    target, there = boxes(TARGET, OTHER)
    before = Scene.of(shown([(1, TARGET)]), target)
    assert not before.shows(Scene.of(shown([(1, OTHER)]), there))
    passed = Scene.of(shown([(1, TARGET), (2, (230, 110, 40, 30))]), target)  # beside another object
    assert not passed.shows(Scene.of(shown([(1, OTHER), (2, (230, 110, 40, 30))]), there))


def test_a_target_that_stays_is_one():
    (target,) = boxes(TARGET)
    before = Scene.of(shown([(1, TARGET), (2, OTHER)]), target)
    assert not before.shows(Scene.of(shown([(1, TARGET), (2, OTHER)]), target))


def test_a_copy_is_taken_for_the_target():
    target, other = boxes(TARGET, OTHER)
    before = Scene.of(shown([(1, TARGET), (1, OTHER)]), target)
    assert not before.shows(Scene.of(shown([(1, OTHER)]), other))


def painted(objects):
    """Objects in red, with a texture of their own."""
    image = shown(objects)
    image[..., 1] //= 3
    for _, (x, y, w, h) in objects:
        image[y : y + h, x : x + w, 2] = 255
    return image


def test_a_distractor_does_not_take_over_and_the_target_is_found_again():
    near = (106, 62, 40, 30)  # in the search window
    with_both, without, back = painted([(1, TARGET), (2, near)]), painted([(2, near)]), painted([(1, (56, 62, 40, 30))])
    only = painted([(1, TARGET)])
    tracker = Tracker(RedFinder(), TrackerSettings(lost_score=0.2, likeness=-10))
    state = tracker.start(with_both, TARGET)
    state, _ = tracker.step(state, only)
    states, statuses, tracks = [], [], []
    for image in [without] * 8 + [back] * 4:
        state, track = tracker.step(state, image)
        states.append(track.state)
        statuses.append(state.recovery.status)
        tracks.append(track.box)
    assert statuses[:3] == ["uncertain", "uncertain", "lost"] and set(statuses[3:8]) == {"lost"}
    assert set(states[:8]) == {"lost"}
    assert all(iou(box, near) < 0.1 for box in tracks[:8])
    assert states[-1] == "tracking" and iou(tracks[-1], (56, 62, 40, 30)) > 0.8


def test_a_frame_of_another_size_forgets_the_scene():
    tracker = Tracker(RedFinder(), TrackerSettings(lost_score=0.2))
    state = tracker.start(shown([(1, TARGET)]), TARGET)
    assert state.recovery.scene is not None
    assert state.recovery.scaled(np.full(4, 2.0)).scene is None
