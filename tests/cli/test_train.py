"""The whole way on the command line: prepare, train, resume, export, track."""

import json
import resource
import sys

import av
import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra 'train' is not installed")

import torch

import fartrack.export
from fartrack.cli import main
from fartrack.train.data.store import Store
from fartrack.train.state import load_checkpoint

RECIPE = """
steps = {steps}
sets = 2
templates = [1, 2]
warmup = 0
decay = 0
precision = "fp32"

[model]
depth = 2
width = 24
heads = 3
template_size = 32
search_size = 64
templates = 2

[sampling]
stills = 0.0
"""


@pytest.fixture
def run(monkeypatch, capsys):
    """A function that runs the command and returns its exit code, output and error output."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fartrack", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture
def videos(tmp_path):
    """A folder with one packed video of a red square on noise, one frame without it."""
    folder = tmp_path / "videos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    with av.open(str(folder / "square.mp4"), "w") as container:
        stream = container.add_stream("libx264", 25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for i in range(12):
            image = rng.integers(60, 120, (96, 128, 3), np.uint8)
            image[30:54, 20 + 3 * i : 44 + 3 * i] = (30, 30, 220)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode())
    lines = [f"{20 + 3 * i},30,24,24" for i in range(12)]
    lines[5] = "0,0,0,0"
    (folder / "square.txt").write_text("\n".join(lines))
    return folder


def test_from_videos_to_a_tracker(tmp_path, videos, run):
    store, training = tmp_path / "store", tmp_path / "run"
    code, out, _ = run("train", "prepare", videos, "--data", store)
    assert code == 0
    assert "12 pictures" in out and "skipped 1: frame whose target is absent or too small" in out

    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(steps=2))
    pretrain = ("train", "run", "--recipe", recipe, "--data", store, "--run", training, "--workers", 0)
    assert run(*pretrain)[0] == 0
    code, _, err = run(*pretrain)
    assert code == 2 and "holds a run already" in err
    recipe.write_text(RECIPE.format(steps=4))
    assert run(*pretrain, "--resume")[0] == 0

    checkpoint, csv = training / "checkpoint.safetensors", tmp_path / "out.csv"
    assert run("export", checkpoint, tmp_path / "shallow", "--depth", 1, "--int8", "none")[0] == 0
    assert (tmp_path / "shallow" / "search-1.onnx").exists() and not [*(tmp_path / "shallow").glob("*int8*")]
    options = ("--box", "20,30,24,24", "--model", tmp_path / "shallow", "--csv", csv)
    code, _, err = run("track", videos / "square.mp4", *options)
    assert code == 0, err
    assert len(csv.read_text().splitlines()) == 1 + 12


def test_exits_and_means_are_exported(tmp_path, trained, run, monkeypatch):
    monkeypatch.setattr(fartrack.export, "graphs", lambda network: {})  # tracing takes seconds
    checkpoint = tmp_path / "first" / "checkpoint.safetensors"
    models = tmp_path / "not" / "yet"  # it is made
    code, out, _ = run("export", checkpoint, models / "model", "--exits", "shallow=1", "--mean", checkpoint)
    assert code == 0 and out.splitlines() == [f"saved {models / name}" for name in ("model", "shallow")]
    assert json.loads((models / "model" / "model.json").read_text())["mean_of"] == 2
    assert json.loads((models / "shallow" / "model.json").read_text())["config"]["depth"] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--exits", "6,10"), "exits is '6,10'; give names and depths, such as nano=10,pico=6."),
        (("--exits", "pico=six"), "exits is 'pico=six'; give names"),
        (("--int8", "6,all"), "int8 is '6,all'; give depths, such as 6,15, or none."),
    ],
)
def test_exits_that_cannot_be_read_are_one_sentence(tmp_path, run, options, words):
    code, _, err = run("export", tmp_path / "run.safetensors", tmp_path / "model", *options)
    assert code == 2 and words in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("steps = 2", "steps = 0"), "steps is 0"),
        (("sets = 2", "sats = 2"), "'sats' is no field of Recipe"),
        (("depth = 2", "depth = 40"), "depth is 40"),
        (("stills = 0.0", "stills = 2"), "stills is 2"),
        (("steps = 2", "steps = "), "no valid TOML"),
    ],
)
def test_a_bad_recipe_is_one_sentence(tmp_path, run, change, words):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(steps=2).replace(*change))
    code, _, err = run("train", "run", "--recipe", recipe, "--data", tmp_path, "--run", tmp_path / "run")
    assert code == 2 and words in err and str(recipe) in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.fixture
def trained(tmp_path, videos, run):
    """A recipe, prepared data and a run of two steps; the options that begin another."""
    assert run("train", "prepare", videos, "--data", tmp_path / "store")[0] == 0
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(steps=2))
    options = ("--recipe", recipe, "--data", tmp_path / "store", "--workers", 0)
    assert run("train", "run", *options, "--run", tmp_path / "first")[0] == 0
    return options


def test_a_phase_starts_from_the_weights_of_another(tmp_path, trained, run):
    recipe = trained[1]
    recipe.write_text("learning_rate = 0.0\nhead_learning_rate = 0.0\nfirst_exit = 1\n" + RECIPE.format(steps=1))
    start = tmp_path / "first" / "checkpoint.safetensors"
    code, out, err = run("train", "run", *trained, "--run", tmp_path / "second", "--start", start)
    assert code == 0, err
    assert "saved" in out
    one, two = load_checkpoint(start), load_checkpoint(tmp_path / "second" / "checkpoint.safetensors")
    for name, tensor in one.part("ema").items():
        torch.testing.assert_close(two.part("model")[name], tensor)
    code, _, err = run("train", "run", *trained, "--run", tmp_path / "third", "--start", tmp_path / "absent")
    assert code == 2 and "absent" in err and err.count("\n") == 1


def test_a_run_that_is_stopped_says_how_to_go_on(tmp_path, trained, run):
    options = ("train", "run", *trained, "--run", tmp_path / "second")
    code, out, _ = run(*options, "--minutes", 0)
    assert code == 0 and "stopped before the end" in out and "add --resume to go on" in out
    assert load_checkpoint(tmp_path / "second" / "checkpoint.safetensors").step == 1
    code, out, _ = run(*options, "--resume", "--until", 2)
    assert code == 0 and "stopped before" not in out and "saved" in out
    assert load_checkpoint(tmp_path / "second" / "checkpoint.safetensors").step == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("sets = 2", "sets = 3"), "another recipe: sets (2, now 3)"),
        (("sets = 2", "sets = 2\nlearning_rate = 0.003"), "learning_rate (0.0003, now 0.003)"),
        (("stills = 0.0", "stills = 0.5"), "sampling.stills (0.0, now 0.5)"),
        (("depth = 2", "depth = 3"), "model.depth (2, now 3)"),
        (("steps = 2", "steps = 1"), "steps is 1, and 2 are done"),
    ],
)
def test_a_run_does_not_go_on_with_another_recipe(tmp_path, trained, run, change, words):
    checkpoint = tmp_path / "first" / "checkpoint.safetensors"
    before = checkpoint.read_bytes()
    trained[1].write_text(RECIPE.format(steps=2).replace(*change))
    code, _, err = run("train", "run", *trained, "--run", tmp_path / "first", "--resume")
    assert code == 2 and words in err and err.count("\n") == 1
    assert checkpoint.read_bytes() == before


@pytest.mark.parametrize(
    ("device", "words"), [("foo", "device is 'foo'; it must be cpu or cuda."), ("cuda", "PyTorch finds no GPU here")]
)
def test_a_device_that_is_not_there_is_one_sentence(tmp_path, run, device, words, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = ("--recipe", "shipped/3-light", "--data", tmp_path, "--run", tmp_path / "run", "--device", device)
    code, _, err = run("train", "run", *options)
    assert code == 2 and words in err and err.count("\n") == 1


def test_a_full_disk_is_one_sentence(tmp_path, trained, run):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        code, _, err = run("train", "run", *trained, "--run", tmp_path / "second")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 2 and "checkpoint.safetensors cannot be written" in err and err.count("\n") == 1
    assert not list((tmp_path / "second").glob("*.part"))


def test_fewer_and_smaller_frames(tmp_path, videos, run):
    code, out, _ = run("train", "prepare", videos, "--data", tmp_path, "--every", 5, "--longest", 64)
    assert code == 0
    assert "3 pictures" in out and "skipped 1: frame whose target is absent or too small" in out
    store = Store.open(tmp_path)
    assert store.sizes.tolist() == [[64, 48]] * 3
    assert store.boxes.tolist() == [[10, 15, 12, 12], [25, 15, 12, 12]]
    store_options = ("train", "prepare", videos, "--data", tmp_path)
    assert run(*store_options, "--every", 0)[0] == 2
    assert run(*store_options, "--longest", 0)[0] == 2


def test_a_wrong_source_leaves_the_prepared_data_alone(tmp_path, videos, run):
    store = tmp_path / "store"
    assert run("train", "prepare", videos, "--data", store)[0] == 0
    before = {path.name: path.read_bytes() for path in store.iterdir()}
    (tmp_path / "empty").mkdir()
    for wrong in ("absent", "empty"):
        code, out, err = run("train", "prepare", videos, tmp_path / wrong, "--data", store)
        assert code == 2 and wrong in err and err.count(".\n") == 1 and not out
    assert {path.name: path.read_bytes() for path in store.iterdir()} == before


def test_data_that_do_not_exist_are_one_sentence(tmp_path, run):
    code, _, err = run("train", "run", "--recipe", "shipped/3-light", "--data", tmp_path, "--run", tmp_path / "run")
    assert code == 2 and "holds no prepared data" in err and err.count("\n") == 1


def test_the_recipes_that_ship_are_listed_and_shown(run, tmp_path):
    code, out, _ = run("train", "recipes")
    assert code == 0
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert {"gpu/pretrain", "paper/sparsify", "shipped/7-bent"} <= lines.keys()
    assert lines["paper/pretrain"].startswith("Phase 1 as published")
    code, out, _ = run("train", "recipes", "paper/sparsify")
    assert code == 0 and "head_learning_rate = 4e-06  # default: 0.001" in out
    assert out.startswith("# Phase 3 as published")
    mine = tmp_path / "mine.toml"
    mine.write_text(out)
    assert run("train", "recipes", mine)[1] == out  # what is printed is a recipe
    code, _, err = run("train", "recipes", "pico")
    assert code == 2 and "No recipe 'pico' ships" in err and err.count("\n") == 1


def test_the_commands_that_train_share_their_options(run):
    options = {}
    for name in ("run", "all"):
        code, out, _ = run("train", name, "--help")
        assert code == 0
        options[name] = {word for word in out.split() if word.startswith("--") and word[2:].replace("-", "").isalpha()}
    shared = {"--data", "--run", "--start", "--workers", "--device", "--compile", "--minutes", "--val", "--val-every"}
    assert shared <= options["run"] & options["all"]
    assert options["run"] - options["all"] == {"--recipe", "--resume", "--until"}
    assert options["all"] - options["run"] == {"--recipes", "--rehearse"}
