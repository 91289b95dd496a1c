"""The terms of the training loss. Boxes are corners x0, y0, x1, y1 in the search crop's frame throughout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fartrack.model.vocabulary import BIN_CENTERS, BINS, HIGH, LOW


def expected_coordinates(logits: Tensor) -> Tensor:
    """Logits ``(..., V)`` → the expectation ``(...)`` of the coordinate over all bins; differentiable."""
    centers = torch.as_tensor(BIN_CENTERS, dtype=torch.float32, device=logits.device)
    return torch.softmax(logits.float(), dim=-1) @ centers


def coordinate_loss(logits: Tensor, coordinates: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of the bins, averaged over all coordinates.

    Args:
        logits: ``(B, 4, V)``.
        coordinates: ``(B, 4)``; clipped to the vocabulary's range. NaN where there is no target: then every bin is as
            likely as any other.
        smoothing: the target is a Gaussian around the coordinate of this deviation in bins; 0 is the plain
            one-hot target of the paper.
    """
    seen, logs = coordinates.isfinite(), torch.log_softmax(logits.float(), dim=-1)
    position = (coordinates.nan_to_num().clamp(LOW, HIGH) - LOW) / (HIGH - LOW) * BINS  # bin i covers [i, i + 1)
    if smoothing == 0:
        each = -logs.gather(-1, position.long().clamp(max=BINS - 1)[..., None])[..., 0]
    else:
        center = torch.arange(BINS, device=logits.device) + 0.5
        target = torch.softmax(-0.5 * ((center - position[..., None]) / smoothing) ** 2, dim=-1)
        each = -(target * logs).sum(-1)
    return torch.where(seen, each, -logs.mean(-1)).mean()


def siou(first: Tensor, second: Tensor, theta: float = 4.0) -> Tensor:
    """SIoU of boxes ``(..., 4)``, elementwise: 1 for equal boxes, lower the worse they fit.

    IoU − half of the distance cost (weighted by the angle between the centers) − half of the shape cost;
    Gevorgyan, "SIoU Loss: More Powerful Learning for Bounding Box Regression", 2022. The loss is ``1 − SIoU``.
    """
    eps = 1e-7
    size1, size2 = (
        (first[..., 2:] - first[..., :2]).clamp(min=eps),
        (second[..., 2:] - second[..., :2]).clamp(min=eps),
    )
    hull = torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(first[..., :2], second[..., :2])
    between = (second[..., :2] + second[..., 2:] - first[..., :2] - first[..., 2:]) / 2
    sine = between[..., 1].abs() / (between.square().sum(-1) + eps).sqrt()
    # 1 − 2 sin²(arcsin(s) − π/4) = sin(2 arcsin(s)): 1 on the diagonal, 0 along an axis.
    angle = 2 * sine * (1 - sine.square()).clamp(min=eps).sqrt()
    rho = (between / hull.clamp(min=eps)).square()
    distance = (1 - torch.exp(-(2 - angle[..., None]) * rho)).sum(-1)

    omega = (size1 - size2).abs() / torch.maximum(size1, size2)
    shape = (1 - torch.exp(-omega)).pow(theta).sum(-1)
    return iou(first, second) - (distance + shape) / 2


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes ``(..., 4)``, elementwise; sides that are none count as 1e-7."""
    eps = 1e-7
    area1, area2 = ((box[..., 2:] - box[..., :2]).clamp(min=eps).prod(-1) for box in (first, second))
    low, high = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    return overlap / (area1 + area2 - overlap + eps)


def dense_loss(outputs: Tensor, boxes: Tensor, grid: int, kept: Tensor | None = None) -> Tensor:
    """The training-only dense head: every search token predicts whether it lies in the box, and the distances to its
    sides. Four command tokens alone get little gradient from one box a crop.

    Args:
        outputs: ``(B, n, 5)``: the logit "my center lies in the box", then the distances to the left, top,
            right and bottom side as ``softplus(x − 1)`` in units of the crop.
        boxes: ``(B, 4)``; NaN where there is no target, so that no token lies in it.
        grid: search tokens a side of the crop.
        kept: ``(B, n)`` which of the crop's tokens these are, row by row; all ``grid²`` of them if left out.

    Returns:
        The mean over samples of 2 · binary cross-entropy + the mean absolute error of the distances over the tokens
        in the box. Each sample counts once, so that a batch may be divided among processes.
    """
    outputs = outputs.float()
    center = token_centers(grid, outputs.device)[None]
    if kept is not None:
        center = center[0][kept]
    boxes = boxes.nan_to_num()  # without an area
    sides = torch.cat([center - boxes[:, None, :2], boxes[:, None, 2:] - center], dim=-1)
    inside = (sides > 0).all(-1)
    hit = F.binary_cross_entropy_with_logits(outputs[..., 0], inside.float())
    error = (F.softplus(outputs[..., 1:] - 1) - sides).abs().mean(-1)
    return 2 * hit + ((error * inside).sum(1) / inside.sum(1).clamp(min=1)).mean()


def token_centers(grid: int, device: torch.device | None = None) -> Tensor:
    """Centers x, y ``(grid², 2)`` of a crop's tokens in the crop's frame, row by row."""
    steps = (torch.arange(grid, device=device) + 0.5) / grid
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student) of the distributions behind logits ``(..., V)``, averaged; the teacher gets no gradient."""
    teacher = torch.log_softmax(teacher.detach().float(), dim=-1)
    return (teacher.exp() * (teacher - torch.log_softmax(student.float(), dim=-1))).sum(-1).mean()
