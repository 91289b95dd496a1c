"""Export: a trained network → a model package that runs without PyTorch (see :mod:`fartrack.packages`).

The package holds the weights once, in half precision, as a safetensors file. All ONNX graphs, those of exits too, refer
into that file by offset (ONNX external data) and cast what they read to single precision when loaded; PyTorch starts
from the same file. The graphs in int8 share a second file.
"""

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data
from onnxscript.optimizer import optimize
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import Dim

from fartrack.engines.onnxruntime import ort
from fartrack.errors import FartrackError
from fartrack.model.config import ModelConfig
from fartrack.model.encoder import FARTrack
from fartrack.packages import FORMAT, RECORD, WEIGHTS, WEIGHTS_INT8, graph_file

OPSET = 20
SMALL = 255
"""Bytes of a constant that may lie in a graph, instead of the file of the weights."""


def export(
    network: FARTrack,
    folder: Path,
    about: Mapping[str, Any] | None = None,
    exits: Mapping[str, int] | None = None,
    int8: Collection[int] | None = None,
) -> None:
    """Write a model package, and one beside it for each exit, which has no weights of its own; existing ones are
    replaced only once the new one is whole.

    The network's weights are rounded to half precision in place, so that it computes what the package computes.
    ``about`` is what ``model.json`` of each says beside the format and the configuration, such as ``settings``;
    ``exits`` are the names of further packages, and how many of the first layers each has; ``int8`` are the depths that
    get a graph in int8, None for all. FartrackError if a folder cannot take a package, or there is no such depth.
    """
    about, exits, whole = dict(about or {}), dict(exits or {}), network.config.depth
    depths = sorted({whole, *exits.values()})
    for name, depth in exits.items():
        if Path(name).name != name or name in ("", "..", folder.name):
            raise FartrackError(f"An exit is named {name!r}; give it the name of a folder beside {folder}.")
        if not 1 <= depth <= whole:
            raise FartrackError(f"The network has no exit after layer {depth}; give 1 to {whole}.")
    if unknown := sorted({*(int8 or ())} - {*depths}):
        raise FartrackError(f"No model of {unknown[0]} layers is exported that could have an int8 graph.")
    for place in (folder, *(folder.parent / name for name in exits)):
        if place.exists() and not place.is_dir():
            raise FartrackError(f"{place} is a file; name a folder.")
        if place.exists() and any(place.iterdir()) and not (place / RECORD).is_file():
            raise FartrackError(f"{place} holds something that is no model; name another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    network = network.eval().cpu()
    for tensor in network.state_dict().values():
        tensor.copy_(tensor.half())
    with _replacing(folder) as part:
        weights = {name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}
        save_file(weights, part / WEIGHTS)
        (part / WEIGHTS).chmod(0o644)  # safetensors makes it the owner's alone
        quantized = []
        for depth in depths:
            first = FARTrack(replace(network.config, depth=depth)).eval()
            first.load_state_dict({name: network.state_dict()[name] for name in first.state_dict()})
            for name, graph in graphs(first).items():
                model, path = _to_onnx(graph), part / graph_file(name, depth)
                _share_weights(model, part / WEIGHTS, first.state_dict())
                onnx.save(model, path)
                if int8 is None or depth in int8:
                    quantized.append(part / graph_file(f"{name}_int8", depth))
                    _quantize(path, quantized[-1])
        _pool(quantized, part / WEIGHTS_INT8)
        _write_record(part, network.config, about)
    for name, depth in exits.items():
        with _replacing(folder.parent / name) as part:
            lies = {"network": f"../{folder.name}", "layers": whole}
            _write_record(part, replace(network.config, depth=depth), lies | about)


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """An empty folder, which takes the place of the package once it is filled; a model card stays."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as scratch:
        part = Path(scratch) / "package"
        part.mkdir()
        yield part
        for path in folder.glob("*.md"):
            shutil.copy(path, part / path.name)
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)


def _write_record(folder: Path, config: ModelConfig, about: dict[str, Any]) -> None:
    record = {"format": FORMAT, "config": asdict(config), **about}
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")


class Graph(NamedTuple):
    """An exported graph, declared once: its module, example inputs by name, dynamic axes and outputs."""

    module: nn.Module
    inputs: dict[str, Any]  # a tensor, or several that become inputs NAME_0, NAME_1, …
    dynamic: dict[str, Any]
    outputs: list[str]


class _Part(nn.Module):
    def __init__(self, network: FARTrack, scored: bool = False) -> None:
        super().__init__()
        self.network, self.scored = network, scored


class _BeginTemplates(_Part):
    """Templates, each on its own, to the ``kv_cache`` of the first layers, and the tokens for the others, if any."""

    def forward(self, templates: Tensor, identities: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
        found = self.network.begin_templates(templates[:, None], identities[:, None], boxes[:, None])
        return tuple(tensor for tensor in found if tensor is not None)


class _FinishTemplates(_Part):
    """These tokens to the ``kv_cache`` of the other layers."""

    def forward(self, tokens: Tensor) -> Tensor:
        return self.network.finish_templates(tokens)


class _Search(_Part):
    """A search crop against a ``kv_cache``, with or without the template tokens' scores.

    The cache comes in the tensors along its axis 1: a graph would take them apart by a copy on each frame.
    """

    def forward(self, search: Tensor, trajectory: Tensor, kv_cache: list[Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        return self.network.track(search, trajectory, kv_cache, self.scored)


def graphs(network: FARTrack) -> dict[str, Graph]:
    """The graphs of a network by name; ``template_rest`` only where layers are left for it. Batches are dynamic, and so
    is the number of template tokens."""
    config = network.config
    z, x = config.template_size, config.search_size
    template = {
        "templates": torch.zeros(3, z, z, 3, dtype=torch.uint8),
        "identities": torch.zeros(3, dtype=torch.long),
        "boxes": torch.zeros(3, 4),
    }
    with torch.no_grad():
        kv_cache = network.encode_templates(*(tensor[:, None] for tensor in template.values()))
        _, *rest = _BeginTemplates(network)(**template)
    search = {  # a batch of 1 would freeze the axis
        "search": torch.zeros(2, x, x, 3, dtype=torch.uint8),
        "trajectory": torch.zeros(2, 4 * config.trajectory, dtype=torch.long),
        "kv_cache": list(torch.cat([kv_cache[:2], kv_cache[1:]], dim=-2).unbind(1)),
    }
    B, M, T = (Dim(name) for name in "BMT")
    axes = {"search": {0: B, **_sides(config)}, "trajectory": {0: B}, "kv_cache": [{0: B, 2: M}] * kv_cache.shape[1]}
    outputs = ["kv_cache", "tokens"][: 1 + len(rest)]
    found = {"template": Graph(_BeginTemplates(network), template, {name: {0: T} for name in template}, outputs)}
    for tokens in rest:
        axis = {"tokens": {0: T, 2: M}}
        found["template_rest"] = Graph(_FinishTemplates(network), {"tokens": tokens}, axis, ["kv_cache"])
    return found | {
        "search": Graph(_Search(network), search, axes, ["logits"]),
        "search_scored": Graph(_Search(network, scored=True), search, axes, ["logits", "scores"]),
    }


def _sides(config: ModelConfig) -> dict[int, Any]:
    """The dynamic sides of a search crop: the whole window or its center, as many tokens missing on either side."""
    pair, grid = 2 * config.patch, config.search_size // config.patch
    if grid < 4:  # an axis with a single value is none
        return {}
    pairs = (Dim(name, min=1, max=grid // 2) for name in ("rows", "columns"))
    return {axis: pair * count + config.patch * (grid % 2) for axis, count in enumerate(pairs, start=1)}


def _to_onnx(graph: Graph) -> onnx.ModelProto:
    """Trace a graph's module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            graph.module,
            kwargs=graph.inputs,
            output_names=graph.outputs,
            dynamic_shapes=graph.dynamic,
            opset_version=OPSET,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
        assert program is not None
        # Shapes are folded, weights are not: they have to stay as they lie in the file.
        optimize(program.model, input_size_limit=SMALL)
    model = program.model_proto
    for item in (*model.graph.node, *model.graph.input, *model.graph.output, model.graph):
        item.doc_string = ""
        del item.metadata_props[:]  # the tracer's notes: source lines and paths of the exporting machine
    del model.metadata_props[:]
    del model.graph.value_info[:]
    return model


def _share_weights(model: onnx.ModelProto, weights: Path, state: Mapping[str, Tensor]) -> None:
    """Let a graph's large initializers point into the safetensors file, cast to single precision on loading."""
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        places = json.loads(file.read(length))
    sources = {}  # shape and bytes of an initializer → the parameter that it is, and whether transposed
    for source, parameter in state.items():
        for turned in (False, True)[: parameter.ndim]:
            array = parameter.numpy().T if turned else parameter.numpy()
            sources[array.shape, array.tobytes()] = source, turned
    nodes = []
    for initializer in list(model.graph.initializer):
        values = numpy_helper.to_array(initializer)
        if values.size < 64 or (values.shape, values.tobytes()) not in sources:
            continue
        source, turned = sources[values.shape, values.tobytes()]
        start, end = places[source]["data_offsets"]
        name, half = initializer.name, f"{initializer.name}.half"
        tensor = TensorProto(name=half, data_type=TensorProto.FLOAT16, dims=state[source].shape, raw_data=b"")
        set_external_data(tensor, WEIGHTS, 8 + length + start, end - start)
        tensor.ClearField("raw_data")
        model.graph.initializer.remove(initializer)
        model.graph.initializer.append(tensor)
        single = f"{name}.single" if turned else name
        nodes.append(helper.make_node("Cast", [half], [single], to=TensorProto.FLOAT))
        if turned:
            nodes.append(helper.make_node("Transpose", [single], [name], perm=[1, 0]))
    for node in reversed(nodes):
        model.graph.node.insert(0, node)


def _quantize(graph: Path, int8: Path) -> None:
    """Write a graph anew: products with weights in 8 bits, activations in single precision. Weights have 7 bits, for
    processors without VNNI add two products of 8 bits into 16."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folded = graph.with_name("folded.onnx")  # with its weights in it, as constants of single precision
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath, options.log_severity_level = str(folded), 3
    ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    kind = {"op_types_to_quantize": ["MatMul", "Gemm"], "weight_type": QuantType.QInt8}
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # its advice to infer shapes first does not matter here
    try:
        quantize_dynamic(folded, int8, per_channel=True, reduce_range=True, **kind)
    finally:
        logging.disable(disabled)
    folded.unlink()


def _pool(graphs: Sequence[Path], pool: Path) -> None:
    """Move the large constants of graphs into one file beside them, each once, which the graphs then point into."""
    contents = bytearray()
    places: dict[bytes, int] = {}
    for graph in graphs:
        model = onnx.load(graph)
        for tensor in model.graph.initializer:
            data = tensor.raw_data
            if len(data) > SMALL:
                if data not in places:
                    places[data] = len(contents)
                    contents += data + bytes(-len(data) % 64)  # each begins at a multiple of 64
                set_external_data(tensor, pool.name, places[data], len(data))
                tensor.ClearField("raw_data")
        onnx.save(model, graph)
    if graphs:
        pool.write_bytes(contents)
