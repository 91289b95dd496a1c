"""Engines: one small class for each runtime that can run a model; none is imported before it is asked for."""

from __future__ import annotations

from typing import Literal, Protocol, cast, get_args

import numpy as np
from numpy.typing import NDArray

from fartrack.errors import FartrackError
from fartrack.geometry import Image
from fartrack.model.config import ModelConfig
from fartrack.model.vocabulary import BINS
from fartrack.packages import Package, check_weights, misfit

Floats = NDArray[np.float32]
EngineName = Literal["auto", "onnxruntime", "onnxruntime-int8", "openvino", "torch"]

INT8 = "-int8"
"""Behind the name of an engine that searches in 8 bits."""


class Engine(Protocol):
    """What the tracker needs of a network.

    Shapes: T templates, B search crops, M template tokens, C channels of a row, V bins. A template's rows have the
    shape ``(…, M, C)`` with the same leading axes for all; rows of several templates are joined along M.
    """

    config: ModelConfig
    background: bool
    """Whether ``memorise`` may run in a thread of its own beside the caller's."""

    def memorise(self, crops: Image, identities: NDArray[np.int64]) -> Floats:
        """Template crops ``(T, S, S, 3)`` uint8 RGB and identities ``(T,)`` → rows ``(T, …, M, C)``."""
        ...

    def search(self, crops: Image, trajectory: NDArray[np.int64], memory: Floats) -> Floats:
        """Search crops ``(B, S, S, 3)`` uint8 RGB (if smaller than ``search_size``, the centres of the windows), past
        boxes ``(B, 4 · trajectory)`` as tokens, and rows ``(B, …, M, C)`` → logits ``(B, 4, V)``."""
        ...

    def search_scored(self, crops: Image, trajectory: NDArray[np.int64], memory: Floats) -> tuple[Floats, Floats]:
        """As :meth:`search`, and the attention ``(B, M)`` that each template token receives."""
        ...


def open_engine(package: Package, name: EngineName = "onnxruntime", threads: int | None = None) -> Engine:
    """An engine that runs a model package.

    Args:
        package: the model.
        name: ``onnxruntime``, ``openvino`` or ``torch``, which find the same boxes; ``onnxruntime-int8``, faster, with
            boxes that differ a little; or ``auto``, see :func:`resolve`.
        threads: of one network call; None leaves it to the runtime.

    Raises:
        FartrackError: no such engine, its runtime cannot be loaded, less than one thread, or the package is damaged.
    """
    if threads is not None and threads < 1:
        raise FartrackError(f"threads is {threads}; it must be 1 or more, or None.")
    check_weights(package)
    name = resolve(package, name, threads)
    engine: Engine
    try:
        match name:
            case "onnxruntime" | "onnxruntime-int8":
                from fartrack.engines.onnxruntime import OnnxRuntimeEngine

                engine = OnnxRuntimeEngine(package, threads, "search_int8" if name.endswith(INT8) else "search")
            case "openvino":
                from fartrack.engines.openvino import OpenVinoEngine

                engine = OpenVinoEngine(package, threads)
            case "torch":
                from fartrack.engines.torch import TorchEngine

                engine = TorchEngine.load(package, threads)
            case _:
                raise FartrackError(f"There is no engine {name!r}; those are {', '.join(get_args(EngineName))}.")
    except ImportError as error:
        extra = {"openvino": "[openvino]", "torch": "[train]"}.get(name, "")
        raise FartrackError(
            f"The engine {name} cannot be loaded ({error}); run pip install 'fartrack{extra}'."
        ) from None
    _try_out(engine, package)
    return engine


def resolve(package: Package, name: EngineName, threads: int | None = None) -> EngineName:
    """The engine that ``auto`` means for a model: the one it is meant for, or the fastest here; any other is itself."""
    if name != "auto":
        return name
    if package.engine != "auto":
        return cast(EngineName, package.engine)
    from fartrack.engines.choice import fastest_engine

    return fastest_engine(package, threads)


def _try_out(engine: Engine, package: Package) -> None:
    """Run the network once on black, so that a package that does not fit itself is met here, not amid a video."""
    config = package.config
    template = np.zeros((1, config.template_size, config.template_size, 3), np.uint8)
    search = np.zeros((1, config.search_size, config.search_size, 3), np.uint8)
    trajectory = np.zeros((1, 4 * config.trajectory), np.int64)
    try:
        logits = engine.search(search, trajectory, engine.memorise(template, np.zeros(1, np.int64)))
        sound = logits.shape == (1, 4, BINS) and bool(np.isfinite(logits).all())
    except Exception:  # each runtime has classes of its own for inputs that do not fit
        sound = False
    if not sound:
        raise misfit(package)
