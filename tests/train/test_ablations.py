"""The ablations' variants of the training loop do what the paper compares its choices with."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import save_file

from benchmarks.ablations import variants
from benchmarks.ablations.__main__ import RECIPE, merged
from benchmarks.ablations.rows import ROWS
from fartrack.config import from_dict
from fartrack.engines.torch import TorchEngine
from fartrack.model.encoder import FARTrack
from fartrack.model.losses import divergence
from fartrack.tracking.settings import TrackerSettings
from fartrack.tracking.tracker import Tracker
from fartrack.train.data.batches import Batch
from fartrack.train.data.clips import Clip
from fartrack.train.objective import forward_exits, losses
from fartrack.train.recipe import LossConfig, Recipe
from fartrack.train.rollout import roll


@pytest.fixture
def recipe(tiny):
    model = tiny(depth=3, attention="joint", identities=3, patch=8)
    return Recipe(templates=(1, 2), precision="fp32", first_exit=1, loss=LossConfig(divergence=0.6), model=model)


@pytest.fixture
def batch(recipe):
    generator, model = torch.Generator().manual_seed(0), recipe.model
    low = torch.rand(4, 2, generator=generator) * 0.5
    return Batch(
        templates=torch.randint(256, (3, 32, 32, 3), dtype=torch.uint8, generator=generator),
        identities=torch.tensor([0, 1, 1]),
        template_boxes=torch.rand(3, 4, generator=generator).sort(1).values,
        index=torch.tensor([[0, 1], [0, 2]]),
        search=torch.randint(256, (4, 64, 64, 3), dtype=torch.uint8, generator=generator),
        trajectory=torch.randint(600, (4, 4 * model.trajectory), generator=generator),
        boxes=torch.cat([low, low + 0.3], dim=1),
        valid=torch.rand(2, 2 * model.template_tokens, generator=generator) < 0.6,
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.group}: {row.name}")
def test_every_row_is_a_recipe(row):
    recipe = from_dict(Recipe, merged(RECIPE, row.changes))
    TrackerSettings(**row.settings)
    assert (row.depth or recipe.model.depth) in (recipe.model.depth, *recipe.exit_layers)


@torch.no_grad()
def test_the_plain_choices_are_the_products(recipe, random_network, batch):
    network = random_network(recipe.model)
    expected = losses(network, batch, recipe)
    for name, value in variants.losses(network, batch, recipe).items():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize("features", ["search", "template"])
@torch.no_grad()
def test_other_features_are_distilled(recipe, random_network, batch, features):
    network = random_network(recipe.model)
    found = variants.losses(network, batch, recipe, features=features)
    plain = losses(network, batch, recipe)
    tokens = [
        exit.tokens_BND[:, : recipe.model.search_tokens] if features == "search" else exit.template_BMD
        for exit in forward_exits(network, batch, (1, 2, 3))
    ]
    each = []
    for student, teacher in pairwise(tokens):
        for crop in range(4):
            used = batch.valid[crop // 2] if features == "template" else slice(None)
            each.append(divergence(network.head(student[crop][used]), network.head(teacher[crop][used])))
    torch.testing.assert_close(found["divergence"], 0.6 * torch.stack(each).mean())
    assert {name for name in plain if not torch.equal(plain[name], found[name])} == {"divergence", "loss"}


@torch.no_grad()
def test_the_divergence_alone_leaves_the_inner_layers_unsupervised(recipe, random_network, batch):
    network = random_network(recipe.model)
    found = variants.losses(network, batch, recipe, supervised=False)
    last, all_exits = losses(network, batch, replace(recipe, first_exit=0)), losses(network, batch, recipe)
    for name in ("cross_entropy", "siou", "l1"):
        torch.testing.assert_close(found[name], last[name])
    assert found["divergence"] == all_exits["divergence"]


def test_layers_fade_out_while_the_start_network_teaches(recipe, random_network, batch, tmp_path, synthetic_store):
    recipe = replace(
        recipe, first_exit=0, steps=20, warmup=0, decay=0, model=replace(recipe.model, depth=4, drop_path=0.5)
    )
    start = random_network(recipe.model)
    save_file(start.state_dict(), tmp_path / "start.safetensors")
    trainer = variants.DeepToShallow(recipe, synthetic_store(), tmp_path / "run", start=tmp_path / "start.safetensors")
    network = trainer.state.network.eval()
    assert trainer.factor == pytest.approx(0.9)
    trainer.state.step = 9
    assert trainer.factor == 0
    shallow = FARTrack(replace(recipe.model, depth=2)).eval()
    shallow.load_state_dict(variants.delete_layers(network.state_dict(), trainer.delete))
    with torch.no_grad():
        (faded,), (expected,) = forward_exits(network, batch, [4]), forward_exits(shallow, batch, [2])
        (taught,) = forward_exits(start, batch, [4])
    torch.testing.assert_close(faded.logits_B4V, expected.logits_B4V)
    searched = recipe.model.search_tokens
    teacher, student = (start.head(taught.tokens_BND[:, searched:]), network.head(faded.tokens_BND[:, searched:]))
    first, again = trainer.losses(batch)["divergence"], trainer.losses(batch)["divergence"]
    torch.testing.assert_close(first, 0.6 * divergence(student, teacher))
    assert first == again and not trainer.teacher.training  # the teacher has no drop path


def clip(seed, frames=7):
    rng = np.random.default_rng(seed)
    boxes = np.tile([40.0, 30.0, 24.0, 30.0], (frames, 1))
    return Clip([rng.integers(0, 256, (90, 120, 3), np.uint8) for _ in range(frames)], boxes)


@pytest.mark.parametrize("attention", ["cached", "joint"])
def test_runtime_sparsification_decides_on_every_frame(tiny, random_network, attention):
    """Training sees the masks that the tracker has, and so the same logits."""
    network = random_network(tiny(patch=8, attention=attention))
    settings = TrackerSettings(templates=3, interval=2, retention=0.5, template_score=0, hold_score=1, lost_score=0)
    tracker, had = variants.RuntimeSparsification.make_tracker(network, settings), []
    search = tracker.engine.search
    tracker.engine.search = lambda *arguments: had.append(search(*arguments)) or had[-1]
    batch, _ = roll(tracker, [clip(0)])
    batch = variants.runtime_masks(network, batch, 0.5)
    valid = batch.valid.reshape(len(batch.search), 3, 16)
    assert set(valid.sum(-1)[:2, 0].tolist()) == {8} and valid[0, 1:].sum() == 0
    assert any(not torch.equal(one, two) for one, two in pairwise(valid[:, 0]))
    with torch.no_grad():
        (last,) = forward_exits(network, batch, [network.config.depth])
    np.testing.assert_allclose(last.logits_B4V, np.concatenate(had), rtol=1e-3, atol=1e-3)


def test_adaptive_retention_keeps_more_of_a_template_that_its_target_fills(tiny, random_network):
    network = random_network(tiny(patch=8))
    settings = TrackerSettings(templates=2, interval=5, retention=0.5, template_score=0, lost_score=0)
    frames, kept = clip(1).frames, {}
    for box in ((40, 30, 24, 24), (-12, 30, 24, 24)):  # wholly in view, and half of it
        for name, tracker in (
            ("adaptive", variants.AdaptiveRetention.make_tracker(network, settings)),
            ("plain", Tracker(TorchEngine(network), settings)),
        ):
            state, _ = tracker.step(tracker.start(frames[0], box), frames[1])
            kept[name, box[0]] = len(state.memory.history[0].keep)
    assert kept == {("adaptive", 40): 8, ("plain", 40): 8, ("adaptive", -12): 4, ("plain", -12): 8}
