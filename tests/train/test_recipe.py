"""A recipe is checked once, when it is read, and says which field does not fit."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from fartrack.config import changed_fields, from_dict, to_toml
from fartrack.errors import FartrackError
from fartrack.model.config import ModelConfig
from fartrack.model.encoder import FARTrack
from fartrack.tracking.settings import TrackerSettings, parse_settings
from fartrack.train.loop import rate
from fartrack.train.recipe import LossConfig, Recipe, RolloutConfig, Stream, recipe_path, shipped_recipes

SHIPPED = shipped_recipes()

BAD = [
    ("steps", 0),
    ("steps", 10.5),
    ("steps", "many"),
    ("sets", 0),
    ("templates", []),
    ("templates", [0]),
    ("templates", [6]),
    ("templates", [1, 2.0]),
    ("templates", [True]),
    ("templates", 3),
    ("templates", "12"),
    ("learning_rate", -1e-4),
    ("learning_rate", float("nan")),
    ("head_learning_rate", 2),
    ("weight_decay", "1e-4"),
    ("warmup", -1),
    ("warmup", 3001),
    ("decay", 3001),
    ("max_grad_norm", 0),
    ("ema", 1),
    ("seed", -1),
    ("seed", 0.5),
    ("beta2", 1),
    ("precision", "fp16"),
    ("precision", None),
    ("decay_shape", "linear"),
    ("freeze_layers", -1),
    ("freeze_layers", 6),  # of six layers
    ("micro_batch", 0),
    ("first_exit", -1),
    ("first_exit", 7),
    ("first_exit", 1.5),
    ("patch_dropout", 1),
    ("patch_dropout_steps", -1),
    ("rollout", True),
    ("model", 6),
    ("sampling", ["clips"]),
    ("loss", "siou"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_field_is_named(name, value):
    with pytest.raises(FartrackError, match=f"^{name} is "):
        from_dict(Recipe, {name: value})


def test_every_field_is_checked():
    assert {name for name, _ in BAD} == set(Recipe.__dataclass_fields__)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": 3}, "'step' is no field of Recipe"),
        ({"model": {"layers": 6}}, r"^\[model\] 'layers' is no field of ModelConfig"),
        ({"sampling": {"clip": 0.5}}, r"^\[sampling\] 'clip' is no field of SamplingConfig"),
        ({"loss": {"kl": 1}}, r"^\[loss\] 'kl' is no field of LossConfig"),
        ({"model": {"depth": 0}}, r"^\[model\] depth is 0"),
        ({"sampling": {"searches": 0}}, r"^\[sampling\] searches is 0"),
        ({"loss": {"siou": -1}}, r"^\[loss\] siou is -1"),
        ({"rollout": {"length": 9}}, r"^\[rollout\] 'length' is no field of RolloutConfig"),
        ({"rollout": {"tracker": {"retain": 0.5}}}, r"^\[rollout\.tracker\] 'retain' is no field of TrackerSettings"),
        ({"rollout": {"tracker": {"retention": 0}}}, r"^\[rollout\.tracker\] retention is 0"),
        ({"rollout": {"tracker": 0.75}}, r"^\[rollout\] tracker is 0\.75"),
    ],
)
def test_nested_fields_are_named(values, message):
    with pytest.raises(FartrackError, match=message):
        from_dict(Recipe, values)


@pytest.mark.parametrize("name", LossConfig.__dataclass_fields__)
def test_a_bad_weight_of_a_loss_is_named(name):
    with pytest.raises(FartrackError, match=f"^{name} is -0.5"):
        LossConfig(**{name: -0.5})


def test_an_error_names_the_file_and_the_table(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[rollout.tracker]\nretention = 2\n")
    with pytest.raises(FartrackError, match=r"mine\.toml: \[rollout\.tracker\] retention is 2; it must lie"):
        Recipe.read(path)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_recipe_shown_whole_is_that_recipe(name, tmp_path):
    recipe = Recipe.read(SHIPPED[name])
    shown = tmp_path / "shown.toml"
    shown.write_text(to_toml(recipe))
    assert Recipe.read(shown) == recipe
    assert shown.read_text().count(" = ") >= len(asdict(recipe)) + len(asdict(recipe.model))


def test_a_recipe_is_shown_with_meanings_and_defaults():
    lines = to_toml(Recipe(steps=7000)).splitlines()
    assert lines[:2] == ["# optimizer steps in all.", "steps = 7000  # default: 3000"]
    assert sum("default:" in line for line in lines) == 1  # those of [rollout.tracker] too are the recipe's own
    values = [place for place, line in enumerate(lines) if re.match(r"\w+ = ", line)]
    assert all(lines[place - 1].startswith("# ") for place in values)


def test_changed_fields_are_named_through_tables():
    one = Recipe()
    two = replace(one, sets=6, rollout=replace(one.rollout, tracker=replace(one.rollout.tracker, interval=7)))
    assert changed_fields(one, two) == {"sets": (12, 6), "rollout.tracker.interval": (5, 7)}
    assert not changed_fields(one, Recipe())


def test_what_is_missing_keeps_its_default():
    recipe = from_dict(Recipe, {"steps": 5000, "model": {"depth": 10}, "templates": [1, 2]})
    assert (recipe.steps, recipe.model.depth, recipe.templates) == (5000, 10, (1, 2))
    assert recipe.model.width == 192
    assert recipe.loss == LossConfig()


def test_plain_values_round_trip():
    recipe = from_dict(Recipe, {"steps": 5000, "model": {"depth": 10}, "loss": {"smoothing": 0}})
    assert from_dict(Recipe, asdict(recipe)) == recipe


def test_some_recipes_ship():
    assert SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_parse_and_build(name):
    recipe = Recipe.read(recipe_path(Path(name)))
    network = FARTrack(recipe.model)
    assert len(network.blocks) == recipe.model.depth
    assert from_dict(Recipe, json.loads(json.dumps(asdict(recipe)))) == recipe
    assert SHIPPED[name].read_text().startswith("# "), "its first line is what `fartrack train recipes` says of it"


@pytest.mark.parametrize("folder", ["gpu", "paper"])
def test_a_folder_of_recipes_has_the_three_phases_of_one_model(folder):
    recipes = {name.partition("/")[2]: Recipe.read(path) for name, path in SHIPPED.items() if name.startswith(folder)}
    assert set(recipes) == {"pretrain", "distill", "sparsify"}
    assert len({replace(recipe.model, drop_path=0) for recipe in recipes.values()}) == 1
    for phase, recipe in recipes.items():
        assert recipe.first_exit > 0 or phase == "pretrain"  # whose inner layers may be exits from the start
        assert (recipe.rollout.share > 0) == (phase == "sparsify")
        assert (recipe.settings == {"retention": 0.75}) == (recipe.rollout.share > 0 or recipe.rollout.pruned > 0)


def test_the_recipes_of_what_ships_are_those_that_are_recorded():
    """In the training log: samples, and the rates at which runs were stopped."""
    for name, steps, samples in (("3-light", 3600, 43_200), ("5-absent", 5600, 67_200), ("7-bent", 7500, 90_000)):
        recipe = Recipe.read(SHIPPED[f"shipped/{name}"])
        assert (recipe.steps, recipe.steps * recipe.sets * recipe.sampling.searches) == (steps, samples)
    assert rate(1220, Recipe.read(SHIPPED["shipped/6-rollouts"])) == pytest.approx(0.82, abs=0.005)


def test_as_many_steps_prune_as_the_recipe_says():
    recipe = Recipe(rollout=RolloutConfig(share=0.5, pruned=0.3))
    pruned = [step for step in range(2000) if recipe.prunes(step)]
    assert 0.25 < len(pruned) / 2000 < 0.35
    assert 0.4 < sum(map(recipe.rolls, pruned)) / len(pruned) < 0.6  # drawn on their own
    assert not any(map(Recipe().prunes, range(100)))


def test_a_recipe_file_comes_before_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "gpu" / "pretrain"
    path.parent.mkdir()
    path.write_text("steps = 1600\ndecay = 0\n")
    assert Recipe.read(recipe_path(path.relative_to(tmp_path))).steps == 1600


@pytest.mark.parametrize("content", [b"steps = ", b"steps = 3\nsteps = 4"])
def test_broken_toml_is_named(tmp_path, content):
    (tmp_path / "r.toml").write_bytes(content)
    with pytest.raises(FartrackError, match=r"r\.toml is no valid TOML"):
        Recipe.read(tmp_path / "r.toml")


def test_an_unreadable_file_is_named(tmp_path):
    with pytest.raises(FartrackError, match=r"no readable recipe .*absent\.toml"):
        Recipe.read(tmp_path / "absent.toml")
    (tmp_path / "r.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FartrackError, match=r"no readable recipe .*r\.toml"):
        Recipe.read(tmp_path / "r.toml")


@pytest.mark.parametrize("phase", ["pretrain", "distill", "sparsify"])
def test_the_papers_model_and_losses(phase):
    recipe = Recipe.read(SHIPPED[f"paper/{phase}"])
    model, loss = recipe.model, recipe.loss
    assert (model.depth, model.attention, model.templates, model.identities) == (15, "joint", 5, 5)
    assert (model.template_size, model.search_size, model.template_factor, model.search_factor) == (112, 224, 2, 4)
    assert recipe.templates == (5,)
    assert (model.drop_path, recipe.max_grad_norm) == (0.1, 0.1)
    assert recipe.weight_decay == (0.05 if phase == "sparsify" else 1e-4)
    assert recipe.learning_rate * (1 if phase == "distill" else 10) == pytest.approx(recipe.head_learning_rate)
    assert (recipe.beta2, recipe.ema, recipe.precision) == (0.999, 0, "fp32")
    assert (loss.siou, loss.l1, loss.dense, loss.smoothing) == (2, 0, 0, 0)
    assert loss.cross_entropy == (0 if phase == "sparsify" else 2)
    assert recipe.patch_dropout_steps == 0 and (recipe.sampling.paper or phase == "sparsify")


@pytest.mark.parametrize(("phase", "peak"), [("pretrain", 4e-4), ("distill", 4e-5)])
def test_the_papers_schedule(phase, peak):
    recipe = Recipe.read(SHIPPED[f"paper/{phase}"])
    assert recipe.head_learning_rate == peak
    assert recipe.steps * recipe.sets * recipe.sampling.searches == 500 * 76_800
    assert rate(0, recipe) == rate(round(0.8 * recipe.steps) - 1, recipe) == 1
    assert rate(round(0.8 * recipe.steps), recipe) == rate(recipe.steps - 1, recipe) == pytest.approx(0.1)


@pytest.mark.parametrize(("phase", "reach"), [("pretrain", 300), ("distill", 200)])
def test_the_papers_samples(phase, reach):
    sampling = Recipe.read(SHIPPED[f"paper/{phase}"]).sampling
    unpublished = ("regions", "paste", "drop_trajectory", "distractor", "light", "bend", "absent")
    assert sampling.paper and sampling.reach == reach and not any(getattr(sampling, name) for name in unpublished)


@pytest.mark.parametrize(("phase", "divergence"), [("distill", 0.04), ("sparsify", 0)])
def test_the_papers_distillation(phase, divergence):
    recipe = Recipe.read(SHIPPED[f"paper/{phase}"])
    assert recipe.loss.divergence == divergence
    assert recipe.loss.commands_only == (phase == "distill")
    assert list(recipe.exit_layers) == list(range(5, 16))


def test_the_papers_rollouts():
    recipe = Recipe.read(SHIPPED["paper/sparsify"])
    assert (recipe.rollout.frames, recipe.rollout.share, recipe.rollout.synthetic) == (32, 1, 0)
    assert recipe.steps * recipe.rollout.clips == 20 * 1000
    assert recipe.rollout.tracker == parse_settings({}, ["preset=paper"])


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (RolloutConfig, "share", 1.5),
        (RolloutConfig, "frames", 1),
        (RolloutConfig, "clips", 0),
        (RolloutConfig, "synthetic", -0.1),
    ],
)
def test_a_bad_field_of_a_phase_is_named(kind, name, value):
    with pytest.raises(FartrackError, match=f"^{name} is "):
        kind(**{name: value})


def test_the_exits_of_a_recipe():
    assert list(Recipe(first_exit=6).exit_layers) == [6]
    assert list(Recipe(first_exit=4).exit_layers) == [4, 5, 6]
    assert list(Recipe().exit_layers) == [6]


def test_random_streams_are_apart_and_depend_on_seed_and_step():
    recipe = Recipe(seed=5)
    draws = {stream: recipe.random(7, stream).random() for stream in Stream}
    assert len(set(draws.values())) == len(Stream)
    assert draws[Stream.SET] == Recipe(seed=5).random(7, Stream.SET).random() != recipe.random(8, Stream.SET).random()
    assert recipe.random(7, Stream.SET, 0).random() != recipe.random(7, Stream.SET, 1).random()


def test_which_steps_are_rollouts():
    recipe = {share: Recipe(rollout=RolloutConfig(share=share)) for share in (0.0, 0.5, 1.0)}
    rolled = {share: [r.rolls(step) for step in range(1000)] for share, r in recipe.items()}
    assert not any(rolled[0.0]) and all(rolled[1.0])
    assert rolled[0.5] == [recipe[0.5].rolls(step) for step in range(1000)]
    assert rolled[0.5] != [replace(recipe[0.5], seed=1).rolls(step) for step in range(1000)]
    assert sum(rolled[0.5]) == pytest.approx(500, abs=5 * np.sqrt(250))  # five deviations of 1000 tosses
    assert len(set(zip(rolled[0.5], rolled[0.5][1:], strict=False))) == 4  # and not in turn


def test_the_settings_that_a_run_trains_for():
    tracker = TrackerSettings(interval=2, retention=0.5)
    assert Recipe(rollout=RolloutConfig(share=0.5, tracker=tracker)).settings == {"retention": 0.5}
    assert Recipe(rollout=RolloutConfig(share=0.5)).settings == {"retention": 0.75}
    assert Recipe(rollout=RolloutConfig(share=1, tracker=TrackerSettings(interval=2))).settings == {}
    assert Recipe(rollout=RolloutConfig(share=0, tracker=tracker)).settings == {}


ROUND_TRIPS = {
    "plain": Recipe(),
    "values": Recipe(steps=77, warmup=3, decay=5, decay_shape="step", templates=(4,), micro_batch=3, precision="bf16"),
    "loss": Recipe(loss=LossConfig(siou=0, smoothing=0)),
    "distill": Recipe(model=ModelConfig(attention="joint", identities=5), first_exit=2),
    "rollout": Recipe(rollout=RolloutConfig(0.5, 24, 6, 0.1, tracker=TrackerSettings(interval=3))),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_a_recipe_is_the_same_from_json(name):
    recipe = ROUND_TRIPS[name]
    assert from_dict(Recipe, json.loads(json.dumps(asdict(recipe)))) == recipe
