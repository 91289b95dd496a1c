"""The models that ship, and model packages in general.

A package is a folder with a ``model.json``: the shape of its network (``config``), the folder where that lies,
relative to this one (``network``), and how many ``layers`` lie there, the ``precision`` it runs in, tracker
``settings``, the calibration of its ``score``, and ``presets``, named sets of further settings: ``pico-fast`` is the
preset ``fast`` of ``pico``. ``measured`` holds what docs/ says of the shipped ones, by preset ("" without one).

A network's folder holds ``weights.safetensors`` (the only copy of the weights, half precision) and ONNX graphs that
point into it: ``search-6.onnx`` is that of the first six layers. Those in int8 share ``weights_int8.bin``.
"""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fartrack.config import check_choice, check_numbers, from_dict
from fartrack.errors import FartrackError
from fartrack.model.calibration import Calibration
from fartrack.model.config import ModelConfig

FORMAT = 6
RECORD = "model.json"
WEIGHTS = "weights.safetensors"
WEIGHTS_INT8 = "weights_int8.bin"
SHIPPED = Path(__file__).parent / "weights"

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {"templates": 5, "interval": 1, "template_score": 0.0, "hold_score": 0.0, "retention": 0.75}
    | {"agreement": 0.0, "lost_score": 0.0, "min_window": 1.0, "min_template": 1.0}
}
"""Presets that every model has: the paper's linear update on every frame and its sequence-level sparsification."""


@dataclass(frozen=True)
class Package:
    """A model on disk: its folder, that of its network, and what its ``model.json`` says."""

    folder: Path
    network: Path
    config: ModelConfig
    layers: int
    precision: str = "fp32"
    settings: Mapping[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: PRESETS)

    def __post_init__(self) -> None:
        """Check what no other class checks."""
        check_numbers(self, layers=(self.config.depth, 15))
        check_choice(self, "precision", ("fp32", "int8"))

    @property
    def parameters(self) -> int:
        """The number of the network's weights, without the head that only training uses; FartrackError if their file
        cannot be read."""
        path, total = self.network / WEIGHTS, 0
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            for name, tensor in header.items():
                group, _, rest = str(name).partition(".")
                layer = int(rest.split(".")[0]) if group == "blocks" else 0
                if group not in ("aux", "__metadata__") and layer < self.config.depth:
                    total += math.prod(tensor["shape"])
        except (OSError, ValueError, LookupError, TypeError, AttributeError, MemoryError, OverflowError):
            raise FartrackError(f"{path} holds no readable weights; export the model anew.") from None
        return total

    def graph(self, name: str) -> Path:
        """The file of a graph: ``template``, ``template_rest``, ``search`` or ``search_scored``, each also with
        ``_int8``; FartrackError if the package lacks it."""
        path = self.network / graph_file(name, self.config.depth)
        if not path.is_file():
            other = "use precision fp32, or " if name.endswith("_int8") else ""
            raise FartrackError(f"The model {self.folder} lacks {path.name}; {other}export it anew with that graph.")
        return path


def graph_file(name: str, depth: int) -> str:
    """The name of the file of a graph of the first ``depth`` layers."""
    return f"{name}-{depth}.onnx"


def shipped() -> list[str]:
    """The names of the models that come with the library, their presets among them."""
    records = {path.parent.name: json.loads(path.read_text("utf-8")) for path in SHIPPED.glob(f"*/{RECORD}")}
    return sorted([*records, *(f"{name}-{preset}" for name in records for preset in records[name].get("presets", ()))])


def open_package(model: str | Path) -> Package:
    """A shipped model by its name, or one of your own by its folder, either with ``-PRESET`` behind it. FartrackError
    for an unknown name, a folder or file that is no model, one of another format, or a bad field."""
    found = find_package(model)
    if found is not None:
        return _read(*found)
    with suppress(OSError):  # a name that is too long
        if Path(str(model)).exists():
            raise _no_model(model)
    names = " or ".join(shipped())
    raise FartrackError(f"There is no model {str(model)!r}; use {names}, or the folder of an exported model.")


def find_package(model: str | Path) -> tuple[Path, str | None] | None:
    """The folder of a model as :func:`open_package` takes it, and the preset behind it; None if there is none."""
    base, _, preset = str(model).rpartition("-")
    with suppress(OSError):  # a name that is too long
        for name, chosen in ((str(model), None), (base, preset)):
            for folder in (SHIPPED / name, Path(name)):
                if name and (folder / RECORD).is_file():
                    return folder.absolute(), chosen
    return None


def _read(folder: Path, preset: str | None) -> Package:
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        version, config, score = int(record["format"]), dict(record["config"]), dict(record.get("score") or {})
        network = (folder / record.get("network", ".")).resolve()
        presets = {**PRESETS, **{name: dict(values) for name, values in record.get("presets", {}).items()}}
        settings = {**record.get("settings", {}), **(presets.get(preset, {}) if preset is not None else {})}
        measured = dict(record.get("measured", {}).get(preset or "", {}))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        raise _no_model(folder) from None
    if version != FORMAT:
        fix = "upgrade fartrack" if version > FORMAT else "export it anew"
        raise FartrackError(f"The model {folder} is of format {version}, and this version reads {FORMAT}; {fix}.")
    if preset is not None and preset not in presets:
        raise FartrackError(f"The model {folder} has no preset {preset!r}; it has {', '.join(presets)}.")
    try:
        calibration = from_dict(Calibration, score) if score else None
        precision = record.get("precision", "fp32")
        shape = from_dict(ModelConfig, config)
        layers = record.get("layers", shape.depth)
        return Package(folder, network, shape, layers, precision, settings, calibration, measured, presets)
    except FartrackError as error:
        raise FartrackError(f"{folder / RECORD}: {error}") from None


def _no_model(path: str | Path) -> FartrackError:
    names = ", ".join(shipped())
    return FartrackError(f"{path} is no FARTrack model; give the folder of an exported one, or one of {names}.")
