"""The loop learns, a resumed run is the run itself, and what cannot go on stops with a reason."""

import json
import os
import resource
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

import fartrack.train.monitor
import fartrack.train.state
from fartrack.errors import FartrackError
from fartrack.files import read_json_lines
from fartrack.model.encoder import FARTrack
from fartrack.model.init_weights import start_from
from fartrack.train.data import sampling
from fartrack.train.data.batches import PER_TEMPLATE, Batches, draw_batch
from fartrack.train.data.sampling import Sampler, SamplingConfig
from fartrack.train.data.store import Store
from fartrack.train.loop import rate, train
from fartrack.train.monitor import LOG
from fartrack.train.objective import losses
from fartrack.train.recipe import Recipe
from fartrack.train.state import CHECKPOINT, load_checkpoint, make_optimizer


def assert_same_weights(one, two, tolerance=1e-6):
    """Of two networks or state dicts. The same arithmetic in two processes may still be done by other kernels."""
    one, two = (x if isinstance(x, dict) else x.state_dict() for x in (one, two))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


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


def test_rate_that_falls_in_one_step():
    recipe = Recipe(steps=100, warmup=10, decay=20, decay_shape="step")
    assert rate(4, recipe) == pytest.approx(0.5)
    assert {rate(step, recipe) for step in range(9, 80)} == {1.0}
    assert {rate(step, recipe) for step in range(80, 100)} == {0.1}


def test_a_batch_depends_on_seed_and_step_alone(synthetic_store, recipe):
    sampler = Sampler(Store.open(synthetic_store()), recipe.model, recipe.sampling)
    first, again = draw_batch(sampler, recipe, 3), draw_batch(sampler, recipe, 3)
    first, again = first.tensors(), again.tensors()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["search"].shape == (4, 64, 64, 3)
    assert first["index"].shape[0] == 2
    for other in (draw_batch(sampler, recipe, 4), draw_batch(sampler, replace(recipe, seed=1), 3)):
        assert not torch.equal(first["boxes"], other.boxes)
    assert {draw_batch(sampler, recipe, step).index.shape[1] for step in range(12)} == {1, 2}


def test_the_templates_of_a_batch_are_counted_through(synthetic_store, recipe):
    recipe = replace(recipe, templates=(3,))
    batch = draw_batch(Sampler(Store.open(synthetic_store()), recipe.model, recipe.sampling), recipe, 0)
    assert batch.templates.shape == (6, 32, 32, 3)
    assert batch.identities.tolist() == [0, 1, 1, 0, 1, 1]
    assert batch.index.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("kind", ["pretrain", "dropout"])
def test_the_shares_of_two_processes_are_the_batch_of_one(synthetic_store, recipe_of, kind):
    recipe = recipe_of(kind, sets=4)
    sampler = Sampler(Store.open(synthetic_store()), recipe.model, recipe.sampling)
    whole = draw_batch(sampler, recipe, 0).tensors()
    searches = recipe.sampling.searches
    for rank in range(2):
        share = draw_batch(sampler, recipe, 0, rank, 2).tensors()
        assert share.keys() == whole.keys()
        own = torch.arange(4)[rank::2]
        crops = (own[:, None] * searches + torch.arange(searches)).flatten()
        for name in whole.keys() - {*PER_TEMPLATE, "index"}:
            assert torch.equal(share[name], whole[name][crops]), name
        for name in PER_TEMPLATE:
            assert torch.equal(share[name][share["index"]], whole[name][whole["index"][own]]), name


def test_two_processes_share_the_clips_of_one(synthetic_store, recipe_of):
    recipe = recipe_of("sparsify")
    recipe = replace(recipe, rollout=replace(recipe.rollout, share=1))
    store = synthetic_store()
    (whole, *_), (first, *_), (second, *_) = (
        Batches(store, recipe, range(6), *place) for place in ((0, 1), (0, 2), (1, 2))
    )
    assert len(whole) == 2
    for one, two in zip(whole, [*first, *second], strict=True):
        assert np.array_equal(one.frames, two.frames) and np.array_equal(one.boxes, two.boxes)
    assert not np.array_equal(whole[0].boxes, whole[1].boxes)


@pytest.mark.parametrize("kind", ["pretrain", "sparsify"])
def test_workers_make_the_same_batches_in_the_same_order(synthetic_store, recipe_of, kind):
    batches = Batches(synthetic_store(), recipe_of(kind), range(1, 6))
    alone = list(DataLoader(batches, batch_size=None))
    shared = list(DataLoader(batches, batch_size=None, num_workers=2))
    assert len(alone) == len(shared) == 5
    assert any(isinstance(work, list) for work in alone) == (kind == "sparsify")
    for one, two in zip(alone, shared, strict=True):
        if isinstance(one, list):
            assert all(np.array_equal(a.frames, b.frames) for a, b in zip(one, two, strict=True))
        else:
            assert torch.equal(one.boxes, two.boxes)
            assert torch.equal(one.search, two.search)


def test_patches_are_dropped_at_first_and_near_the_center_less_often(synthetic_store, recipe_of):
    recipe = recipe_of("dropout", sets=16)
    batches = list(Batches(synthetic_store(), recipe, range(6)))
    assert [None if batch.kept is None else batch.kept.shape for batch in batches] == [(32, 8)] * 3 + [None] * 3
    kept = torch.cat([batch.kept for batch in batches[:3]])
    assert (kept.diff(dim=1) > 0).all() and kept.min() >= 0 and kept.max() < 16
    share = torch.bincount(kept.flatten(), minlength=16).reshape(4, 4) / len(kept)
    rim = torch.ones(4, 4, dtype=bool)
    rim[1:3, 1:3] = False
    assert share[~rim].min() > share[rim].max() > 0


def test_rates_and_decay_by_kind_of_parameter(tiny):
    recipe = Recipe(templates=(1,), learning_rate=1e-4, head_learning_rate=1e-3, weight_decay=0.1, model=tiny())
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


def test_training_learns_to_find_the_target(synthetic_store, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "FAR_SHARE", 0.1)
    monkeypatch.setattr(sampling, "PAPER_SHARE", 0)
    recipe = Recipe(
        steps=120,
        sets=8,
        templates=(1, 2),
        learning_rate=4e-3,
        head_learning_rate=4e-3,
        warmup=10,
        decay=60,
        ema=0.9,
        precision="auto",
        model=tiny(patch=8),
        sampling=SamplingConfig(searches=2),
    )
    store = synthetic_store(textured=True)
    torch.manual_seed(recipe.seed)
    before = mean_iou(FARTrack(recipe.model).eval(), store, recipe)
    network = train(recipe, store, tmp_path / "run", workers=0)
    after = mean_iou(network, store, recipe)
    log = read_json_lines(tmp_path / "run" / LOG)
    assert log[-1]["loss"] < 0.75 * log[0]["loss"]
    assert after > before + 0.25
    assert [row["step"] for row in log] == [20, 40, 60, 80, 100, 120]
    assert log[-1]["samples"] == 120 * 16
    assert not network.training


SIGNALLED = """
import json, os, signal, sys
from pathlib import Path
import fartrack.train.loop as loop
import fartrack.train.monitor as monitor
from fartrack.config import from_dict
from fartrack.train.recipe import Recipe

computed, count = loop.losses, 0

def losses(*arguments):
    global count
    count += 1
    if count == 5:  # step 4 is done and not yet saved
        {signal}
    return computed(*arguments)

loop.losses = losses
monitor.LOG_EVERY = 1
recipe, store, run = sys.argv[1:]
network = loop.train(from_dict(Recipe, json.loads(recipe)), Path(store), Path(run), workers={workers}, save_every=3)
print("stopped" if network is None else "finished")
"""
KILL, STOP = "os.kill(os.getpid(), signal.SIGKILL)", "os.killpg(0, signal.SIGTERM)"


@pytest.fixture
def signaled(tmp_path):
    """A function that starts a run in another process, which is sent a signal on its fifth step."""

    def call(recipe, store, run, code, workers=0):
        script = SIGNALLED.format(signal=code, workers=workers)
        return subprocess.run(
            [sys.executable, "-c", script, json.dumps(asdict(recipe)), str(store), str(run)],
            env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
            capture_output=True,
            text=True,
            start_new_session=True,  # the signal is for that process and its workers
        )

    return call


@pytest.mark.parametrize("kind", ["pretrain", "dropout", "distill", "sparsify"])
def test_a_killed_run_resumes_as_if_nothing_had_happened(
    synthetic_store, recipe_of, tmp_path, monkeypatch, signaled, kind
):
    monkeypatch.setattr(fartrack.train.monitor, "LOG_EVERY", 1)
    recipe, store = recipe_of(kind), synthetic_store()
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    whole = train(recipe, store, straight, workers=0)

    if kind == "pretrain":
        process = signaled(recipe, store, killed, KILL)
        assert process.returncode == -signal.SIGKILL, process.stderr
    else:  # as abruptly, without the second that a process takes to start
        computed = iter([fartrack.train.loop.losses] * 4)
        with monkeypatch.context() as patch, pytest.raises(StopIteration):
            patch.setattr(fartrack.train.loop, "losses", lambda *arguments: next(computed)(*arguments))
            train(recipe, store, killed, workers=0, save_every=3)
    assert load_checkpoint(killed / CHECKPOINT).step == 3
    resumed = train(recipe, store, killed, resume=True, workers=0)

    assert_same_weights(whole, resumed)
    one, two = (load_checkpoint(run / CHECKPOINT) for run in (straight, killed))
    assert one.step == two.step == 6
    assert_same_weights(one.tensors, two.tensors, 1e-5)
    one, two = read_json_lines(straight / LOG), read_json_lines(killed / LOG)
    assert [row["step"] for row in one] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in two] == [1, 2, 3, 4, 4, 5, 6]  # the fourth, which was not saved, is done again
    for row in two:
        assert row["loss"] == pytest.approx(one[row["step"] - 1]["loss"], abs=2e-5)


def test_a_signal_to_all_its_processes_stops_a_run_in_order(synthetic_store, recipe, tmp_path, signaled):
    store, run = synthetic_store(), tmp_path / "run"
    recipe = replace(recipe, steps=50)  # the workers are busy to the end
    process = signaled(recipe, store, run, STOP, workers=1)
    assert process.returncode == 0, process.stderr
    assert process.stdout.split()[-1] == "stopped"
    assert load_checkpoint(run / CHECKPOINT).step == 5
    assert {path.suffix for path in run.iterdir()} >= {".safetensors", ".jsonl", ".png"}
    assert not list(run.glob("*.part*"))


@pytest.mark.parametrize("kind", ["pretrain", "sparsify"])
def test_a_run_whose_time_is_up_goes_on_later(synthetic_store, recipe_of, tmp_path, kind):
    recipe, store, run = recipe_of(kind), synthetic_store(), tmp_path / "run"
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert train(recipe, store, run, minutes=0, workers=0) is None
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert load_checkpoint(run / CHECKPOINT).step == 1
    assert train(recipe, store, run, resume=True, minutes=0, workers=0) is None
    assert load_checkpoint(run / CHECKPOINT).step == 2
    resumed = train(recipe, store, run, resume=True, minutes=60, workers=0)
    assert_same_weights(train(recipe, store, tmp_path / "straight", workers=0), resumed)


def test_a_run_stops_at_a_step(synthetic_store, recipe, tmp_path):
    store, run = synthetic_store(), tmp_path / "run"
    assert train(recipe, store, run, until=2, workers=0) is None
    assert load_checkpoint(run / CHECKPOINT).step == 2
    assert train(recipe, store, run, until=2, resume=True, workers=0) is None
    assert load_checkpoint(run / CHECKPOINT).step == 2
    assert train(recipe, store, run, until=9, resume=True, workers=0) is not None


def test_a_second_signal_ends_a_run_at_once(synthetic_store, recipe, tmp_path, monkeypatch):
    def twice(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(fartrack.train.loop, "losses", twice)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, synthetic_store(), tmp_path / "run", workers=0)
    assert not (tmp_path / "run" / CHECKPOINT).exists()


@pytest.mark.parametrize("way", ["error", "limit"])
def test_a_full_disk_leaves_the_checkpoint_before(synthetic_store, recipe, tmp_path, monkeypatch, way):
    written, saves = fartrack.train.state.save_file, []

    def full(tensors, path, metadata):
        saves.append(path)
        if len(saves) < 2:
            return written(tensors, path, metadata=metadata)
        if way == "error":
            path.write_bytes(b"a part of it")
            raise OSError(28, "No space left on device")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        try:
            return written(tensors, path, metadata=metadata)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    store, run = synthetic_store(), tmp_path / "run"
    monkeypatch.setattr(fartrack.train.state, "save_file", full)
    # What the command says in one sentence: its own errors, and those of the system.
    error, words = (OSError, "No space left") if way == "error" else (FartrackError, "cannot be written .*too large")
    with pytest.raises(error, match=words):
        train(recipe, store, run, save_every=2, workers=0)
    assert len(saves) == 2
    assert not list(run.glob("*.part"))
    assert load_checkpoint(run / CHECKPOINT).step == 2
    monkeypatch.undo()
    resumed = train(recipe, store, run, resume=True, workers=0)
    assert_same_weights(train(recipe, store, tmp_path / "straight", workers=0), resumed)


@pytest.mark.parametrize("kind", ["pretrain", "sparsify"])
def test_a_batch_in_parts_gives_the_same_weights(synthetic_store, recipe_of, tiny, tmp_path, kind):
    recipe, store = recipe_of(kind, model=tiny(), learning_rate=1e-3, head_learning_rate=1e-3), synthetic_store()
    whole = train(replace(recipe, micro_batch=64), store, tmp_path / "whole", workers=0)
    parts = train(replace(recipe, micro_batch=3), store, tmp_path / "parts", workers=0)
    assert_same_weights(whole, parts, 1e-5)
    one, two = (read_json_lines(tmp_path / run / LOG)[-1] for run in ("whole", "parts"))
    for name in ("loss", "siou", "iou", "dense"):
        assert two[name] == pytest.approx(one[name], abs=1e-4)


def test_a_run_may_be_made_longer(synthetic_store, recipe, tmp_path):
    store = synthetic_store()
    train(replace(recipe, steps=3, decay=0), store, tmp_path / "run", workers=0)
    train(replace(recipe, steps=5, decay=0), store, tmp_path / "run", resume=True, workers=0)
    straight = train(replace(recipe, steps=5, decay=0), store, tmp_path / "straight", workers=0)
    resumed = load_checkpoint(tmp_path / "run" / CHECKPOINT)
    assert resumed.step == 5
    assert_same_weights(straight, resumed.part("ema"))
    assert [row["step"] for row in read_json_lines(tmp_path / "run" / LOG)] == [3, 5]


def test_the_average_is_what_is_returned(synthetic_store, recipe, tmp_path):
    network = train(recipe, synthetic_store(), tmp_path / "run", workers=0)
    checkpoint = load_checkpoint(tmp_path / "run" / CHECKPOINT)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, checkpoint.part("ema")[name])
    assert not torch.equal(checkpoint.part("ema")["vocab"], checkpoint.part("model")["vocab"])
    assert checkpoint.recipe == recipe


def test_start_weights_are_used(synthetic_store, recipe, random_network, tmp_path):
    source = random_network(recipe.model)
    save_file(source.state_dict(), tmp_path / "start.safetensors")
    recipe = replace(recipe, learning_rate=0, head_learning_rate=0)
    store = synthetic_store()
    network = train(recipe, store, tmp_path / "run", start=tmp_path / "start.safetensors", workers=0)
    torch.testing.assert_close(network.vocab, source.vocab)
    with pytest.raises(FartrackError, match=r"no weights file .*absent"):
        train(recipe, store, tmp_path / "other", start=tmp_path / "absent.safetensors", workers=0)


def test_features_are_kept(synthetic_store, recipe, random_network, tmp_path):
    """By default those of the start weights; a run that goes on needs them again, and is the same as a whole one."""
    source, other = tmp_path / "start.safetensors", tmp_path / "other.safetensors"
    save_file(random_network(recipe.model).state_dict(), source)
    save_file(random_network(recipe.model, seed=1).state_dict(), other)
    store, recipe = synthetic_store(), replace(recipe, loss=replace(recipe.loss, features=1.0))
    found = {}
    for name, features in (("own", None), ("same", source), ("another", other)):
        train(recipe, store, tmp_path / name, start=source, features=features, workers=0)
        found[name] = [json.loads(line)["features"] for line in (tmp_path / name / "log.jsonl").open()]
    assert found["own"] == found["same"]
    assert found["own"][0] < 0.5 * found["another"][0]
    stopped = tmp_path / "stopped"
    train(recipe, store, stopped, start=source, workers=0, until=3)
    with pytest.raises(FartrackError, match=r"^loss.features is 1; .*--features"):
        train(recipe, store, stopped, resume=True, workers=0)
    resumed = train(recipe, store, stopped, features=source, resume=True, workers=0)
    whole = FARTrack(recipe.model)
    whole.load_state_dict(load_checkpoint(tmp_path / "own" / CHECKPOINT).part("ema"))
    assert_same_weights(whole, resumed)
    with pytest.raises(FartrackError, match=r"no weights file .*absent"):
        train(recipe, store, tmp_path / "no", features=tmp_path / "absent.safetensors", workers=0)
    assert not (tmp_path / "no").exists()


def test_a_network_grows_on_layers_that_stay_as_they_were(synthetic_store, recipe, tiny, random_network, tmp_path):
    store, start = synthetic_store(), tmp_path / "start.safetensors"
    source = random_network(tiny(depth=2)).state_dict()
    save_file(source, start)
    grown = replace(recipe, freeze_layers=2, model=tiny(depth=3))
    grown = replace(grown, rollout=replace(grown.rollout, pruned=0.5))
    network = train(grown, store, tmp_path / "run", start=start, workers=0)
    untrained = FARTrack(grown.model)
    start_from(untrained, source)
    for name, tensor in network.state_dict().items():
        trained = name.startswith(("blocks.2.", "aux."))
        assert torch.equal(tensor, untrained.state_dict()[name]) != trained, name
    silent = untrained.blocks[2].proj.weight
    assert silent.abs().max() == 0 < network.blocks[2].proj.weight.abs().max()

    stopped = tmp_path / "stopped"
    train(grown, store, stopped, start=start, workers=0, until=3)
    resumed = train(grown, store, stopped, resume=True, workers=0)
    assert_same_weights(network, resumed)
    with pytest.raises(FartrackError, match=r"^freeze_layers is 2; .*--start"):
        train(grown, store, tmp_path / "other", workers=0)
    assert not (tmp_path / "other").exists()


def test_a_loss_that_is_not_finite_stops_and_leaves_its_batch(synthetic_store, recipe, random_network, tmp_path):
    state = random_network(recipe.model).state_dict()
    state["bias"][7] = float("nan")
    save_file(state, tmp_path / "start.safetensors")
    run, store = tmp_path / "run", synthetic_store()
    with pytest.raises(FartrackError, match=r"loss of step 0 is not finite; see .*failed-batch"):
        train(recipe, store, run, start=tmp_path / "start.safetensors", workers=0)
    failed = load_checkpoint(run / "failed-batch-0.safetensors")
    expected = draw_batch(Sampler(Store.open(store), recipe.model, recipe.sampling), recipe, 0).tensors()
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
    train(recipe, store, run, workers=0, until=5)
    for changed, words in (
        (
            replace(recipe, model=tiny(depth=3, drop_path=0.5)),
            r"another recipe: model\.depth \(2, now 3\)\. Only steps",
        ),
        (replace(recipe, learning_rate=0.03, seed=1), r"learning_rate \(0\.003, now 0\.03\), seed \(0, now 1\)"),
        (replace(recipe, steps=4), "steps is 4, and 5 are done"),
        (replace(recipe, steps=9), "steps is 9, and was 6 in the run .*, whose rates fall since step 4"),
    ):
        with pytest.raises(FartrackError, match=words):
            train(changed, store, run, resume=True, workers=0)
    assert load_checkpoint(run / CHECKPOINT).step == 5


def test_a_run_without_data_is_refused(recipe, tmp_path):
    with pytest.raises(FartrackError, match="holds no prepared data"):
        train(recipe, tmp_path / "nothing", tmp_path / "run", workers=0)
    assert not (tmp_path / "run").exists()
