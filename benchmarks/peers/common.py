"""What the other trackers have in common: their ONNX files and their search windows."""

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fartrack.engines.onnxruntime import ort
from fartrack.errors import FartrackError
from fartrack.geometry import FloatArray, Image

Floats = NDArray[np.float32]


def onnx_files(*names: str) -> list[Path]:
    """Files of the folder that the environment variable ``FARTRACK_PEERS`` names; ``peers`` if it is not set.

    Raises:
        FartrackError: one is missing.
    """
    folder = Path(os.environ.get("FARTRACK_PEERS", "peers"))
    for path in (folder / name for name in names):
        if not path.is_file():
            raise FartrackError(f"{path} is missing; set FARTRACK_PEERS to the folder that holds {', '.join(names)}.")
    return [folder / name for name in names]


def open_session(path: Path, threads: int | None, *, any_size: bool = False) -> ort.InferenceSession:
    """An ONNX file on the CPU; with ``any_size``, for pictures of other sizes than the file declares.

    Raises:
        FartrackError: it is not a readable ONNX model, or the library that changes it is missing.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return ort.InferenceSession(free_size(path) if any_size else str(path), options, ["CPUExecutionProvider"])
    except ModuleNotFoundError:
        raise FartrackError("NanoTrack needs onnx, which is not installed; run pip install 'fartrack[eval]'.") from None
    except Exception:  # ONNX Runtime and protobuf have a class of their own for each way a file can be broken
        raise FartrackError(f"{path} is not a readable ONNX model; download it again.") from None


def free_size(path: Path) -> bytes:
    """An ONNX file without the declared heights and widths of its inputs, outputs and intermediate values."""
    import onnx

    model = onnx.load(str(path))
    for value in model.graph.input:
        for number, axis in enumerate(value.type.tensor_type.shape.dim[2:]):
            axis.dim_param = f"side{number}"
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    return model.SerializeToString()


def cut(frame: Image, center: FloatArray, side: int, size: int, padding: ArrayLike = 0) -> tuple[Image, FloatArray]:
    """The square window of ``side`` pixels around ``center``, as ``(size, size, 3)``, and its exact center.

    Unlike our own crops it begins at a whole pixel and is shrunk without averaging, as these networks were trained.
    Outside of the frame it has the color ``padding``.
    """
    left, top = np.round(center - side / 2).astype(int).tolist()
    x0, y0 = max(left, 0), max(top, 0)
    window = part = frame[y0 : max(top + side, 0), x0 : max(left + side, 0)]
    if part.shape[:2] != (side, side):
        window = np.empty((side, side, 3), np.uint8)
        window[:] = padding
        window[y0 - top : y0 - top + part.shape[0], x0 - left : x0 - left + part.shape[1]] = part
    return cv2.resize(window, (size, size), interpolation=cv2.INTER_LINEAR), np.array([left, top]) + side / 2


def center_and_size(box: FloatArray) -> tuple[FloatArray, FloatArray]:
    """An image box as its center and its size."""
    return box[:2] + box[2:] / 2, box[2:].copy()


def keep_inside(center: FloatArray, size: FloatArray, frame: Image, smallest: float) -> tuple[FloatArray, FloatArray]:
    """A box with its center in the frame, at least ``smallest`` pixels and at most the frame large."""
    whole = np.array(frame.shape[1::-1], np.float64)
    return center.clip(0, whole), size.clip(smallest, whole)


def as_batch(crop: NDArray[Any]) -> Floats:
    """``(H, W, C)`` → ``(1, C, H, W)`` float32."""
    return np.ascontiguousarray(crop.transpose(2, 0, 1)[None], np.float32)
