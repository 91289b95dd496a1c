"""The trackers that are compared: ours, published results, and any Python class, each behind one interface."""

import hashlib
import importlib
import inspect
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fartrack.api import load
from fartrack.engines.base import EngineName, Precision
from fartrack.engines.opening import resolve
from fartrack.errors import FartrackError
from fartrack.geometry import FloatArray, Image
from fartrack.packages import Package, find_package, open_package, shipped
from fartrack.tracking.settings import parse_settings
from fartrack.tracking.tracker import Track
from fartrack.version import __version__

RAW = "raw:"
"""Starts the spec of a folder of published results."""

ROOT = Path(__file__).parents[1]
"""The folder of this package."""


class AnyTracker(Protocol):
    """What the evaluation needs of a tracker. One object tracks many sequences, each started with ``init``."""

    def init(self, frame: Image, box: FloatArray) -> Any:
        """Take the object in ``box`` (x, y, w, h in pixels) of ``frame`` (uint8 BGR) as the target."""

    def update(self, frame: Image) -> Any:
        """The target in the next frame: four numbers x, y, w, h; such a box and a score; or a ``Track``."""


def as_track(found: Any) -> Track:
    """What a tracker's ``update`` returned, as a track; without a score, the score is NaN. FartrackError if it is not
    a box of four finite numbers."""
    try:
        if hasattr(found, "box"):
            box, score = found.box, found.score
        else:
            box, score = found if len(found) == 2 else (found, math.nan)
        x, y, w, h = (float(value) for value in box)
        track = Track((x, y, w, h), float(score), getattr(found, "state", "tracking"))
    except (TypeError, ValueError):
        shown = " ".join(repr(found).split())[:60]
        raise FartrackError(f"update returned {shown}; it must be x, y, w, h, or such a box and a score.") from None
    if not np.isfinite(track.box).all():
        raise FartrackError(f"update returned the box {track.box}; it must be four finite numbers x, y, w, h.")
    return track


def error_text(error: Exception) -> str:
    """What an error says, with its type if it is not one of ours."""
    return str(error) if isinstance(error, FartrackError) else f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class TrackerSpec:
    """Everything needed to open a tracker, in another process too. Its ``spec`` is one of

    * a shipped model's name, or the folder of an exported model, either with ``-PRESET`` behind it;
    * ``module:Class``, a Python class with ``init`` and ``update``. It is constructed without arguments, or with
      ``threads=`` if it has such a parameter. If its results depend on other files, its static method ``files()``
      returns their paths;
    * ``raw:DIR``, a folder of published results, which are read.
    """

    spec: str
    engine: EngineName = "auto"  # this, precision, device and settings are of our models
    precision: Precision | None = None
    threads: int | None = 1  # of one network call; None leaves it to the runtime
    settings: tuple[str, ...] = ()  # on top of the model's own, such as ``interval=40``; see `parse_settings`
    device: str = "cpu"

    @property
    def published(self) -> Path | None:
        """The folder of published results, if that is what this is."""
        return Path(self.spec.removeprefix(RAW)) if self.spec.startswith(RAW) else None

    def open(self) -> AnyTracker:
        """The tracker; FartrackError if it does not exist or what it needs is missing."""
        return self._find()[1]()

    def identity(self) -> dict[str, Any]:
        """What the results depend on, as JSON values; FartrackError as for :meth:`open`."""
        return {"fartrack": __version__, "threads": self.threads, **self._find()[0]}

    def _find(self) -> tuple[dict[str, Any], Callable[[], AnyTracker]]:
        """The tracker's part of the identity, and the function that opens it."""
        if find_package(self.spec) is not None or Path(self.spec).is_dir():
            return self._find_model(open_package(self.spec))
        if ":" in self.spec:
            return self._find_class()
        raise FartrackError(
            f"There is no tracker {self.spec!r}; use {', '.join(shipped())}, the folder of an exported model, raw:DIR "
            "for published results, or module:Class for a Python class."
        )

    def _find_model(self, package: Package) -> tuple[dict[str, Any], Callable[[], AnyTracker]]:
        settings = parse_settings(package.settings, self.settings, package.presets)
        files = sorted(path for path in package.network.iterdir() if path.suffix in (".bin", ".onnx", ".safetensors"))
        engine, precision = resolve(package, self.engine, self.precision, self.device)
        identity: dict[str, Any] = {"code": code_digest(), "model": digest(files)}
        identity |= {"engine": engine, "precision": precision}
        identity |= {"config": asdict(package.config), "settings": asdict(settings)}
        identity |= {"device": self.device} if self.device != "cpu" else {}
        identity["score"] = asdict(package.calibration) if package.calibration else None
        options: dict[str, Any] = {"engine": engine, "precision": precision, "device": self.device}
        return identity, lambda: load(self.spec, **options, threads=self.threads, **asdict(settings))

    def _find_class(self) -> tuple[dict[str, Any], Callable[[], AnyTracker]]:
        module, _, name = self.spec.partition(":")
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        try:
            found = getattr(importlib.import_module(module), name)
            if not (callable(getattr(found, "init", None)) and callable(getattr(found, "update", None))):
                raise FartrackError(f"The tracker {self.spec} lacks init(frame, box) or update(frame); add it.")
            paths = [getattr(sys.modules[module], "__file__", None), *getattr(found, "files", list)()]
            options = {"threads": self.threads} if "threads" in inspect.signature(found).parameters else {}
        except FartrackError:
            raise
        except Exception as error:  # whatever a user's module may raise
            raise FartrackError(f"The tracker {self.spec} cannot be loaded ({error}); give module:Class.") from error
        source = digest(Path(path) for path in paths if path)
        return {"class": self.spec, "source": source}, lambda: found(**options)


def parse_trackers(text: str, **options: Any) -> dict[str, TrackerSpec]:
    """Trackers separated by commas, each ``NAME=SPEC`` or ``SPEC`` → specs by name, in order.

    Without a name, a folder gives its own and a class its own. ``options`` are those of :class:`TrackerSpec`.
    FartrackError if there is none, a name cannot be that of a folder, or two have the same.
    """
    trackers: dict[str, TrackerSpec] = {}
    for part in text.split(","):
        name, _, spec = part.strip().rpartition("=")
        name = name or Path(spec).name.rpartition(":")[2]
        if not spec or not name or name.startswith(".") or set(name) & set("/\\"):
            raise FartrackError(f"{part!r} does not name a tracker; give SPEC or NAME=SPEC, separated by commas.")
        if name in trackers:
            raise FartrackError(f"Two trackers are called {name}; give one another name, as NAME={spec}.")
        trackers[name] = TrackerSpec(spec, **options)
    return trackers


def code_digest() -> str:
    """The digest of the modules that decide where a model of ours finds its target, which a version number does not
    tell apart while they are worked on."""
    folders = (sorted((ROOT / folder).glob("*.py")) for folder in ("tracking", "engines", "model"))
    return digest([ROOT / "geometry.py", *chain.from_iterable(folders)])


def digest(files: Iterable[Path]) -> str:
    """SHA-256 of the contents of files, in this order."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
