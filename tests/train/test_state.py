"""A checkpoint comes back as it was, is written whole or not at all, and nothing else passes for one."""

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import save_file
from torch import nn

import fartrack.train.state as module
from fartrack.errors import FartrackError
from fartrack.train.state import (
    Checkpoint,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)

RECIPE = {"steps": 10, "templates": [1, 2], "model": {"depth": 2, "attention": "cached"}, "clip": 0.5}


@pytest.fixture
def checkpoint():
    torch.manual_seed(0)
    tensors = {
        "model.a.weight": torch.randn(3, 4),
        "model.b": torch.randn(4, 3).T,
        "ema.a.weight": torch.randn(3, 4),
        "rng": torch.get_rng_state(),
    }
    return Checkpoint(7, RECIPE, tensors)


def same(first, second):
    assert (first.step, first.recipe) == (second.step, second.recipe)
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
    save_checkpoint(tmp_path / "c", Checkpoint(0, {}, {"model.p": parameter * 2}))
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
        save_checkpoint(path, Checkpoint(8, RECIPE, {}))
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


def train(network, optimizer, steps):
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        loss = network(torch.randn(5, 3, generator=generator)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_the_optimizer_goes_on_where_it_stopped(tmp_path):
    def fresh():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        return network, torch.optim.AdamW(network.parameters(), lr=0.1, fused=True)

    straight, optimizer = fresh()
    train(straight, optimizer, range(5))

    network, optimizer = fresh()
    train(network, optimizer, range(3))
    tensors = {f"model.{k}": v for k, v in network.state_dict().items()} | optimizer_tensors(network, optimizer)
    save_checkpoint(tmp_path / "c", Checkpoint(3, {}, tensors))

    resumed, optimizer = fresh()
    checkpoint = load_checkpoint(tmp_path / "c")
    resumed.load_state_dict(checkpoint.part("model"))
    restore_optimizer(resumed, optimizer, checkpoint)
    train(resumed, optimizer, range(3, 5))
    for first, second in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(first, second)


def test_all_of_the_optimizer_lies_where_its_parameter_does():
    """A fused optimizer refuses a count of steps that lies elsewhere; no GPU is needed to see where it lies."""
    network = nn.Linear(3, 4)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    train(nn.Sequential(network), optimizer, range(1))
    checkpoint = Checkpoint(1, {}, optimizer_tensors(network, optimizer))
    elsewhere = nn.Linear(3, 4, device="meta")
    moved = torch.optim.AdamW(elsewhere.parameters())
    restore_optimizer(elsewhere, moved, checkpoint)
    assert {tensor.device.type for state in moved.state.values() for tensor in state.values()} == {"meta"}
