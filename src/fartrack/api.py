"""The three lines that most programs need: load a tracker, or track a whole video."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from fartrack.config import from_dict
from fartrack.engines.base import EngineName, Precision
from fartrack.engines.opening import open_engine
from fartrack.errors import FartrackError
from fartrack.packages import RECORD, open_package
from fartrack.tracking.settings import TrackerSettings, parse_settings
from fartrack.tracking.tracker import Color, Track, Tracker
from fartrack.video.sources import Frame, FrameSource, frames_from_source

DEFAULT_MODEL = "pico"


def load(
    model: str | Path = DEFAULT_MODEL,
    *,
    engine: EngineName = "auto",
    precision: Precision | None = None,
    threads: int | None = None,
    device: str = "cpu",
    preset: str | None = None,
    color: Color = "bgr",
    **settings: Any,
) -> Tracker:
    """A tracker, ready for ``init(frame, box)`` and ``update(frame)``.

    Args:
        model: a shipped model's name, or the folder of an exported one.
        engine: ``onnxruntime``, ``openvino`` (extra) or ``torch`` (extra ``train``): the same boxes; ``auto`` is the
            first that knows the device.
        precision: ``fp32``; or faster, with boxes that differ a little: ``int8``, which ``onnxruntime`` has on the CPU,
            or ``bf16``, which ``openvino`` has on CPUs with instructions for it and ``torch`` on GPUs. None is
            ``int8`` where the model is meant for it and the engine has it, else what is usual there.
        threads: of one network call; None leaves it to the runtime.
        device: ``cpu``, ``cuda``, ``tensorrt``, ``coreml``, ``directml`` (ONNX Runtime), ``gpu``, ``npu`` (OpenVINO),
            ``mps`` (PyTorch), or ``auto``.
        preset: several settings under one name: one of the model's presets, or ``paper``.
        color: channel order of the frames, ``bgr`` as OpenCV has it or ``rgb``.
        settings: fields of :class:`TrackerSettings` that are to be other than the model's own, such as ``interval=40``.

    Raises:
        FartrackError: an unknown model (the message names those that exist), engine, precision, device, preset, color
            order or setting, or a damaged model.
    """
    package = open_package(model)
    try:
        own = parse_settings(package.settings, [f"preset={preset}"] if preset else (), package.presets)
    except FartrackError as error:
        raise FartrackError(f"{package.folder / RECORD}: {error}") from None
    chosen = from_dict(TrackerSettings, {**vars(own), **settings})
    return Tracker(open_engine(package, engine, threads, precision, device), chosen, color, package.calibration)


def track_video(
    source: str | Path | int,
    box: ArrayLike,
    *,
    start: int = 0,
    tracker: Tracker | None = None,
) -> Iterator[Track]:
    """Track the object in ``box`` through a video.

    Args:
        source: a video file, a folder of pictures, a webcam's number or a stream's URL.
        box: ``x, y, w, h`` in pixels, drawn on frame ``start``.
        start: the frame on which the box was drawn, counted from 0.
        tracker: from :func:`load`, for BGR frames; by default the default model's.

    Yields:
        One track a frame from frame ``start`` on; the first holds the given box, with score 1. Files are tracked
        frame by frame; of a webcam, or a stream that is sent as it is filmed, frames are passed over while
        tracking is slower than they come.

    Raises:
        FartrackError: before the first track, a source, box or model that cannot be used; after the last good
            frame, a source that is cut off or damaged.
    """
    with frames_from_source(source, start=start) as frames:
        for _, track in track_frames(tracker or load(), frames, box):
            yield track


def track_frames(tracker: Tracker, frames: FrameSource, box: ArrayLike) -> Iterator[tuple[Frame, Track]]:
    """The frames of an open source, each with its track; see :func:`track_video`.

    Meanwhile a thread reads ahead: as long as this iterator is neither at its end nor closed. ``Frame.index`` tells
    which frames of a live source were passed over.
    """
    if tracker.color != "bgr":
        raise FartrackError("Videos are read in BGR order; load the tracker with color='bgr'.")
    with frames.reading_ahead():
        for number, frame in enumerate(frames):
            yield frame, tracker.update(frame.image) if number else tracker.init(frame.image, box)
