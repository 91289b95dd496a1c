"""What an engine is, and what those that run ONNX graphs have in common."""

from __future__ import annotations

import ctypes
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import RLock
from typing import Any, Literal, Protocol
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from fartrack.errors import FartrackError
from fartrack.geometry import Image
from fartrack.model.config import ModelConfig
from fartrack.packages import Package

Floats = NDArray[np.float32]
Tokens = NDArray[np.int64]
EngineName = Literal["auto", "onnxruntime", "openvino", "torch"]
Precision = Literal["fp32", "bf16", "int8"]


class Engine(Protocol):
    """What the tracker needs of a network. One engine may serve any number of threads.

    Shapes: T templates, B search crops, M template tokens, C channels, V bins. The ``kv_cache`` of a template has the
    shape ``(…, M, C)`` with the same leading axes for all; those of several templates are joined along M.
    """

    config: ModelConfig

    def begin_templates(self, crops: Image, identities: Tokens, boxes: Floats) -> tuple[Floats, Floats | None]:
        """Template crops ``(T, S, S, 3)`` uint8 RGB, identities ``(T,)``, and the target's corners in each crop's frame
        ``(T, 4)`` → the ``kv_cache`` ``(T, …, M, C)`` of the first layers, and the tokens ``(T, …, M, D)`` from which
        :meth:`finish_templates` goes on, with all or some of them; None if these layers were all."""
        ...

    def finish_templates(self, tokens: Floats) -> Floats:
        """The ``kv_cache`` of the other layers, which follows that of the first along axis 1."""
        ...

    def search(self, crops: Image, trajectory: Tokens, kv_cache: Floats) -> Floats:
        """Search crops ``(B, height, width, 3)`` uint8 RGB (where less than ``search_size``, the windows' centers),
        past boxes ``(B, 4 · trajectory)`` as tokens, and ``kv_cache`` ``(B, …, M, C)`` → logits ``(B, 4, V)``."""
        ...

    def search_scored(self, crops: Image, trajectory: Tokens, kv_cache: Floats) -> tuple[Floats, Floats]:
        """As :meth:`search`, and the attention ``(B, M)`` that each template token receives."""
        ...


def encode_templates(engine: Engine, crops: Image, identities: Tokens, boxes: Floats) -> Floats:
    """The ``kv_cache`` ``(T, …, M, C)`` of templates, all layers at once."""
    kv_cache, tokens = engine.begin_templates(crops, identities, boxes)
    return kv_cache if tokens is None else np.concatenate([kv_cache, engine.finish_templates(tokens)], axis=1)


Graph = Callable[[Mapping[str, NDArray[Any]]], list[Floats]]
"""A graph in a runtime: inputs by name → outputs in order."""


class GraphEngine(ABC):
    """An engine that runs a package's graphs, which are opened once in each process.

    The threads of a runtime do not survive a fork: a forked process that used its parent's graphs would wait for ever.
    Pickled, an engine is the package and the options, and is opened anew; copied, it is the same engine.
    """

    def __init__(
        self, package: Package, threads: int | None = None, precision: Precision = "fp32", device: str = "cpu"
    ) -> None:
        """Open the graphs that every tracker needs; ``search_scored`` is opened when it is first used.

        Raises:
            FartrackError: a graph is missing or cannot be read, or the device cannot be used.
        """
        self.config = package.config
        self._arguments = package, threads, precision, device
        self._suffix = "_int8" if precision == "int8" else ""
        self._graphs: dict[str, Graph] = {}
        self._lock = RLock()
        _ENGINES.add(self)
        rest = ["template_rest"] if self.config.template_layers < self.config.depth else []
        for name in ("template", *rest, "search"):
            self._graph(name)

    @abstractmethod
    def _open(self, path: Path, threads: int | None, precision: Precision, device: str) -> Graph:
        """Load a graph for a device and a precision, of which int8 lies in the graph; errors other than FartrackError
        say that it cannot be read."""

    def _graph(self, name: str) -> Graph:
        name += self._suffix
        with self._lock:
            if name not in self._graphs:
                package, threads, precision, device = self._arguments
                path = package.graph(name)
                try:
                    self._graphs[name] = self._open(path, threads, precision, device)
                except FartrackError:
                    raise
                except Exception:  # each runtime has classes of its own for the ways in which a file can be broken
                    raise FartrackError(f"{path} is no readable ONNX model; export it anew or reinstall.") from None
            return self._graphs[name]

    def __reduce__(self) -> tuple[type[GraphEngine], tuple[Package, int | None, Precision, str]]:
        """How to open it in another process."""
        return type(self), self._arguments

    def __deepcopy__(self, memo: object) -> GraphEngine:
        """The same engine, for it holds no state."""
        return self

    def begin_templates(self, crops: Image, identities: Tokens, boxes: Floats) -> tuple[Floats, Floats | None]:
        """See :class:`Engine`."""
        kv_cache, *rest = self._graph("template")({"templates": crops, "identities": identities, "boxes": boxes})
        return kv_cache, rest[0] if rest else None

    def finish_templates(self, tokens: Floats) -> Floats:
        """See :class:`Engine`."""
        return self._graph("template_rest")({"tokens": tokens})[0]

    def search(self, crops: Image, trajectory: Tokens, kv_cache: Floats) -> Floats:
        """See :class:`Engine`."""
        return self._graph("search")(search_inputs(crops, trajectory, kv_cache))[0]

    def search_scored(self, crops: Image, trajectory: Tokens, kv_cache: Floats) -> tuple[Floats, Floats]:
        """See :class:`Engine`."""
        logits, scores = self._graph("search_scored")(search_inputs(crops, trajectory, kv_cache))
        return logits, scores


def search_inputs(crops: Image, trajectory: Tokens, kv_cache: Floats) -> dict[str, NDArray[Any]]:
    """The inputs of the search graphs, which take the tensors along the cache's axis 1 apart."""
    parts = {f"kv_cache_{i}": np.ascontiguousarray(kv_cache[:, i]) for i in range(kv_cache.shape[1])}
    return {"search": crops, "trajectory": trajectory, **parts}


_ENGINES: WeakSet[GraphEngine] = WeakSet()


def _forget_graphs() -> None:
    """After a fork, in the child: its own graphs are opened when they are first used."""
    for engine in _ENGINES:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine._graphs))  # never closed, for that would wait as well
        engine._graphs, engine._lock = {}, RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_graphs)


def misfit(package: Package) -> FartrackError:
    """The error of a package whose parts are readable but make no network together."""
    return FartrackError(
        f"The model {package.folder} is damaged, for its model.json, graphs and weights do not fit together; "
        "export it anew or reinstall fartrack."
    )
