"""The models that ship, and model packages in general.

A package is a folder: ``model.json`` (what it is), ``weights.safetensors`` (the only copy of the weights, half
precision) and ONNX graphs whose initialisers point into that file, such as ``search.onnx``. Graphs of exits, networks
of only its first layers, may lie beside them and point into the same file: ``search-6.onnx`` has six. Those for the
engine ``onnxruntime-int8`` point into ``weights_int8.bin``.

Or a package is a variant of another. Then there is nothing but its ``model.json``, which says ``of`` which (one that
ships, or a folder relative to its own, such as ``../tiny``), and what differs: the ``depth`` of an exit, tracker
``settings``, the ``engine``, the calibration of the ``score``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fartrack.config import from_dict
from fartrack.errors import FartrackError
from fartrack.model.config import ModelConfig
from fartrack.tracking.calibration import Calibration

FORMAT = 2
"""The newest that this version reads. Since 2 a variant may have a depth of its own."""

WEIGHTS = "weights.safetensors"
WEIGHTS_INT8 = "weights_int8.bin"
SHIPPED = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Package:
    """A model on disk.

    Attributes:
        folder: where its weights and graphs lie.
        config: the shape of its network.
        layers: of the weights; more than ``config.depth`` if the model is an exit, the first layers of a deeper one.
        settings: the tracker settings it is meant for, those that differ from the defaults.
        engine: the engine it is meant for, if not whichever is fastest.
        calibration: of its score, if it has one.
    """

    folder: Path
    config: ModelConfig
    layers: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    engine: str = "auto"
    calibration: Calibration | None = None

    def graph(self, name: str) -> Path:
        """The file of a graph: ``template``, ``search``, ``search_int8`` or ``search_scored``.

        Raises:
            FartrackError: the package lacks it.
        """
        path = self.folder / graph_file(name, self.config.depth, self.layers)
        if not path.is_file():
            other = "use another engine, or " if name == "search_int8" else ""
            raise FartrackError(f"The model {self.folder} lacks {path.name}; {other}export it anew with that graph.")
        return path


def graph_file(name: str, depth: int, layers: int) -> str:
    """The name of the file of a graph of the first ``depth`` of so many layers."""
    return f"{name}.onnx" if depth == layers else f"{name}-{depth}.onnx"


def shipped() -> list[str]:
    """The names of the models that come with the library."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/model.json"))


def open_package(model: str | Path) -> Package:
    """A shipped model by its name, or one of your own by its folder.

    Raises:
        FartrackError: an unknown name, a folder or file that is no model, or one of a newer format; or a variant of
            one, of itself, or of more layers than there are.
    """
    folder = SHIPPED / str(model)
    if str(model) not in shipped():
        folder = Path(str(model))
        if not folder.exists():
            raise FartrackError(
                f"There is no model {str(model)!r}; use {' or '.join(shipped())}, or the folder of an exported model."
            )
    return _read(folder, [])


def _place(of: str, folder: Path) -> Path:
    """The folder of the model that the one in ``folder`` is of: one that ships, or relative to it."""
    return SHIPPED / of if of in shipped() else (folder / of).resolve()


def _read(folder: Path, variants: list[Path]) -> Package:
    """The package in a folder; each of ``variants`` is of the next one, and the last of this folder's."""
    try:
        record = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        version = int(record["format"])
        settings = dict(record.get("settings", {}))
        base = _place(record["of"], folder) if "of" in record else None
        config = {} if base else dict(record["config"])
        score = dict(record.get("score") or {})
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RuntimeError):
        if variants:
            raise FartrackError(
                f"The model {variants[-1]} is a variant of {folder}, which is no FARTrack model; put that one there, "
                "or correct 'of' in its model.json."
            ) from None
        raise FartrackError(
            f"{folder} is no FARTrack model; give the folder of an exported one, or one of {', '.join(shipped())}."
        ) from None
    if version > FORMAT:
        raise FartrackError(
            f"The model {folder} is of format {version}, newer than this version reads; upgrade fartrack."
        )
    try:
        calibration = from_dict(Calibration, score) if score else None
        if base is None:
            shape = from_dict(ModelConfig, config)
            return Package(folder, shape, shape.depth, settings, str(record.get("engine", "auto")), calibration)
    except FartrackError as error:
        raise FartrackError(f"{folder / 'model.json'}: {error}") from None
    variants = [*variants, folder]
    if any(base.resolve() == variant.resolve() for variant in variants):
        raise FartrackError(f"The model {folder} is a variant of itself; correct 'of' in its model.json.")
    package = _read(base, variants)
    most = package.config.depth
    depth = record.get("depth", most)
    if type(depth) is not int or not 1 <= depth <= most:
        raise FartrackError(f"{folder / 'model.json'}: depth is {depth!r}; {base} has exits 1 to {most}.")
    if calibration is None and depth == most:  # the scores of another network say something else
        calibration = package.calibration
    return replace(
        package,
        config=replace(package.config, depth=depth),
        settings={**package.settings, **settings},
        engine=str(record.get("engine", package.engine)),
        calibration=calibration,
    )


def check_weights(package: Package) -> None:
    """Check that the weights of a package are all there, as long as the header of their file declares, that they have
    its layers, and that they are for crops of the package's sizes, since its graphs take smaller ones too.

    Raises:
        FartrackError: they are missing, cut off, no safetensors file, or of another network.
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
        layers = len({name.split(".")[1] for name in header if name.startswith("blocks.")})
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise FartrackError(f"{path} is missing, damaged or cut off; export the model anew or reinstall fartrack.")
    if [*tokens, layers] != [package.config.search_tokens, package.config.template_tokens, package.layers]:
        raise misfit(package)


def misfit(package: Package) -> FartrackError:
    """The error of a package whose parts are readable but make no network together."""
    return FartrackError(
        f"The model {package.folder} is damaged, for its model.json, graphs and weights do not fit together; "
        "export it anew or reinstall fartrack."
    )
