"""Model packages: folders with a ``model.json``, and presets of their settings."""

import json
from dataclasses import replace

import pytest

import fartrack
from fartrack.engines.opening import resolve
from fartrack.errors import FartrackError
from fartrack.model.calibration import Calibration
from fartrack.model.config import DEPTHS, ModelConfig
from fartrack.packages import SHIPPED, open_package, shipped


@pytest.fixture
def model(tmp_path):
    """A function that writes a ``model.json`` into a folder of this name, which it returns."""

    def write(name="own", **record):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.json").write_text(json.dumps({"format": 6, "config": {"depth": 6}, **record}))
        return tmp_path / name

    return write


def test_a_preset_is_the_same_model_with_other_settings():
    fast, base = open_package("pico-fast"), open_package("pico")
    assert "pico-fast" in shipped()
    assert (fast.network, fast.config, fast.calibration) == (base.network, base.config, base.calibration)
    assert fast.settings == {**base.settings, "min_window": 0.42, "min_template": 0.7, "templates": 3} != base.settings
    settings = fartrack.load("pico-fast").settings
    assert (settings.min_window, settings.templates) == (0.42, 3)
    assert resolve(fast) == resolve(base) == ("onnxruntime", "int8")


def test_the_papers_setting_is_a_preset_of_every_model():
    paper = fartrack.load(preset="paper", threads=1).settings
    assert (paper.interval, paper.templates, paper.retention, paper.min_window) == (1, 5, 0.75, 1)
    assert paper.template_score == paper.agreement == paper.hold_score == paper.lost_score == 0  # of any frame
    assert paper == fartrack.load("pico-fast", preset="paper").settings == fartrack.load("pico-paper").settings
    assert fartrack.load("pico", preset="fast").settings == fartrack.load("pico-fast").settings
    with pytest.raises(FartrackError, match=r"no preset 'slow'; those are paper, fast"):
        fartrack.load(preset="slow")
    assert fartrack.load(preset="paper", interval=3).settings == replace(paper, interval=3)


def test_the_papers_update_takes_every_frame_and_prunes_on_the_next(demo_clip):
    frames, truth = demo_clip
    tracker = fartrack.load(preset="paper", threads=1)
    tracker.init(frames[0], truth[0])
    for frame in frames[1:7]:
        tracker.update(frame)
    memory = tracker.state.memory
    assert [template.frame for template in memory.history] == list(range(7))
    assert [memory.history[place].frame for place in memory.chosen] == [0, 1, 3, 4, 6]  # the first and the newest
    assert [template.kv_cache.shape[-2] for template in memory.history] == [37] * 6 + [49]


def test_one_network_ships():
    """A package of six layers with a card."""
    assert shipped() == ["pico", "pico-fast"]
    package = open_package("pico")
    assert package.config.depth == package.layers == DEPTHS["pico"]
    assert package.network == package.folder == SHIPPED / "pico"
    assert [path.parent for path in SHIPPED.rglob("*.safetensors")] == [SHIPPED / "pico"]
    assert (package.folder / "CARD.md").read_text().startswith("# Model card: pico\n")
    assert package.calibration


def test_a_model_says_what_it_is(model):
    folder = model(
        network="../deep",
        precision="int8",
        settings={"retention": 0.75},
        score={"slope": 2, "bias": 1},
        presets={"fast": {"min_window": 0.5, "retention": 0.5}, "a-b": {}},
    )
    package, fast = open_package(folder), open_package(f"{folder}-fast")
    assert package.network == folder.parent / "deep" and package.config == ModelConfig(depth=6)
    assert (package.precision, package.calibration) == ("int8", Calibration(2, 1))
    assert package.settings == {"retention": 0.75} and fast.settings == {"min_window": 0.5, "retention": 0.5}
    (folder.parent / "deep").mkdir()
    (folder.parent / "deep" / "search-6.onnx").touch()
    assert package.graph("search") == folder.parent / "deep" / "search-6.onnx"
    with pytest.raises(FartrackError, match=r"own lacks search_int8-6.onnx; use precision fp32, or export it anew"):
        package.graph("search_int8")


def test_a_model_that_says_little_has_the_defaults(model):
    package = open_package(model())
    assert (package.network, package.precision, package.settings, package.calibration) == (
        package.folder,
        "fp32",
        {},
        None,
    )


@pytest.mark.parametrize(
    ("engine", "precision", "expected"),
    [
        ("auto", None, ("onnxruntime", "int8")),
        ("onnxruntime", None, ("onnxruntime", "int8")),
        ("onnxruntime", "fp32", ("onnxruntime", "fp32")),
        ("openvino", None, ("openvino", "fp32")),
        ("openvino", "bf16", ("openvino", "bf16")),
        ("torch", "fp32", ("torch", "fp32")),
        ("torch", None, ("torch", "fp32")),
        ("onnxruntime", "bf16", "engine onnxruntime has no precision bf16; use openvino, or precision fp32 or int8"),
        ("torch", "int8", "engine torch has no precision int8; use onnxruntime, or precision fp32"),
        ("tensorrt", None, "no engine 'tensorrt'; those are auto, onnxruntime, openvino, torch"),
        ("auto", "int4", "no precision 'int4'; those are fp32, bf16, int8"),
    ],
)
def test_a_model_is_meant_for_a_precision_where_the_engine_has_it(engine, precision, expected):
    package = open_package("pico")
    if isinstance(expected, tuple):
        assert resolve(package, engine, precision) == expected
    else:
        with pytest.raises(FartrackError, match=expected):
            resolve(package, engine, precision)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"format": 99}, "is of format 99, and this version reads 6; upgrade fartrack"),
        ({"format": 2, "of": "pico"}, "is of format 2, and this version reads 6; export it anew"),
        ({"format": 3}, "is of format 3, and this version reads 6; export it anew"),
        ({"format": 1}, "is of format 1, .*export it anew"),
        ({"format": None}, "is no FARTrack model; give the folder of an exported one"),
        ({"network": 3}, "is no FARTrack model"),
        ({"config": [6]}, "is no FARTrack model"),
        ({"config": None}, "is no FARTrack model"),
        ({"config": {"depht": 6}}, r"own.model\.json: 'depht' is no field of ModelConfig"),
        ({"settings": 0.5}, "is no FARTrack model"),
        ({"presets": {"fast": 0.5}}, "is no FARTrack model"),
        ({"presets": ["fast"]}, "is no FARTrack model"),
        ({"precision": "int4"}, r"own.model\.json: precision is 'int4'; it must be one of fp32, int8"),
    ],
)
def test_what_is_no_model_of_this_format_is_refused(model, record, words):
    with pytest.raises(FartrackError, match=words):
        open_package(model(**record))


@pytest.mark.parametrize("name", ["giant", "pico-slow", "pico-", "-fast", "-", "x" * 300, "\0", "absent/model"])
def test_an_unknown_name_is_told_with_those_that_exist(name):
    with pytest.raises(FartrackError, match=r"no model .*use pico or pico-fast|pico has no preset"):
        open_package(name)


def test_parameters_are_counted_without_torch(model, tmp_path):
    pytest.importorskip("torch")
    from fartrack.model.encoder import FARTrack

    whole = open_package("pico")
    for package in (whole, replace(whole, config=replace(whole.config, depth=4))):
        state = FARTrack(package.config).state_dict()
        own = sum(tensor.numel() for key, tensor in state.items() if not key.startswith("aux."))
        assert package.parameters == own
    (tmp_path / "weights.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(FartrackError, match=r"weights\.safetensors holds no readable weights"):
        _ = replace(package, network=tmp_path).parameters


def test_an_unknown_preset_is_told_with_those_that_exist(model):
    with pytest.raises(FartrackError, match=r"pico has no preset 'slow'; it has paper, fast\."):
        open_package("pico-slow")
    with pytest.raises(FartrackError, match=r"own has no preset 'fast'; it has paper\."):
        open_package(f"{model()}-fast")


def test_a_folder_that_is_no_model_is_named(tmp_path):
    with pytest.raises(FartrackError, match="is no FARTrack model"):
        open_package(tmp_path)
    (tmp_path / "model.json").write_text("[" * 100_000)
    with pytest.raises(FartrackError, match="is no FARTrack model"):
        open_package(tmp_path)
