"""The default engine: ONNX Runtime on the CPU."""

from __future__ import annotations

from functools import cached_property
from typing import cast

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from fartrack.engines.base import Floats
from fartrack.errors import FartrackError
from fartrack.geometry import Image
from fartrack.packages import Package


class OnnxRuntimeEngine:
    """Runs a package's graphs with ONNX Runtime."""

    background = True

    def __init__(self, package: Package, threads: int | None = None, search: str = "search") -> None:
        """Load the graphs that every tracker needs; ``search_scored`` is loaded when it is first used.

        Args:
            package: the model.
            threads: of one network call; None leaves it to the runtime.
            search: the graph that searches, ``search`` or ``search_int8``.

        Raises:
            FartrackError: a graph is missing or cannot be read.
        """
        self.config = package.config
        self._package = package
        self._threads = threads
        self._template = self._session("template")
        self._search = self._session(search)

    def _session(self, graph: str) -> ort.InferenceSession:
        path = self._package.graph(graph)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        try:
            return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception:  # ONNX Runtime has a class of its own for each way a file can be broken
            raise FartrackError(f"{path} is no readable ONNX model; export it anew or reinstall.") from None

    @cached_property
    def _search_scored(self) -> ort.InferenceSession:
        return self._session("search_scored")

    def memorise(self, crops: Image, identities: NDArray[np.int64]) -> Floats:
        """See :class:`fartrack.engines.base.Engine`."""
        return cast(Floats, self._template.run(None, {"templates": crops, "identities": identities})[0])

    def search(self, crops: Image, trajectory: NDArray[np.int64], memory: Floats) -> Floats:
        """See :class:`fartrack.engines.base.Engine`."""
        feed = {"search": crops, "trajectory": trajectory, "memory": memory}
        return cast(Floats, self._search.run(None, feed)[0])

    def search_scored(self, crops: Image, trajectory: NDArray[np.int64], memory: Floats) -> tuple[Floats, Floats]:
        """See :class:`fartrack.engines.base.Engine`."""
        feed = {"search": crops, "trajectory": trajectory, "memory": memory}
        logits, attention = self._search_scored.run(None, feed)
        return cast(Floats, logits), cast(Floats, attention)
