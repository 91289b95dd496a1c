"""The models that ship, and model packages in general.

A package is a folder: ``model.json`` (what it is), ``weights.safetensors`` (the only copy of the weights, half
precision) and ONNX graphs whose initialisers point into that file. Or it is a named setting of another that ships: then
its ``model.json`` says ``of`` which, and with what tracker settings, engine and calibration of the score, and there is
nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fartrack.calibration import Calibration
from fartrack.errors import FartrackError
from fartrack.model.config import ModelConfig, from_dict

FORMAT = 1
WEIGHTS = "weights.safetensors"
SHIPPED = Path(__file__).parent


@dataclass(frozen=True)
class Package:
    """A model on disk: its folder, the shape of its network, and the tracker settings it is meant for (those that
    differ from the defaults), the engine it is meant for, if not whichever is fastest, and its score's calibration, if
    it has one."""

    folder: Path
    config: ModelConfig
    settings: Mapping[str, Any] = field(default_factory=dict)
    engine: str = "auto"
    calibration: Calibration | None = None


def shipped() -> list[str]:
    """The names of the models that come with the library."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/model.json"))


def open_package(model: str | Path) -> Package:
    """A shipped model by its name, or one of your own by its folder.

    Raises:
        FartrackError: an unknown name, a folder or file that is no model, or one of a newer format.
    """
    folder = SHIPPED / str(model)
    if str(model) not in shipped():
        folder = Path(str(model))
        if not folder.exists():
            raise FartrackError(
                f"There is no model {str(model)!r}; use {' or '.join(shipped())}, or the folder of an exported model."
            )
    try:
        record = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        version = int(record["format"])
        settings = dict(record.get("settings", {}))
        base = open_package(record["of"]) if record.get("of") in shipped() else None
        config = {} if base else dict(record["config"])
        score = dict(record.get("score") or {})
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise FartrackError(
            f"{folder} is no FARTrack model; give the folder of an exported one, or one of {', '.join(shipped())}."
        ) from None
    if version > FORMAT:
        raise FartrackError(
            f"The model {folder} is of format {version}, newer than this version reads; upgrade fartrack."
        )
    try:
        calibration = from_dict(Calibration, score) if score else None
        if base:
            engine, calibration = str(record.get("engine", base.engine)), calibration or base.calibration
            return replace(base, settings={**base.settings, **settings}, engine=engine, calibration=calibration)
        return Package(folder, from_dict(ModelConfig, config), settings, calibration=calibration)
    except FartrackError as error:
        raise FartrackError(f"{folder / 'model.json'}: {error}") from None


def check_weights(package: Package) -> None:
    """Check that the weights of a package are all there, as long as the header of their file declares, and that they
    are for crops of the package's sizes, since its graphs take smaller ones too.

    Raises:
        FartrackError: they are missing, cut off, no safetensors file, or of other crops.
    """
    path = package.folder / WEIGHTS
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, size)))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        whole = size == 8 + length + max(ends)
        tokens = [header[name]["shape"][0] for name in ("pos_x", "pos_z")]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise FartrackError(f"{path} is missing, damaged or cut off; export the model anew or reinstall fartrack.")
    if tokens != [package.config.search_tokens, package.config.template_tokens]:
        raise misfit(package)


def misfit(package: Package) -> FartrackError:
    """The error of a package whose parts are readable but make no network together."""
    return FartrackError(
        f"The model {package.folder} is damaged, for its model.json, graphs and weights do not fit together; "
        "export it anew or reinstall fartrack."
    )
