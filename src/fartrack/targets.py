"""Targets with names, and the boxes that a user drew for them, from the command line or a file."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from fartrack.errors import FartrackError
from fartrack.geometry import Box, check_box, parse_box

NEEDED, OPTIONAL = ("x", "y", "w", "h"), ("name", "frame", "end", "label")
"""The columns of a file of targets."""


@dataclass(frozen=True)
class Anchor:
    """A box that a user drew: the target is followed from ``frame`` on, up to the frame ``end`` if that is given."""

    frame: int
    box: Box
    end: int | None = None


@dataclass(frozen=True, eq=False)
class Target:
    """One target. Of its anchors, in the order of frames, each one after the first is a correction and starts it anew;
    those drawn while tracking are added."""

    id: int = 1  # from 1, in the order in which targets were given
    name: str = ""  # differs from all others; empty only for a single target that was given none
    label: str = "object"  # its class in annotations, which several targets may share
    anchors: list[Anchor] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Id and name for people, such as ``2 dog``; empty without a name."""
        return self.name if self.name in ("", str(self.id)) else f"{self.id} {self.name}"


def parse_targets(boxes: Iterable[str], start: int, file: Path | None = None) -> list[Target]:
    """The targets of ``--box`` options, ``[NAME][@FRAME=]x,y,w,h``, and of a file of targets.

    ``start`` is the frame of those that name none. Boxes with the same name are one target's; each box without a name
    is a target of its own. FartrackError for a box or row that cannot be used, or two boxes of a target on one frame.
    """
    rows = [_parse_option(text, start) for text in boxes]
    for number, row in enumerate(_read_rows(file) if file else (), 1):
        rows.append(_check_row(row, start, f"{file}, target {number}"))
    return _gather(rows)


def read_archive(file: Path) -> dict[str, list[Target]]:
    """The targets of many videos by the paths of these, from a file of targets with a further column ``video``;
    FartrackError as for :func:`parse_targets`, or for a row without a video."""
    videos: dict[str, list[dict[str, Any]]] = {}
    for number, row in enumerate(_read_rows(file), 1):
        where = f"{file}, target {number}"
        if not row.get("video"):
            raise FartrackError(f"{where} lacks video; give the path of one within the folder of videos.")
        own = {key: value for key, value in row.items() if key != "video"}
        videos.setdefault(str(row["video"]).strip(), []).append(_check_row(own, 0, where))
    return {video: _gather(rows) for video, rows in videos.items()}


def _gather(rows: list[dict[str, Any]]) -> list[Target]:
    """The targets of checked rows."""
    named = {row["name"] for row in rows}
    targets: dict[str, Target] = {}
    for row in rows:
        number = len(targets) + 1
        free = (text for text in map(str, count(number)) if text not in named | targets.keys())
        name = row["name"] or ("" if len(rows) == 1 else next(free))
        label = row["label"] or row["name"] or "object"
        target = targets.setdefault(name, Target(number, name, label))
        if any(anchor.frame == row["frame"] for anchor in target.anchors):
            raise FartrackError(f"{name} has two boxes on frame {row['frame']}; give one, or another name.")
        if row["label"] not in ("", target.label):
            raise FartrackError(f"{name} has the labels {target.label} and {row['label']}; give one.")
        target.anchors.append(Anchor(row["frame"], row["box"], row["end"]))
        target.anchors.sort(key=lambda anchor: anchor.frame)
    return list(targets.values())


def check_targets(targets: Sequence[Target], width: int, height: int) -> None:
    """Check every box for frames of ``width`` × ``height`` pixels; `FartrackError` names the target."""
    for target in targets:
        for anchor in target.anchors:
            try:
                check_box(anchor.box, width, height)
            except FartrackError as error:
                raise FartrackError(f"{target.name}: {error}" if target.name else str(error)) from None


def _parse_option(text: str, start: int) -> dict[str, Any]:
    head, equals, box = text.rpartition("=")
    name, at, frame = head.partition("@")
    if equals and not head:
        raise FartrackError(f"The box {text!r:.60} has no name before the =; give one such as cup=100,120,40,60.")
    row = {"name": name, "frame": frame if at else None, **dict(zip("xywh", parse_box(box), strict=True))}
    return _check_row(row, start, f"The box {text!r:.60}")


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file with a header, or of a JSON list of objects."""
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix.lower() == ".json":
            rows = json.loads(text)
        else:
            lines = csv.DictReader(text.splitlines(), skipinitialspace=True)
            rows = [{str(key or "extra value").strip().lower(): row[key] or None for key in row} for row in lines]
    except (ValueError, RecursionError, csv.Error):
        raise FartrackError(f"{path} is no text of comma-separated values or JSON; save it as one of them.") from None
    except OSError as error:
        raise FartrackError(f"{path} cannot be read ({error.strerror}); check the path.") from None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise FartrackError(f"{path} holds no targets; give a row or object for each, with {', '.join(NEEDED)}.")
    return rows


def _check_row(row: Mapping[str, Any], start: int, where: str) -> dict[str, Any]:
    """Name, label, frame, end and box of a row of any origin."""
    unknown = [key for key in row if key not in NEEDED + OPTIONAL]
    missing = [key for key in NEEDED if row.get(key) is None]
    if unknown:
        columns = ", ".join((*OPTIONAL, *NEEDED))
        raise FartrackError(f"{where}: {unknown[0]!r:.60} is no column; those are {columns}.")
    if missing:
        raise FartrackError(f"{where} lacks {missing[0]}; give {', '.join(NEEDED)} in pixels.")
    words = {key: str(row.get(key) or "").strip() for key in ("name", "label")}
    for key, word in words.items():
        if not word.isprintable() or len(word) > 100:
            raise FartrackError(f"{where}: the {key} {word!r:.60} is too long or not printable; give another.")
    frame = _whole(row.get("frame"), start, f"{where}: the frame")
    end = None if row.get("end") is None else _whole(row["end"], 0, f"{where}: the end")
    if end is not None and end < frame:
        raise FartrackError(f"{where} ends on frame {end}, before its frame {frame}; give {frame} or more.")
    try:
        box = parse_box(",".join(str(row[key]) for key in NEEDED))
    except FartrackError as error:
        raise FartrackError(f"{where}: {error}") from None
    return {**words, "frame": frame, "end": end, "box": box}


def _whole(value: Any, otherwise: int, what: str) -> int:
    """A whole number, also one written as 250.0, as tables with gaps have it."""
    if value is None:
        return otherwise
    with suppress(ValueError):
        if (number := float(str(value))).is_integer() and 0 <= number < 1e12:
            return int(number)
    raise FartrackError(f"{what} is {str(value)!r:.60}; it must be a whole number from 0.")
