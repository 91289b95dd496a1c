"""A run's checkpoint becomes a model that says how it was made."""

import json
from dataclasses import asdict

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import torch
from safetensors.torch import save_file

import fartrack
import fartrack.export
from fartrack.errors import FartrackError
from fartrack.model.init_weights import load_weights
from fartrack.packages import WEIGHTS, open_package
from fartrack.tracking.settings import TrackerSettings
from fartrack.train.export import export_checkpoint
from fartrack.train.recipe import Recipe, RolloutConfig
from fartrack.train.state import Checkpoint, save_checkpoint


@pytest.fixture(autouse=True)
def without_graphs(monkeypatch):
    """Tracing takes seconds and is tested in tests/test_export.py."""
    monkeypatch.setattr(fartrack.export, "graphs", lambda network: {})


@pytest.fixture
def save(tmp_path):
    """A function that saves a checkpoint of a network's weights as the averaged ones, and returns its path."""

    def make(recipe, network, name="run", step=3, samples=36, **more):
        tensors = {f"ema.{name}": tensor for name, tensor in network.state_dict().items()} | more
        path = tmp_path / f"{name}.safetensors"
        save_checkpoint(path, Checkpoint(step, samples, recipe, tensors))
        return path

    return make


def test_a_checkpoint_gives_its_average_and_what_is_known_of_the_run(tmp_path, tiny, random_network, save):
    recipe = Recipe(sets=4, templates=(1, 2), model=tiny())
    raw, average = random_network(recipe.model, 0), random_network(recipe.model, 1)
    more = {f"model.{name}": tensor for name, tensor in raw.state_dict().items()}
    export_checkpoint(save(recipe, average, step=50, samples=600, **more), tmp_path / "made" / "model")
    assert torch.equal(load_weights(tmp_path / "made" / "model" / WEIGHTS)["vocab"], average.vocab.half().float())
    record = json.loads((tmp_path / "made" / "model" / "model.json").read_text())
    assert (record["steps"], record["samples"]) == (50, 600)
    assert record["training"]["loss"] == asdict(recipe.loss)
    assert open_package(tmp_path / "made" / "model").config == recipe.model
    with pytest.raises(FartrackError, match="no checkpoint"):
        export_checkpoint(tmp_path / "absent.safetensors", tmp_path / "other")


def test_a_checkpoint_without_averaged_weights_is_refused(tmp_path, tiny):
    path = tmp_path / "failed-batch.safetensors"
    save_checkpoint(path, Checkpoint(3, 36, Recipe(model=tiny(), templates=(1, 2)), {"search": torch.zeros(2)}))
    with pytest.raises(FartrackError, match="no averaged weights"):
        export_checkpoint(path, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_an_exit_of_a_network_is_exported_as_a_shallower_model(tmp_path, tiny, random_network, save):
    network = random_network(tiny(depth=3))
    path = save(Recipe(model=tiny(depth=3), templates=(1, 2)), network)
    with pytest.raises(FartrackError, match="no exit after layer 4; give 1 to 3"):
        export_checkpoint(path, tmp_path / "model", depth=4)
    export_checkpoint(path, tmp_path / "model", depth=2)
    package = open_package(tmp_path / "model")
    assert package.config.depth == 2
    weights = load_weights(tmp_path / "model" / WEIGHTS)
    assert {name.split(".")[1] for name in weights if name.startswith("blocks.")} == {"0", "1"}
    torch.testing.assert_close(weights["blocks.1.qkv.weight"], network.blocks[1].qkv.weight.detach().half().float())


def test_the_mean_of_several_runs_is_exported(tmp_path, tiny, random_network, save):
    networks, recipe = [random_network(tiny(), seed) for seed in range(3)], Recipe(model=tiny(), templates=(1, 2))
    paths = [save(recipe, network, name) for network, name in zip(networks, "ab", strict=False)]
    plain = tmp_path / "c.safetensors"
    save_file(networks[2].state_dict(), plain)
    export_checkpoint(paths[0], tmp_path / "model", mean=[paths[1], plain])
    weights = load_weights(tmp_path / "model" / WEIGHTS)
    for name in ("vocab", "blocks.1.fc1.weight", "norm.bias"):
        expected = sum(network.state_dict()[name] for network in networks) / 3
        torch.testing.assert_close(weights[name], expected, rtol=1e-3, atol=1e-3)
    assert json.loads((tmp_path / "model" / "model.json").read_text())["mean_of"] == 3

    save_file(random_network(tiny(depth=1)).state_dict(), plain)
    with pytest.raises(FartrackError, match=r"c.safetensors has no averaged weights of its model"):
        export_checkpoint(paths[0], tmp_path / "model", mean=[plain])
    assert load_weights(tmp_path / "model" / WEIGHTS).keys() == weights.keys()  # what was there stays


def test_a_tracker_is_set_as_its_model_was_trained(tmp_path, tiny, random_network, save):
    trained, folder = TrackerSettings(interval=2, retention=0.5), tmp_path / "model"
    recipe = Recipe(model=tiny(), templates=(1,), rollout=RolloutConfig(share=0.5, tracker=trained))
    export_checkpoint(save(recipe, random_network(recipe.model)), folder)
    record = json.loads((folder / "model.json").read_text())["settings"]
    assert record == {"retention": 0.5}  # the interval is the user's
    tracker = fartrack.load(folder, engine="torch")
    assert tracker.settings == TrackerSettings(templates=3, **record)
    own = fartrack.load(folder, engine="torch", templates=2)
    assert own.settings == TrackerSettings(templates=2, retention=0.5)


def test_a_model_that_was_never_rolled_out_keeps_the_default_settings(tmp_path, tiny, random_network, save):
    export_checkpoint(save(Recipe(model=tiny(), templates=(1,)), random_network(tiny())), tmp_path / "model")
    assert json.loads((tmp_path / "model" / "model.json").read_text())["settings"] == {}
    assert fartrack.load(tmp_path / "model", engine="torch").settings == TrackerSettings(templates=3)
