"""The objective: a batch and a network in, the terms of the loss out; the same for every phase."""

from collections.abc import Collection, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fartrack.model.encoder import FARTrack, Output
from fartrack.model.losses import coordinate_loss, dense_loss, divergence, expected_coordinates, iou, siou
from fartrack.train.data.batches import Batch
from fartrack.train.recipe import LossConfig, Precision, Recipe


def losses(network: FARTrack, batch: Batch, recipe: Recipe, known: FARTrack | None = None) -> dict[str, Tensor]:
    """Every weighted term of the loss, their sum as ``loss``, and the mean ``iou`` (no gradient), of one batch.

    ``known`` is the network whose features are kept, if the recipe gives that a weight."""
    weight = recipe.loss
    with autocast(recipe.precision, batch.search.device.type):
        exits = forward_exits(network, batch, recipe.exit_layers)
        dense = network.aux(search_tokens(exits[-1], batch))
        first = -4 if weight.commands_only else dense.shape[1]  # the commands alone, or after the trajectory
        compared = [exit.tokens_BND[:, first:] for exit in exits]
        diverging = compare(network, compared[:-1], compared[1:]) if len(exits) > 1 else None
        kept = None if known is None else features_loss(exits[-1], batch, known)
    terms, grid = box_terms(exits, batch, weight), batch.search.shape[1] // network.config.patch
    terms["dense"] = weight.dense * dense_loss(dense, batch.boxes, grid, batch.kept)
    if diverging is not None:
        terms["divergence"] = weight.divergence * divergence(*diverging)
    if kept is not None:
        terms["features"] = weight.features * kept
    return summed(terms, exits[-1], batch)


def forward_exits(network: FARTrack, batch: Batch, layers: Collection[int]) -> list[Output]:
    """The exits after these layers, counted from 1, on a batch."""
    kv_cache = encode_sets(network, batch)
    valid = None if batch.valid is None else batch.valid.repeat_interleave(batch.shared, dim=0)
    output = network(batch.search, batch.trajectory, kv_cache, valid=valid, kept=batch.kept, exits=layers)
    return [output.exits[layer] for layer in layers]


def encode_sets(network: FARTrack, batch: Batch) -> Tensor:
    """The ``kv_cache`` of the batch's template sets."""
    inputs = (batch.templates, batch.identities, batch.template_boxes)
    return network.join(network.encode_templates(*(tensor[:, None] for tensor in inputs)), batch.index)


def search_tokens(exit: Output, batch: Batch) -> Tensor:
    """The search tokens ``(B, n, D)`` of an exit; trajectory and command tokens follow on them."""
    return exit.tokens_BND[:, : exit.tokens_BND.shape[1] - batch.trajectory.shape[1] - 4]


def features_loss(last: Output, batch: Batch, known: FARTrack) -> Tensor:
    """1 − the mean cosine of the last exit's search tokens with what another network knows of the crop alone; no norm
    is taken of either."""
    with torch.no_grad():
        goal = known.features(batch.search, batch.kept)
    return 1 - F.cosine_similarity(last.unnormed_BND[:, : goal.shape[1]].float(), goal.float(), dim=-1).mean()


def compare(network: FARTrack, students: Sequence[Tensor], teachers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The logits over the bins of the students' tokens ``(B, n, D)`` and of their teachers'."""
    return network.head(torch.cat(list(students))), network.head(torch.cat(list(teachers)))


def box_terms(exits: Sequence[Output], batch: Batch, weight: LossConfig) -> dict[str, Tensor]:
    """The terms on the boxes of exits, averaged over these; an absent target has no box, but every sample counts."""
    logits = torch.cat([exit.logits_B4V for exit in exits])
    truth = batch.boxes.repeat(len(exits), 1)
    found, present, box = expected_coordinates(logits), truth.isfinite().all(1), truth.nan_to_num()
    return {
        "cross_entropy": weight.cross_entropy * coordinate_loss(logits, truth, weight.smoothing),
        "siou": weight.siou * (present * (1 - siou(found, box))).mean(),
        "l1": weight.l1 * (present[:, None] * (found - box).abs()).mean(),
    }


def summed(terms: Mapping[str, Tensor], last: Output, batch: Batch) -> dict[str, Tensor]:
    """The terms, their sum as ``loss``, and the mean ``iou`` of the last exit's boxes."""
    present, found = batch.boxes.isfinite().all(1), expected_coordinates(last.logits_B4V.detach())
    fit = (iou(found, batch.boxes.nan_to_num()) * present).sum() / present.sum().clamp(min=1)
    return {**terms, "loss": torch.stack(list(terms.values())).sum(), "iou": fit}


@torch.no_grad()
def prune(network: FARTrack, batch: Batch, retention: float) -> Tensor:
    """The template tokens ``(P, T · M)`` that a tracker would keep: of each template the share ``retention`` with the
    best scores on the first search crop of its set."""
    training = network.training
    network.eval()
    kv_cache = encode_sets(network, batch)
    crops = slice(None, None, batch.shared)
    _, scores = network.track(batch.search[crops], batch.trajectory[crops], kv_cache, scored=True)
    network.train(training)
    scores = scores.unflatten(1, (batch.index.shape[1], -1))
    kept = scores.topk(max(round(retention * scores.shape[2]), 1), dim=2).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(2, kept, True).flatten(1)


def autocast(precision: Precision, device: str) -> torch.autocast:
    """Within it, matmuls are computed in bf16 if asked or, for ``auto``, where the device has instructions for it."""
    cpu = torch.cpu.get_capabilities()
    able = torch.cuda.is_bf16_supported() if device == "cuda" else bool(cpu.get("avx512_bf16"))
    return torch.autocast(device, torch.bfloat16, enabled=able if precision == "auto" else precision == "bf16")
