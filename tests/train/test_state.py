"""A checkpoint comes back as it was, is written whole or not at all, and nothing else passes for one."""

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import save_file
from torch import nn

import fartrack.train.state as module
from fartrack.errors import FartrackError
from fartrack.model.config import ModelConfig
from fartrack.train.recipe import Recipe
from fartrack.train.state import Checkpoint, TrainState, load_checkpoint, save_checkpoint

RECIPE = Recipe(steps=10, warmup=0, decay=0, templates=(1, 2), model=ModelConfig(depth=2), max_grad_norm=0.5)


@pytest.fixture
def checkpoint():
    torch.manual_seed(0)
    tensors = {
        "model.a.weight": torch.randn(3, 4),
        "model.b": torch.randn(4, 3).T,
        "ema.a.weight": torch.randn(3, 4),
        "rng": torch.get_rng_state(),
    }
    return Checkpoint(7, 84, RECIPE, tensors)


def same(first, second):
    assert (first.step, first.samples, first.recipe) == (second.step, second.samples, second.recipe)
    assert first.tensors.keys() == second.tensors.keys()
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, second.tensors[name])
        assert tensor.dtype == second.tensors[name].dtype
    return True


def test_round_trip(checkpoint, tmp_path):
    path = tmp_path / "run" / "checkpoint.safetensors"
    save_checkpoint(path, checkpoint)
    assert same(load_checkpoint(path), checkpoint)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_parts(checkpoint):
    assert set(checkpoint.part("model")) == {"a.weight", "b"}
    assert torch.equal(checkpoint.part("ema")["a.weight"], checkpoint.tensors["ema.a.weight"])
    assert checkpoint.part("mod") == {}


def test_parameters_are_saved_without_their_gradient(tmp_path):
    parameter = nn.Parameter(torch.ones(3))
    save_checkpoint(tmp_path / "c", Checkpoint(0, 0, RECIPE, {"model.p": parameter * 2}))
    assert not load_checkpoint(tmp_path / "c").tensors["model.p"].requires_grad


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failing_save_leaves_the_old_file(checkpoint, tmp_path, monkeypatch, error):
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, checkpoint)

    def fail(tensors, file, metadata):
        file.write_bytes(b"half of a")
        raise error

    monkeypatch.setattr(module, "save_file", fail)
    with pytest.raises(type(error)):
        save_checkpoint(path, Checkpoint(8, 96, RECIPE, {}))
    assert same(load_checkpoint(path), checkpoint)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FartrackError, match=r"no checkpoint .*absent"):
        load_checkpoint(tmp_path / "absent")


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "header"])
def test_a_damaged_file_is_named(checkpoint, tmp_path, damage):
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, checkpoint)
    content = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "text": b"hello", "cut": content[:-10], "header": b"\xff" * 16 + content[16:]}[damage]
    )
    with pytest.raises(FartrackError, match=r"checkpoint\.safetensors is no readable checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "header",
    [None, {"step": "3"}, {"recipe": "{}"}, {"step": "x", "recipe": "{}"}, {"step": "3", "recipe": "{"}],
    ids=["none", "no recipe", "no step", "bad step", "bad recipe"],
)
def test_a_foreign_file_is_named(tmp_path, header):
    save_file({"weight": torch.zeros(3)}, tmp_path / "foreign.safetensors", metadata=header)
    with pytest.raises(FartrackError, match=r"foreign\.safetensors is no readable checkpoint"):
        load_checkpoint(tmp_path / "foreign.safetensors")


def test_a_checkpoint_of_another_version_is_one_sentence(tmp_path):
    path = tmp_path / "old.safetensors"
    save_file({"ema.a": torch.zeros(3)}, path, metadata={"step": "3", "recipe": '{"steps": 9, "frozen": 6}'})
    with pytest.raises(FartrackError, match=r"old\.safetensors is of another version \('frozen' is no field of Recipe"):
        load_checkpoint(path)


@pytest.fixture
def step(tiny):
    """A function that makes the state of a tiny network, and one that trains it by a step."""
    recipe = Recipe(steps=10, warmup=0, decay=0, templates=(1,), model=tiny(depth=1))

    def train(state):
        generator = torch.Generator().manual_seed(state.step)
        state.optimizer.zero_grad()
        sum((p * torch.randn(p.shape, generator=generator)).sum() for p in state.network.parameters()).backward()
        state.optimizer.step()
        state.average_weights(recipe.ema)
        state.step, state.samples = state.step + 1, state.samples + 4

    return recipe, lambda: TrainState(recipe, torch.device("cpu")), train


def test_a_state_goes_on_where_it_stopped(step, tmp_path):
    recipe, fresh, train = step
    straight, stopped, resumed = fresh(), fresh(), fresh()
    for _ in range(5):
        train(straight)
    for _ in range(3):
        train(stopped)
    save_checkpoint(tmp_path / "c", stopped.checkpoint(recipe))
    resumed.restore(load_checkpoint(tmp_path / "c"))
    assert (resumed.step, resumed.samples) == (3, 12)
    for _ in range(2):
        train(resumed)
    one, two = straight.checkpoint(recipe), resumed.checkpoint(recipe)
    assert same(one, two) and {name.split(".")[0] for name in one.tensors} == {"model", "ema", "exp_avg", "exp_avg_sq"}
    assert not torch.equal(one.part("model")["vocab"], one.part("ema")["vocab"])


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_all_of_the_optimizer_lies_where_its_parameter_does(step):
    """A fused optimizer refuses a count of steps that lies elsewhere; no GPU is needed to see where it lies."""
    recipe, fresh, train = step
    state, moved = fresh(), fresh()
    train(state)
    moved.network = moved.network.to("meta")
    moved.optimizer = torch.optim.AdamW(moved.network.parameters())
    moved.restore(state.checkpoint(recipe))
    assert {tensor.device.type for values in moved.optimizer.state.values() for tensor in values.values()} == {"meta"}
