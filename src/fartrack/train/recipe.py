"""A training recipe: everything that decides a run, as typed and validated values read from TOML."""

import tomllib
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np

from fartrack.config import check_choice, check_numbers, from_dict
from fartrack.errors import FartrackError
from fartrack.model.config import ModelConfig
from fartrack.tracking.settings import TrackerSettings
from fartrack.train.data.sampling import SamplingConfig

Precision = Literal["auto", "bf16", "fp32"]
Decay = Literal["cosine", "step"]

RECIPES = Path(__file__).parent / "recipes"


# What a step draws at random; each has random numbers of its own.
Stream = IntEnum("Stream", ["TEMPLATES", "ROLLOUT", "CLIP", "SET", "PRUNE"], start=0)


@dataclass(frozen=True)
class LossConfig:
    """The weight of each term of the loss; 0 switches it off.

    Attributes:
        cross_entropy: of the coordinate tokens.
        siou: 1 − SIoU of the expected box.
        l1: mean absolute error of the expected coordinates.
        dense: the training-only head on the search tokens.
        divergence: KL divergence of each exit from the next one (self-distillation).
        features: 1 − cosine of the last layer's search tokens with those that other weights (say, an ImageNet ViT's)
            give of the crop alone, so that what these knew is kept.
        commands_only: this compares the command tokens alone (the paper's code), not the trajectory too.
        smoothing: deviation, in bins, of the coordinate tokens' targets; 0 is one-hot (the paper).
    """

    cross_entropy: float = 1.0
    siou: float = 2.0
    l1: float = 5.0
    dense: float = 1.0
    divergence: float = 0.01
    features: float = 0.0
    commands_only: bool = False
    smoothing: float = 2.5

    def __post_init__(self) -> None:
        """Check every field once; errors name the field."""
        check_choice(self, "commands_only", (False, True))
        check_numbers(self, **{name: (0, 1000) for name in self.__dataclass_fields__ if name != "commands_only"})


@dataclass(frozen=True)
class RolloutConfig:
    """Training on what the tracker itself does on clips (phase 3).

    Attributes:
        share: share of the run's steps that are rollouts; the others draw single frames.
        frames: length of a clip.
        clips: clips of one step.
        synthetic: share of clips that are made of stills: a masked object that moves over another picture.
        pruned: share of the other steps, of single frames, on which templates are pruned as in a rollout.
        tracker: settings of the tracker in rollouts.
    """

    share: float = 0.0
    frames: int = 32
    clips: int = 4
    synthetic: float = 0.3
    pruned: float = 0.0
    tracker: TrackerSettings = field(default_factory=lambda: TrackerSettings(interval=5, retention=0.75))

    def __post_init__(self) -> None:
        """Check every field once; errors name the field."""
        check_numbers(self, share=(0, 1), frames=(2, 10_000), clips=(1, 65_536), synthetic=(0, 1), pruned=(0, 1))


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes:
        steps: optimizer steps in all.
        sets: sample sets a step; the batch is ``sets · sampling.searches`` search crops.
        templates: numbers of templates, one of which is drawn for every step.
        learning_rate: of the ViT: patch embedding, layers and norm.
        head_learning_rate: of what has no ImageNet start: vocabulary, positions, identities, dense head.
        weight_decay: of AdamW; not on biases, norms and embeddings.
        beta2: of AdamW: decay of the mean of squared gradients.
        warmup: steps of linear warm-up.
        decay: steps at the end over which the rates fall; constant before, so a run can be made longer.
        decay_shape: ``cosine`` to zero, or ``step``: to a tenth (the paper).
        max_grad_norm: gradients are clipped to this norm.
        ema: decay of the moving average of the weights, which is what is exported.
        seed: of everything random.
        precision: ``bf16`` (autocast), ``fp32``, or ``auto``: bf16 where the processor computes in it.
        micro_batch: most search crops in the network at once; gradients of a larger batch are summed.
        first_exit: from this layer on, counted from 1, each is an exit and learns from the next; 0: only the last.
        patch_dropout: share of the search tokens that is dropped after the embedding, to save time.
        patch_dropout_steps: steps from the start on which it is.
        freeze_layers: so many of the first layers, all embeddings, the norm and the head stay as the start weights
            have them: the network may grow, while an exit after these layers remains what it was.
        model: the network.
        sampling: the samples.
        loss: the weights of the loss.
        rollout: training on clips.
    """

    steps: int = 3000
    sets: int = 12
    templates: tuple[int, ...] = (1, 2, 3, 5)
    learning_rate: float = 3e-4
    head_learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    beta2: float = 0.98
    warmup: int = 200
    decay: int = 1500
    decay_shape: Decay = "cosine"
    max_grad_norm: float = 1.0
    ema: float = 0.999
    seed: int = 0
    precision: Precision = "auto"
    micro_batch: int = 64
    first_exit: int = 0
    patch_dropout: float = 0.5
    patch_dropout_steps: int = 0
    freeze_layers: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)

    def __post_init__(self) -> None:
        """Check every field once; errors name the field."""
        check_numbers(self, steps=(1, 10**9), sets=(1, 65_536), warmup=(0, self.steps), decay=(0, self.steps))
        check_numbers(self, learning_rate=(0, 1), head_learning_rate=(0, 1), weight_decay=(0, 1), beta2=(0, 0.999999))
        check_numbers(self, max_grad_norm=(1e-6, 1e6), ema=(0, 0.999999), seed=(0, 2**63), micro_batch=(1, 65_536))
        check_numbers(self, patch_dropout=(0, 0.95), patch_dropout_steps=(0, 10**9))
        check_numbers(self, first_exit=(0, self.model.depth), freeze_layers=(0, self.model.depth - 1))
        check_choice(self, "precision", get_args(Precision))
        check_choice(self, "decay_shape", get_args(Decay))
        most, counts = self.model.templates, self.templates if isinstance(self.templates, tuple) else ()
        if not counts or not all(type(n) is int and 1 <= n <= most for n in counts):
            raise FartrackError(f"templates is {self.templates}; it must list whole numbers from 1 to {most}.")

    @property
    def exit_layers(self) -> range:
        """The layers, counted from 1, that are exits in training."""
        return range(self.first_exit or self.model.depth, self.model.depth + 1)

    def trains(self, name: str) -> bool:
        """Whether the network's parameter of this name is trained."""
        group, number, *_ = [*name.split("."), ""]
        return not self.freeze_layers or group == "aux" or (group == "blocks" and int(number) >= self.freeze_layers)

    def random(self, step: int, stream: Stream, *index: int) -> np.random.Generator:
        """The random numbers of one stream of a step (and one of its sets or clips)."""
        return np.random.default_rng([self.seed, step, stream, *index])

    def rolls(self, step: int) -> bool:
        """Whether a step is a rollout."""
        return bool(self.random(step, Stream.ROLLOUT).random() < self.rollout.share)

    def prunes(self, step: int) -> bool:
        """Whether a step that is no rollout prunes its templates."""
        return bool(self.random(step, Stream.PRUNE).random() < self.rollout.pruned)

    @property
    def settings(self) -> dict[str, Any]:
        """The tracker settings that the run trains for, where they differ from the defaults."""
        retention = self.rollout.tracker.retention
        return {"retention": retention} if retention < 1 and (self.rollout.share or self.rollout.pruned) else {}

    @classmethod
    def read(cls, path: Path) -> Self:
        """A recipe from a TOML file; a FartrackError, which names the file, if it is missing or no TOML, or a field is
        unknown or unfit."""
        try:
            values = tomllib.loads(path.read_text())
        except (OSError, UnicodeDecodeError):
            raise FartrackError(f"There is no readable recipe {path}; check the path.") from None
        except tomllib.TOMLDecodeError as error:
            raise FartrackError(f"The recipe {path} is no valid TOML: {error}.") from None
        try:
            return from_dict(cls, values)
        except FartrackError as error:
            raise FartrackError(f"{path}: {error}") from None


def shipped_recipes() -> dict[str, Path]:
    """The recipes that ship, by name."""
    return {str(path.relative_to(RECIPES).with_suffix("")): path for path in sorted(RECIPES.rglob("*.toml"))}


def recipe_path(recipe: Path) -> Path:
    """A recipe file by its path or, if there is none, by the name of one that ships."""
    return recipe if recipe.exists() else shipped_recipes().get(str(recipe), recipe)
