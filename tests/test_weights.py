"""Packages and named settings."""

import json

import pytest

import fartrack
from fartrack.engines import resolve
from fartrack.errors import FartrackError
from fartrack.weights import SHIPPED, open_package, shipped


def test_a_named_setting_is_another_model_with_settings_of_its_own():
    fast, base = open_package("pico-fast"), open_package("pico")
    assert "pico-fast" in shipped()
    assert (fast.folder, fast.config) == (base.folder, base.config)
    assert fast.settings == {**base.settings, **json.loads((SHIPPED / "pico-fast/model.json").read_text())["settings"]}
    assert fast.settings["least_window"] < 1
    assert fartrack.load("pico-fast", engine="onnxruntime").settings.least_window == fast.settings["least_window"]
    assert (resolve(base, "torch"), resolve(fast, "torch"), resolve(fast, "auto")) == ("torch", "torch", fast.engine)
    assert fast.engine == "onnxruntime-int8"


def test_a_setting_of_a_newer_format_is_refused(tmp_path):
    (tmp_path / "model.json").write_text(json.dumps({"format": 99, "of": "pico"}))
    with pytest.raises(FartrackError, match="of format 99, newer than this version reads; upgrade fartrack"):
        open_package(tmp_path)


@pytest.mark.parametrize("of", ["giant", 3, None, ["pico"]])
def test_a_setting_of_a_model_that_does_not_ship_is_none(tmp_path, of):
    (tmp_path / "model.json").write_text(json.dumps({"format": 1, "of": of, "settings": {}}))
    with pytest.raises(FartrackError, match="is no FARTrack model; give the folder of an exported one"):
        open_package(tmp_path)
