"""OpenVINO (extra ``openvino``)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

# When imported, the library sends statistics of its use, unless this package of it is missing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402

from fartrack.engines.base import Graph, GraphEngine, Precision  # noqa: E402
from fartrack.engines.devices import DEVICES  # noqa: E402
from fartrack.errors import FartrackError  # noqa: E402

__all__ = ["OpenVinoEngine", "core"]

_CORES: dict[int, ov.Core] = {}


def core() -> ov.Core:
    """The process's only core, which is kept until its end.

    A core gives the thread that compiles a stack for signals and takes it away when it is closed. Of several that are
    closed in the order in which they were opened, the last leaves a stack that has gone: the process dies of the next
    signal that Python handles.
    """
    process = os.getpid()
    return _CORES.get(process) or _CORES.setdefault(process, ov.Core())


class OpenVinoEngine(GraphEngine):
    """Runs a package's graphs with OpenVINO: on the CPU in single precision as the other engines do, or in bfloat16."""

    def _open(self, path: Path, threads: int | None, precision: Precision, device: str) -> Graph:
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if device == "cpu":
            # Left alone, OpenVINO computes in bfloat16 where the processor can, and boxes differ from other engines'.
            settings["INFERENCE_PRECISION_HINT"] = "bf16" if precision == "bf16" else "f32"
            if precision == "bf16" and "BF16" not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
                raise FartrackError(
                    "This processor has no instructions for bfloat16; use precision fp32, or int8 with the engine "
                    "onnxruntime."
                )
            if threads is not None:
                settings["INFERENCE_NUM_THREADS"] = threads
        model = core().compile_model(core().read_model(path), DEVICES["openvino"][device], settings)
        request = model.create_infer_request()

        def run(inputs: Any) -> list[Any]:
            with self._lock:  # a request serves one call at a time
                return list(request.infer(inputs, share_inputs=True).values())

        return run
