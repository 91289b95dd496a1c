"""The losses against plain re-computations in numpy."""

import math

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from fartrack.model.losses import coordinate_loss, dense_loss, divergence, expected_coordinates, siou
from fartrack.model.vocabulary import BIN_CENTERS, BIN_WIDTH, BINS, encode


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def log_softmax(logits):
    logits = logits - logits.max()
    return logits - math.log(np.exp(logits).sum())


def random_boxes(rng, count):
    low, size = rng.uniform(-0.2, 0.7, (count, 2)), rng.uniform(0.05, 0.6, (count, 2))
    return np.concatenate([low, low + size], axis=1)


def plain_iou(a, b):
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    overlap = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return overlap / (sum(areas) - overlap)


def plain_siou(a, b, theta=4):
    """As the paper writes it, with its arcsine."""
    (ax, ay), (bx, by) = (((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in (a, b))
    (aw, ah), (bw, bh) = ((box[2] - box[0], box[3] - box[1]) for box in (a, b))
    sigma = math.hypot(bx - ax, by - ay)
    sine = abs(by - ay) / sigma
    angle = 1 - 2 * math.sin(math.asin(sine) - math.pi / 4) ** 2
    hull_w, hull_h = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
    gamma = 2 - angle
    distance = sum(1 - math.exp(-gamma * rho) for rho in (((bx - ax) / hull_w) ** 2, ((by - ay) / hull_h) ** 2))
    omegas = abs(aw - bw) / max(aw, bw), abs(ah - bh) / max(ah, bh)
    shape = sum((1 - math.exp(-omega)) ** theta for omega in omegas)
    return plain_iou(a, b) - (distance + shape) / 2


def test_expected_coordinates(rng):
    logits = rng.normal(0, 3, (2, 4, BINS))
    expected = [[np.exp(log_softmax(row)) @ BIN_CENTERS for row in rows] for rows in logits]
    np.testing.assert_allclose(expected_coordinates(torch.tensor(logits)), expected, atol=1e-5)


def test_expected_coordinate_of_a_certain_bin_is_its_center():
    logits = torch.full((3, BINS), -1e4)
    tokens = torch.tensor([0, 317, BINS - 1])
    logits[torch.arange(3), tokens] = 0
    np.testing.assert_allclose(expected_coordinates(logits), BIN_CENTERS[tokens], atol=1e-6)


def test_one_hot_cross_entropy(rng):
    logits, boxes = rng.normal(0, 3, (5, 4, BINS)), rng.uniform(-0.7, 1.7, (5, 4))
    tokens = encode(boxes)
    assert {0, BINS - 1} <= set(tokens.flat)  # coordinates outside the range take the outermost bin
    expected = -np.mean([log_softmax(logits[i, j])[tokens[i, j]] for i in range(5) for j in range(4)])
    result = coordinate_loss(torch.tensor(logits), torch.tensor(boxes), 0)
    assert result.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.5, 2.5])
def test_smoothed_cross_entropy(rng, smoothing):
    logits, boxes = rng.normal(0, 3, (5, 4, BINS)), rng.uniform(-0.7, 1.7, (5, 4))
    losses = []
    for row, coordinate in zip(logits.reshape(-1, BINS), boxes.flat, strict=True):
        deviations = (BIN_CENTERS - np.clip(coordinate, -0.5, 1.5)) / BIN_WIDTH / smoothing
        target = np.exp(-(deviations**2) / 2)
        losses.append(-(target / target.sum()) @ log_softmax(row))
    result = coordinate_loss(torch.tensor(logits), torch.tensor(boxes), smoothing)
    assert result.item() == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0, 2.5])
def test_cross_entropy_is_least_at_the_truth(smoothing):
    at = {shift: torch.full((1, 1, BINS), -5.0) for shift in (-9, -3, 0, 3, 9)}
    for shift, logits in at.items():
        logits[..., 200 + shift - 4 : 200 + shift + 5] = 5 - torch.arange(-4.0, 5).abs()
    truth = torch.tensor([[BIN_CENTERS[200]]])
    loss = {shift: coordinate_loss(logits, truth, smoothing).item() for shift, logits in at.items()}
    assert loss[0] < loss[3] < loss[9]
    assert loss[0] < loss[-3] < loss[-9]


def test_siou_is_the_papers(rng):
    a, b = random_boxes(rng, 500), random_boxes(rng, 500)
    expected = [plain_siou(*pair) for pair in zip(a, b, strict=True)]
    assert min(expected) < -0.5 < 0.5 < max(expected)
    # The formula is guarded by 1e-7 under a root, which bends the angle's cost by up to 3e-4 near the axes.
    np.testing.assert_allclose(siou(torch.tensor(a), torch.tensor(b)), expected, atol=5e-4)


def test_siou_of_equal_boxes_is_one(rng):
    boxes = torch.tensor(random_boxes(rng, 20))
    np.testing.assert_allclose(siou(boxes, boxes), 1, atol=1e-4)


def test_siou_is_symmetric_and_never_above_iou(rng):
    a, b = random_boxes(rng, 200), random_boxes(rng, 200)
    forth, back = siou(torch.tensor(a), torch.tensor(b)), siou(torch.tensor(b), torch.tensor(a))
    np.testing.assert_allclose(forth, back, atol=1e-9)
    overlap = [plain_iou(*pair) for pair in zip(a, b, strict=True)]
    assert (forth.numpy() <= np.array(overlap) + 1e-9).all()


@pytest.mark.parametrize("direction", [(1, 0), (0, 1), (1, 1), (-2, 1)])
def test_siou_falls_with_distance_even_between_disjoint_boxes(direction):
    box = torch.tensor([0.3, 0.3, 0.5, 0.6], dtype=torch.float64)
    shift = torch.tensor(direction * 2, dtype=torch.float64) / math.hypot(*direction)
    steps = torch.linspace(0, 0.8, 30, dtype=torch.float64)[:, None]
    values = siou(box + steps * shift, box.expand(30, 4))
    assert (values.diff() < -1e-4).all()


@pytest.mark.parametrize(
    "box",
    [
        [0.4, 0.4, 0.6, 0.6],
        [0.9, 0.9, 1.1, 1.2],
        [0.5, 0.5, 0.5, 0.5],
        [0.5, 0.2, 0.5, 0.8],
        [0.7, 0.7, 0.3, 0.3],
        [1.5, 1.5, -0.5, -0.5],
        [-0.5, 0.4, 1.5, 0.6],
    ],
    ids=["equal", "disjoint", "point", "line", "inverted", "all inverted", "wide"],
)
def test_siou_and_its_gradient_are_finite(box):
    first = torch.tensor([box], requires_grad=True)
    value = siou(first, torch.tensor([[0.4, 0.4, 0.6, 0.6]])).sum()
    value.backward()
    assert value.isfinite()
    assert first.grad.isfinite().all()


@pytest.mark.parametrize("place", [(0.8, 0.1), (0.1, 0.8), (0.7, 0.7), (-0.3, 0.4)])
def test_siou_draws_disjoint_boxes_together(place):
    x, y = place
    first, second = torch.tensor([x, y, x + 0.1, y + 0.1], requires_grad=True), torch.tensor([0.1, 0.4, 0.2, 0.5])
    siou(first, second).backward()
    pull = first.grad[:2] + first.grad[2:]
    assert pull @ (second[:2] - first[:2]) > 0.01


@pytest.mark.parametrize("shift", [(3, 0), (-1.5, 0.25)])
@pytest.mark.parametrize("scale", [0.5, 4])
def test_siou_is_the_same_wherever_and_however_large_the_two_boxes_are(rng, shift, scale):
    a, b = (torch.tensor(random_boxes(rng, 100)) for _ in range(2))
    moved = [scale * (boxes + torch.tensor(shift * 2)) for boxes in (a, b)]
    np.testing.assert_allclose(siou(*moved), siou(a, b), atol=1e-3)  # the guard of 1e-7 is no part of the formula


def angle_cost(degrees):
    """What SIoU takes as the cost of the angle between two small equal squares, solved from its value."""
    turn, side = math.radians(degrees), 0.01
    x, y = math.cos(turn), math.sin(turn)
    value = siou(torch.tensor([0, 0, side, side]).double(), torch.tensor([x, y, x + side, y + side]).double()).item()
    rhos = [(offset / (offset + side)) ** 2 for offset in (x, y)]
    low, high = 0.0, 2.0
    for _ in range(50):  # the distance's cost falls as the angle's rises
        middle = (low + high) / 2
        distance = sum(1 - math.exp(-(2 - middle) * rho) for rho in rhos)
        low, high = (middle, high) if distance > -2 * value else (low, middle)
    return low


def test_the_angle_costs_nothing_along_an_axis_and_most_on_the_diagonal():
    costs = {degrees: angle_cost(degrees) for degrees in (0, 10, 25, 45, 65, 80, 90)}
    assert costs[0] == pytest.approx(0, abs=1e-3)
    assert costs[90] == pytest.approx(0, abs=1e-3)
    assert costs[45] == pytest.approx(1, abs=1e-3)
    assert costs[0] < costs[10] < costs[25] < costs[45] > costs[65] > costs[80] > costs[90]
    assert costs[25] == pytest.approx(math.sin(math.radians(50)), abs=1e-3)


def plain_dense(outputs, boxes, grid, kept=None):
    """Sample by sample, for the mean must not depend on which samples are in a batch."""
    losses = []
    for number, (row, (x0, y0, x1, y1)) in enumerate(zip(outputs, boxes, strict=True)):
        crossings, errors = [], []
        for token, output in zip(range(grid**2) if kept is None else kept[number], row, strict=True):
            x, y = (token % grid + 0.5) / grid, (token // grid + 0.5) / grid
            inside = x0 < x < x1 and y0 < y < y1
            probability = 1 / (1 + math.exp(-output[0]))
            crossings.append(-math.log(probability if inside else 1 - probability))
            if inside:
                sides = x - x0, y - y0, x1 - x, y1 - y
                guesses = (math.log1p(math.exp(value - 1)) for value in output[1:])
                errors.append(sum(abs(g - s) for g, s in zip(guesses, sides, strict=True)) / 4)
        losses.append(2 * sum(crossings) / len(crossings) + (sum(errors) / len(errors) if errors else 0))
    return sum(losses) / len(losses)


@pytest.fixture
def boxes_of_all_sizes(rng):
    """Six boxes, one of them between the tokens, one nearly the whole crop: their tokens must not be pooled."""
    return np.concatenate([random_boxes(rng, 4), [[0.2, 0.2, 0.3, 0.3], [0.05, 0.05, 0.95, 0.95]]])


def test_dense_loss(rng, boxes_of_all_sizes):
    outputs = rng.normal(0, 1, (6, 16, 5))
    result = dense_loss(torch.tensor(outputs), torch.tensor(boxes_of_all_sizes), grid=4)
    assert result.item() == pytest.approx(plain_dense(outputs, boxes_of_all_sizes, 4), rel=1e-5)


def test_dense_loss_of_some_tokens(rng, boxes_of_all_sizes):
    outputs = rng.normal(0, 1, (6, 5, 5))
    kept = np.stack([np.sort(rng.permutation(16)[:5]) for _ in range(6)])
    result = dense_loss(torch.tensor(outputs), torch.tensor(boxes_of_all_sizes), 4, torch.tensor(kept))
    assert result.item() == pytest.approx(plain_dense(outputs, boxes_of_all_sizes, 4, kept), rel=1e-5)


@pytest.mark.parametrize("kept", [None, torch.arange(16).expand(6, 16)], ids=["all", "all kept"])
def test_dense_loss_of_the_parts_of_a_batch(rng, boxes_of_all_sizes, kept):
    outputs, boxes = torch.tensor(rng.normal(0, 1, (6, 16, 5))), torch.tensor(boxes_of_all_sizes)
    whole = dense_loss(outputs, boxes, 4, kept).item()
    parts = [dense_loss(outputs[i::3], boxes[i::3], 4, None if kept is None else kept[i::3]).item() for i in range(3)]
    assert np.mean(parts) == pytest.approx(whole, rel=1e-6)
    assert np.ptp(parts) > 0.01


def test_dense_loss_of_boxes_between_the_tokens(rng):
    outputs, boxes = rng.normal(0, 1, (2, 16, 5)), np.array([[0.2, 0.2, 0.3, 0.3], [1.1, 1.1, 1.2, 1.2]])
    result = dense_loss(torch.tensor(outputs), torch.tensor(boxes), grid=4)
    assert result.item() == pytest.approx(plain_dense(outputs, boxes, 4), rel=1e-5)


def test_divergence(rng):
    student, teacher = rng.normal(0, 1, (3, 5, 40)), rng.normal(0, 3, (3, 5, 40))
    expected = []
    for s, t in zip(student.reshape(-1, 40), teacher.reshape(-1, 40), strict=True):
        p, q = np.exp(t) / np.exp(t).sum(), np.exp(s) / np.exp(s).sum()
        expected.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    result = divergence(torch.tensor(student), torch.tensor(teacher)).item()
    assert result == pytest.approx(np.mean(expected), rel=1e-5)
    assert divergence(torch.tensor(teacher), torch.tensor(student)).item() != pytest.approx(result, rel=0.1)


def test_equal_distributions_do_not_diverge(rng):
    logits = torch.tensor(rng.normal(0, 2, (3, 5, 40)))
    assert divergence(logits, logits).item() == pytest.approx(0, abs=1e-7)
    assert divergence(logits, logits + 3).item() == pytest.approx(0, abs=1e-6)  # logits are free up to a constant


def test_the_teacher_does_not_learn(rng):
    student, teacher = (torch.tensor(logits, requires_grad=True) for logits in rng.normal(0, 2, (2, 4, 40)))
    divergence(student, teacher).backward()
    assert teacher.grad is None
    # KL's gradient by the student's logits: its own probabilities less the teacher's, over the number of rows.
    expected = (student.softmax(-1) - teacher.softmax(-1)).detach() / 4
    np.testing.assert_allclose(student.grad, expected, atol=1e-6)
