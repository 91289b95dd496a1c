"""Packages and named settings."""

import json

import pytest

import fartrack
from fartrack.engines.base import resolve
from fartrack.errors import FartrackError
from fartrack.model.config import DEPTHS, ModelConfig
from fartrack.packages import SHIPPED, open_package, shipped
from fartrack.tracking.calibration import Calibration


def test_a_named_setting_is_another_model_with_settings_of_its_own():
    fast, base = open_package("pico-fast"), open_package("pico")
    assert "pico-fast" in shipped()
    assert (fast.folder, fast.config) == (base.folder, base.config)
    assert fast.settings == {**base.settings, **json.loads((SHIPPED / "pico-fast/model.json").read_text())["settings"]}
    assert fast.settings["least_window"] < 1
    assert fartrack.load("pico-fast", engine="onnxruntime").settings.least_window == fast.settings["least_window"]
    assert (resolve(base, "torch"), resolve(fast, "torch"), resolve(fast, "auto")) == ("torch", "torch", fast.engine)
    assert fast.engine == "onnxruntime-int8"


def test_the_three_variants_are_one_network_and_its_exits():
    """In one file of weights; each with a card of its own."""
    packages = {name: open_package(name) for name in DEPTHS}
    assert {name: package.config.depth for name, package in packages.items()} == DEPTHS
    assert {package.folder for package in packages.values()} == {(SHIPPED / "tiny").resolve()}
    assert len(list(SHIPPED.glob("*/*.safetensors"))) == 1
    for name in shipped():
        assert (SHIPPED / name / "CARD.md").read_text().startswith(f"# Model card: {name}\n")
    assert all(package.calibration for package in packages.values())


def test_a_model_may_be_meant_for_an_engine(tmp_path):
    """Whoever names none gets that one; whoever names another gets it."""
    (tmp_path / "model.json").write_text(json.dumps({"format": 1, "config": {"depth": 6}, "engine": "openvino"}))
    package = open_package(tmp_path)
    assert (package.engine, resolve(package, "auto"), resolve(package, "torch")) == ("openvino", "openvino", "torch")


def test_a_setting_of_a_newer_format_is_refused(tmp_path):
    (tmp_path / "model.json").write_text(json.dumps({"format": 99, "of": "pico"}))
    with pytest.raises(FartrackError, match="of format 99, newer than this version reads; upgrade fartrack"):
        open_package(tmp_path)


@pytest.mark.parametrize("of", [3, None, ["pico"]])
def test_a_variant_of_what_is_no_name_is_none(tmp_path, of):
    (tmp_path / "model.json").write_text(json.dumps({"format": 1, "of": of, "settings": {}}))
    with pytest.raises(FartrackError, match="is no FARTrack model; give the folder of an exported one"):
        open_package(tmp_path)


@pytest.fixture
def models(tmp_path):
    """A function that writes models by name, each its ``model.json`` only, and returns the first one's folder."""

    def write(**records):
        for name, record in records.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "model.json").write_text(json.dumps({"format": 2, **record}))
        return tmp_path / next(iter(records))

    return write


WHOLE = {"config": {"depth": 15}, "settings": {"retention": 0.75, "sure_score": 0.4}}


def test_an_exit_is_a_shallower_network_of_the_same_weights(models):
    folder = models(
        pico={"of": "../nano", "depth": 6, "settings": {"sure_score": 0.5}},
        nano={"of": "../tiny", "depth": 10},
        tiny=WHOLE,
    )
    pico, nano, tiny = (open_package(folder.parent / name) for name in ("pico", "nano", "tiny"))
    assert [package.config for package in (pico, nano)] == [ModelConfig(depth=6), ModelConfig(depth=10)]
    assert {package.folder.resolve() for package in (pico, nano, tiny)} == {tiny.folder.resolve()}
    assert [package.layers for package in (pico, nano, tiny)] == [15, 15, 15]
    assert (nano.settings, pico.settings) == (WHOLE["settings"], {"retention": 0.75, "sure_score": 0.5})
    for package, name in ((pico, "search-6.onnx"), (nano, "search-10.onnx"), (tiny, "search.onnx")):
        (tiny.folder / name).touch()
        assert package.graph("search") == package.folder / name
    with pytest.raises(FartrackError, match=r"tiny lacks search_int8-6.onnx; use another engine"):
        pico.graph("search_int8")


def test_a_calibration_is_inherited_by_the_same_network_alone(models):
    score = {"slope": 2.0, "bias": 0.5}
    folder = models(
        fast={"of": "../tiny"},
        pico={"of": "../tiny", "depth": 6},
        own={"of": "../pico", "score": score},
        tiny={**WHOLE, "score": score},
    ).parent
    fast, pico, own = (open_package(folder / name) for name in ("fast", "pico", "own"))
    assert fast.calibration == own.calibration == Calibration(**score) and pico.calibration is None


@pytest.mark.parametrize("depth", [0, 16, -1, 2.5, "six", True, None])
def test_an_exit_that_the_network_has_not_is_refused(models, depth):
    folder = models(pico={"of": "../tiny", "depth": depth}, tiny=WHOLE)
    with pytest.raises(FartrackError, match=r"pico.model.json: depth is .*tiny has exits 1 to 15"):
        open_package(folder)


@pytest.mark.parametrize("of", ["giant", "../tiny", "x" * 300, "\0", "../file"])
def test_a_variant_of_what_is_not_there_is_refused(models, of):
    folder = models(pico={"of": of})
    (folder.parent / "file").touch()
    with pytest.raises(FartrackError, match=r"pico.* is .*no FARTrack model; (put that one there, or|give the folder)"):
        open_package(folder)


@pytest.mark.parametrize("of", ["", ".", "../pico", "../nano"])
def test_a_variant_of_itself_is_refused(models, of):
    folder = models(pico={"of": of}, nano={"of": "../tiny"}, tiny={"of": "../pico"})
    with pytest.raises(FartrackError, match=r"is a variant of itself; correct 'of' in its model.json"):
        open_package(folder)


def test_a_variant_of_a_newer_format_is_refused(models):
    folder = models(pico={"of": "../tiny", "depth": 6}, tiny={**WHOLE, "format": 3})
    with pytest.raises(FartrackError, match="tiny is of format 3, newer than this version reads"):
        open_package(folder)
