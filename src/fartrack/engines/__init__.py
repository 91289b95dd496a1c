"""Engines: one small class for each runtime that can run a model; none is imported before it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from fartrack.errors import FartrackError
from fartrack.geometry import Image
from fartrack.model.config import ModelConfig
from fartrack.weights import Package

Floats = NDArray[np.float32]
EngineName = Literal["onnxruntime", "openvino", "torch"]


class Engine(Protocol):
    """What the tracker needs of a network.

    Shapes: T templates, B search crops, M template tokens, C channels of a row, V bins. A template's rows have the
    shape ``(…, M, C)`` with the same leading axes for all; rows of several templates are joined along M.
    """

    config: ModelConfig

    def memorise(self, crops: Image, identities: NDArray[np.int64]) -> Floats:
        """Template crops ``(T, S, S, 3)`` uint8 RGB and identities ``(T,)`` → rows ``(T, …, M, C)``."""
        ...

    def search(self, crops: Image, trajectory: NDArray[np.int64], memory: Floats) -> Floats:
        """Search crops ``(B, S, S, 3)`` uint8 RGB, past boxes ``(B, 4 · trajectory)`` as tokens, and rows
        ``(B, …, M, C)`` → logits ``(B, 4, V)``."""
        ...

    def search_scored(self, crops: Image, trajectory: NDArray[np.int64], memory: Floats) -> tuple[Floats, Floats]:
        """As :meth:`search`, and the attention ``(B, M)`` that each template token receives."""
        ...


def open_engine(package: Package, name: EngineName = "onnxruntime", threads: int | None = None) -> Engine:
    """An engine that runs a model package.

    Args:
        package: the model.
        name: ``onnxruntime``, ``openvino`` or ``torch``.
        threads: of one network call; None leaves it to the runtime.

    Raises:
        FartrackError: no such engine, its runtime is not installed, or the package cannot be run.
    """
    try:
        match name:
            case "onnxruntime":
                from fartrack.engines.onnxruntime import OnnxRuntimeEngine

                return OnnxRuntimeEngine(package, threads)
            case "openvino":
                from fartrack.engines.openvino import OpenVinoEngine

                return OpenVinoEngine(package, threads)
            case "torch":
                from fartrack.engines.torch import TorchEngine

                return TorchEngine.load(package, threads)
    except ModuleNotFoundError as error:
        extra = {"openvino": "openvino", "torch": "train"}.get(name)
        if extra is None:
            raise
        raise FartrackError(
            f"The engine {name} needs {error.name}, which is not installed; run pip install 'fartrack[{extra}]'."
        ) from None
    raise FartrackError(f"There is no engine {name!r}; those are {', '.join(get_args(EngineName))}.")


def graph_path(package: Package, graph: str) -> Path:
    """The file of a package's graph (``template``, ``search`` or ``search_scored``).

    Raises:
        FartrackError: the package lacks it.
    """
    path = package.folder / f"{graph}.onnx"
    if not path.is_file():
        raise FartrackError(f"The model {package.folder} lacks {path.name}; export it anew with `fartrack export`.")
    return path
