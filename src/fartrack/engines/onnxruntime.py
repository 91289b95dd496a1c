"""The default engine: ONNX Runtime. Whatever else needs the library takes ``ort`` from here."""

from __future__ import annotations

import os
from pathlib import Path

# When imported without it, the library writes a device id into the home folder and looks up a host of its vendor's.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

from fartrack.engines.base import Graph, GraphEngine, Precision
from fartrack.engines.devices import DEVICES
from fartrack.errors import FartrackError

__all__ = ["OnnxRuntimeEngine", "ort"]


class OnnxRuntimeEngine(GraphEngine):
    """Runs a package's graphs with ONNX Runtime."""

    def _open(self, path: Path, threads: int | None, precision: Precision, device: str) -> Graph:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        if threads is not None:
            options.intra_op_num_threads = threads
        provider, cpu = DEVICES["onnxruntime"][device], "CPUExecutionProvider"  # of what the provider lacks
        if device in ("cuda", "tensorrt") and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # CUDA's libraries, where they were installed as packages
        # as CUDA is left alone, it rounds factors to ten bits
        chosen = (provider, {"use_tf32": "0"}) if device == "cuda" else provider
        session = ort.InferenceSession(str(path), options, providers=[chosen] if provider == cpu else [chosen, cpu])
        if session.get_providers()[0] != provider:  # it falls back to the CPU without a word
            raise FartrackError(f"ONNX Runtime cannot start the device {device}; check its driver, or use cpu.")
        return lambda inputs: session.run(None, inputs)
