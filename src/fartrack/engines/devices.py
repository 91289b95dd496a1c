"""Where a network runs: the devices of each runtime by the names that users give, and which of them are here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fartrack.engines.base import EngineName, Precision
from fartrack.errors import FartrackError

DEVICES: dict[EngineName, dict[str, str]] = {
    "onnxruntime": {
        "cpu": "CPUExecutionProvider",
        "cuda": "CUDAExecutionProvider",
        "tensorrt": "TensorrtExecutionProvider",
        "coreml": "CoreMLExecutionProvider",
        "directml": "DmlExecutionProvider",
    },
    "openvino": {"cpu": "CPU", "gpu": "GPU", "npu": "NPU", "auto": "AUTO"},
    "torch": {"cpu": "cpu", "cuda": "cuda", "mps": "mps"},
}
"""What each runtime calls its devices. OpenVINO has an ``auto`` of its own."""

AUTO: dict[EngineName, tuple[str, ...]] = {
    "onnxruntime": ("cuda", "directml", "cpu"),
    "openvino": ("auto",),
    "torch": ("cuda", "mps", "cpu"),
}
"""The order in which ``auto`` tries them. Core ML and TensorRT compile for long, and are used only by name."""


def choose(engine: EngineName, device: str) -> tuple[EngineName, list[str]]:
    """The engine, and the devices to be tried in order: one, or several for ``auto``.

    The engine ``auto`` is ``onnxruntime``, or for a device that this does not know the first that does.

    Raises:
        FartrackError: the device is not here, or the engine's runtime cannot be loaded.
    """
    if engine == "auto":
        engine = next((name for name, known in DEVICES.items() if device in known or device == "auto"), "onnxruntime")
    if device == "cpu":  # every engine has it, and no runtime is asked
        return engine, [device]
    here = available(engine)
    if device == "auto":
        return engine, [each for each in AUTO[engine] if each in here]
    if device not in here:
        fix = ", or pip install 'fartrack[gpu]'" if engine == "onnxruntime" and device in ("cuda", "tensorrt") else ""
        raise FartrackError(f"{engine} has no device {device!r} here; use {' or '.join(here)}{fix}.")
    return engine, [device]


def available(engine: EngineName) -> list[str]:
    """The devices that an engine's runtime finds on this machine, by our names."""
    with runtime(engine):
        if engine == "onnxruntime":
            from fartrack.engines.onnxruntime import ort

            found = set(ort.get_available_providers())
        elif engine == "openvino":
            from fartrack.engines.openvino import core

            found = {"AUTO", *(name.partition(".")[0] for name in core().available_devices)}  # such as GPU.1
        else:
            import torch

            there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
            found = {"cpu", *(name for name in there if there[name])}
    return [name for name, own in DEVICES[engine].items() if own in found]


def precisions(engine: EngineName, device: str) -> tuple[Precision, ...]:
    """What an engine can compute in on a device, the usual one first. A GPU or NPU of OpenVINO's rounds as it likes."""
    match engine, device:
        case "onnxruntime", "cpu":
            return "fp32", "int8"
        case "openvino", "cpu":
            return "fp32", "bf16"
        case "torch", "cuda" | "mps":
            return "bf16", "fp32"
        case _:
            return ("fp32",)


@contextmanager
def runtime(engine: EngineName) -> Iterator[None]:
    """Turn a runtime that cannot be loaded into one sentence."""
    try:
        yield
    except ImportError as error:
        extra = {"openvino": "[openvino]", "torch": "[train]"}.get(engine, "")
        raise FartrackError(
            f"The engine {engine} cannot be loaded ({error}); run pip install 'fartrack{extra}'."
        ) from None
