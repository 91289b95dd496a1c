"""Other trackers behind the interface of our own, so that one run compares them.

The code is written from the published descriptions; the networks are files that the user names. Boxes are
``x, y, w, h`` in pixels, frames uint8 BGR.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fartrack.api import load
from fartrack.config import from_dict
from fartrack.engines.base import EngineName, Precision, resolve
from fartrack.engines.onnxruntime import ort
from fartrack.errors import FartrackError
from fartrack.geometry import FloatArray, Image
from fartrack.model.config import IMAGENET_MEAN, IMAGENET_STD
from fartrack.packages import Package, open_package, shipped
from fartrack.tracking.tracker import Track, TrackerSettings
from fartrack.version import __version__

Floats = NDArray[np.float32]

RAW = "raw:"
"""Before the folder of a tracker's published results."""


class AnyTracker(Protocol):
    """What the evaluation needs of a tracker. One object serves many sequences; ``init`` starts each anew."""

    def init(self, frame: Image, box: FloatArray) -> Any:
        """Take the object in ``box`` (x, y, w, h in pixels) of ``frame`` (uint8 BGR) as the target."""
        ...

    def update(self, frame: Image) -> Any:
        """The target in the next frame: four numbers x, y, w, h; such a box and a score; or a ``Track``."""
        ...


def as_track(found: Any) -> Track:
    """What a tracker's ``update`` returned as a track; the score of one that gives none is NaN.

    Raises:
        FartrackError: it is no box of four finite numbers.
    """
    try:
        if hasattr(found, "box"):
            box, score = found.box, found.score
        else:
            box, score = found if len(found) == 2 else (found, math.nan)
        x, y, w, h = (float(value) for value in box)
        track = Track((x, y, w, h), float(score))
    except (TypeError, ValueError):
        shown = " ".join(repr(found).split())[:60]
        raise FartrackError(f"update returned {shown}; it must be x, y, w, h, or such a box and a score.") from None
    if not np.isfinite(track.box).all():
        raise FartrackError(f"update returned the box {track.box}; it must be four finite numbers x, y, w, h.")
    return track


@dataclass(frozen=True)
class TrackerSpec:
    """All that it takes to open a tracker, in another process too.

    Attributes:
        spec: a shipped model's name or the folder of an exported one; ``nanotrack-v2``, ``nanotrack-v3`` or
            ``vittrack``; ``csrt``, ``kcf`` or ``mil``; or ``module:Class``, a Python class of that module, called
            without arguments. ``raw:DIR`` names published results, which are read and not opened.
        engine, precision: that run our models.
        threads: of one network call; None leaves it to the runtime.
        settings: of our tracker, where they are to differ from the model's own.
        peers: folder of the ONNX files of NanoTrack and VitTrack.
    """

    spec: str
    engine: EngineName = "auto"
    precision: Precision | None = None
    threads: int | None = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    peers: Path | None = None

    def open(self) -> AnyTracker:
        """The tracker.

        Raises:
            FartrackError: there is no such tracker, or what it needs is missing.
        """
        return self._find()[1]()

    def identity(self) -> dict[str, Any]:
        """What the results depend on, fit for JSON: those of two identities must not be mixed.

        Raises:
            FartrackError: there is no such tracker, or what it needs is missing.
        """
        return {"fartrack": __version__, "threads": self.threads, **self._find()[0]}

    def package(self) -> Package | None:
        """The model package, if it is a model of ours.

        Raises:
            FartrackError: the folder is no model.
        """
        ours = self.spec not in (*PEERS, *OPENCV) and (self.spec in shipped() or Path(self.spec).is_dir())
        return open_package(self.spec) if ours else None

    def _find(self) -> tuple[dict[str, Any], Callable[[], AnyTracker]]:
        """The tracker's part of the identity, and what opens it."""
        spec = self.spec
        if spec in PEERS:
            make, names = PEERS[spec]
            if self.peers is None:
                raise FartrackError(f"{spec} needs its ONNX files {', '.join(names)}; name their folder with --peers.")
            files = [self.peers / name for name in names]
            for path in files:
                if not path.is_file():
                    raise FartrackError(f"{spec} needs {path}, which is missing; put it there or correct --peers.")
            return {"peer": spec, "files": digest(files)}, lambda: make(files, self.threads)
        if spec in OPENCV:
            create = find_opencv(spec)
            return {"opencv": spec, "version": cv2.__version__}, lambda: OpenCVTracker(create)
        if package := self.package():
            settings = from_dict(TrackerSettings, {**package.settings, **self.settings})
            files = sorted(
                path for path in package.network.iterdir() if path.suffix in (".json", ".onnx", ".safetensors")
            )
            engine, precision = resolve(package, self.engine, self.precision)
            identity: dict[str, Any] = {"model": digest(files), "engine": engine, "precision": precision}
            identity |= {"depth": package.config.depth, "settings": asdict(settings)}
            if package.calibration:
                identity["score"] = asdict(package.calibration)
            return identity, lambda: load(
                spec, engine=engine, precision=precision, threads=self.threads, settings=settings
            )
        if ":" in spec:
            made = find_class(spec)
            source = getattr(sys.modules[spec.partition(":")[0]], "__file__", None)
            return {"class": spec, "source": digest([Path(source)] if source else [])}, made
        known = ", ".join([*shipped(), *PEERS, *OPENCV])
        raise FartrackError(
            f"There is no tracker {spec!r}; use {known}, the folder of an exported model, raw:DIR for published "
            "results or module:Class for a Python class."
        )


def open_tracker(spec: str, **options: Any) -> AnyTracker:
    """The tracker of a :class:`TrackerSpec`, which has the same arguments and errors."""
    return TrackerSpec(spec, **options).open()


def parse_trackers(text: str) -> dict[str, str]:
    """Trackers separated by commas, each ``NAME=SPEC`` or ``SPEC`` → specs by name, in order.

    Without a name, a folder gives its own and a class its own.

    Raises:
        FartrackError: none is given, a name cannot be a folder's, or two have the same.
    """
    trackers: dict[str, str] = {}
    for part in text.split(","):
        name, _, spec = part.strip().rpartition("=")
        name = name or Path(spec).name.rpartition(":")[2]
        if not spec or not name or name.startswith(".") or set(name) & set("/\\"):
            raise FartrackError(f"The tracker {part!r} is none; give SPEC or NAME=SPEC, with commas between several.")
        if name in trackers:
            raise FartrackError(f"Two trackers are called {name}; give one another name, as NAME={spec}.")
        trackers[name] = spec
    return trackers


def digest(files: list[Path]) -> str:
    """SHA-256 of the contents of files, in this order."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def find_class(spec: str) -> Callable[[], AnyTracker]:
    """The class of ``module:Class``; modules of the working folder are found too.

    Raises:
        FartrackError: there is no such module or class, or it lacks ``init`` or ``update``.
    """
    module, _, name = spec.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever importing a user's module may raise
        raise FartrackError(f"The tracker {spec} cannot be loaded ({error}); give module:Class.") from error
    if not (callable(getattr(found, "init", None)) and callable(getattr(found, "update", None))):
        raise FartrackError(f"The tracker {spec} lacks init(frame, box) or update(frame); add it.")
    return cast(Callable[[], AnyTracker], found)


# --- OpenCV's own -----------------------------------------------------------------------------------------

OPENCV = ("csrt", "kcf", "mil")


def find_opencv(name: str) -> Callable[[], Any]:
    """What makes a tracker of ``OPENCV`` in the installed OpenCV.

    Raises:
        FartrackError: it lacks that tracker.
    """
    create = f"Tracker{name.upper()}_create"
    found = getattr(cv2, create, None) or getattr(getattr(cv2, "legacy", None), create, None)
    if found is None:
        raise FartrackError(
            f"The installed OpenCV {cv2.__version__} lacks the tracker {name}; install the package "
            "opencv-contrib-python-headless in place of opencv-python-headless."
        )
    return cast(Callable[[], Any], found)


class OpenCVTracker:
    """A tracker of OpenCV; where it reports a failure, the box stays where it was.

    MIL draws random numbers whose state OpenCV keeps for the process and lets nobody reset, so its boxes depend on what
    it tracked before.
    """

    def __init__(self, create: Callable[[], Any]) -> None:
        """``create`` makes a tracker for one sequence."""
        self._create = create

    def init(self, frame: Image, box: FloatArray) -> None:
        """See :class:`AnyTracker`; OpenCV takes whole pixels only."""
        x, y, w, h = (round(value) for value in box.tolist())
        self._box: tuple[float, ...] = (x, y, max(w, 1), max(h, 1))
        self._tracker = self._create()
        self._tracker.init(frame, self._box)

    def update(self, frame: Image) -> tuple[float, ...]:
        """See :class:`AnyTracker`."""
        good, box = self._tracker.update(frame)
        if good:
            self._box = box
        return self._box


# --- networks ---------------------------------------------------------------------------------------------


def open_session(path: Path, threads: int | None, *, any_size: bool = False) -> ort.InferenceSession:
    """An ONNX file on the CPU; with ``any_size``, for pictures of other sizes than the file declares.

    Raises:
        FartrackError: it is no readable ONNX model, or the library that changes it is missing.
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
        raise FartrackError(f"{path} is no readable ONNX model; download it again.") from None


def free_size(path: Path) -> bytes:
    """An ONNX file without the declared heights and widths of what goes in, comes out and lies between."""
    import onnx

    model = onnx.load(str(path))
    for value in model.graph.input:
        for number, axis in enumerate(value.type.tensor_type.shape.dim[2:]):
            axis.dim_param = f"side{number}"
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    return cast(bytes, model.SerializeToString())


def cut(frame: Image, centre: FloatArray, side: int, size: int, padding: ArrayLike = 0) -> tuple[Image, FloatArray]:
    """The square window of ``side`` pixels around ``centre``, as ``(size, size, 3)``, and where its middle really is.

    Unlike our own crops it has whole pixels, and shrinking does not average: so these networks know pictures. What
    lies outside of the frame has the colour ``padding``.
    """
    left, top = np.round(centre - side / 2).astype(int).tolist()
    x0, y0 = max(left, 0), max(top, 0)
    part = frame[y0 : max(top + side, 0), x0 : max(left + side, 0)]
    window = part
    if part.shape[:2] != (side, side):
        window = np.empty((side, side, 3), np.uint8)
        window[:] = padding
        window[y0 - top : y0 - top + part.shape[0], x0 - left : x0 - left + part.shape[1]] = part
    resized = cv2.resize(window, (size, size), interpolation=cv2.INTER_LINEAR)
    return cast(Image, resized), np.array([left, top]) + side / 2


def centred(box: FloatArray) -> tuple[FloatArray, FloatArray]:
    """An image box as its centre and its size."""
    return box[:2] + box[2:] / 2, box[2:].copy()


def hold(centre: FloatArray, size: FloatArray, frame: Image, least: float) -> tuple[FloatArray, FloatArray]:
    """A box with its centre in the frame, at least ``least`` pixels and at most the frame large."""
    whole = np.array(frame.shape[1::-1], np.float64)
    return centre.clip(0, whole), size.clip(least, whole)


class NanoTrack:
    """NanoTrack: a Siamese network whose head gives, at each of a grid of points in the search window, how likely it
    lies in the target and its distances to the four sides.

    The window is a square of the target with a margin of half its mean side. Of the points the one wins whose score
    is best after a penalty for changes of size and shape and a cosine window; its size is mixed into the last one.
    """

    TEMPLATE, SEARCH, STRIDE = 127, 255, 16

    def __init__(self, files: list[Path], threads: int | None, *, window: float, penalty: float, rate: float) -> None:
        """``files``: backbone and head. ``window`` is the weight of the cosine window, ``penalty`` how sharply changes
        are punished, ``rate`` the share of a new size at full confidence."""
        self._backbone = open_session(files[0], threads, any_size=True)
        self._head = open_session(files[1], threads)
        self._window, self._penalty, self._rate = window, penalty, rate
        cells = int(self._head.get_outputs()[0].shape[-1])
        self._hann = np.outer(np.hanning(cells), np.hanning(cells)).ravel()
        places = self.STRIDE * (np.arange(cells) - cells // 2)
        self._points = np.stack(np.meshgrid(places, places), -1).reshape(-1, 2)

    def init(self, frame: Image, box: FloatArray) -> None:
        """See :class:`AnyTracker`."""
        self._centre, self._size = centred(box)
        self._mean = frame.mean((0, 1)).astype(np.uint8)
        self._template, _ = self._features(frame, self._context(self._size), self.TEMPLATE)

    def update(self, frame: Image) -> tuple[FloatArray, float]:
        """See :class:`AnyTracker`."""
        scale = self.TEMPLATE / self._context(self._size)
        features, middle = self._features(frame, self._context(self._size) * self.SEARCH / self.TEMPLATE, self.SEARCH)
        classes, sides = (
            part[0].reshape(part.shape[1], -1)
            for part in self._head.run(None, {"input1": self._template, "input2": features})
        )
        scores = 1 / (1 + np.exp(classes[0] - classes[1]))
        low, high = self._points - sides[:2].T, self._points + sides[2:].T
        sizes, expected = high - low, self._size * scale
        change = ratio(self._context(sizes), self._context(expected))
        change *= ratio(sizes[:, 0] / sizes[:, 1], expected[0] / expected[1])
        trust = np.exp(-self._penalty * (change - 1))
        best = int(np.argmax((1 - self._window) * trust * scores + self._window * self._hann))
        rate = self._rate * trust[best] * scores[best]
        centre = middle + (low + high)[best] / 2 / scale
        size = (1 - rate) * self._size + rate * sizes[best] / scale
        self._centre, self._size = hold(centre, size, frame, 10)
        return np.concatenate([self._centre - self._size / 2, self._size]), float(scores[best])

    @staticmethod
    def _context(size: FloatArray) -> FloatArray:
        """Side of the square of a target ``(..., 2)`` with its margin."""
        return cast(FloatArray, np.sqrt((size + size.sum(-1, keepdims=True) / 2).prod(-1)))

    def _features(self, frame: Image, side: FloatArray, size: int) -> tuple[Floats, FloatArray]:
        crop, middle = cut(frame, self._centre, round(float(side)), size, self._mean)
        return self._backbone.run(None, {"input": as_batch(crop)})[0], middle


class VitTrack:
    """VitTrack of the OpenCV model zoo: a small transformer that sees template and search window together, and gives
    on a grid of cells how likely each holds the target's centre, where in the cell, and the target's size.

    As OpenCV runs it, the box is rounded down to whole pixels, and stays where it was on a frame with a low score.
    """

    TEMPLATE, SEARCH, LEAST_SCORE = 128, 256, 0.2

    def __init__(self, files: list[Path], threads: int | None) -> None:
        """``files``: the one network."""
        self._network = open_session(files[0], threads)
        cells = int(self._network.get_outputs()[0].shape[-1])
        bell = np.hanning(cells + 2)[1:-1]
        self._hann = np.outer(bell, bell)

    def init(self, frame: Image, box: FloatArray) -> None:
        """See :class:`AnyTracker`."""
        self._centre, self._size = centred(box)
        self._template = self._look(frame, 2, self.TEMPLATE)[0]

    def update(self, frame: Image) -> tuple[FloatArray, float]:
        """See :class:`AnyTracker`."""
        search, middle, side = self._look(frame, 4, self.SEARCH)
        scores, sizes, offsets = (
            part[0] for part in self._network.run(None, {"template": self._template, "search": search})
        )
        row, column = np.unravel_index(np.argmax(scores[0] * self._hann), self._hann.shape)
        score = float(scores[0, row, column])
        if score >= self.LEAST_SCORE:
            cell = np.array([column, row]) + offsets[:, row, column]
            centre, size = middle + (cell / len(self._hann) - 0.5) * side, sizes[:, row, column] * side
            whole = np.floor(np.concatenate([centre - size / 2, size]))
            self._centre, self._size = hold(*centred(whole), frame, 1)
        return np.concatenate([self._centre - self._size / 2, self._size]), score

    def _look(self, frame: Image, factor: float, size: int) -> tuple[Floats, FloatArray, int]:
        side = math.ceil(factor * math.sqrt(self._size.prod()))
        crop, middle = cut(frame, self._centre, side, size)
        return as_batch((crop[..., ::-1] / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)), middle, side


def as_batch(crop: NDArray[Any]) -> Floats:
    """``(H, W, C)`` → ``(1, C, H, W)`` float32."""
    return np.ascontiguousarray(crop.transpose(2, 0, 1)[None], np.float32)


def ratio(first: ArrayLike, second: ArrayLike) -> FloatArray:
    """How many times the lesser of two goes into the greater, elementwise."""
    change = np.asarray(first, np.float64) / np.asarray(second, np.float64)
    return cast(FloatArray, np.maximum(change, 1 / change))


PEERS: dict[str, tuple[Callable[[list[Path], int | None], AnyTracker], tuple[str, ...]]] = {
    "nanotrack-v2": (
        partial(NanoTrack, window=0.490, penalty=0.150, rate=0.385),
        ("nanotrackv2_backbone_sim.onnx", "nanotrackv2_head_sim.onnx"),
    ),
    "nanotrack-v3": (
        partial(NanoTrack, window=0.455, penalty=0.138, rate=0.348),
        ("nanotrackv3_backbone.onnx", "nanotrackv3_head.onnx"),
    ),
    "vittrack": (VitTrack, ("object_tracking_vittrack_2023sep.onnx",)),
}
"""Peers that are networks: what makes one, and the names of its files."""
