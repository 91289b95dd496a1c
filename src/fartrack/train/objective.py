"""The objective: a batch and a network in, the terms of the loss out; the same for every phase."""

from __future__ import annotations

import torch
from torch import Tensor

from fartrack.model.encoder import FARTrack, Output
from fartrack.model.losses import coordinate_loss, dense_loss, divergence, expected_coordinates, iou, siou
from fartrack.train.recipe import Precision, Recipe

Batch = dict[str, Tensor]
"""What a step learns from. U single templates, R sets of T of them, B = R · K search crops (K share a set):

``templates (U, S, S, 3)`` and ``identities (U,)``; ``index (R, T)``, the templates of each set;
``search (B, S, S, 3)``; ``trajectory (B, 4 · trajectory)``; ``boxes (B, 4)``, the target's corners in the crop's
frame, NaN where it is not in the crop. At times also ``valid (R, T · M)``, False for template tokens that are not used,
and ``kept (B, n)``, the search tokens that are."""


def losses(network: FARTrack, batch: Batch, recipe: Recipe, teacher: FARTrack | None = None) -> dict[str, Tensor]:
    """Every term of the loss, weighed, its sum as ``loss``, and the mean ``iou`` (no gradient), of one batch.

    Args:
        network: the network that learns.
        batch: see :data:`Batch`.
        recipe: the weights of the terms and what is distilled.
        teacher: of deep-to-shallow distillation.
    """
    search, boxes = batch["search"], batch["boxes"]
    deepest = network.config.depth
    taps = recipe.taps
    with mixed(recipe.precision, search.device.type):
        exits = tapped_layers(network, batch, taps)
        last = exits[deepest]
        searched = last.tokens_BND.shape[1] - batch["trajectory"].shape[1] - 4
        dense = network.aux(last.tokens_BND[:, :searched])
        pairs = [(exits[layer], exits[layer + 1]) for layer in taps if layer < deepest]
        if teacher is not None:
            with torch.no_grad():
                pairs = [(last, tapped_layers(teacher, batch, (deepest,))[deepest])]
        distributions = [
            head(torch.cat([compared(side, recipe, searched) for side in sides]))
            for head, sides in zip((network.head, (teacher or network).head), zip(*pairs, strict=True), strict=False)
        ]
    weight = recipe.loss
    # All exits have as many samples, so that the mean over all of them together is the mean of their means.
    supervised = [exits[layer] for layer in taps] if recipe.distill.supervised else [last]
    logits = torch.cat([exit.logits_B4V for exit in supervised])
    truth = boxes.repeat(len(supervised), 1)
    found = expected_coordinates(logits)
    seen = boxes.isfinite().all(1)
    every, place = seen.repeat(len(supervised)), truth.nan_to_num()
    terms = {
        "cross_entropy": weight.cross_entropy * coordinate_loss(logits, truth, weight.smoothing),
        "siou": weight.siou * (every * (1 - siou(found, place))).mean(),
        "l1": weight.l1 * (every[:, None] * (found - place).abs()).mean(),
        "dense": weight.dense * dense_loss(dense, boxes, search.shape[1] // network.config.patch, batch.get("kept")),
    }
    if distributions:
        valid = spread(batch) if recipe.distill.features == "template" else None
        used = None if valid is None else valid.repeat(len(pairs), 1)
        student, teachers = distributions
        terms["divergence"] = recipe.distill.weight * divergence(student, teachers, used)
    terms["loss"] = torch.stack(list(terms.values())).sum()
    fit = iou(found[-len(boxes) :].detach(), boxes.nan_to_num())  # the last exit is the deepest
    terms["iou"] = (fit * seen).sum() / seen.sum().clamp(min=1)
    return terms


def tapped_layers(network: FARTrack, batch: Batch, taps: range | tuple[int, ...]) -> dict[int, Output]:
    """The tapped layers of a network on a batch."""
    rows = network.encode_templates(batch["templates"][:, None], batch["identities"][:, None])
    memory, kept = network.join(rows, batch["index"]), batch.get("kept")
    output = network(batch["search"], batch["trajectory"], memory, valid=spread(batch), kept=kept, exits=taps)
    return output.exits  # type: ignore[no-any-return]


def spread(batch: Batch) -> Tensor | None:
    """``valid`` of every search crop ``(B, T · M)``, if the batch has it."""
    valid = batch.get("valid")
    return None if valid is None else valid.repeat_interleave(len(batch["search"]) // len(valid), dim=0)


def compared(exit: Output, recipe: Recipe, searched: int) -> Tensor:
    """The tokens ``(B, n, D)`` of an exit whose distributions are distilled."""
    match recipe.distill.features:
        case "trajectory":
            return exit.tokens_BND[:, searched:]
        case "search":
            return exit.tokens_BND[:, :searched]
        case _:
            assert exit.template_BMD is not None  # the recipe allows it with joint attention only
            return exit.template_BMD


def mixed(precision: Precision, device: str) -> torch.autocast:
    """Within it, products are computed in bf16 if :func:`half` says so."""
    return torch.autocast(device, torch.bfloat16, enabled=half(precision, device))


def half(precision: Precision, device: str) -> bool:
    """Whether to compute in bf16: as asked, or where the device has instructions for it."""
    if precision != "auto":
        return precision == "bf16"
    return torch.cuda.is_bf16_supported() if device == "cuda" else bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def split(batch: Batch, most: int) -> list[Batch]:
    """A batch in parts of at most ``most`` search crops (at least one set), each with the templates it uses."""
    sets, crops = len(batch["index"]), len(batch["search"])
    shared = crops // sets
    step = max(most // shared, 1)
    if step >= sets:
        return [batch]
    parts = []
    for first in range(0, sets, step):
        rows = slice(first, first + step)
        used, index = torch.unique(batch["index"][rows], return_inverse=True)
        part = {name: batch[name][used] for name in ("templates", "identities")} | {"index": index}
        for name in batch.keys() - part.keys():
            part[name] = batch[name][rows if name == "valid" else slice(first * shared, (first + step) * shared)]
        parts.append(part)
    return parts
