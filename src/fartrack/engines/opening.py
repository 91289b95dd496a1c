"""Opening a model with one of the engines; no runtime is imported before it is asked for."""

from __future__ import annotations

import json
from typing import get_args

import numpy as np

from fartrack.engines.base import Engine, EngineName, Precision, encode_templates, misfit
from fartrack.engines.devices import DEVICES, choose, precisions, runtime
from fartrack.errors import FartrackError
from fartrack.model.vocabulary import BINS
from fartrack.packages import WEIGHTS, Package


def open_engine(
    package: Package,
    name: EngineName = "auto",
    threads: int | None = None,
    precision: Precision | None = None,
    device: str = "cpu",
) -> Engine:
    """An engine that runs a model package.

    Args:
        package: the model.
        name: ``onnxruntime``, ``openvino`` or ``torch``, which find the same boxes; ``auto`` is the first that knows
            the device.
        threads: of one network call; None leaves it to the runtime.
        precision: ``fp32``; or faster, with boxes that differ a little: ``int8``, which ``onnxruntime`` has on the CPU,
            or ``bf16``, which ``openvino`` has on CPUs with instructions for it and ``torch`` on GPUs. None is
            ``int8`` where the model is meant for it and the engine has it, else what is usual there.
        device: where it runs, see :mod:`fartrack.engines.devices`; ``auto`` is a GPU if one can be used.

    Raises:
        FartrackError: no such engine, precision or device, its runtime cannot be loaded, less than one thread, or the
            package is damaged.
    """
    if threads is not None and threads < 1:
        raise FartrackError(f"threads is {threads}; it must be 1 or more, or None.")
    _check_names(name, precision)
    _, devices = choose(name, device)
    check_weights(package)
    for each in devices:
        chosen, kind = resolve(package, name, precision, each)
        try:
            with runtime(chosen):
                return _open(package, chosen, threads, kind, each)
        except FartrackError:
            if each == devices[-1]:
                raise
    raise AssertionError("a runtime has a device at least")


def _open(package: Package, name: EngineName, threads: int | None, precision: Precision, device: str) -> Engine:
    match name:
        case "onnxruntime":
            from fartrack.engines.onnxruntime import OnnxRuntimeEngine

            engine: Engine = OnnxRuntimeEngine(package, threads, precision, device)
        case "openvino":
            from fartrack.engines.openvino import OpenVinoEngine

            engine = OpenVinoEngine(package, threads, precision, device)
        case _:
            from fartrack.engines.torch import TorchEngine

            engine = TorchEngine.load(package, threads, precision, device)
    if not _sound(engine):
        if device != "cpu":
            raise FartrackError(f"The device {device} cannot run the model {package.folder}; use device cpu.")
        raise misfit(package)
    return engine


def resolve(
    package: Package, name: EngineName = "auto", precision: Precision | None = None, device: str = "cpu"
) -> tuple[EngineName, Precision]:
    """The engine and the precision that :func:`open_engine` takes, which has the same arguments and errors."""
    _check_names(name, precision)
    name, (device, *_) = choose(name, device)
    able = precisions(name, device)
    if precision is None:
        return name, "int8" if package.precision == "int8" and "int8" in able else able[0]
    if precision not in able:
        others = [each for each in DEVICES if precision in precisions(each, "cpu")]
        what, fix = (f"device {device}", "the cpu") if name in others else (f"engine {name}", others[0])
        raise FartrackError(f"The {what} has no precision {precision}; use {fix}, or precision {' or '.join(able)}.")
    return name, precision


def _check_names(name: EngineName, precision: Precision | None) -> None:
    for what, value, known in (("engine", name, EngineName), ("precision", precision or "fp32", Precision)):
        if value not in get_args(known):
            raise FartrackError(f"There is no {what} {value!r}; those are {', '.join(get_args(known))}.")


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


def _sound(engine: Engine) -> bool:
    """Run the network once on black, so that a package that does not fit itself is met here, not amid a video."""
    config = engine.config
    template, search = (np.zeros((1, side, side, 3), np.uint8) for side in (config.template_size, config.search_size))
    trajectory, boxes = np.zeros((1, 4 * config.trajectory), np.int64), np.zeros((1, 4), np.float32)
    try:
        kv_cache = encode_templates(engine, template, np.zeros(1, np.int64), boxes)
        logits = engine.search(search, trajectory, kv_cache)
    except Exception:  # each runtime has classes of its own for inputs that do not fit
        return False
    return logits.shape == (1, 4, BINS) and bool(np.isfinite(logits).all())
