"""Two processes that share every batch reach the weights of one, one of them writes, and a lost one is replaced."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

pytest.importorskip("torch")

import torch

import fartrack.train.phases as phases
from fartrack.errors import FartrackError
from fartrack.files import read_json_lines
from fartrack.model.encoder import FARTrack
from fartrack.train.distributed import Group
from fartrack.train.loop import train
from fartrack.train.monitor import LOG
from fartrack.train.phases import PHASES, train_phases
from fartrack.train.state import CHECKPOINT, load_checkpoint


def torchrun(*target, restarts=0):
    """Run what torchrun is given in two processes, which start anew up to ``restarts`` times."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, "--max-restarts", str(restarts), *map(str, target)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def script(folder, text):
    """A script that is written into a folder."""
    path = folder / "script.py"
    path.write_text(text)
    return path


@pytest.fixture
def one_thread():
    """As in the processes that are started."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def plain(recipe, tiny, **changes):
    """A recipe of which nothing depends on how many processes there are, with small steps: where a gradient is
    nothing but rounding, such as that of the keys' biases, AdamW makes a step of it nevertheless."""
    return replace(recipe, model=tiny(), learning_rate=1e-4, head_learning_rate=1e-4, **changes)


def assert_same(one, two):
    """The checkpoints of two runs."""
    one, two = load_checkpoint(one / CHECKPOINT), load_checkpoint(two / CHECKPOINT)
    assert one.step == two.step
    assert one.tensors.keys() == two.tensors.keys()
    for part in ("model", "ema"):
        for name, tensor in one.part(part).items():
            torch.testing.assert_close(two.part(part)[name], tensor, rtol=0, atol=1e-5, msg=name)


ALL_PHASES = """
import json, os, sys
from pathlib import Path
import fartrack.train.phases as phases
from fartrack.config import from_dict
from fartrack.train.recipe import Recipe

recipes, store, run = sys.argv[1:]
plan = {name: from_dict(Recipe, values) for name, values in json.loads(recipes).items()}
Recipe.read = lambda path: plan[path.stem]

def export(checkpoint, folder, depth, exits):
    assert checkpoint.exists() and not exits
    folder.mkdir()
    (folder / os.environ["RANK"]).touch()

phases.export_checkpoint = export
exported = phases.train_phases(Path("."), Path(store), Path(run), workers=0)
assert [folder.name for folder in exported] == ["model"]
"""


def test_the_command_of_the_docs(tmp_path):
    command = ["train", "run", "--recipe", "paper/pretrain", "--data", tmp_path, "--run", tmp_path]
    process = torchrun("-m", "fartrack", "--", *command)
    assert f"fartrack: {tmp_path} holds no prepared data" in process.stderr


def test_all_phases_in_two_processes(synthetic_store, recipe_of, tiny, tmp_path, one_thread, monkeypatch):
    plan = {phase: plain(recipe_of(phase), tiny) for phase in PHASES}
    assert 0 < sum(plan["sparsify"].rolls(step) for step in range(6)) < 6  # both kinds of batches are shared
    store, alone, shared = synthetic_store(), tmp_path / "alone", tmp_path / "shared"
    texts = json.dumps({phase: asdict(recipe) for phase, recipe in plan.items()})
    process = torchrun(script(tmp_path, ALL_PHASES), texts, store, shared)
    assert process.returncode == 0, process.stderr

    monkeypatch.setattr(phases.Recipe, "read", lambda path: plan[path.stem])
    monkeypatch.setattr(phases, "export_checkpoint", lambda *_: None)
    train_phases(tmp_path, store, alone, workers=0)
    for phase in PHASES:
        assert_same(alone / phase, shared / phase)
        (one,), (two,) = read_json_lines(alone / phase / LOG), read_json_lines(shared / phase / LOG)
        assert two["samples"] == one["samples"]
        for name in ("loss", "siou", "iou"):
            assert two[name] == pytest.approx(one[name], abs=5e-5)
        kinds = [sorted(path.name.split(".")[0] for path in (run / phase).iterdir()) for run in (alone, shared)]
        assert kinds[0] == kinds[1] == ["checkpoint", "events", "log", "samples"]
    assert [path.name for path in (shared / "model").iterdir()] == ["0"]


LOST = """
import json, os, signal, sys
from pathlib import Path
import fartrack.train.loop as loop
from fartrack.config import from_dict
from fartrack.train.recipe import Recipe

computed, count = loop.losses, 0

def losses(*arguments):
    global count
    count += 1
    if count == 5 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return computed(*arguments)

loop.losses = losses
recipe, store, run = sys.argv[1:]
loop.train(from_dict(Recipe, json.loads(recipe)), Path(store), Path(run), workers=0, save_every=3)
Path(f"{run}-{os.environ['RANK']}").write_text(str(count))
os._exit(0)  # PyTorch aborts at times when it takes down a group that was formed anew
"""


def test_a_lost_process_is_replaced(synthetic_store, recipe, tiny, tmp_path, one_thread):
    recipe, store = plain(recipe, tiny), synthetic_store()
    process = torchrun(script(tmp_path, LOST), json.dumps(asdict(recipe)), store, tmp_path / "shared", restarts=1)
    assert process.returncode == 0, process.stderr
    for rank in range(2):
        assert (tmp_path / f"shared-{rank}").read_text() == "3"  # steps 4 to 6, after the checkpoint
    train(recipe, store, tmp_path / "alone", workers=0)
    assert_same(tmp_path / "alone", tmp_path / "shared")


@pytest.mark.parametrize(
    ("kind", "sets", "clips", "sentence"),
    [
        ("pretrain", 3, 2, "sets is 3; it must be a multiple of the 2 processes."),
        ("sparsify", 2, 3, "clips is 3; it must be a multiple of the 2 processes."),
        ("pretrain", 2, 3, None),  # there are no clips in that phase
    ],
)
def test_uneven_shares_are_refused(synthetic_store, recipe_of, tmp_path, monkeypatch, kind, sets, clips, sentence):
    recipe = recipe_of(kind, sets=sets)
    recipe = replace(recipe, rollout=replace(recipe.rollout, clips=clips))
    group = Group(0, 2, torch.device("cpu"))
    monkeypatch.setattr(Group, "join", lambda device: group)
    monkeypatch.setattr(Group, "sum", lambda self, value: value)  # there is no other process
    if sentence is None:
        assert train(recipe, synthetic_store(), tmp_path / "run", workers=0) is not None
        return
    with pytest.raises(FartrackError) as error:
        train(recipe, synthetic_store(), tmp_path / "run", workers=0)
    assert str(error.value) == sentence
    assert not (tmp_path / "run").exists()


def test_gradients_are_summed_of_what_learns(tiny, monkeypatch):
    network = FARTrack(tiny())
    network.vocab.requires_grad_(False)
    network.bias.grad = torch.ones_like(network.bias)
    monkeypatch.setattr(Group, "sum", lambda self, value: 2 * value)  # the other process found the same
    Group(0, 2, torch.device("cpu")).sum_gradients(network)
    assert network.vocab.grad is None
    assert (network.bias.grad == 2).all() and (network.pos_x.grad == 0).all()


def test_a_process_alone_is_a_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    group = Group.join("cpu")
    assert (group.rank, group.size, group.device.type, group.restarted) == (0, 1, "cpu", False)
    value = torch.ones(3)
    assert group.sum(value) is value
    assert group.any(True) and not group.any(False)
