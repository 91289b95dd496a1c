"""An exported package computes in every engine what the network computes, from one copy of the weights."""

import copy
import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import onnx
import torch
from safetensors import safe_open

import fartrack
import fartrack.export as module
from fartrack.engines.base import encode_templates
from fartrack.engines.opening import open_engine
from fartrack.errors import FartrackError
from fartrack.export import WEIGHTS, WEIGHTS_INT8, export
from fartrack.model.config import ModelConfig
from fartrack.model.encoder import FARTrack
from fartrack.model.init_weights import load_weights
from fartrack.model.vocabulary import BINS, NO_TRAJECTORY
from fartrack.packages import open_package

GRAPHS = ("template", "template_rest", "search", "search_scored")  # the second not with joint attention
INT8 = tuple(f"{graph}_int8" for graph in GRAPHS)

# All engines compute in single precision from the same half-precision weights, but sum in another order, and some
# use their own exp and erf. Rows and logits here are of size 1 to 10 with roundings of 1e-7 relative, which four
# layers raise to some 1e-6; a wrong weight, bias or axis is off by 1e-2 and more.
TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(scope="module", autouse=True)
def traced_once():
    """Tracing takes seconds, so each graph of the same network is traced once."""
    trace, traced = module._to_onnx, {}

    def once(graph):
        network = graph.module.network
        weights = b"".join(tensor.numpy().tobytes() for tensor in network.state_dict().values())
        key = network.config, *graph.outputs, weights
        if key not in traced:
            traced[key] = trace(graph)
        return copy.deepcopy(traced[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_to_onnx", once)
        yield


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """A function that exports a random network of either attention, once: network, folder, weights before."""

    @functools.cache
    def make(attention):
        config = ModelConfig(
            depth=4, width=24, heads=3, template_size=32, search_size=64, templates=3, attention=attention
        )
        network, generator = FARTrack(config), torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator) + ("norm" in name))
        folder = tmp_path_factory.mktemp("export") / "model"
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        export(network, folder, {"name": "a test"})
        return network, folder, before

    return make


@pytest.fixture(params=["cached", "joint"])
def exported(request, exports):
    return exports(request.param)


@pytest.fixture(params=["onnxruntime", "openvino"])
def engines(request, exported):
    """The reference in PyTorch, out of the same package, and another engine."""
    pytest.importorskip(request.param)
    package = open_package(exported[1])
    return open_engine(package, "torch"), open_engine(package, request.param, 1, "fp32")


def inputs(config, B, T, seed=0):
    rng = np.random.default_rng(seed)
    z, x = config.template_size, config.search_size
    templates = rng.integers(0, 256, (T, z, z, 3), np.uint8)
    identities = np.minimum(np.arange(T), config.identities - 1)
    boxes = np.sort(rng.random((T, 2, 2), np.float32), axis=1).reshape(T, 4)
    search = rng.integers(0, 256, (B, x, x, 3), np.uint8)
    trajectory = rng.integers(0, BINS, (B, 4 * config.trajectory))
    trajectory[0, :4] = NO_TRAJECTORY
    return (templates, identities, boxes), search, trajectory


def cache_of(singles, B, kept=None):
    """The kv_cache of all templates joined, the same for each of B targets."""
    joined = np.concatenate(list(singles), axis=-2)[None]
    if kept is not None:
        joined = joined[..., kept, :]
    return np.ascontiguousarray(np.repeat(joined, B, axis=0))


@pytest.mark.parametrize(("B", "T", "kept"), [(1, 1, None), (1, 3, None), (2, 3, None), (5, 2, [0, 3, 4]), (3, 1, [2])])
def test_engines_agree(engines, B, T, kept):
    reference, engine = engines
    templates, search, trajectory = inputs(reference.config, B, T)
    singles = encode_templates(reference, *templates)
    np.testing.assert_allclose(encode_templates(engine, *templates), singles, **TOLERANCE)
    kv_cache = cache_of(singles, B, kept)
    logits, attention = reference.search_scored(search, trajectory, kv_cache)
    assert logits.shape == (B, 4, BINS)
    assert attention.shape == (B, kv_cache.shape[-2])
    assert logits.std() > 0.3  # otherwise the tolerance would prove nothing
    np.testing.assert_allclose(engine.search(search, trajectory, kv_cache), logits, **TOLERANCE)
    own_logits, own_attention = engine.search_scored(search, trajectory, kv_cache)
    np.testing.assert_allclose(own_logits, logits, **TOLERANCE)
    np.testing.assert_allclose(own_attention, attention, **TOLERANCE)


def test_engines_agree_on_templates_of_which_the_last_layers_are_given_some_tokens(engines):
    if engines[0].config.attention == "joint":
        pytest.skip("all layers of joint attention are one")
    (templates, identities, boxes), _, _ = inputs(engines[0].config, 1, 3)
    tokens = engines[0].begin_templates(templates, identities, boxes)[1]
    found = [each.finish_templates(np.ascontiguousarray(tokens[:, :, [0, 1, 3]])) for each in engines]
    assert found[0].shape[-2] == 3 and found[0].std() > 0.3
    np.testing.assert_allclose(found[1], found[0], **TOLERANCE)


def test_every_input_reaches_the_graphs(engines):
    _, engine = engines
    templates, search, trajectory = inputs(engine.config, 2, 2)
    crops, identities, boxes = templates
    singles = encode_templates(engine, *templates)
    for changed in (
        (255 - crops, identities, boxes),
        (crops, 1 - identities, boxes),
        (crops, identities, np.zeros_like(boxes)),
        (crops, identities, np.ascontiguousarray(boxes[:, [1, 0, 3, 2]])),
    ):
        assert np.abs(encode_templates(engine, *changed) - singles).max() > 0.01
    kv_cache = cache_of(singles, 2)
    logits = engine.search(search, trajectory, kv_cache)
    for changed in (
        (255 - search, trajectory, kv_cache),
        (search, (trajectory + 50) % BINS, kv_cache),
        (
            search,
            trajectory,
            kv_cache + np.float32(0.5) * np.random.default_rng(0).standard_normal(kv_cache.shape, np.float32),
        ),
    ):
        assert np.abs(engine.search(*changed) - logits).max() > 0.01


def test_the_torch_engine_computes_what_was_exported(exported):
    network, folder, _ = exported
    engine = open_engine(open_package(folder), "torch")
    templates, search, trajectory = inputs(network.config, 2, 2)
    with torch.no_grad():
        kv_cache = network.encode_templates(*(torch.from_numpy(np.stack([array] * 2)) for array in templates))
        expected = network(torch.from_numpy(search), torch.from_numpy(trajectory), kv_cache).logits_B4V
    joined = cache_of(encode_templates(engine, *templates), 2)
    np.testing.assert_allclose(joined, kv_cache, **TOLERANCE)
    np.testing.assert_allclose(engine.search(search, trajectory, joined), expected, **TOLERANCE)


def test_the_weights_are_half_precision_and_complete(exported):
    network, folder, before = exported
    with safe_open(folder / WEIGHTS, framework="np") as file:
        names = set(file.keys())
        assert {file.get_slice(name).get_dtype() for name in names} == {"F16"}
    assert names == set(network.state_dict())
    for name, tensor in load_weights(folder / WEIGHTS).items():
        assert torch.equal(tensor, before[name].half().float())
        assert torch.equal(tensor, network.state_dict()[name])  # the network computes what its package does


def path_of(exported, graph):
    """The file of a graph; the test is skipped if there is none with joint attention, which splits no templates."""
    network, folder, _ = exported
    if network.config.attention == "joint" and graph.startswith("template_rest"):
        pytest.skip("with joint attention templates are not split")
    return folder / f"{graph}-4.onnx"


@pytest.mark.parametrize("graph", GRAPHS)
def test_graphs_share_one_copy_of_the_weights(exported, graph):
    assert_weights_are_shared(path_of(exported, graph))


def assert_weights_are_shared(graph):
    folder, model, shared = graph.parent, onnx.load(graph, load_external_data=False), 0
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place = {entry.key: entry.value for entry in tensor.external_data}
            assert place["location"] == WEIGHTS
            assert int(place["offset"]) + int(place["length"]) <= (folder / WEIGHTS).stat().st_size
            assert tensor.data_type == onnx.TensorProto.FLOAT16
            shared += 1
        else:
            assert np.prod(tensor.dims) < 64, tensor.name
    assert shared > 10 or (graph.name.startswith("template") and shared >= 1)
    for node in model.graph.node:
        for attribute in node.attribute:
            assert np.prod(attribute.t.dims) < 64, node.name  # nor as a constant


def test_the_package_is_these_files(exported):
    network, folder, _ = exported
    graphs = {f"{graph}-4.onnx" for graph in (*GRAPHS, *INT8)}
    if network.config.attention == "joint":
        graphs -= {"template_rest-4.onnx", "template_rest_int8-4.onnx"}
    assert {path.name for path in folder.iterdir()} == {"model.json", WEIGHTS, WEIGHTS_INT8, *graphs}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # nothing is left beside it
    record = json.loads((folder / "model.json").read_text())
    assert record["name"] == "a test"


@pytest.mark.parametrize("graph", [*GRAPHS, *INT8])
def test_nothing_tells_of_the_exporting_machine(exported, graph):
    content = path_of(exported, graph).read_bytes()
    content = content.replace(b"org.pytorch", b"")  # the domain of an operator set
    for trace in (b"site-packages", str(Path.home()).encode(), b"/usr/", b".py", str(exported[1]).encode()):
        assert trace not in content


@pytest.mark.parametrize("graph", GRAPHS)
def test_graphs_are_valid_and_dynamic(exported, graph):
    path = path_of(exported, graph)
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(str(path))
    assert {entry.domain for entry in model.opset_import} <= {"", "pkg.onnxscript.torch_lib.common"}
    axes = {i.name: [d.dim_param for d in i.type.tensor_type.shape.dim if d.dim_param] for i in model.graph.input}
    if graph == "template":
        assert list(axes.items()) == [("templates", ["T"]), ("identities", ["T"]), ("boxes", ["T"])]
    elif graph == "template_rest":
        assert axes == {"tokens": ["T", "M"]}
    else:
        _, height, width = axes["search"]
        assert height != width  # either side on its own
        config = exported[0].config
        count = 2 * config.depth if config.attention == "cached" else 1
        caches = {f"kv_cache_{i}": ["B", "M"] for i in range(count)}
        assert axes == {"search": ["B", height, width], "trajectory": ["B"]} | caches


@pytest.fixture(scope="module")
def exits(exports, tmp_path_factory):
    """The folders of a model of five layers, of its exit after four, and of these two exported on their own."""
    shallow, alone, _ = exports("cached")
    deep = FARTrack(replace(shallow.config, depth=5))
    with torch.no_grad():
        for name, parameter in deep.named_parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape) + ("norm" in name))
    deep.load_state_dict(shallow.state_dict(), strict=False)
    folder = tmp_path_factory.mktemp("exits") / "deep"
    export(deep, folder, {"settings": {"retention": 0.5}}, exits={"shallow": 4}, int8=[4])
    return folder, folder.parent / "shallow", alone


def outputs(package, engine="onnxruntime", precision="fp32"):
    """Caches, logits, and logits with attention, that a model finds for inputs at random."""
    opened = open_engine(package, engine, 1, precision)
    templates, search, trajectory = inputs(package.config, 2, 3)
    singles = encode_templates(opened, *templates)
    shown = (search, trajectory, cache_of(singles, 2))
    return singles, opened.search(*shown), *opened.search_scored(*shown)


@pytest.mark.parametrize("kind", ["onnxruntime", "onnxruntime int8", "openvino", "torch"])
def test_an_exit_is_what_its_layers_are_alone(exits, kind):
    pytest.importorskip(kind.split()[0])
    kind = kind.split() if " " in kind else [kind, "fp32"]
    deep, shallow, alone = map(open_package, exits)
    assert (shallow.config, shallow.layers, shallow.network) == (alone.config, 5, deep.folder.resolve())
    assert shallow.settings == deep.settings == {"retention": 0.5}
    found, expected = outputs(shallow, *kind), outputs(alone, *kind)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, **TOLERANCE)
    if "int8" not in kind:
        assert np.abs(outputs(deep, *kind)[1] - found[1]).max() > 0.1  # the fifth layer did something


def test_an_exit_has_no_weights_of_its_own(exits):
    deep, shallow, _ = exits
    names = {f"{graph}{exit}.onnx" for graph in GRAPHS for exit in ("-5", "-4")} | {f"{graph}-4.onnx" for graph in INT8}
    assert {path.name for path in deep.iterdir()} == {"model.json", WEIGHTS, WEIGHTS_INT8, *names}
    assert {path.name for path in deep.parent.iterdir()} == {"deep", "shallow"}
    assert [path.name for path in shallow.iterdir()] == ["model.json"]
    record = json.loads((shallow / "model.json").read_text())
    assert record | {"config": record["config"]["depth"]} == {
        "format": 6,
        "network": "../deep",
        "layers": 5,
        "config": 4,
        "settings": {"retention": 0.5},
    }
    for graph in GRAPHS:
        assert_weights_are_shared(deep / f"{graph}-4.onnx")


def test_exits_share_their_int8_weights(exits, tmp_path):
    """Five layers and four of them: what the fifth adds, and what is cut otherwise where a network ends, is all."""
    network = FARTrack(open_package(exits[0]).config)
    network.load_state_dict(load_weights(exits[0] / WEIGHTS))
    export(network, tmp_path / "both", exits={"shallow": 4})
    export(network, tmp_path / "deep", int8=[5])
    sizes = [(folder / WEIGHTS_INT8).stat().st_size for folder in (exits[0], tmp_path / "deep", tmp_path / "both")]
    assert max(sizes) == sizes[2] < 0.75 * (sizes[0] + sizes[1])
    for depth, name in ((4, "search_int8-4.onnx"), (5, "search_int8-5.onnx")):
        model = onnx.load(tmp_path / "both" / name, load_external_data=False)
        assert max(len(tensor.raw_data) for tensor in model.graph.initializer) <= 255
        assert sum("quantized" in tensor.name for tensor in model.graph.initializer) > 4 * depth
    found, expected = (outputs(open_package(folder), precision="int8") for folder in (tmp_path / "shallow", exits[1]))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_graph_that_was_not_exported_is_named(exits):
    deep, _, _ = exits
    with pytest.raises(FartrackError, match=r"deep lacks template_int8-5.onnx; use precision fp32, or export it anew"):
        open_engine(open_package(deep), precision="int8")


def test_exits_that_do_not_fit_the_weights_are_refused(exits, tmp_path):
    deep, shallow, alone = (shutil.copytree(folder, tmp_path / folder.name) for folder in exits)
    shutil.copy(alone / WEIGHTS, deep / WEIGHTS)  # four layers, where five are said to be
    for folder, engine in ((deep, "onnxruntime"), (shallow, "onnxruntime"), (shallow, "torch")):
        with pytest.raises(FartrackError, match="do not fit together"):
            open_engine(open_package(folder), engine)
    shutil.copy(exits[0] / WEIGHTS, alone / WEIGHTS)  # and the other way round
    with pytest.raises(FartrackError, match="do not fit together"):
        open_engine(open_package(alone), "torch")


def test_a_preset_of_an_exit_in_int8(exits, tmp_path):
    for folder in exits[:2]:
        shutil.copytree(folder, tmp_path / folder.name)
    record = json.loads((tmp_path / "shallow" / "model.json").read_text())
    record |= {"precision": "int8", "presets": {"fast": {"min_window": 0.5}}}
    (tmp_path / "shallow" / "model.json").write_text(json.dumps(record))
    tracker = fartrack.load(tmp_path / "shallow-fast", threads=1)
    assert tracker.engine.config.depth == 4
    assert (tracker.settings.retention, tracker.settings.min_window) == (0.5, 0.5)
    shallow = open_package(tmp_path / "shallow")
    searched = outputs(shallow, precision=None)[1]
    np.testing.assert_array_equal(searched, outputs(shallow, precision="int8")[1])
    assert np.abs(searched - outputs(shallow)[1]).max() > 1e-4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"exits": {"pico": 4}}, "no exit after layer 4; give 1 to 3"),
        ({"exits": {"pico": 0}}, "no exit after layer 0"),
        ({"exits": {"a/b": 2}}, "named 'a/b'; give it the name of a folder beside"),
        ({"exits": {"": 2}}, "named ''"),
        ({"exits": {"model": 2}}, "named 'model'"),
        ({"exits": {"thesis": 2}}, "thesis holds something that is no model"),
        ({"exits": {"pico": 2}, "int8": [2, 1]}, "No model of 1 layers is exported"),
    ],
)
def test_exits_that_cannot_be_are_refused(tmp_path, tiny, options, words):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    with pytest.raises(FartrackError, match=words):
        export(FARTrack(tiny(depth=3)), tmp_path / "model", **options)
    assert [path.name for path in tmp_path.rglob("*")] == ["thesis", "chapter1.tex"]


def test_a_folder_that_is_no_model_is_refused(exported, tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.tex").write_text("years of work")
    with pytest.raises(FartrackError, match=r"thesis holds something that is no model"):
        export(exported[0], folder)
    assert (folder / "chapter1.tex").read_text() == "years of work"


def test_a_file_is_refused(exported, tmp_path):
    (tmp_path / "model").write_text("a file")
    with pytest.raises(FartrackError, match="model is a file"):
        export(exported[0], tmp_path / "model")


def test_a_model_is_replaced_and_its_card_kept(exports, tmp_path, random_network, monkeypatch):
    network, package, _ = exports("cached")
    folder = shutil.copytree(package, tmp_path / "model")
    (folder / "README.md").write_text("the card")
    (folder / "stale.bin").write_text("from an older export")
    monkeypatch.setattr(module, "graphs", lambda network: {})  # tracing takes seconds and is tested above
    export(random_network(network.config, seed=1), folder)
    assert {path.name for path in folder.iterdir()} == {"README.md", "model.json", WEIGHTS}
    assert (folder / "README.md").read_text() == "the card"
    replaced = random_network(network.config, seed=1).vocab.half().float()
    assert torch.equal(load_weights(folder / WEIGHTS)["vocab"], replaced)


def test_an_export_that_fails_leaves_the_old_model(exports, tmp_path, random_network, monkeypatch):
    network, package, _ = exports("cached")
    folder = shutil.copytree(package, tmp_path / "model")

    def fail(graph):
        raise RuntimeError("out of kv_cache")

    monkeypatch.setattr(module, "_to_onnx", fail)
    with pytest.raises(RuntimeError, match="out of kv_cache"):
        export(random_network(network.config, seed=1), folder)
    for path in package.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert list(tmp_path.iterdir()) == [folder]
