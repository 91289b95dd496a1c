"""Every term of the objective against a plain re-computation, every switch against the terms that it must change."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from fartrack.geometry import UNIT, iou
from fartrack.model.losses import coordinate_loss, dense_loss, expected_coordinates, siou
from fartrack.model.vocabulary import BINS
from fartrack.train.data.sampling import Sampler, SamplingConfig
from fartrack.train.data.store import Store
from fartrack.train.loop import draw_batch
from fartrack.train.objective import losses, split, tapped_layers
from fartrack.train.recipe import DistillConfig, LossConfig, Recipe

SUPERVISED = ("cross_entropy", "siou", "l1")
TERMS = (*SUPERVISED, "dense", "divergence")

# The same sums in single precision, in another order.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture
def recipe(tiny):
    """Three layers with joint attention, all of them exits, and no weight that is 0 or 1."""
    return Recipe(
        templates=(1, 2),
        precision="fp32",
        model=tiny(depth=3, attention="joint", identities=3),
        loss=LossConfig(cross_entropy=0.7, siou=1.5, l1=3.0, dense=0.4, smoothing=1.5),
        distill=DistillConfig(first=1, weight=0.6),
        sampling=SamplingConfig(searches=2),
    )


def random_batch(model, sets=3, shared=2, masked=False, kept=None):
    """Sets of two out of four templates, some of them in several sets, and the search crops that share them."""
    generator, B = torch.Generator().manual_seed(3), sets * shared
    z, x = model.template_size, model.search_size
    low = torch.rand(B, 2, generator=generator) * 0.6
    batch = {
        "templates": torch.randint(256, (4, z, z, 3), dtype=torch.uint8, generator=generator),
        "identities": torch.tensor([0, 1, 1, 0]),
        "index": torch.tensor([[0, 1], [0, 2], [3, 1], [3, 2]])[:sets],
        "search": torch.randint(256, (B, x, x, 3), dtype=torch.uint8, generator=generator),
        "trajectory": torch.randint(BINS, (B, 4 * model.trajectory), generator=generator),
        "boxes": torch.cat([low, low + 0.1 + torch.rand(B, 2, generator=generator) * 0.5], dim=1),
    }
    if masked:
        valid = torch.rand(sets, 2 * model.template_tokens, generator=generator) < 0.6
        valid[:, 0] = True
        batch["valid"] = valid
    if kept:
        order = torch.rand(B, model.search_tokens, generator=generator).argsort(1)
        batch["kept"] = order[:, :kept].sort(1).values
    return batch


def gradients(network):
    return {name: torch.zeros(()) if p.grad is None else p.grad.clone() for name, p in network.named_parameters()}


def plain_divergence(student, teacher, head_of_student, head_of_teacher=None):
    """KL(teacher ‖ student) of the distributions of these tokens, in numpy, averaged."""
    found = []
    for tokens, head in ((student, head_of_student), (teacher, head_of_teacher or head_of_student)):
        logits = head(tokens).detach().double().numpy().reshape(-1, BINS)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        found.append(weights / weights.sum(1, keepdims=True))
    return np.mean([sum(t * np.log(t / s)) for s, t in zip(*found, strict=True)])


def plain_supervised(exits, batch, weight):
    """The terms that are taken on exits: the mean over these."""
    boxes, logits = batch["boxes"], [exit.logits_B4V for exit in exits]
    found = [expected_coordinates(rows) for rows in logits]
    return {
        "cross_entropy": weight.cross_entropy * np.mean([coordinate_loss(x, boxes, weight.smoothing) for x in logits]),
        "siou": weight.siou * np.mean([1 - siou(*pair) for b in found for pair in zip(b, boxes, strict=True)]),
        "l1": weight.l1 * np.mean([np.abs((b - boxes).numpy()) for b in found]),
    }


@pytest.mark.parametrize(
    ("distill", "supervised"),
    [
        (DistillConfig(), [3]),
        (DistillConfig(first=1), [1, 2, 3]),
        (DistillConfig(first=2), [2, 3]),
        (DistillConfig(first=3), [3]),
        (DistillConfig(first=1, supervised=False), [3]),
    ],
    ids=["the last layer", "all layers", "from the second on", "only the last", "unsupervised"],
)
@torch.no_grad()
def test_every_term(recipe, random_network, distill, supervised):
    recipe = replace(recipe, distill=replace(distill, weight=0.6))
    network, batch = random_network(recipe.model), random_batch(recipe.model)
    terms = losses(network, batch, recipe)
    exits = tapped_layers(network, batch, (1, 2, 3))
    expected = plain_supervised([exits[layer] for layer in supervised], batch, recipe.loss)
    dense = network.aux(exits[3].tokens_BND[:, : recipe.model.search_tokens])
    expected["dense"] = 0.4 * dense_loss(dense, batch["boxes"], 4).item()
    tokens = {layer: exit.tokens_BND[:, recipe.model.search_tokens :] for layer, exit in exits.items()}
    assert tokens[1].shape[1] == 16  # three boxes and the commands
    pairs = [(layer, layer + 1) for layer in (1, 2) if 0 < distill.first <= layer]
    if pairs:
        each = [plain_divergence(tokens[student], tokens[teacher], network.head) for student, teacher in pairs]
        expected["divergence"] = 0.6 * np.mean(each)
    assert set(terms) == {*expected, "loss", "iou"}
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-4), name
    assert terms["loss"].item() == pytest.approx(sum(expected.values()), rel=1e-4)
    found = UNIT.to_image(expected_coordinates(exits[3].logits_B4V))
    assert terms["iou"].item() == pytest.approx(iou(found, UNIT.to_image(batch["boxes"])).mean(), rel=1e-5)


def test_a_drawn_batch(recipe, random_network, synthetic_store):
    network = random_network(recipe.model)
    sampler = Sampler(Store.open(synthetic_store()), recipe.model, recipe.sampling)
    terms = losses(network, draw_batch(sampler, recipe, 0), recipe)
    assert set(terms) == {*TERMS, "loss", "iou"}
    assert all(terms[name] > 0 for name in TERMS)
    torch.testing.assert_close(terms["loss"], sum(terms[name] for name in TERMS), **CLOSE)
    terms["loss"].backward()
    assert [name for name, gradient in gradients(network).items() if not gradient.abs().sum() > 0] == []
    assert not terms["iou"].requires_grad


@pytest.mark.parametrize("features", ["search", "template"])
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_other_features(recipe, random_network, features, masked):
    recipe = replace(recipe, distill=replace(recipe.distill, features=features))
    network, batch = random_network(recipe.model), random_batch(recipe.model, masked=masked, kept=10)
    exits = tapped_layers(network, batch, (1, 2, 3))
    if features == "search":
        tokens = {layer: exit.tokens_BND[:, :10] for layer, exit in exits.items()}
    else:
        tokens = {layer: exit.template_BMD for layer, exit in exits.items()}
        assert tokens[1].shape[1] == 8
    each = []
    for student, teacher in ((1, 2), (2, 3)):
        for crop in range(6):
            used = slice(None)
            if masked and features == "template":  # a token that nothing attends to has nothing to teach
                used = batch["valid"][crop // 2]
            each.append(plain_divergence(tokens[student][crop][used], tokens[teacher][crop][used], network.head))
    assert losses(network, batch, recipe)["divergence"].item() == pytest.approx(0.6 * np.mean(each), rel=1e-4)


@pytest.mark.parametrize("features", ["trajectory", "search", "template"])
def test_what_diverges_teaches_the_shallower_layers_only(recipe, random_network, features):
    silent = LossConfig(cross_entropy=0, siou=0, l1=0, dense=0)
    recipe = replace(recipe, loss=silent, distill=replace(recipe.distill, features=features))
    network = random_network(recipe.model)
    losses(network, random_batch(recipe.model), recipe)["loss"].backward()
    found = gradients(network)
    assert all(gradient.abs().sum() == 0 for name, gradient in found.items() if name.startswith(("blocks.2.", "aux.")))
    for name in ("blocks.0.qkv.weight", "blocks.1.fc2.weight", "blocks.1.qkv.weight", "norm.weight", "vocab"):
        assert found[name].abs().sum() > 0, name


def test_a_teacher_of_its_own(recipe, random_network):
    """Deep-to-shallow: the last layer learns from that of another network, with the other's head."""
    distill = DistillConfig(scheme="deep-to-shallow", delete=(1,), weight=0.6)
    silent = LossConfig(cross_entropy=0, siou=0, l1=0, dense=0)
    recipe = replace(recipe, distill=distill, loss=silent)
    network, teacher = random_network(recipe.model), random_network(recipe.model, seed=1)
    network.fades = [1.0, 0.0, 1.0]
    batch = random_batch(recipe.model)
    terms = losses(network, batch, recipe, teacher)
    student, taught = (tapped_layers(n, batch, (3,))[3].tokens_BND[:, 16:] for n in (network, teacher))
    expected = 0.6 * plain_divergence(student, taught, network.head, teacher.head)
    assert terms["divergence"].item() == pytest.approx(expected, rel=1e-4)
    terms["loss"].backward()
    assert all(p.grad is None for p in teacher.parameters())
    found = gradients(network)
    assert found["blocks.0.qkv.weight"].abs().sum() > 0 and found["blocks.2.qkv.weight"].abs().sum() > 0
    assert found["blocks.1.qkv.weight"].abs().sum() == 0  # it is faded out


def test_a_network_has_nothing_to_learn_from_its_double(recipe, random_network):
    distill = DistillConfig(scheme="deep-to-shallow", delete=(1,))
    network, double = random_network(recipe.model), random_network(recipe.model)
    terms = losses(network, random_batch(recipe.model), replace(recipe, distill=distill), double)
    assert terms["divergence"].item() == pytest.approx(0, abs=1e-7)


# Each switch: where it is, what it is set to, and the terms that it changes. All others must stay as they are.
SWITCHES = [
    ("loss", {"cross_entropy": 0}, {"cross_entropy"}),
    ("loss", {"siou": 0}, {"siou"}),
    ("loss", {"l1": 0}, {"l1"}),
    ("loss", {"dense": 0}, {"dense"}),
    ("loss", {"smoothing": 0}, {"cross_entropy"}),
    ("distill", {"first": 0}, {*SUPERVISED, "divergence"}),
    ("distill", {"first": 2}, {*SUPERVISED, "divergence"}),
    ("distill", {"weight": 0}, {"divergence"}),
    ("distill", {"features": "search"}, {"divergence"}),
    ("distill", {"features": "template"}, {"divergence"}),
    ("distill", {"supervised": False}, set(SUPERVISED)),
    ("distill", {"scheme": "deep-to-shallow", "delete": (1,)}, {"divergence"}),
    ("distill", {"fade": 0.1}, set()),
]


def test_every_switch_is_tried():
    for table, kind in (("loss", LossConfig), ("distill", DistillConfig)):
        assert {name for place, change, _ in SWITCHES if place == table for name in change} == set(
            kind.__dataclass_fields__
        )


@pytest.mark.parametrize(("table", "change", "expected"), SWITCHES, ids=[" ".join(change) for _, change, _ in SWITCHES])
@torch.no_grad()
def test_a_switch_changes_its_terms_and_no_others(recipe, random_network, table, change, expected):
    changed = replace(recipe, **{table: replace(getattr(recipe, table), **change)})
    network, batch = random_network(recipe.model), random_batch(recipe.model)
    teacher = random_network(recipe.model, seed=1) if changed.distill.delete else None
    before, after = losses(network, batch, recipe), losses(network, batch, changed, teacher)
    differing = {name for name in TERMS if name not in after or not torch.equal(before[name], after[name])}
    assert differing == expected
    for name in expected & set(change):
        assert after[name] == 0
    torch.testing.assert_close(after["loss"], sum(after[name] for name in TERMS if name in after), **CLOSE)
    assert torch.equal(before["iou"], after["iou"])


def test_nothing_is_distilled_without_exits(recipe, random_network):
    terms = losses(random_network(recipe.model), random_batch(recipe.model), replace(recipe, distill=DistillConfig()))
    assert "divergence" not in terms


@pytest.mark.parametrize("most", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["plain", "masked", "kept", "cached", "template", "unshared"])
def test_the_parts_of_a_batch_sum_to_the_whole(recipe, tiny, random_network, most, kind):
    if kind == "cached":
        recipe = replace(recipe, model=tiny(depth=3))
    if kind == "template":
        recipe = replace(recipe, distill=replace(recipe.distill, features="template"))
    network = random_network(recipe.model)
    sets, shared = (4, 1) if kind == "unshared" else (3, 2)
    masked, kept = kind != "plain", 9 if kind == "kept" else None
    batch = random_batch(recipe.model, sets, shared, masked, kept)
    whole = losses(network, batch, recipe)
    whole["loss"].backward()
    expected = gradients(network)
    network.zero_grad()
    parts, sums = split(batch, most), {}
    assert len(parts) == -(-sets // max(most // shared, 1))
    for part in parts:
        assert len(part["search"]) <= max(most, shared)
        terms, share = losses(network, part, recipe), len(part["search"]) / len(batch["search"])
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
    parts = split(batch, 2)
    assert [len(part["templates"]) for part in parts] == [2, 2, 2]
    for name in ("search", "trajectory", "boxes", "kept", "valid"):
        assert torch.equal(torch.cat([part[name] for part in parts]), batch[name]), name
    for row, part in enumerate(parts):
        for name in ("templates", "identities"):
            assert torch.equal(part[name][part["index"][0]], batch[name][batch["index"][row]])
    assert split(batch, 6) == [batch]
    assert split(batch, 100) == [batch]


def test_an_absent_target_has_no_box_to_learn(recipe, random_network):
    """Where there is none, all bins are equally likely, no search token lies in a box, and the other terms say nothing;
    each sample still counts once."""
    network, batch = random_network(recipe.model), random_batch(recipe.model)
    recipe = replace(recipe, distill=replace(recipe.distill, first=0))
    absent = torch.tensor([False, True, False, False, True, False])
    partly = batch | {"boxes": batch["boxes"].where(~absent[:, None], torch.nan)}
    output = tapped_layers(network, batch, (3,))[3]
    terms, weight = losses(network, partly, recipe), recipe.loss
    logs, there = torch.log_softmax(output.logits_B4V, -1), ~absent
    whole = coordinate_loss(output.logits_B4V[there], batch["boxes"][there], weight.smoothing)
    expected = (4 * whole + 2 * -logs[absent].mean()) / 6
    torch.testing.assert_close(terms["cross_entropy"], weight.cross_entropy * expected, **CLOSE)
    found = expected_coordinates(output.logits_B4V)[there]
    box = batch["boxes"][there]
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
    batch["boxes"][:] = torch.nan
    terms = losses(random_network(recipe.model), batch, recipe)
    assert all(torch.isfinite(value) for value in terms.values()) and terms["iou"] == 0
