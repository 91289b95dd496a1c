"""OpenVINO (extra ``openvino``)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

# When imported, the library sends statistics of its use, unless this package of it is missing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402

from fartrack.engines.base import Graph, GraphEngine  # noqa: E402
from fartrack.engines.devices import DEVICES  # noqa: E402

__all__ = ["OpenVinoEngine", "ov"]


class OpenVinoEngine(GraphEngine):
    """Runs a package's graphs with OpenVINO, on the CPU in single precision as the other engines do."""

    def _open(self, path: Path, threads: int | None, device: str) -> Graph:
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if device == "cpu":
            # Left alone, OpenVINO computes in bfloat16 where the processor can, and boxes differ from other engines'.
            settings["INFERENCE_PRECISION_HINT"] = "f32"
            if threads is not None:
                settings["INFERENCE_NUM_THREADS"] = threads
        core = ov.Core()
        model = core.compile_model(core.read_model(path), DEVICES["openvino"][device], settings)
        request = model.create_infer_request()

        def run(inputs: Any) -> list[Any]:
            with self._lock:  # a request serves one call at a time
                return list(request.infer(inputs).values())

        return run
