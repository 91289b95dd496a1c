"""Every term of the objective against a plain re-computation, every weight against the terms that it must change."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from fartrack.geometry import UNIT, iou
from fartrack.model.losses import coordinate_loss, dense_loss, expected_coordinates, siou
from fartrack.model.vocabulary import BINS
from fartrack.train.data.batches import Batch, draw_batch
from fartrack.train.data.sampling import Sampler, SamplingConfig
from fartrack.train.data.store import Store
from fartrack.train.objective import forward_exits, losses
from fartrack.train.recipe import LossConfig, Recipe

SUPERVISED = ("cross_entropy", "siou", "l1")
TERMS = (*SUPERVISED, "dense", "divergence", "features")

# The same sums in single precision, in another order.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture
def recipe(tiny):
    """Three layers with joint attention, all of them exits, and no weight that is 0 or 1."""
    return Recipe(
        templates=(1, 2),
        precision="fp32",
        model=tiny(depth=3, attention="joint", identities=3),
        first_exit=1,
        loss=LossConfig(cross_entropy=0.7, siou=1.5, l1=3.0, dense=0.4, divergence=0.6, features=0.9, smoothing=1.5),
        sampling=SamplingConfig(searches=2),
    )


def random_batch(model, sets=3, shared=2, masked=False, kept=None):
    """Sets of two out of four templates, some of them in several sets, and the search crops that share them."""
    generator, B = torch.Generator().manual_seed(3), sets * shared
    z, x = model.template_size, model.search_size
    low = torch.rand(B, 2, generator=generator) * 0.6
    batch = Batch(
        templates=torch.randint(256, (4, z, z, 3), dtype=torch.uint8, generator=generator),
        identities=torch.tensor([0, 1, 1, 0]),
        template_boxes=torch.rand(4, 4, generator=generator).sort(1).values,
        index=torch.tensor([[0, 1], [0, 2], [3, 1], [3, 2]])[:sets],
        search=torch.randint(256, (B, x, x, 3), dtype=torch.uint8, generator=generator),
        trajectory=torch.randint(BINS, (B, 4 * model.trajectory), generator=generator),
        boxes=torch.cat([low, low + 0.1 + torch.rand(B, 2, generator=generator) * 0.5], dim=1),
    )
    if masked:
        valid = torch.rand(sets, 2 * model.template_tokens, generator=generator) < 0.6
        valid[:, 0] = True
        batch.valid = valid
    if kept:
        order = torch.rand(B, model.search_tokens, generator=generator).argsort(1)
        batch.kept = order[:, :kept].sort(1).values
    return batch


def gradients(network):
    return {name: torch.zeros(()) if p.grad is None else p.grad.clone() for name, p in network.named_parameters()}


def plain_divergence(student, teacher, head):
    """KL(teacher ‖ student) of the distributions of these tokens, in numpy, averaged."""
    found = []
    for tokens in (student, teacher):
        logits = head(tokens).detach().double().numpy().reshape(-1, BINS)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        found.append(weights / weights.sum(1, keepdims=True))
    return np.mean([sum(t * np.log(t / s)) for s, t in zip(*found, strict=True)])


def plain_supervised(exits, batch, weight):
    """The terms that are taken on exits: the mean over these."""
    boxes, logits = batch.boxes, [exit.logits_B4V for exit in exits]
    found = [expected_coordinates(rows) for rows in logits]
    return {
        "cross_entropy": weight.cross_entropy * np.mean([coordinate_loss(x, boxes, weight.smoothing) for x in logits]),
        "siou": weight.siou * np.mean([1 - siou(*pair) for b in found for pair in zip(b, boxes, strict=True)]),
        "l1": weight.l1 * np.mean([np.abs((b - boxes).numpy()) for b in found]),
    }


@pytest.mark.parametrize(
    ("first_exit", "supervised"),
    [(0, [3]), (1, [1, 2, 3]), (2, [2, 3]), (3, [3])],
    ids=["the last layer", "all layers", "from the second on", "only the last"],
)
@torch.no_grad()
def test_every_term(recipe, random_network, first_exit, supervised):
    recipe = replace(recipe, first_exit=first_exit)
    network, batch = random_network(recipe.model), random_batch(recipe.model)
    terms = losses(network, batch, recipe)
    exits = dict(zip((1, 2, 3), forward_exits(network, batch, (1, 2, 3)), strict=True))
    expected = plain_supervised([exits[layer] for layer in supervised], batch, recipe.loss)
    dense = network.aux(exits[3].tokens_BND[:, : recipe.model.search_tokens])
    expected["dense"] = 0.4 * dense_loss(dense, batch.boxes, 4).item()
    tokens = {layer: exit.tokens_BND[:, recipe.model.search_tokens :] for layer, exit in exits.items()}
    assert tokens[1].shape[1] == 16  # three boxes and the commands
    pairs = [(layer, layer + 1) for layer in (1, 2) if 0 < first_exit <= layer]
    if pairs:
        each = [plain_divergence(tokens[student], tokens[teacher], network.head) for student, teacher in pairs]
        expected["divergence"] = 0.6 * np.mean(each)
    assert set(terms) == {*expected, "loss", "iou"}
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-4), name
    assert terms["loss"].item() == pytest.approx(sum(expected.values()), rel=1e-4)
    found = UNIT.to_image(expected_coordinates(exits[3].logits_B4V))
    assert terms["iou"].item() == pytest.approx(iou(found, UNIT.to_image(batch.boxes)).mean(), rel=1e-5)


@torch.no_grad()
def test_the_papers_divergence_is_a_sum_over_the_command_tokens(recipe, random_network):
    """Of the bins' distributions on the four, averaged over samples and pairs of exits; the weight makes ours that."""
    network, batch = random_network(recipe.model), random_batch(recipe.model)
    paper = replace(recipe, loss=replace(recipe.loss, divergence=0.04, commands_only=True))
    found = losses(network, batch, paper)["divergence"].item()
    logits = [exit.logits_B4V.log_softmax(-1) for exit in forward_exits(network, batch, (1, 2, 3))]
    sums = [(t.exp() * (t - s)).sum((1, 2)).mean().item() for s, t in pairwise(logits)]
    assert found == pytest.approx(0.01 * np.mean(sums), rel=1e-4)


def test_a_drawn_batch(recipe, random_network, synthetic_store):
    network = random_network(recipe.model)
    sampler = Sampler(Store.open(synthetic_store()), recipe.model, recipe.sampling)
    known = random_network(recipe.model, seed=1).requires_grad_(False)
    terms = losses(network, draw_batch(sampler, recipe, 0), recipe, known)
    assert set(terms) == {*TERMS, "loss", "iou"}
    assert all(terms[name] > 0 for name in TERMS)
    torch.testing.assert_close(terms["loss"], sum(terms[name] for name in TERMS), **CLOSE)
    terms["loss"].backward()
    assert [name for name, gradient in gradients(network).items() if not gradient.abs().sum() > 0] == []
    assert not terms["iou"].requires_grad


def test_what_diverges_teaches_the_shallower_layers_only(recipe, random_network):
    recipe = replace(recipe, loss=LossConfig(cross_entropy=0, siou=0, l1=0, dense=0))
    network = random_network(recipe.model)
    losses(network, random_batch(recipe.model), recipe)["loss"].backward()
    found = gradients(network)
    assert all(gradient.abs().sum() == 0 for name, gradient in found.items() if name.startswith(("blocks.2.", "aux.")))
    for name in ("blocks.0.qkv.weight", "blocks.1.fc2.weight", "blocks.1.qkv.weight", "norm.weight", "vocab"):
        assert found[name].abs().sum() > 0, name


@pytest.mark.parametrize("name", [name for name in LossConfig.__dataclass_fields__ if name != "commands_only"])
@torch.no_grad()
def test_a_weight_changes_its_term_and_no_other(recipe, random_network, name):
    changed = replace(recipe, loss=replace(recipe.loss, **{name: 0}))
    network, batch, known = random_network(recipe.model), random_batch(recipe.model), random_network(recipe.model, 1)
    before, after = losses(network, batch, recipe, known), losses(network, batch, changed, known)
    differing = {term for term in TERMS if not torch.equal(before[term], after[term])}
    assert differing == {"cross_entropy" if name == "smoothing" else name}
    if name != "smoothing":
        assert after[name] == 0
    torch.testing.assert_close(after["loss"], sum(after[name] for name in TERMS if name in after), **CLOSE)
    assert torch.equal(before["iou"], after["iou"])


@pytest.mark.parametrize("attention", ["cached", "joint"])
@pytest.mark.parametrize("kept", [None, 5])
@torch.no_grad()
def test_features_that_are_kept(recipe, tiny, random_network, attention, kept):
    """1 − cosine with what the other network makes of the crop alone: no template, past box or identity counts."""
    recipe = replace(recipe, model=tiny(depth=3, attention=attention))
    network, known = random_network(recipe.model), random_network(recipe.model, seed=1)
    batch = random_batch(recipe.model, kept=kept)
    (exit,) = forward_exits(network, batch, (3,))
    torch.testing.assert_close(network.norm(exit.unnormed_BND), exit.tokens_BND)
    goal = known.patchify(batch.search) + known.pos_x
    if kept:
        goal = torch.stack([tokens[places] for tokens, places in zip(goal, batch.kept, strict=True)])
    for block in known.blocks:
        goal = block(goal)[0]
    own = exit.unnormed_BND[:, : goal.shape[1]].double().numpy().reshape(-1, goal.shape[-1])
    other = goal.double().numpy().reshape(own.shape)
    cosines = (own * other).sum(1) / np.linalg.norm(own, axis=1) / np.linalg.norm(other, axis=1)
    assert losses(network, batch, recipe, known)["features"].item() == pytest.approx(
        0.9 * np.mean(1 - cosines), rel=1e-4
    )
    known.id_x += 1.0
    known.vocab += 1.0
    again = losses(network, batch, recipe, known)["features"].item()
    assert again == pytest.approx(0.9 * np.mean(1 - cosines), rel=1e-4)


def test_features_teach_the_network_alone(recipe, random_network):
    recipe = replace(recipe, loss=LossConfig(cross_entropy=0, siou=0, l1=0, dense=0, divergence=0, features=1))
    network, known = random_network(recipe.model), random_network(recipe.model, seed=1)
    losses(network, random_batch(recipe.model), recipe, known)["loss"].backward()
    assert all(parameter.grad is None for parameter in known.parameters())
    found = gradients(network)
    assert all(found[name].abs().sum() > 0 for name in found if name.startswith(("blocks.", "patch.")))


def test_nothing_is_distilled_without_exits(recipe, random_network):
    terms = losses(random_network(recipe.model), random_batch(recipe.model), replace(recipe, first_exit=0))
    assert "divergence" not in terms


@pytest.mark.parametrize("most", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["plain", "masked", "kept", "cached", "unshared"])
def test_the_parts_of_a_batch_sum_to_the_whole(recipe, tiny, random_network, most, kind):
    if kind == "cached":
        recipe = replace(recipe, model=tiny(depth=3))
    network, known = random_network(recipe.model), random_network(recipe.model, seed=1)
    sets, shared = (4, 1) if kind == "unshared" else (3, 2)
    masked, kept = kind != "plain", 9 if kind == "kept" else None
    batch = random_batch(recipe.model, sets, shared, masked, kept)
    whole = losses(network, batch, recipe, known)
    whole["loss"].backward()
    expected = gradients(network)
    network.zero_grad()
    parts, sums = batch.split(most), {}
    assert len(parts) == -(-sets // max(most // shared, 1))
    for part in parts:
        assert len(part.search) <= max(most, shared)
        terms, share = losses(network, part, recipe, known), len(part.search) / len(batch.search)
        (share * terms["loss"]).backward()
        for name, value in terms.items():
            sums[name] = sums.get(name, 0) + share * value.detach()
    for name in (*TERMS, "loss"):
        torch.testing.assert_close(sums[name], whole[name].detach(), **CLOSE)
    for name, gradient in gradients(network).items():
        scale = max(expected[name].abs().max().item(), 1e-3)
        torch.testing.assert_close(gradient / scale, expected[name] / scale, rtol=1e-5, atol=1e-5)


def test_a_part_holds_the_templates_that_it_uses(recipe):
    batch = random_batch(recipe.model, masked=True, kept=5)
    parts = batch.split(2)
    assert [len(part.templates) for part in parts] == [2, 2, 2]
    whole = batch.tensors()
    for name in ("search", "trajectory", "boxes", "kept", "valid"):
        assert torch.equal(torch.cat([part.tensors()[name] for part in parts]), whole[name]), name
    for row, part in enumerate(parts):
        for name in ("templates", "identities", "template_boxes"):
            assert torch.equal(part.tensors()[name][part.index[0]], whole[name][batch.index[row]])
    assert batch.split(6)[0] is batch.split(100)[0] is batch


def test_an_absent_target_has_no_box_to_learn(recipe, random_network):
    """Where there is none, all bins are equally likely, no search token lies in a box, and the other terms say nothing;
    each sample still counts once."""
    network, batch = random_network(recipe.model), random_batch(recipe.model)
    recipe = replace(recipe, first_exit=0)
    absent = torch.tensor([False, True, False, False, True, False])
    partly = replace(batch, boxes=batch.boxes.where(~absent[:, None], torch.nan))
    (output,) = forward_exits(network, batch, (3,))
    terms, weight = losses(network, partly, recipe), recipe.loss
    logs, there = torch.log_softmax(output.logits_B4V, -1), ~absent
    whole = coordinate_loss(output.logits_B4V[there], batch.boxes[there], weight.smoothing)
    expected = (4 * whole + 2 * -logs[absent].mean()) / 6
    torch.testing.assert_close(terms["cross_entropy"], weight.cross_entropy * expected, **CLOSE)
    found = expected_coordinates(output.logits_B4V)[there]
    box = batch.boxes[there]
    torch.testing.assert_close(terms["siou"], weight.siou * (1 - siou(found, box)).sum() / 6, **CLOSE)
    torch.testing.assert_close(terms["l1"], weight.l1 * (found - box).abs().mean(1).sum() / 6, **CLOSE)
    torch.testing.assert_close(
        terms["iou"], torch.tensor(iou(UNIT.to_image(found.detach()), UNIT.to_image(box))).mean().float(), **CLOSE
    )
    dense = network.aux(output.tokens_BND[:, : network.config.search_tokens])
    grid = network.config.search_size // network.config.patch
    nothing = torch.nn.functional.softplus(dense[absent][..., 0]).mean(1).sum() * 2
    expected = weight.dense * (4 * dense_loss(dense[there], box, grid) + nothing) / 6
    torch.testing.assert_close(terms["dense"], expected, **CLOSE)
    terms["loss"].backward()
    assert all(torch.isfinite(g).all() for g in gradients(network).values())


def test_without_any_target_everything_is_finite(recipe, random_network):
    batch = random_batch(recipe.model)
    batch.boxes[:] = torch.nan
    terms = losses(random_network(recipe.model), batch, recipe)
    assert all(torch.isfinite(value) for value in terms.values()) and terms["iou"] == 0
