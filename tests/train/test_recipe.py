"""A recipe is checked once, when it is read, and says which field does not fit."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

pytest.importorskip("torch")

from fartrack.errors import FartrackError
from fartrack.model.config import ModelConfig
from fartrack.model.encoder import FARTrack
from fartrack.tracking.tracker import TrackerSettings
from fartrack.train.loop import rate
from fartrack.train.recipe import RECIPES, DistillConfig, LossConfig, Recipe, RolloutConfig, Stage, recipe_path

SHIPPED = sorted(RECIPES.rglob("*.toml"))

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
    ("final", "linear"),
    ("frozen", -1),
    ("frozen", 6),  # of six layers
    ("micro", 0),
    ("stages", 3),
    ("stages", {"share": 0.5}),
    ("stages", [0.5]),
    ("distill", "layer-by-layer"),
    ("rollout", True),
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
        ({"distill": {"layers": [1]}}, "'layers' is no field of DistillConfig"),
        ({"rollout": {"length": 9}}, "'length' is no field of RolloutConfig"),
        ({"rollout": {"tracker": {"retain": 0.5}}}, "'retain' is no field of TrackerSettings"),
        ({"rollout": {"tracker": {"retention": 0}}}, "^retention is 0"),
        ({"rollout": {"tracker": 0.75}}, "^tracker is 0.75"),
        ({"stages": [{"share": 0.5, "size": 112}]}, "'size' is no field of Stage"),
        ({"stages": [{"share": 0.5, "search_size": 112}]}, "^Stage lacks template_size"),
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


def shipped_name(path):
    return path.relative_to(RECIPES).with_suffix("")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(shipped_name(path)))
def test_shipped_recipes_parse_and_build(path):
    recipe = Recipe.read(recipe_path(shipped_name(path)))
    network = FARTrack(recipe.model)
    assert len(network.blocks) == recipe.model.depth


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(shipped_name(path)))
def test_shipped_recipes_do_what_their_phase_does(path):
    recipe, phase = Recipe.read(path), path.stem if path.parent != RECIPES else "pretrain"  # those alone are phase 1
    assert recipe.distill.first > 0 or phase == "pretrain"  # whose inner layers may be exits from the start
    assert (recipe.rollout.share > 0) == (phase == "sparsify")
    assert (recipe.settings == {"retention": 0.75}) == (recipe.rollout.share > 0 or recipe.rollout.pruned > 0)


def test_as_many_steps_prune_as_the_recipe_says():
    recipe = Recipe(rollout=RolloutConfig(share=0.5, pruned=0.3))
    pruned = [step for step in range(2000) if recipe.prunes(step)]
    assert 0.25 < len(pruned) / 2000 < 0.35
    assert 0.4 < sum(map(recipe.rolls, pruned)) / len(pruned) < 0.6  # drawn on their own
    assert not any(map(Recipe().prunes, range(100)))


def test_a_folder_of_recipes_has_every_phase_of_one_model():
    for folder in {path.parent for path in SHIPPED} - {RECIPES}:
        recipes = {path.stem: Recipe.read(path) for path in folder.iterdir()}
        assert set(recipes) == {"pretrain", "distill", "sparsify"}
        assert len({replace(recipe.model, drop_path=0) for recipe in recipes.values()}) == 1


def test_a_recipe_file_comes_before_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / shipped_name(SHIPPED[0])
    path.parent.mkdir(exist_ok=True)
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
    recipe = Recipe.read(recipe_path(RECIPES / "paper" / phase))
    model, loss = recipe.model, recipe.loss
    assert (model.depth, model.attention, model.templates, model.identities) == (15, "joint", 5, 5)
    assert (model.template_size, model.search_size, model.template_factor, model.search_factor) == (112, 224, 2, 4)
    assert recipe.templates == (5,)
    assert (model.drop_path, recipe.clip, recipe.weight_decay) == (0.1, 0.1, 1e-4)
    assert recipe.learning_rate == pytest.approx(recipe.new_learning_rate / 10)  # the ViT's is a tenth
    assert (loss.siou, loss.l1, loss.dense, loss.smoothing) == (2, 0, 0, 0)
    assert loss.cross_entropy == (0.2 if phase == "sparsify" else 2)
    assert recipe.stages == ()


@pytest.mark.parametrize(("phase", "peak"), [("pretrain", 4e-4), ("distill", 4e-5)])
def test_the_papers_schedule(phase, peak):
    recipe = Recipe.read(recipe_path(RECIPES / "paper" / phase))
    assert recipe.new_learning_rate == peak
    assert recipe.steps * recipe.batch == 500 * 76_800
    assert rate(0, recipe) == rate(round(0.8 * recipe.steps) - 1, recipe) == 1
    assert rate(round(0.8 * recipe.steps), recipe) == rate(recipe.steps - 1, recipe) == pytest.approx(0.1)


@pytest.mark.parametrize("phase", ["distill", "sparsify"])
def test_the_papers_distillation(phase):
    recipe = Recipe.read(recipe_path(RECIPES / "paper" / phase))
    assert recipe.distill == DistillConfig(first=5, scheme="layer-by-layer", features="trajectory", weight=0.01)
    assert list(recipe.taps) == list(range(5, 16))


def test_the_papers_rollouts():
    recipe = Recipe.read(recipe_path(RECIPES / "paper" / "sparsify"))
    assert (recipe.rollout.frames, recipe.rollout.share, recipe.rollout.synthetic) == (32, 1, 0)
    assert recipe.steps * recipe.rollout.clips == 20 * 1000
    tracker = recipe.rollout.tracker
    assert (tracker.retention, tracker.templates, tracker.sparsification) == (0.75, 5, "sequence")
    assert not tracker.adaptive


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (DistillConfig, "first", -1),
        (DistillConfig, "first", 1.5),
        (DistillConfig, "scheme", "shallow-to-deep"),
        (DistillConfig, "features", "command"),
        (DistillConfig, "weight", -0.01),
        (DistillConfig, "supervised", "no"),
        (DistillConfig, "fade", 1.1),
        (RolloutConfig, "share", 1.5),
        (RolloutConfig, "frames", 1),
        (RolloutConfig, "clips", 0),
        (RolloutConfig, "synthetic", -0.1),
        (RolloutConfig, "tracker", None),
    ],
)
def test_a_bad_field_of_a_phase_is_named(kind, name, value):
    with pytest.raises(FartrackError, match=f"^{name} is "):
        kind(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("share", 1.5), ("search_size", 0), ("template_size", 64.0), ("keep", 0)])
def test_a_bad_field_of_a_stage_is_named(name, value):
    with pytest.raises(FartrackError, match=f"^{name} is "):
        Stage(**({"share": 0.5, "search_size": 112, "template_size": 64} | {name: value}))


@pytest.mark.parametrize("delete", [3, [1], (1.0,), (True,), ("1",), (1, 1)])
def test_deleted_layers_are_different_numbers(delete):
    with pytest.raises(FartrackError, match=r"^delete is .* different whole numbers"):
        DistillConfig(scheme="deep-to-shallow", delete=delete)


@pytest.mark.parametrize(("scheme", "delete"), [("layer-by-layer", (1,)), ("deep-to-shallow", ())])
def test_layers_are_deleted_by_the_scheme_that_does(scheme, delete):
    with pytest.raises(FartrackError, match=r"^delete is .* if scheme is deep-to-shallow"):
        DistillConfig(scheme=scheme, delete=delete)


@pytest.mark.parametrize(("depth", "delete"), [(3, (2,)), (3, (0, 2)), (3, (-1,)), (3, (7,)), (1, (0,))])
def test_the_last_layer_is_never_deleted(depth, delete):
    distill = DistillConfig(scheme="deep-to-shallow", delete=delete)
    with pytest.raises(FartrackError, match=rf"^delete is .* before the last, {depth - 1}"):
        Recipe(model=ModelConfig(depth=depth), distill=distill)
    Recipe(model=ModelConfig(depth=9), distill=replace(distill, delete=(0, 7)))


def test_taps_lie_within_the_model():
    with pytest.raises(FartrackError, match="first is 7; the model has 6 layers"):
        Recipe(distill=DistillConfig(first=7))
    assert list(Recipe(distill=DistillConfig(first=6)).taps) == [6]
    assert list(Recipe(distill=DistillConfig(first=4)).taps) == [4, 5, 6]
    assert list(Recipe().taps) == [6]


def test_template_tokens_are_distilled_with_joint_attention_only():
    distill = DistillConfig(first=1, features="template")
    Recipe(model=ModelConfig(attention="joint"), distill=distill)
    with pytest.raises(FartrackError, match="features is template; with cached attention"):
        Recipe(model=ModelConfig(attention="cached"), distill=distill)


def test_stages_fit_into_a_run():
    half, rest = Stage(0.5, 112, 64), Stage(0.5, 160, 80)
    Recipe(stages=(half, rest))
    Recipe(stages=(*[replace(half, share=0.1)] * 3, replace(rest, share=0.7)))  # more than 1 by a rounding
    with pytest.raises(FartrackError, match="shares of stages sum to more than 1"):
        Recipe(stages=(half, replace(rest, share=0.51)))
    with pytest.raises(FartrackError, match="search_size is 100; it must be a multiple of patch"):
        Recipe(stages=(Stage(0.5, 100, 64),))


def test_the_stage_of_a_step():
    first, second = Stage(0.3, 112, 64, 0.5), Stage(0.45, 160, 80)
    recipe = Recipe(steps=20, warmup=0, decay=0, stages=(first, second))
    whole = Stage(1.0, 224, 112)
    assert [recipe.stage(step) for step in range(20)] == [first] * 6 + [second] * 9 + [whole] * 5
    assert Recipe().stage(0) == whole
    full = replace(recipe, stages=tuple(Stage(0.1, size, 64) for size in range(64, 224, 16)))
    assert [full.stage(step).search_size for step in range(20)] == np.repeat(range(64, 224, 16), 2).tolist()


def test_the_model_of_a_stage_differs_in_its_crops_only():
    model = Recipe().at(Stage(0.3, 160, 80, 0.5))
    assert (model.search_size, model.template_size) == (160, 80)
    assert replace(model, search_size=224, template_size=112) == ModelConfig()


def test_deleted_layers_fade_linearly():
    distill = DistillConfig(scheme="deep-to-shallow", delete=(1, 4), fade=0.5)
    recipe = Recipe(steps=20, warmup=0, decay=0, distill=distill)
    assert recipe.fades(0) == pytest.approx([1, 0.9, 1, 1, 0.9, 1])
    assert recipe.fades(4) == pytest.approx([1, 0.5, 1, 1, 0.5, 1])
    assert recipe.fades(9) == recipe.fades(19) == [1, 0, 1, 1, 0, 1]
    assert recipe.fades(8)[1] > 0
    assert replace(recipe, distill=replace(distill, fade=0)).fades(0) == [1, 0, 1, 1, 0, 1]
    assert Recipe(distill=DistillConfig(first=1)).fades(500) == [1] * 6


def test_which_steps_are_rollouts():
    recipe = {share: Recipe(rollout=RolloutConfig(share=share)) for share in (0.0, 0.5, 1.0)}
    rolled = {share: [r.rolls(step) for step in range(1000)] for share, r in recipe.items()}
    assert not any(rolled[0.0]) and all(rolled[1.0])
    assert rolled[0.5] == [recipe[0.5].rolls(step) for step in range(1000)]
    assert rolled[0.5] != [replace(recipe[0.5], seed=1).rolls(step) for step in range(1000)]
    assert sum(rolled[0.5]) == pytest.approx(500, abs=5 * np.sqrt(250))  # five deviations of 1000 tosses
    assert len(set(zip(rolled[0.5], rolled[0.5][1:], strict=False))) == 4  # and not in turn


def test_samples_count_the_frames_of_rollouts():
    batch, frames = Recipe().batch, 3 * 7
    counted = {
        share: Recipe(rollout=RolloutConfig(share=share, frames=8, clips=3)).samples(100) for share in (0, 0.5, 1)
    }
    assert (counted[0], counted[1]) == (100 * batch, 100 * frames)
    rolls = sum(Recipe(rollout=RolloutConfig(share=0.5)).rolls(step) for step in range(100))
    assert counted[0.5] == rolls * frames + (100 - rolls) * batch


def test_the_settings_that_a_run_trains_for():
    tracker = TrackerSettings(interval=2, retention=0.5, adaptive=True, sparsification="runtime")
    assert Recipe(rollout=RolloutConfig(share=0.5, tracker=tracker)).settings == {
        "retention": 0.5,
        "adaptive": True,
        "sparsification": "runtime",
    }
    assert Recipe(rollout=RolloutConfig(share=0.5)).settings == {"retention": 0.75}
    assert Recipe(rollout=RolloutConfig(share=1, tracker=TrackerSettings(interval=2))).settings == {}
    assert Recipe(rollout=RolloutConfig(share=0, tracker=tracker)).settings == {}


ROUND_TRIPS = {
    "plain": Recipe(),
    "values": Recipe(steps=77, warmup=3, decay=5, final="step", templates=(4,), micro=3, precision="bf16"),
    "stages": Recipe(stages=(Stage(0.4, 112, 64, 0.5), Stage(0.3, 160, 80))),
    "loss": Recipe(loss=LossConfig(siou=0, smoothing=0)),
    "distill": Recipe(
        model=ModelConfig(attention="joint", identities=5), distill=DistillConfig(first=2, features="template")
    ),
    "deep-to-shallow": Recipe(distill=DistillConfig(scheme="deep-to-shallow", delete=(1, 3), fade=0.25)),
    "rollout": Recipe(rollout=RolloutConfig(0.5, 24, 6, 0.1, TrackerSettings(interval=3, adaptive=True))),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_a_recipe_is_the_same_from_json(name):
    recipe = ROUND_TRIPS[name]
    assert Recipe.from_dict(json.loads(json.dumps(asdict(recipe)))) == recipe


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(shipped_name(path)))
def test_a_shipped_recipe_is_the_same_from_json(path):
    recipe = Recipe.read(path)
    assert Recipe.from_dict(json.loads(json.dumps(asdict(recipe)))) == recipe
