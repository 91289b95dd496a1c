"""A recipe: everything that decides what a training run does, as typed and validated values read from TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from fartrack.config import check_choice, check_numbers, from_dict
from fartrack.errors import FartrackError
from fartrack.model.config import ModelConfig
from fartrack.tracking.tracker import TrackerSettings
from fartrack.train.data.sampling import SamplingConfig

Precision = Literal["auto", "bf16", "fp32"]

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class LossConfig:
    """The weight of each term of the loss; 0 switches it off.

    Attributes:
        cross_entropy: of the coordinate tokens.
        siou: 1 − SIoU of the expected box.
        l1: mean absolute error of the expected coordinates.
        dense: the training-only helper on the search tokens.
        smoothing: deviation, in bins, of the coordinate tokens' targets; 0 is one-hot (the paper).
    """

    cross_entropy: float = 1.0
    siou: float = 2.0
    l1: float = 5.0
    dense: float = 1.0
    smoothing: float = 2.5

    def __post_init__(self) -> None:
        """Check every field once; errors name the field."""
        check_numbers(self, **{name: (0, 1000) for name in ("cross_entropy", "siou", "l1", "dense", "smoothing")})


@dataclass(frozen=True)
class DistillConfig:
    """Self-distillation in depth (phase 2).

    Attributes:
        first: the first tapped layer, counted from 1; every layer from it on is an exit. 0: only the last layer is,
            and nothing is distilled.
        scheme: ``layer-by-layer``, each tapped layer is the teacher of the one before it (the paper); or
            ``deep-to-shallow``, the layers of ``delete`` are faded out and the start network is the teacher of what
            remains (MixFormerV2).
        features: the tokens whose distributions over the vocabulary are compared: ``trajectory``, the trajectory and
            command tokens (the paper); ``search``; or ``template``, which needs ``joint`` attention.
        weight: of the divergence in the loss; 0 switches it off.
        supervised: whether the other terms of the loss are taken on every tapped layer, or on the last alone.
        delete: deep-to-shallow: the layers to be deleted, counted from 0.
        fade: deep-to-shallow: share of the run over which they fade, linearly.
    """

    first: int = 0
    scheme: Literal["layer-by-layer", "deep-to-shallow"] = "layer-by-layer"
    features: Literal["trajectory", "search", "template"] = "trajectory"
    weight: float = 0.01
    supervised: bool = True
    delete: tuple[int, ...] = ()
    fade: float = 0.5

    def __post_init__(self) -> None:
        """Check every field once; errors name the field."""
        check_numbers(self, first=(0, 15), weight=(0, 1000), fade=(0, 1))
        check_choice(self, "scheme", ("layer-by-layer", "deep-to-shallow"))
        check_choice(self, "features", ("trajectory", "search", "template"))
        check_choice(self, "supervised", (False, True))
        layers = self.delete
        if not isinstance(layers, tuple) or not all(type(n) is int for n in layers) or len(set(layers)) < len(layers):
            raise FartrackError(f"delete is {layers}; it must list different whole numbers.")
        if (self.scheme == "deep-to-shallow") != bool(layers):
            raise FartrackError(f"delete is {layers}; it must list layers if scheme is deep-to-shallow, else none.")


@dataclass(frozen=True)
class RolloutConfig:
    """Training on what the tracker itself does on clips (phase 3).

    Attributes:
        share: of the run's steps that are rollouts; the others draw single crops.
        frames: length of a clip.
        clips: of one step.
        synthetic: share of clips that are made of stills: a masked object that moves over another picture.
        tracker: how the tracker is set while it rolls; what share of the template tokens is kept, among others.
        pruned: share of the other steps, of single crops, on which templates keep no more tokens than in a rollout.
    """

    share: float = 0.0
    frames: int = 32
    clips: int = 4
    synthetic: float = 0.3
    tracker: TrackerSettings = field(default_factory=lambda: TrackerSettings(interval=5, retention=0.75))
    pruned: float = 0.0

    def __post_init__(self) -> None:
        """Check every field once; errors name the field."""
        check_numbers(self, share=(0, 1), frames=(2, 10_000), clips=(1, 65_536), synthetic=(0, 1), pruned=(0, 1))
        if not isinstance(self.tracker, TrackerSettings):
            raise FartrackError(f"tracker is {self.tracker!r}; it must be a table of fields.")


@dataclass(frozen=True)
class Stage:
    """A part of a run, which works on less than the whole crops: what is learned there is cheap.

    Attributes:
        share: of the run's steps.
        search_size, template_size: side of the crops, in pixels.
        keep: share of the search tokens that go on after their embedding; those far from the window's centre are the
            likelier to be dropped.
    """

    share: float
    search_size: int
    template_size: int
    keep: float = 1.0

    def __post_init__(self) -> None:
        """Check every field once; errors name the field."""
        check_numbers(self, share=(0, 1), search_size=(16, 1024), template_size=(16, 1024), keep=(0.05, 1))


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes:
        steps: optimiser steps in all.
        sets: sample sets a step; the batch is ``sets · sampling.searches`` search crops.
        templates: numbers of templates, one of which is drawn for every step.
        learning_rate: of the layers that start weights give.
        new_learning_rate: of what has no ImageNet start: vocabulary, positions, identities, dense head.
        weight_decay: of AdamW; not on biases, norms and embeddings.
        warmup: steps of linear warm-up.
        decay: steps at the end over which the rates fall to zero along a cosine; between warm-up and decay they
            are constant, so that a run can be made longer at any time before the decay begins.
        final: ``cosine``; or ``step``: over the ``decay`` steps at the end the rates are a tenth (the paper).
        clip: largest gradient norm.
        ema: decay of the moving average of the weights, which is what is shipped.
        seed: of everything random.
        precision: ``bf16`` (autocast), ``fp32``, or ``auto``: bf16 where the processor computes in it.
        stages: parts of the run on smaller crops or fewer tokens, in order; what their shares leave of the run is on
            whole crops of the model's own sizes.
        frozen: how many of the first layers stay as the start weights have them, and with them all that is no layer's
            but the dense helper: the network may grow, while an exit after these layers remains what it was.
        micro: the most search crops that go through the network at once; a larger batch is divided and its gradients
            are summed.
        model, sampling, loss, distill, rollout: see their classes.
    """

    steps: int = 3000
    sets: int = 12
    templates: tuple[int, ...] = (1, 2, 3, 5)
    learning_rate: float = 3e-4
    new_learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup: int = 200
    decay: int = 1500
    final: Literal["cosine", "step"] = "cosine"
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    precision: Precision = "auto"
    stages: tuple[Stage, ...] = ()
    frozen: int = 0
    micro: int = 64
    model: ModelConfig = field(default_factory=ModelConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)

    def __post_init__(self) -> None:
        """Check every field once; errors name the field."""
        check_numbers(self, steps=(1, 10**9), sets=(1, 65_536), warmup=(0, self.steps), decay=(0, self.steps))
        check_numbers(self, learning_rate=(0, 1), new_learning_rate=(0, 1), weight_decay=(0, 1))
        check_numbers(self, clip=(1e-6, 1e6), ema=(0, 0.999999), seed=(0, 2**63))
        check_numbers(self, micro=(1, 65_536), frozen=(0, self.model.depth - 1))
        check_choice(self, "precision", get_args(Precision))
        check_choice(self, "final", ("cosine", "step"))
        if self.distill.first > self.model.depth:
            raise FartrackError(f"first is {self.distill.first}; the model has {self.model.depth} layers.")
        if self.distill.features == "template" and self.model.attention == "cached":
            raise FartrackError("features is template; with cached attention there are no template tokens to compare.")
        last = self.model.depth - 1
        if not set(self.distill.delete) <= set(range(last)):
            raise FartrackError(f"delete is {self.distill.delete}; it must list layers before the last, {last}.")
        if sum(stage.share for stage in self.stages) > 1 + 1e-9:
            raise FartrackError("The shares of stages sum to more than 1; make them smaller.")
        for stage in self.stages:
            self.at(stage)
        most = self.model.templates
        listed = isinstance(self.templates, tuple) and len(self.templates) > 0
        if not listed or not all(type(n) is int and 1 <= n <= most for n in self.templates):
            raise FartrackError(f"templates is {self.templates}; it must list whole numbers from 1 to {most}.")

    def stage(self, step: int) -> Stage:
        """The stage that a step belongs to."""
        end = 0.0
        for stage in self.stages:
            end += stage.share
            if step < round(end * self.steps):
                return stage
        return Stage(1.0, self.model.search_size, self.model.template_size)

    def at(self, stage: Stage) -> ModelConfig:
        """The model with the crops of a stage."""
        return replace(self.model, search_size=stage.search_size, template_size=stage.template_size)

    @property
    def taps(self) -> range:
        """The layers, counted from 1, that are exits in training."""
        return range(self.distill.first or self.model.depth, self.model.depth + 1)

    def learns(self, name: str) -> bool:
        """Whether the network's parameter of this name is trained."""
        group, number, *_ = [*name.split("."), ""]
        return not self.frozen or group == "aux" or (group == "blocks" and int(number) >= self.frozen)

    def fades(self, step: int) -> list[float]:
        """The factor on each layer's residual branches at a step."""
        span = max(self.distill.fade * self.steps, 1)
        factor = max(1 - (step + 1) / span, 0.0)
        return [factor if layer in self.distill.delete else 1.0 for layer in range(self.model.depth)]

    def rolls(self, step: int) -> bool:
        """Whether a step is a rollout."""
        return bool(np.random.default_rng([self.seed, step, 1]).random() < self.rollout.share)

    def prunes(self, step: int) -> bool:
        """Whether a step that is no rollout prunes its templates."""
        return bool(np.random.default_rng([self.seed, step, 4]).random() < self.rollout.pruned)

    def samples(self, steps: int, since: int = 0) -> int:
        """Search crops of the steps from ``since`` up to this many; of a rollout, those of all its frames."""
        share, rolled = self.rollout.share, self.rollout.clips * (self.rollout.frames - 1)
        count = steps - since
        rolls = count * int(share) if share in (0, 1) else sum(self.rolls(step) for step in range(since, steps))
        return (count - rolls) * self.batch + rolls * rolled

    @property
    def settings(self) -> dict[str, Any]:
        """The tracker settings that the run trains for, those that differ from the defaults."""
        if not self.rollout.share and not self.rollout.pruned:
            return {}
        retention = self.rollout.tracker.retention
        return {"retention": retention} if retention != TrackerSettings.retention else {}

    @property
    def batch(self) -> int:
        """Search crops a step."""
        return self.sets * self.sampling.searches

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """A recipe from nested mappings, such as a parsed TOML file; what is missing keeps its default.

        Raises:
            FartrackError: an unknown or unfitting field, named.
        """
        values = dict(values)
        tables = {"model": ModelConfig, "sampling": SamplingConfig, "loss": LossConfig}
        for name, kind in {**tables, "distill": DistillConfig, "rollout": RolloutConfig}.items():
            if name in values:
                if not isinstance(values[name], Mapping):
                    raise FartrackError(f"{name} is {values[name]!r}; it must be a table of fields.")
                table = dict(values[name])
                if isinstance(table.get("tracker"), Mapping):
                    table["tracker"] = from_dict(TrackerSettings, table["tracker"])
                if isinstance(table.get("delete"), list):
                    table["delete"] = tuple(table["delete"])
                values[name] = from_dict(cast(type[Any], kind), table)
        if "stages" in values:
            stages = values["stages"]
            if not isinstance(stages, list | tuple) or not all(isinstance(stage, Mapping) for stage in stages):
                raise FartrackError(f"stages is {stages!r}; it must be a list of tables.")
            values["stages"] = tuple(from_dict(Stage, stage) for stage in stages)
        if isinstance(values.get("templates"), list):
            values["templates"] = tuple(values["templates"])
        return from_dict(cls, values)

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """A recipe from a TOML file.

        Raises:
            FartrackError: the file is missing or no TOML, or a field is unknown or does not fit.
        """
        try:
            values = tomllib.loads(path.read_text())
        except (OSError, UnicodeDecodeError):
            raise FartrackError(f"There is no readable recipe {path}; check the path.") from None
        except tomllib.TOMLDecodeError as error:
            raise FartrackError(f"The recipe {path} is no valid TOML: {error}.") from None
        return cls.from_dict(values)


def recipe_path(recipe: Path) -> Path:
    """A recipe file by its path or, if there is none, by the name of one that ships (without ``.toml``)."""
    shipped = RECIPES / f"{recipe}.toml"
    return shipped if not recipe.exists() and shipped.is_file() else recipe
