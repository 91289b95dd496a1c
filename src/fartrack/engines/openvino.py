"""OpenVINO on the CPU (extra ``openvino``)."""

from __future__ import annotations

from functools import cached_property
from typing import Any, cast

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from fartrack.engines.base import Floats
from fartrack.errors import FartrackError
from fartrack.geometry import Image
from fartrack.packages import Package


class OpenVinoEngine:
    """Runs a package's graphs with OpenVINO, in single precision as the other engines do."""

    background = True

    def __init__(self, package: Package, threads: int | None = None) -> None:
        """Compile the graphs that every tracker needs; ``search_scored`` is compiled when it is first used.

        Raises:
            FartrackError: a graph is missing or cannot be read.
        """
        self.config = package.config
        self._package = package
        # Left alone, OpenVINO computes in bfloat16 where the processor can, and boxes differ from other engines'.
        self._settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            self._settings["INFERENCE_NUM_THREADS"] = threads
        self._core = ov.Core()
        self._template = self._compile("template")
        self._search = self._compile("search")

    def _compile(self, graph: str) -> Any:
        path = self._package.graph(graph)
        try:
            return self._core.compile_model(self._core.read_model(path), "CPU", self._settings)
        except RuntimeError:
            raise FartrackError(f"{path} is no readable ONNX model; export it anew or reinstall.") from None

    @cached_property
    def _search_scored(self) -> Any:
        return self._compile("search_scored")

    def memorise(self, crops: Image, identities: NDArray[np.int64]) -> Floats:
        """See :class:`fartrack.engines.base.Engine`."""
        return cast(Floats, self._template({"templates": crops, "identities": identities})[0])

    def search(self, crops: Image, trajectory: NDArray[np.int64], memory: Floats) -> Floats:
        """See :class:`fartrack.engines.base.Engine`."""
        return cast(Floats, self._search({"search": crops, "trajectory": trajectory, "memory": memory})[0])

    def search_scored(self, crops: Image, trajectory: NDArray[np.int64], memory: Floats) -> tuple[Floats, Floats]:
        """See :class:`fartrack.engines.base.Engine`."""
        result = self._search_scored({"search": crops, "trajectory": trajectory, "memory": memory})
        return cast(Floats, result["logits"]), cast(Floats, result["attention"])
