"""The rows of the ablation tables: what each changes, and what the paper reports for it."""

from dataclasses import dataclass, field
from typing import Any

from benchmarks.ablations.variants import (
    AdaptiveRetention,
    DeepToShallow,
    DivergenceAlone,
    RuntimeSparsification,
    SearchFeatures,
    TemplateFeatures,
)
from fartrack.train.loop import Trainer

RECIPE: dict[str, Any] = {
    "sets": 6,
    "templates": [1, 2, 3],
    "learning_rate": 1e-4,
    "head_learning_rate": 2e-4,
    "warmup": 0,
    "ema": 0.98,
    "model": {"depth": 6, "attention": "cached", "search_size": 112, "template_size": 64},
    "sampling": {"searches": 2},
}
"""What the rows have in common: six cached layers on crops of half the usual side, so that a minute teaches much."""

PHASE3 = {"share": 0.7, "frames": 12, "clips": 2, "synthetic": 0.4}
EXITS = {"first_exit": 3, "loss": {"divergence": 0.1}}
JOINT = {"attention": "joint", "identities": 2}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        group: rows of a group are compared with one another, and share their start weights.
        name: what is different.
        changes: to ``RECIPE``, table by table.
        trainer: the variant of the training loop.
        settings: of the tracker that is measured.
        depth: the exit that is measured; None for the last.
        time: share of the others' time that it trains.
        paper: the paper's figure beside it, if it has one.
    """

    group: str
    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    trainer: type[Trainer] = Trainer
    depth: int | None = None
    time: float = 1.0
    paper: str = ""


def sparse(retention: float) -> dict[str, Any]:
    """Changes and settings of a row of phase 3."""
    settings = {"retention": retention}
    return {"changes": {"rollout": {**PHASE3, "tracker": {"interval": 4, **settings}}}, "settings": settings}


ROWS = [
    Row("depth", "cut to 4 layers", {"model": {"depth": 4}}),
    # The others give four networks at once, of 3, 4, 5 and 6 layers.
    Row("depth", "cut to 4 layers, a quarter of the time", {"model": {"depth": 4}}, time=0.25),
    Row("depth", "layer by layer", EXITS, depth=4, paper="69.9 (10 of 15 layers)"),
    Row(
        "depth",
        "deep to shallow (layers 1 and 3 deleted)",
        {"loss": {"divergence": 0.1}},
        trainer=DeepToShallow,
        paper="67.8 (10 of 15 layers)",
    ),
    Row("depth", "layer by layer without KL", {**EXITS, "loss": {"divergence": 0}}, depth=4, paper="collapses"),
    Row(
        "depth",
        "layer by layer, KL alone on the inner layers",
        EXITS,
        trainer=DivergenceAlone,
        depth=4,
        paper="drops",
    ),
    Row("depth", "layer by layer, search features", EXITS, trainer=SearchFeatures, depth=4, paper="drops"),
    Row("depth", "layer by layer, joint attention", {**EXITS, "model": JOINT}, depth=4),
    Row(
        "depth",
        "layer by layer, joint attention, template features",
        {**EXITS, "model": JOINT},
        trainer=TemplateFeatures,
        depth=4,
        paper="drops",
    ),
    Row("sparsity", "no phase 3, 100 %", {}, {}, paper="70.0"),
    Row("sparsity", "no phase 3, 75 %", {}, {"retention": 0.75}),
    Row("sparsity", "sequence-level, 100 %", **sparse(1.0), paper="70.0"),
    Row("sparsity", "sequence-level, 75 %", **sparse(0.75), paper="70.6"),
    Row("sparsity", "sequence-level, 50 %", **sparse(0.5), paper="68.3"),
    Row("sparsity", "sequence-level, 25 %", **sparse(0.25), paper="67.3"),
    Row("sparsity", "sequence-level, 10 %", **sparse(0.1), paper="62.3"),
    Row("sparsity", "run-time, 75 %", **sparse(0.75), trainer=RuntimeSparsification, paper="69.5"),
    Row("sparsity", "adaptive, about 75 %", **sparse(0.75), trainer=AdaptiveRetention),
    Row(
        "sparsity",
        "all phases at once, 75 %",
        {**EXITS, "rollout": {**PHASE3, "share": 0.3, "tracker": {"interval": 4, "retention": 0.75}}},
        {"retention": 0.75},
    ),
    *(Row("templates", f"{n} template{'s' * (n > 1)}", {"templates": [n]}, {"templates": n}) for n in (1, 2, 3, 5)),
    *(Row("trajectory", f"{n} past boxes", {"model": {"trajectory": n}}) for n in (0, 1, 3, 7)),
    Row("attention", "cached", {}),
    Row("attention", "joint", {"model": JOINT}),
    Row("minutes", "the recipe", {}),
    Row("minutes", "without the dense helper", {"loss": {"dense": 0}}),
    Row("minutes", "one-hot targets", {"loss": {"smoothing": 0}}),
    Row("minutes", "without cross-entropy", {"loss": {"cross_entropy": 0}}),
    Row("minutes", "without SIoU", {"loss": {"siou": 0}}),
    Row("minutes", "without L1", {"loss": {"l1": 0}}),
    Row("minutes", "one search crop a set", {"sets": 12, "sampling": {"searches": 1}}),
    Row("minutes", "half of the search tokens", {"patch_dropout": 0.5, "patch_dropout_steps": 10**6}),
    Row("minutes", "without copy-paste, but for occluders", {"sampling": {"paste": 0, "distractor": 0}}),
    Row("minutes", "without unlabeled regions", {"sampling": {"regions": 0}}),
    Row("minutes", "without clips", {"sampling": {"clips": 0}}),
    Row("minutes", "without stills", {"sampling": {"stills": 0, "regions": 0}}),
]
