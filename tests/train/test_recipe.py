"""A recipe is checked once, when it is read, and says which field does not fit."""

from dataclasses import asdict

import pytest

pytest.importorskip("torch")

from fartrack.errors import FartrackError
from fartrack.model.encoder import FARTrack
from fartrack.train.recipe import RECIPES, LossConfig, Recipe, recipe_path

SHIPPED = sorted(RECIPES.glob("*.toml"))

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
    ("new_learning_rate", 2),
    ("weight_decay", "1e-4"),
    ("warmup", -1),
    ("warmup", 3001),
    ("decay", 3001),
    ("clip", 0),
    ("ema", 1),
    ("seed", -1),
    ("seed", 0.5),
    ("precision", "fp16"),
    ("precision", None),
    ("model", 6),
    ("sampling", ["clips"]),
    ("loss", "siou"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_field_is_named(name, value):
    with pytest.raises(FartrackError, match=f"^{name} is "):
        Recipe.from_dict({name: value})


def test_every_field_is_checked():
    assert {name for name, _ in BAD} == set(Recipe.__dataclass_fields__)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": 3}, "'step' is no field of Recipe"),
        ({"model": {"layers": 6}}, "'layers' is no field of ModelConfig"),
        ({"sampling": {"clip": 0.5}}, "'clip' is no field of SamplingConfig"),
        ({"loss": {"kl": 1}}, "'kl' is no field of LossConfig"),
        ({"model": {"depth": 0}}, "^depth is 0"),
        ({"sampling": {"searches": 0}}, "^searches is 0"),
        ({"loss": {"siou": -1}}, "^siou is -1"),
    ],
)
def test_nested_fields_are_named(values, message):
    with pytest.raises(FartrackError, match=message):
        Recipe.from_dict(values)


@pytest.mark.parametrize("name", LossConfig.__dataclass_fields__)
def test_a_bad_weight_of_a_loss_is_named(name):
    with pytest.raises(FartrackError, match=f"^{name} is -0.5"):
        LossConfig(**{name: -0.5})


def test_what_is_missing_keeps_its_default():
    recipe = Recipe.from_dict({"steps": 5000, "model": {"depth": 10}, "templates": [1, 2]})
    assert (recipe.steps, recipe.model.depth, recipe.templates) == (5000, 10, (1, 2))
    assert recipe.model.width == 192
    assert recipe.loss == LossConfig()


def test_plain_values_round_trip():
    recipe = Recipe.from_dict({"steps": 5000, "model": {"depth": 10}, "loss": {"smoothing": 0}})
    assert Recipe.from_dict(asdict(recipe)) == recipe


def test_the_batch_counts_search_crops():
    assert Recipe.from_dict({"sets": 7, "sampling": {"searches": 4}}).batch == 28


def test_some_recipes_ship():
    assert SHIPPED


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_parse_and_build(path):
    recipe = Recipe.read(recipe_path(path.with_suffix("").relative_to(RECIPES)))
    network = FARTrack(recipe.model)
    assert len(network.blocks) == recipe.model.depth


def test_a_recipe_file_comes_before_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / SHIPPED[0].stem
    path.write_text("steps = 1600\n")
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
