from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.demo_clip import render
from benchmarks.demo_clip.render import CLIP_FPS, CLIP_LENGTH, CLIP_SIZE, Actor, Scene, render_clip

WIDTH, HEIGHT = CLIP_SIZE
SEEDS = (0, 1, 7)


@pytest.fixture(scope="module")
def clip() -> list[tuple[NDArray[np.uint8], tuple[float, float, float, float]]]:
    return list(render_clip())


@pytest.fixture(scope="module", params=SEEDS)
def scene(request: pytest.FixtureRequest) -> Scene:
    return Scene(request.param)


def opacity(actor: Actor, index: int) -> NDArray[np.float64]:
    """How opaque the actor is at each pixel of a frame: what a black and a white ground differ by, 0 to 1."""
    black, white = np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    for ground in (black, white):
        actor.sprite.draw(ground, actor.exposure(index))
    return 1 - (white.astype(float) - black).mean(2) / 255


def corners(box: tuple[float, float, float, float]) -> NDArray[np.float64]:
    x, y, w, h = box
    return np.array([x, y, x + w, y + h])


def extent(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    rows, columns = np.nonzero(mask)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)


def test_frames_are_as_promised(clip):
    assert len(clip) == CLIP_LENGTH and CLIP_FPS == 25
    for frame, box in clip:
        assert frame.shape == (HEIGHT, WIDTH, 3) and frame.dtype == np.uint8
        assert len(box) == 4 and all(type(value) is float for value in box)


def test_same_seed_same_clip(clip):
    again = render_clip()
    for frame, box in clip[:20]:
        other_frame, other_box = next(again)
        assert box == other_box and np.array_equal(frame, other_frame)
    other_frame, other_box = next(render_clip(seed=1))
    assert other_box != clip[0][1] and not np.array_equal(other_frame, clip[0][0])


def test_box_is_the_extent_of_the_cup_rendered_four_times_as_large():
    scene, zoom = Scene(), 4
    data = Path(render.__file__).with_name("cup.webp").read_bytes()
    alpha = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)[..., 3]
    h, w = alpha.shape
    for index in range(0, CLIP_LENGTH, 15):
        pose = scene.cup.exposure(index)[1]
        matrix = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), -pose.angle, pose.scale * zoom)
        matrix[:, 2] += zoom * np.array([pose.x, pose.y]) - 0.5 - (np.array([w, h]) - 1) / 2
        large = cv2.warpAffine(alpha, matrix, (WIDTH * zoom, HEIGHT * zoom))
        # Half a pixel: the outline follows the corners of the cut-out's pixels, interpolation cuts them.
        np.testing.assert_allclose(corners(scene.box(index)), extent(large >= 128) / zoom, atol=0.5)


@pytest.mark.parametrize("index", [4, 30, 75, 90, 140, 165])
def test_box_fits_the_cup_in_the_finished_frame(clip, index):
    frame, box = clip[index]
    blue, green, red = (channel.astype(int) for channel in cv2.split(frame))
    bright = np.minimum(red, 2 * blue) > 170  # The white rim.
    cup = (red - green > 30) | bright
    x0, y0, x1, y1 = corners(box).astype(int)
    cup[: y0 - 8], cup[y1 + 8 :], cup[:, : x0 - 8], cup[:, x1 + 8 :] = False, False, False, False
    cup = cv2.morphologyEx(cup.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
    # Wider than the bound above: color, motion blur and noise put the visible edge a pixel or two off.
    np.testing.assert_allclose(corners(box), extent(cup), atol=3)


def test_cup_stays_in_the_frame_and_moves_smoothly(scene):
    boxes = np.array([corners(scene.box(index)) for index in range(CLIP_LENGTH)])
    assert (boxes >= 0).all() and (boxes <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
    assert np.abs(np.diff(boxes, axis=0)).max() < 15
    assert np.abs(np.diff(boxes, 2, axis=0)).max() < 2


def test_cup_shrinks_grows_and_turns(scene):
    poses = [scene.cup.exposure(index)[1] for index in range(CLIP_LENGTH)]
    scale = np.array([pose.scale for pose in poses]) / poses[0].scale
    assert scale.min() < 0.65 and scale.max() > 1.6
    assert np.ptp([pose.angle for pose in poses]) > 20


def test_cat_hides_the_cup_for_a_while_and_leaves(scene):
    hidden = []
    for index in range(0, CLIP_LENGTH, 3):
        cup = opacity(scene.cup, index)
        hidden.append((cup * opacity(scene.cat, index)).sum() / cup.sum())
    assert 0.75 < max(hidden) < 0.95
    assert 8 <= 3 * sum(share > 0.5 for share in hidden) <= 25
    assert max(hidden[:30]) < 0.01 and max(hidden[-15:]) < 0.01


def test_lookalike_comes_near(scene):
    gaps = []
    for index in range(CLIP_LENGTH):
        cup, other = scene.cup.exposure(index)[1], scene.lookalike.exposure(index)[1]
        gaps.append(np.hypot(cup.x - other.x, cup.y - other.y) / scene.box(index)[2])
    assert 0.7 < min(gaps) < 1.2
