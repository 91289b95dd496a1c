"""What the paper compares its choices with, as variants of the training loop; the product knows none of it."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from fartrack.engines.torch import TorchEngine
from fartrack.geometry import Crop, clip_box
from fartrack.model.encoder import FARTrack
from fartrack.model.init_weights import start_network
from fartrack.model.losses import dense_loss, divergence
from fartrack.tracking.settings import TrackerSettings
from fartrack.tracking.templates import Template, best_tokens
from fartrack.tracking.tracker import Tracker
from fartrack.train.data.batches import Batch
from fartrack.train.loop import Trainer
from fartrack.train.objective import autocast, box_terms, compare, forward_exits, prune, search_tokens, summed
from fartrack.train.recipe import Recipe

Features = Literal["trajectory", "search", "template"]


def losses(
    network: FARTrack,
    batch: Batch,
    recipe: Recipe,
    features: Features = "trajectory",
    supervised: bool = True,
    teacher: FARTrack | None = None,
) -> dict[str, Tensor]:
    """As :func:`fartrack.train.objective.losses`, with other choices.

    Args:
        network, batch, recipe: as there.
        features: the tokens whose distributions are distilled; ``template`` needs joint attention.
        supervised: whether the terms on boxes are taken on every exit, or on the last alone.
        teacher: another network, whose last layer teaches that of this one.
    """

    def tokens(exit):
        if features == "template":
            return exit.template_BMD
        searched = search_tokens(exit, batch).shape[1]
        return exit.tokens_BND[:, :searched] if features == "search" else exit.tokens_BND[:, searched:]

    with autocast(recipe.precision, batch.search.device.type):
        exits = forward_exits(network, batch, recipe.exit_layers)
        dense = network.aux(search_tokens(exits[-1], batch))
        if teacher is None:
            compared = [tokens(exit) for exit in exits]
            student, taught = compare(network, compared[:-1], compared[1:])
        else:
            with torch.no_grad():
                taught = teacher.head(tokens(forward_exits(teacher, batch, [teacher.config.depth])[0]))
            student = network.head(tokens(exits[-1]))
    terms = box_terms(exits if supervised else exits[-1:], batch, recipe.loss)
    grid = batch.search.shape[1] // network.config.patch
    terms["dense"] = recipe.loss.dense * dense_loss(dense, batch.boxes, grid, batch.kept)
    valid = None if batch.valid is None else batch.valid.repeat_interleave(batch.shared, dim=0)
    if features == "template" and valid is not None:
        used = valid.repeat(len(student) // len(valid), 1)
        terms["divergence"] = recipe.loss.divergence * masked_divergence(student, taught, used)
    else:
        terms["divergence"] = recipe.loss.divergence * divergence(student, taught)
    return summed(terms, exits[-1], batch)


def masked_divergence(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """KL(teacher ‖ student) of logits ``(B, n, V)`` over the tokens where ``valid (B, n)``; each sample counts once."""
    teacher = torch.log_softmax(teacher.detach().float(), dim=-1)
    each = (teacher.exp() * (teacher - torch.log_softmax(student.float(), dim=-1))).sum(-1)
    return (each.where(valid, 0).sum(1) / valid.sum(1).clamp(min=1)).mean()


class SearchFeatures(Trainer):
    """Distills the distributions of the search tokens."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return losses(self.state.network, batch, self.recipe, features="search")


class TemplateFeatures(Trainer):
    """Distills the distributions of the template tokens."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return losses(self.state.network, batch, self.recipe, features="template")


class DivergenceAlone(Trainer):
    """Leaves the inner layers to the divergence: boxes supervise the last layer only."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return losses(self.state.network, batch, self.recipe, supervised=False)


class DeepToShallow(Trainer):
    """Fades layers out linearly over a share of the run, while the start network teaches what remains (MixFormerV2).

    Batches must go through the network whole (``micro_batch``). Afterwards :func:`delete_layers` takes them out.
    """

    delete: ClassVar[tuple[int, ...]] = (1, 3)
    """The layers to delete, counted from 0."""
    fade: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.start is not None
        network = self.state.network
        self.teacher = start_network(network.config, self.start).to(network.bias.device).eval()
        for layer in self.delete:
            for branch in (network.blocks[layer].proj, network.blocks[layer].fc2):
                branch.register_forward_hook(lambda module, inputs, output: self.factor * output)

    @property
    def factor(self) -> float:
        """On the residual branches of the layers to delete, at the step under way."""
        return max(1 - (self.state.step + 1) / max(self.fade * self.recipe.steps, 1), 0.0)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return losses(self.state.network, batch, self.recipe, teacher=self.teacher)


def delete_layers(weights: dict[str, Tensor], deleted: tuple[int, ...]) -> dict[str, Tensor]:
    """The weights of a network without some of its layers (counted from 0); those behind them move up."""
    found = {}
    for name, tensor in weights.items():
        group, *rest = name.split(".")
        if group == "blocks":
            layer = int(rest[0])
            if layer in deleted:
                continue
            rest[0] = str(layer - sum(each < layer for each in deleted))
        found[".".join([group, *rest])] = tensor
    return found


class RuntimeEngine(TorchEngine):
    """Decides anew on every frame which template tokens are kept, at the price of a second pass."""

    def __init__(self, network: FARTrack, retention: float) -> None:
        super().__init__(network)
        self.retention = retention

    def search(self, crops, trajectory, memory):
        _, scores = self.search_scored(crops, trajectory, memory)
        count, logits = self.config.template_tokens, []
        for place, row in enumerate(scores.reshape(len(crops), -1, count)):
            kept = [best_tokens(scores, self.retention) for scores in row]
            tokens = np.concatenate([index + count * slot for slot, index in enumerate(kept)])
            one = slice(place, place + 1)
            logits.append(
                super().search(crops[one], trajectory[one], np.ascontiguousarray(memory[one][..., tokens, :]))
            )
        return np.concatenate(logits)


class RuntimeSparsification(Trainer):
    """Sparsifies at run time: masks are those of the frame itself instead of being carried on."""

    @staticmethod
    def make_tracker(network: FARTrack, settings: TrackerSettings) -> Tracker:
        return Tracker(RuntimeEngine(network, settings.retention), replace(settings, retention=1.0))

    def roll(self, clips):
        batch, lost = super().roll(clips)
        return runtime_masks(self.state.network, batch, self.recipe.rollout.tracker.retention), lost


def runtime_masks(network: FARTrack, batch: Batch, retention: float) -> Batch:
    """The batch of a rollout, in which each search crop keeps the template tokens that it scores best itself."""
    device, (rows, slots) = network.bias.device, batch.index.shape
    valid = batch.valid.reshape(rows, slots, -1).clone()
    used = valid.any(-1).sum(1)
    for count in used.unique().tolist():
        own = (used == count).nonzero()[:, 0]
        part = Batch(
            batch.templates,
            batch.identities,
            batch.template_boxes,
            batch.index[own, :count],
            batch.search[own],
            batch.trajectory[own],
            batch.boxes[own],
        )
        valid[own, :count] = prune(network, part.to(device), retention).cpu().reshape(len(own), count, -1)
    return replace(batch, valid=valid.flatten(1))


@dataclass(frozen=True)
class AdaptiveTemplate(Template):
    """Keeps more tokens or fewer in proportion to how much of it the target covers.

    Attributes:
        size: that share over the usual one, of a square target that is wholly in view.
    """

    size: float = 1.0

    def prune(self, scores, retention):
        return super().prune(scores, min(retention * self.size, 1.0))


class AdaptiveTracker(Tracker):
    """Takes such templates."""

    def _take_template(self, frame, box, number, identity):
        template, config = super()._take_template(frame, box, number, identity), self.engine.config
        window = Crop.template(box, config.template_factor)
        x0, y0, x1, y1 = np.clip(window.to_crop(np.array(clip_box(box, *frame.shape[1::-1]))), 0, 1).tolist()
        return AdaptiveTemplate(**vars(template), size=(x1 - x0) * (y1 - y0) * config.template_factor**2)


class AdaptiveRetention(Trainer):
    """Prunes each template by the size of its target."""

    @staticmethod
    def make_tracker(network: FARTrack, settings: TrackerSettings) -> Tracker:
        return AdaptiveTracker(TorchEngine(network), settings)
