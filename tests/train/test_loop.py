"""The loop learns, a resumed run is the run itself, and what cannot go on stops with a reason."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from fartrack.errors import FartrackError
from fartrack.model.encoder import FARTrack
from fartrack.train.checkpoint import load_checkpoint
from fartrack.train.data.sampling import Sampler, SamplingConfig
from fartrack.train.data.store import Store
from fartrack.train.loop import CHECKPOINT, LOG, Batches, draw_batch, losses, make_optimizer, rate, train
from fartrack.train.recipe import LossConfig, Recipe


@pytest.fixture
def recipe(tiny):
    """Six steps of a tiny network, with everything random in it that a run knows."""
    return Recipe(
        steps=6,
        sets=2,
        templates=(1, 2),
        learning_rate=3e-3,
        new_learning_rate=3e-3,
        warmup=2,
        decay=2,
        precision="fp32",
        model=tiny(drop_path=0.5),
        sampling=SamplingConfig(searches=2),
    )


def rows(run):
    return [json.loads(line) for line in (run / LOG).read_text().splitlines()]


def mean_iou(network, store, recipe, batches=6):
    """Over batches that no step has seen."""
    sampler = Sampler(Store.open(store), recipe.model, recipe.sampling)
    with torch.no_grad():
        return np.mean(
            [float(losses(network, draw_batch(sampler, recipe, 10**6 + i), recipe)["iou"]) for i in range(batches)]
        )


def test_rate():
    recipe = Recipe(steps=100, warmup=10, decay=20)
    assert rate(0, recipe) == pytest.approx(0.1)
    assert rate(4, recipe) == pytest.approx(0.5)
    assert {rate(step, recipe) for step in range(9, 81)} == {1.0}
    assert rate(85, recipe) == pytest.approx(0.5 + 0.5 * 2**-0.5)
    assert rate(90, recipe) == pytest.approx(0.5)
    assert 0 < rate(99, recipe) < 0.01
    assert rate(0, Recipe(steps=100, warmup=0, decay=0)) == rate(99, Recipe(steps=100, warmup=0, decay=0)) == 1
    assert rate(95, replace(recipe, steps=1000)) == 1  # a longer run is the same up to its decay


def test_a_batch_depends_on_seed_and_step_alone(synthetic_store, recipe):
    sampler = Sampler(Store.open(synthetic_store()), recipe.model, recipe.sampling)
    first, again = draw_batch(sampler, recipe, 3), draw_batch(sampler, recipe, 3)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["search"].shape == (4, 64, 64, 3)
    assert first["templates"].shape[0] == 2
    for other in (draw_batch(sampler, recipe, 4), draw_batch(sampler, replace(recipe, seed=1), 3)):
        assert not torch.equal(first["boxes"], other["boxes"])
    assert {draw_batch(sampler, recipe, step)["templates"].shape[1] for step in range(12)} == {1, 2}


def test_workers_make_the_same_batches_in_the_same_order(synthetic_store, recipe):
    batches = Batches(synthetic_store(), recipe, 1)
    alone = list(DataLoader(batches, batch_size=None))
    shared = list(DataLoader(batches, batch_size=None, num_workers=2))
    assert len(alone) == len(shared) == 5
    for one, two in zip(alone, shared, strict=True):
        assert torch.equal(one["boxes"], two["boxes"])
        assert torch.equal(one["search"], two["search"])


def test_losses_are_weighed_and_summed(synthetic_store, recipe, random_network):
    network = random_network(recipe.model)
    batch = draw_batch(Sampler(Store.open(synthetic_store()), recipe.model, recipe.sampling), recipe, 0)
    ones = losses(network, batch, replace(recipe, loss=LossConfig(1, 1, 1, 1)))
    weights = {"cross_entropy": 0.5, "siou": 3.0, "l1": 0.0, "dense": 2.0}
    terms = losses(network, batch, replace(recipe, loss=LossConfig(**weights)))
    for name, weight in weights.items():
        assert ones[name] > 0
        assert terms[name].item() == pytest.approx(weight * ones[name].item(), rel=1e-5)
    assert terms["loss"].item() == pytest.approx(sum(terms[name].item() for name in weights), rel=1e-5)
    assert 0 <= terms["iou"] <= 1
    assert not terms["iou"].requires_grad


def test_rates_and_decay_by_kind_of_parameter(tiny):
    recipe = Recipe(templates=(1,), learning_rate=1e-4, new_learning_rate=1e-3, weight_decay=0.1, model=tiny())
    network = FARTrack(recipe.model)
    names = {id(p): name for name, p in network.named_parameters()}
    found = {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in make_optimizer(network, recipe).param_groups
        for p in group["params"]
    }
    assert found.keys() == set(names.values())
    assert found["blocks.1.qkv.weight"] == found["patch.weight"] == (1e-4, 0.1)
    assert found["blocks.0.fc1.bias"] == found["blocks.0.norm1.weight"] == found["norm.weight"] == (1e-4, 0)
    assert found["vocab"] == found["pos_t"] == found["id_z"] == found["bias"] == (1e-3, 0)
    assert found["aux.weight"] == (1e-3, 0.1)


def test_training_learns_to_find_the_target(synthetic_store, tiny, tmp_path):
    recipe = Recipe(
        steps=120,
        sets=8,
        templates=(1, 2),
        learning_rate=4e-3,
        new_learning_rate=4e-3,
        warmup=10,
        decay=60,
        ema=0.9,
        precision="bf16",
        model=tiny(patch=8),
        sampling=SamplingConfig(searches=2, far_share=0.1, paper_share=0, wrong_trajectory=0),
    )
    store = synthetic_store(textured=True)
    torch.manual_seed(recipe.seed)
    before = mean_iou(FARTrack(recipe.model).eval(), store, recipe)
    network = train(recipe, store, tmp_path / "run", workers=0)
    after = mean_iou(network, store, recipe)
    log = rows(tmp_path / "run")
    assert log[-1]["loss"] < 0.75 * log[0]["loss"]
    assert after > before + 0.25
    assert [row["step"] for row in log] == [20, 40, 60, 80, 100, 120]
    assert log[-1]["samples"] == 120 * 16
    assert not network.training


KILLED = """
import json, os, signal, sys
from pathlib import Path
import fartrack.train.loop as loop
from fartrack.train.recipe import Recipe

computed, count = loop.losses, 0

def losses(*arguments):
    global count
    count += 1
    if count == 5:  # step 4 is done and not yet saved
        os.kill(os.getpid(), signal.SIGKILL)
    return computed(*arguments)

loop.losses = losses
recipe, store, run = sys.argv[1:]
loop.train(Recipe.from_dict(json.loads(recipe)), Path(store), Path(run), workers=0, save_every=3)
"""


def test_a_killed_run_resumes_as_if_nothing_had_happened(synthetic_store, recipe, tmp_path):
    store, straight, killed = synthetic_store(), tmp_path / "straight", tmp_path / "killed"
    whole = train(recipe, store, straight, workers=0)

    command = [sys.executable, "-c", KILLED, json.dumps(asdict(recipe)), str(store), str(killed)]
    process = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}, capture_output=True, text=True
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert load_checkpoint(killed / CHECKPOINT).step == 3
    resumed = train(recipe, store, killed, resume=True, workers=0)

    for (name, one), two in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        # The same arithmetic in two processes; a library may still choose its kernels by what else it finds.
        torch.testing.assert_close(two, one, rtol=1e-6, atol=1e-6, msg=name)
    one, two = (load_checkpoint(run / CHECKPOINT) for run in (straight, killed))
    assert one.step == two.step == 6
    assert torch.equal(one.tensors["rng"], two.tensors["rng"])
    for name in one.part("exp_avg"):
        torch.testing.assert_close(two.part("exp_avg")[name], one.part("exp_avg")[name], rtol=1e-5, atol=1e-6)


def test_a_run_may_be_made_longer(synthetic_store, recipe, tmp_path):
    store = synthetic_store()
    train(replace(recipe, steps=3, decay=0), store, tmp_path / "run", workers=0)
    train(replace(recipe, steps=5, decay=0), store, tmp_path / "run", resume=True, workers=0)
    straight = train(replace(recipe, steps=5, decay=0), store, tmp_path / "straight", workers=0)
    resumed = load_checkpoint(tmp_path / "run" / CHECKPOINT)
    assert resumed.step == 5
    for name, tensor in straight.state_dict().items():
        torch.testing.assert_close(resumed.part("ema")[name], tensor, rtol=1e-6, atol=1e-6)
    assert [row["step"] for row in rows(tmp_path / "run")] == [3, 5]


def test_the_average_is_what_is_returned(synthetic_store, recipe, tmp_path):
    network = train(recipe, synthetic_store(), tmp_path / "run", workers=0)
    checkpoint = load_checkpoint(tmp_path / "run" / CHECKPOINT)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, checkpoint.part("ema")[name])
    assert not torch.equal(checkpoint.part("ema")["vocab"], checkpoint.part("model")["vocab"])
    assert Recipe.from_dict(checkpoint.recipe) == recipe


def test_start_weights_are_used(synthetic_store, recipe, random_network, tmp_path):
    source = random_network(recipe.model)
    save_file(source.state_dict(), tmp_path / "start.safetensors")
    recipe = replace(recipe, learning_rate=0, new_learning_rate=0)
    store = synthetic_store()
    network = train(recipe, store, tmp_path / "run", start=tmp_path / "start.safetensors", workers=0)
    torch.testing.assert_close(network.vocab, source.vocab)
    with pytest.raises(FartrackError, match=r"no weights file .*absent"):
        train(recipe, store, tmp_path / "other", start=tmp_path / "absent.safetensors", workers=0)


def test_a_loss_that_is_not_finite_stops_and_leaves_its_batch(synthetic_store, recipe, random_network, tmp_path):
    state = random_network(recipe.model).state_dict()
    state["bias"][7] = float("nan")
    save_file(state, tmp_path / "start.safetensors")
    run, store = tmp_path / "run", synthetic_store()
    with pytest.raises(FartrackError, match=r"loss of step 0 is not finite; its batch is in .*failed-batch"):
        train(recipe, store, run, start=tmp_path / "start.safetensors", workers=0)
    failed = load_checkpoint(run / "failed-batch.safetensors")
    expected = draw_batch(Sampler(Store.open(store), recipe.model, recipe.sampling), recipe, 0)
    assert all(torch.equal(failed.tensors[name], tensor) for name, tensor in expected.items())
    assert not (run / CHECKPOINT).exists()


def test_a_run_is_not_started_over(synthetic_store, recipe, tmp_path):
    store, run = synthetic_store(), tmp_path / "run"
    train(replace(recipe, steps=2), store, run, workers=0)
    before = (run / CHECKPOINT).read_bytes()
    with pytest.raises(FartrackError, match=r"run holds a run already; add --resume"):
        train(recipe, store, run, workers=0)
    assert (run / CHECKPOINT).read_bytes() == before


def test_what_cannot_be_resumed(synthetic_store, recipe, tiny, tmp_path):
    store, run = synthetic_store(), tmp_path / "run"
    with pytest.raises(FartrackError, match="no checkpoint"):
        train(recipe, store, run, resume=True, workers=0)
    train(replace(recipe, steps=2), store, run, workers=0)
    with pytest.raises(FartrackError, match="another model"):
        train(replace(recipe, model=tiny(depth=3)), store, run, resume=True, workers=0)


def test_a_run_without_data_is_refused(recipe, tmp_path):
    with pytest.raises(FartrackError, match="holds no prepared data"):
        train(recipe, tmp_path / "nothing", tmp_path / "run", workers=0)
    assert not (tmp_path / "run").exists()
