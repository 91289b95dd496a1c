"""Opening a model with one of the engines; no runtime is imported before it is asked for."""

from __future__ import annotations

import json
from typing import cast, get_args

import numpy as np

from fartrack.engines.base import Engine, EngineName, Precision, misfit
from fartrack.errors import FartrackError
from fartrack.model.vocabulary import BINS
from fartrack.packages import WEIGHTS, Package


def open_engine(
    package: Package, name: EngineName = "auto", threads: int | None = None, precision: Precision | None = None
) -> Engine:
    """An engine that runs a model package.

    Args:
        package: the model.
        name: ``onnxruntime``, ``openvino`` or ``torch``, which find the same boxes; ``auto`` is the first.
        threads: of one network call; None leaves it to the runtime.
        precision: of the search: ``fp32``; or ``int8``, faster, with boxes that differ a little, which only
            ``onnxruntime`` has. None is the model's own, where the engine has it.

    Raises:
        FartrackError: no such engine or precision, its runtime cannot be loaded, less than one thread, or the package
            is damaged.
    """
    if threads is not None and threads < 1:
        raise FartrackError(f"threads is {threads}; it must be 1 or more, or None.")
    name, precision = resolve(package, name, precision)
    check_weights(package)
    try:
        match name:
            case "onnxruntime":
                from fartrack.engines.onnxruntime import OnnxRuntimeEngine

                engine: Engine = OnnxRuntimeEngine(package, threads, precision)
            case "openvino":
                from fartrack.engines.openvino import OpenVinoEngine

                engine = OpenVinoEngine(package, threads)
            case _:
                from fartrack.engines.torch import TorchEngine

                engine = TorchEngine.load(package, threads)
    except ImportError as error:
        extra = {"openvino": "[openvino]", "torch": "[train]"}.get(name, "")
        raise FartrackError(
            f"The engine {name} cannot be loaded ({error}); run pip install 'fartrack{extra}'."
        ) from None
    _try_out(engine, package)
    return engine


def resolve(
    package: Package, name: EngineName = "auto", precision: Precision | None = None
) -> tuple[EngineName, Precision]:
    """The engine and the precision that :func:`open_engine` takes, which has the same arguments and errors."""
    for what, value, known in (("engine", name, EngineName), ("precision", precision or "fp32", Precision)):
        if value not in get_args(known):
            raise FartrackError(f"There is no {what} {value!r}; those are {', '.join(get_args(known))}.")
    if name in ("auto", "onnxruntime"):
        return "onnxruntime", precision or cast(Precision, package.precision)
    if precision == "int8":
        raise FartrackError(f"The engine {name} has no precision int8; use onnxruntime, or precision fp32.")
    return name, "fp32"


def check_weights(package: Package) -> None:
    """Check that the weights are there and whole, of as many layers, and of the package's crop sizes, since its graphs
    take smaller crops too.

    Raises:
        FartrackError: they are missing, cut off, no safetensors file, or of another network.
    """
    path, config = package.network / WEIGHTS, package.config
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, path.stat().st_size)))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        whole = path.stat().st_size == 8 + length + max(ends)
        shape = [header[name]["shape"][0] for name in ("pos_x", "pos_z")]
        shape.append(sum(name.endswith(".qkv.bias") for name in header))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise FartrackError(f"{path} is missing, damaged or cut off; export the model anew or reinstall fartrack.")
    if shape != [config.search_tokens, config.template_tokens, package.layers]:
        raise misfit(package)


def _try_out(engine: Engine, package: Package) -> None:
    """Run the network once on black, so that a package that does not fit itself is met here, not amid a video."""
    config = package.config
    template, search = (np.zeros((1, side, side, 3), np.uint8) for side in (config.template_size, config.search_size))
    trajectory, boxes = np.zeros((1, 4 * config.trajectory), np.int64), np.zeros((1, 4), np.float32)
    try:
        kv_cache = engine.encode_templates(template, np.zeros(1, np.int64), boxes)
        logits = engine.search(search, trajectory, kv_cache)
        sound = logits.shape == (1, 4, BINS) and bool(np.isfinite(logits).all())
    except Exception:  # each runtime has classes of its own for inputs that do not fit
        sound = False
    if not sound:
        raise misfit(package)
