"""The default engine: ONNX Runtime on the CPU. Whatever else needs the library takes ``ort`` from here."""

from __future__ import annotations

import os
from pathlib import Path

# When imported without it, the library writes a device id into the home folder and looks up a host of its vendor's.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

from fartrack.engines.base import Graph, GraphEngine

__all__ = ["OnnxRuntimeEngine", "ort"]


class OnnxRuntimeEngine(GraphEngine):
    """Runs a package's graphs with ONNX Runtime."""

    def _open(self, path: Path, threads: int | None) -> Graph:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        if threads is not None:
            options.intra_op_num_threads = threads
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda inputs: session.run(None, inputs)
