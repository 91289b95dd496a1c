"""Engines: one small class for each runtime that can run a model; none is imported before it is asked for."""

from __future__ import annotations

import ctypes
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import RLock
from typing import Any, Literal, Protocol, cast, get_args
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from fartrack.errors import FartrackError
from fartrack.geometry import Image
from fartrack.model.config import ModelConfig
from fartrack.model.vocabulary import BINS
from fartrack.packages import WEIGHTS, Package

Floats = NDArray[np.float32]
Tokens = NDArray[np.int64]
EngineName = Literal["auto", "onnxruntime", "openvino", "torch"]
Precision = Literal["fp32", "int8"]


class Engine(Protocol):
    """What the tracker needs of a network. One engine may serve any number of threads.

    Shapes: T templates, B search crops, M template tokens, C channels, V bins. The ``kv_cache`` of a template has the
    shape ``(…, M, C)`` with the same leading axes for all; those of several templates are joined along M.
    """

    config: ModelConfig

    def encode_templates(self, crops: Image, identities: Tokens) -> Floats:
        """Template crops ``(T, S, S, 3)`` uint8 RGB and identities ``(T,)`` → their ``kv_cache`` ``(T, …, M, C)``."""
        ...

    def search(self, crops: Image, trajectory: Tokens, kv_cache: Floats) -> Floats:
        """Search crops ``(B, S, S, 3)`` uint8 RGB (if smaller than ``search_size``, the centers of the windows), past
        boxes ``(B, 4 · trajectory)`` as tokens, and ``kv_cache`` ``(B, …, M, C)`` → logits ``(B, 4, V)``."""
        ...

    def search_scored(self, crops: Image, trajectory: Tokens, kv_cache: Floats) -> tuple[Floats, Floats]:
        """As :meth:`search`, and the attention ``(B, M)`` that each template token receives."""
        ...


Graph = Callable[[Mapping[str, NDArray[Any]]], list[Floats]]
"""A graph in a runtime: inputs by name → outputs in order."""


class GraphEngine(ABC):
    """An engine that runs a package's graphs, which are opened once in each process.

    The threads of a runtime do not survive a fork: a forked process that used its parent's graphs would wait for ever.
    Pickled, an engine is the package and the options, and is opened anew; copied, it is the same engine.
    """

    def __init__(self, package: Package, threads: int | None = None, precision: Precision = "fp32") -> None:
        """Open the graphs that every tracker needs; ``search_scored`` is opened when it is first used.

        Raises:
            FartrackError: a graph is missing or cannot be read.
        """
        self.config = package.config
        self._arguments = package, threads, precision
        self._search = "search" if precision == "fp32" else f"search_{precision}"
        self._graphs: dict[str, Graph] = {}
        self._lock = RLock()
        _ENGINES.add(self)
        for name in ("template", self._search):
            self._graph(name)

    @abstractmethod
    def _open(self, path: Path, threads: int | None) -> Graph:
        """Load a graph; errors of any kind say that it cannot be read."""

    def _graph(self, name: str) -> Graph:
        with self._lock:
            if name not in self._graphs:
                package, threads, _ = self._arguments
                path = package.graph(name)
                try:
                    self._graphs[name] = self._open(path, threads)
                except Exception:  # each runtime has classes of its own for the ways in which a file can be broken
                    raise FartrackError(f"{path} is no readable ONNX model; export it anew or reinstall.") from None
            return self._graphs[name]

    def __reduce__(self) -> tuple[type[GraphEngine], tuple[Package, int | None, Precision]]:
        """How to open it in another process."""
        return type(self), self._arguments

    def __deepcopy__(self, memo: object) -> GraphEngine:
        """The same engine, for it holds no state."""
        return self

    def encode_templates(self, crops: Image, identities: Tokens) -> Floats:
        """See :class:`Engine`."""
        return self._graph("template")({"templates": crops, "identities": identities})[0]

    def search(self, crops: Image, trajectory: Tokens, kv_cache: Floats) -> Floats:
        """See :class:`Engine`."""
        return self._graph(self._search)({"search": crops, "trajectory": trajectory, "kv_cache": kv_cache})[0]

    def search_scored(self, crops: Image, trajectory: Tokens, kv_cache: Floats) -> tuple[Floats, Floats]:
        """See :class:`Engine`; in single precision."""
        graph = self._graph("search_scored")
        logits, scores = graph({"search": crops, "trajectory": trajectory, "kv_cache": kv_cache})
        return logits, scores


_ENGINES: WeakSet[GraphEngine] = WeakSet()


def _forget_graphs() -> None:
    """After a fork, in the child: its own graphs are opened when they are first used."""
    for engine in _ENGINES:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine._graphs))  # never closed, for that would wait as well
        engine._graphs, engine._lock = {}, RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_graphs)


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
    trajectory = np.zeros((1, 4 * config.trajectory), np.int64)
    try:
        logits = engine.search(search, trajectory, engine.encode_templates(template, np.zeros(1, np.int64)))
        sound = logits.shape == (1, 4, BINS) and bool(np.isfinite(logits).all())
    except Exception:  # each runtime has classes of its own for inputs that do not fit
        sound = False
    if not sound:
        raise misfit(package)


def misfit(package: Package) -> FartrackError:
    """The error of a package whose parts are readable but make no network together."""
    return FartrackError(
        f"The model {package.folder} is damaged, for its model.json, graphs and weights do not fit together; "
        "export it anew or reinstall fartrack."
    )
