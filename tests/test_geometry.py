import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fartrack.errors import FartrackError
from fartrack.geometry import LONG_MARGIN, MIN_WINDOW, PADDING_BGR, Crop, box_iou, check_box, clip_box, iou, parse_box

positions = st.floats(-500, 2500)
sides = st.floats(0.5, 2000)
boxes = st.tuples(positions, positions, sides, sides)


@given(boxes, boxes, st.floats(1, 8))
def test_image_crop_image_is_exact(around, box, factor):
    crop = Crop.around(around, factor)
    np.testing.assert_allclose(crop.to_image(crop.to_crop(box)), box, atol=1e-9 * max(crop.side, 2500))


@given(boxes, st.floats(1, 8))
def test_window_is_centered_and_has_the_area_factor(box, factor):
    crop = Crop.around(box, factor)
    _, _, w, h = box
    assert crop.side == pytest.approx(max(factor * np.sqrt(w * h), MIN_WINDOW))
    corners = crop.to_crop(box)
    np.testing.assert_allclose(corners[:2] + corners[2:], [1, 1], atol=1e-6)
    assert crop.side >= MIN_WINDOW


@given(boxes, st.floats(1, 8))
def test_a_template_shows_all_of_its_target_up_to_a_bound(box, factor):
    window, usual, widest = Crop.template(box, factor), Crop.around(box, factor), Crop.around(box, 1.5 * factor)
    needed = LONG_MARGIN * max(box[2:])
    if needed <= usual.side:
        np.testing.assert_allclose(tuple(vars(window).values()), tuple(vars(usual).values()))
    assert window.side == pytest.approx(min(max(usual.side, needed), widest.side))
    corners = window.to_crop(box)
    np.testing.assert_allclose(corners[:2] + corners[2:], [1, 1], atol=1e-6)
    if needed <= widest.side:
        assert corners.min() > 0 and corners.max() < 1


@pytest.mark.parametrize(
    ("sides", "side"),
    [((30, 30), 60), ((60, 20), 2 * 1200**0.5), ((80, 20), 92), ((20, 80), 92), ((200, 10), 3 * 2000**0.5)],
)
def test_the_window_of_a_template_by_hand(sides, side):
    assert Crop.template((5, 7, *sides), 2).side == pytest.approx(side)


def test_the_center_of_a_window_is_its_middle_tokens():
    window = Crop(10.5, -3.25, 112.0)
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    inner = window.center(10 / 14)
    assert inner.side == pytest.approx(80)
    np.testing.assert_allclose(window.to_crop(inner.to_image([0, 0, 1, 1])), [2 / 14, 2 / 14, 12 / 14, 12 / 14])
    whole, part = window.extract(image, 224), inner.extract(image, 160)
    assert np.abs(whole[32:192, 32:192].astype(int) - part).max() <= 1  # rounded alike but for the last bit


def reference_crop(image, window, size):
    """What ``Crop.extract`` is: block means, then linear interpolation in single precision, fused multiply-adds."""

    def fused(a, b, c):
        return (np.float64(a) * np.float64(b) + np.float64(c)).astype(np.float32)

    scale, origin = window.side / size, np.array([window.x, window.y])
    block = int(scale)
    if block >= 2:
        low = np.maximum(np.floor(origin), 0).astype(int)
        high = np.minimum(np.ceil(origin + window.side), image.shape[1::-1]).astype(int)
        columns, rows = np.ceil((high - low) / block).astype(int)
        part = np.empty((rows * block, columns * block, 3), int)
        part[:] = PADDING_BGR
        seen = image[low[1] :, low[0] :][: rows * block, : columns * block]
        part[: len(seen), : seen.shape[1]] = seen
        total = part.reshape(rows, block, columns, block, 3).sum((1, 3))
        # a half goes up in blocks of 2, and to the even number in larger ones
        mean = (total + 2) // 4 if block == 2 else np.rint(total.astype(np.float32) * np.float32(1 / block**2))
        image, origin, scale = mean.astype(np.uint8), (origin - low) / block, scale / block
    shift = (origin + 0.5 * scale - 0.5).astype(np.float32)
    steps = np.arange(size, dtype=np.float32)
    x = fused(steps, np.float32(scale), shift[0])
    y = steps * np.float32(scale) + shift[1]
    height, width = image.shape[:2]
    padded = np.empty((height + 2, width + 2, 3), np.uint8)
    padded[:] = PADDING_BGR
    padded[1:-1, 1:-1] = image
    ix, iy = np.floor(x), np.floor(y)
    wx, wy = (x - ix)[None, :, None], (y - iy)[:, None, None]
    columns = [np.clip(ix + 1 + d, 0, width + 1).astype(int) for d in (0, 1)]
    rows = [np.clip(iy + 1 + d, 0, height + 1).astype(int) for d in (0, 1)]
    pixels = [[padded[row][:, column].astype(np.float32) for column in columns] for row in rows]
    upper, lower = (fused(wx, right - left, left) for left, right in pixels)
    return np.rint(fused(wy, lower - upper, upper)).astype(np.uint8)


def test_crops_are_what_the_definition_says():
    """OpenCV 4 is off in one value in seven; a processor without fused multiply-adds in a few of a million."""
    noise = np.random.default_rng(0)
    image = cv2.GaussianBlur(noise.integers(0, 256, (360, 640, 3), np.uint8), (5, 5), 0)
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
    wrong = total = 0
    for side in np.geomspace(20, 1500, 24):
        window = Crop(*(noise.uniform(-0.4, 0.9, 2) * (640, 360)).tolist(), float(side))
        for size in (112, 224):
            difference = np.abs(window.extract(image, size).astype(int) - reference_crop(image, window, size))
            assert difference.max() <= 1
            wrong, total = wrong + int(np.count_nonzero(difference)), total + difference.size
    assert wrong < 1e-4 * total, f"{wrong} of {total} values differ"


def test_boxes_of_any_leading_shape():
    crop = Crop(10, 20, 40)
    stack = np.arange(24, dtype=float).reshape(2, 3, 4)
    assert crop.to_crop(stack).shape == (2, 3, 4)
    np.testing.assert_allclose(crop.to_crop(stack)[1, 2], crop.to_crop(stack[1, 2]))


@pytest.mark.parametrize(
    "box", [(40, 30, 20, 30), (61, 48, 7, 5), (3, 100, 300, 200), (-20, -10, 60, 50), (10, 10, 500, 350)]
)
@pytest.mark.parametrize("factor", [2.0, 4.0])
def test_extracted_pixels_lie_where_the_geometry_says(box, factor):
    """A rectangle painted in the image is found in the crop where to_crop puts it, enlarged or shrunk."""
    image = np.zeros((400, 600, 3), np.uint8)
    x, y, w, h = box
    image[max(y, 0) : y + h, max(x, 0) : x + w] = (255, 255, 255)
    crop = Crop.around(box, factor)
    pixels = crop.extract(image, 224)
    assert pixels.shape == (224, 224, 3)
    inside = np.clip(crop.to_crop(clip_box(box, 600, 400)), 0, 1) * 224
    # The padding is dark enough to stay under the threshold.
    rows, columns = np.nonzero(pixels[..., 0] > 127)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(found, inside, atol=1.01)


def test_outside_the_image_is_padding():
    image = np.full((50, 60, 3), 255, np.uint8)
    pixels = Crop(-100, -100, 90).extract(image, 32)
    assert (pixels == PADDING_BGR).all()
    far = Crop(1e5, 1e5, 4000).extract(image, 32)
    assert (far == PADDING_BGR).all()


def test_shrinking_averages_instead_of_skipping():
    """One-pixel stripes shrunk by eight become even gray: nothing aliases."""
    image = np.zeros((448, 448, 3), np.uint8)
    image[:, ::2] = 255
    pixels = Crop(0, 0, 448).extract(image, 56)
    assert abs(pixels.astype(int) - 128).max() <= 1


@pytest.mark.parametrize("side", [450, 565, 675.5, 900])
@pytest.mark.parametrize("corner", [(0, 0), (3.3, 7.9), (117.4, 33)])
def test_a_shrunk_crop_inside_the_image_holds_no_padding(side, corner):
    """Whole blocks go on behind the window, and end where the image does."""
    image = np.full((1100, 1100, 3), 255, np.uint8)
    assert (Crop(*corner, side).extract(image, 224) == 255).all()


@pytest.mark.parametrize("block", [2, 3, 5])
@pytest.mark.parametrize("seen", [1, 2, 3, 4])
def test_the_last_block_of_the_image_has_its_share_of_padding(block, seen):
    """Of each block of the padded image one output pixel: its plain mean, to the last row and column."""
    seen = min(seen, block)
    height, width = 7 * block + seen, 9 * block + seen
    image = np.random.default_rng(block).integers(0, 256, (height, width, 3), np.uint8)
    canvas = np.empty((12 * block, 12 * block, 3))
    canvas[:] = PADDING_BGR
    canvas[:height, :width] = image
    means = canvas.reshape(12, block, 12, block, 3).mean((1, 3))
    assert np.abs(Crop(0, 0, 12 * block).extract(image, 12) - means).max() <= 0.5 + 1e-6


def test_shrunk_crop_agrees_with_an_area_resize():
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (300, 300, 3), np.uint8), (0, 0), 4)
    ours = Crop(0, 0, 300).extract(image, 100).astype(int)
    theirs = cv2.resize(image, (100, 100), interpolation=cv2.INTER_AREA).astype(int)
    assert abs(ours - theirs).max() <= 3


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1;2;3;4"])
def test_text_that_is_no_box(text):
    with pytest.raises(FartrackError, match="not four numbers"):
        parse_box(text)


def test_box_text_takes_commas_and_spaces():
    assert parse_box("1,2,3,4") == parse_box(" 1 2, 3  4") == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((1, 2, 3), "not four numbers"),
        ("text", "not four numbers"),
        (None, "not four numbers"),
        ((1, 2, float("nan"), 4), "not finite"),
        ((1, 2, float("inf"), 4), "not finite"),
        ((1, 2, 0, 4), "no area"),
        ((1, 2, 3, -4), "no area"),
        ((100, 2, 3, 4), "outside the 100×50 frame"),
        ((-3, 2, 3, 4), "outside the 100×50 frame"),
        ((1, 50, 3, 4), "outside the 100×50 frame"),
    ],
)
def test_bad_boxes_are_named(box, words):
    with pytest.raises(FartrackError, match=words):
        check_box(box, 100, 50)


def test_good_boxes_pass():
    assert check_box(np.array([99.5, 0, 10, 10]), 100, 50) == (99.5, 0, 10, 10)


@given(boxes, st.integers(1, 2000), st.integers(1, 2000))
def test_clipped_box_lies_in_the_image_and_is_never_empty(box, width, height):
    x, y, w, h = clip_box(box, width, height)
    assert x >= 0 and y >= 0 and w > 0 and h > 0
    assert x + w <= width + 1e-6 and y + h <= height + 1e-6
    if box[0] >= 0 and box[1] >= 0 and box[0] + box[2] <= width and box[1] + box[3] <= height:
        np.testing.assert_allclose((x, y, w, h), box, atol=1e-9)


@given(boxes, boxes)
def test_iou_is_symmetric_and_bounded(first, second):
    value = float(iou(first, second))
    assert 0 <= value <= 1 + 1e-12
    assert value == pytest.approx(float(iou(second, first)))
    assert float(iou(first, first)) == pytest.approx(1)
    assert box_iou(first, second) == pytest.approx(value, abs=1e-12)


def test_iou_by_hand():
    assert float(iou((0, 0, 2, 2), (1, 1, 2, 2))) == pytest.approx(1 / 7)
    assert float(iou((0, 0, 1, 1), (1, 0, 1, 1))) == 0
    assert float(iou((0, 0, 0, 0), (0, 0, 0, 0))) == 0
    assert box_iou((0, 0, 2, 2), (1, 1, 2, 2)) == pytest.approx(1 / 7) and box_iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0
