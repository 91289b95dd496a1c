"""Formats of results other than video. A new one is a class here and its line in `FORMATS`."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from fartrack.errors import FartrackError
from fartrack.targets import Target
from fartrack.tracking.tracker import Track
from fartrack.version import __version__
from fartrack.video.frames import Frame

SCHEMA_VERSION = 1
"""Of the JSON output; it grows when a field is removed or changes its meaning."""


@dataclass(frozen=True)
class Run:
    """What is known of a run before its first frame."""

    source: str = ""
    targets: Sequence[Target] = ()
    size: tuple[int, int] = (0, 0)  # width and height of the first frame
    fps: float | None = None
    sample_aspect_ratio: Fraction = Fraction(1)  # width to height of a pixel on the screen
    pictures: Sequence[Path] = ()  # the file of each frame, where they have one
    about: Mapping[str, Any] = field(default_factory=dict)  # such as the model and its settings

    def picture(self, index: int) -> str:
        """The file name of a frame, or what `ffmpeg -start_number 0 %06d.jpg` names it."""
        return self.pictures[index].name if self.pictures else f"{index:06d}.jpg"

    @property
    def labels(self) -> list[str]:
        """The classes of the targets, in order."""
        return list(dict.fromkeys(target.label for target in self.targets))


class Format:
    """Results as text: what stands before the first frame, what each frame adds, and what stands after the last."""

    folder = False  # whether it is a folder with a file a frame, and `tail` a file of its own

    def __init__(self, run: Run) -> None:
        """Begin with what is known; `FartrackError` if the format cannot hold it."""
        self.run = run

    def head(self) -> str:
        """What the file begins with."""
        return ""

    def frame(self, frame: Frame, found: Mapping[Target, Track]) -> str:
        """What a frame and its targets add."""
        raise NotImplementedError

    def tail(self) -> str:
        """What the file ends with."""
        return ""


class _Csv(Format):
    """A header, and a line for each frame and target; the last column is the target's name, if it has one."""

    def head(self) -> str:
        self._named = any(target.name for target in self.run.targets)
        return f"frame,time,x,y,w,h,score,state{',target' if self._named else ''}\n"

    def frame(self, frame: Frame, found: Mapping[Target, Track]) -> str:
        text = io.StringIO()
        rows = ((*row(frame, track).values(), *[target.name] * self._named) for target, track in found.items())
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue()


class _Json(Format):
    """One object: what is known of the run, the list `frames` with an entry for each frame and target, `targets`."""

    def head(self) -> str:
        self._comma = ""
        run, ratio = self.run, self.run.sample_aspect_ratio
        about = {"schema_version": SCHEMA_VERSION, "fartrack": __version__, "source": run.source, "fps": run.fps}
        about |= {"boxes": "x,y,w,h in pixels, from the top left", "width": run.size[0], "height": run.size[1]}
        about |= {"sample_aspect_ratio": f"{ratio.numerator}:{ratio.denominator}", **run.about}
        return json.dumps(about, indent=2, ensure_ascii=False)[:-2] + ',\n  "frames": ['

    def frame(self, frame: Frame, found: Mapping[Target, Track]) -> str:
        lines = []
        for target, track in found.items():
            which = {"target": target.id} if self.run.targets else {}
            lines.append(f"{self._comma}\n    {json.dumps(row(frame, track) | which)}")
            self._comma = ","
        return "".join(lines)

    def tail(self) -> str:
        targets = [
            {"id": target.id, "name": target.name, "label": target.label}
            | {"anchors": [{"frame": a.frame, **xywh(a.box), "end": a.end} for a in target.anchors]}
            for target in self.run.targets
        ]
        return f'\n  ],\n  "targets": {json.dumps(targets, ensure_ascii=False)}\n}}\n'


class _JsonLines(Format):
    """An object a line for each frame and target, with the time of day at which it was written."""

    def frame(self, frame: Frame, found: Mapping[Target, Track]) -> str:
        now = {"timestamp": datetime.now(UTC).isoformat(timespec="milliseconds")}
        rows = (row(frame, track) | {"target": target.id, "name": target.name} | now for target, track in found.items())
        return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in rows)


class _Txt(Format):
    """`x,y,w,h` a line, as the GOT-10k benchmark has it; `nan` on frames without the target."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        if len(run.targets) > 1:
            raise FartrackError("The format txt holds one target only; use csv, json or mot for several.")

    def frame(self, frame: Frame, found: Mapping[Target, Track]) -> str:
        boxes = [xywh(track.box) for track in found.values()] or [dict.fromkeys("xywh", math.nan)]
        return ",".join(map(str, boxes[0].values())) + "\n"


class _Mot(Format):
    """MOTChallenge: frame, id, x, y, w, h, confidence, -1, -1, -1, where frames and pixels are counted from 1; no line
    for a lost target."""

    def frame(self, frame: Frame, found: Mapping[Target, Track]) -> str:
        lines = ""
        for target, track in in_view(found):
            x, y, w, h = track.box
            box = xywh((x + 1, y + 1, w, h)).values()
            values = frame.index + 1, target.id, *box, round(float(track.score), 4), -1, -1, -1
            lines += ",".join(map(str, values)) + "\n"
        return lines


class _Yolo(Format):
    """A file a frame: class (from 0), center x, y, width, height as shares of the frame; `classes.txt` names them."""

    folder = True

    def frame(self, frame: Frame, found: Mapping[Target, Track]) -> str:
        height, width = frame.image.shape[:2]
        lines = []
        for target, track in in_view(found):
            x, y, w, h = (float(v) for v in track.box)
            shares = (x + w / 2) / width, (y + h / 2) / height, w / width, h / height
            lines.append(f"{self.run.labels.index(target.label)} " + " ".join(f"{v:.6f}" for v in shares) + "\n")
        return "".join(lines)

    def tail(self) -> str:
        return "".join(f"{label}\n" for label in self.run.labels)


class _Coco(Format):
    """COCO for video, as TAO has it: videos, images, tracks, annotations with `track_id`; lost targets have none."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def frame(self, frame: Frame, found: Mapping[Target, Track]) -> str:
        height, width = frame.image.shape[:2]
        image = {"id": frame.index + 1, "video_id": 1, "frame_index": frame.index, "width": width, "height": height}
        self._images.append(image | {"file_name": self.run.picture(frame.index)})
        for target, track in in_view(found):
            box = list(xywh(track.box).values())
            which = {"id": len(self._annotations) + 1, "image_id": image["id"], "video_id": 1, "track_id": target.id}
            size = {"bbox": box, "area": round(box[2] * box[3], 3), "iscrowd": 0, "score": round(float(track.score), 4)}
            self._annotations.append(which | {"category_id": self._category(target)} | size)
        return ""

    def tail(self) -> str:
        width, height = self.run.size
        content = {
            "info": {"description": self.run.source, "version": f"fartrack {__version__}"},
            "videos": [{"id": 1, "name": self.run.source, "width": width, "height": height}],
            "categories": [{"id": number, "name": label} for number, label in enumerate(self.run.labels, 1)],
            "tracks": [{"id": t.id, "video_id": 1, "category_id": self._category(t)} for t in self.run.targets],
            "images": self._images,
            "annotations": self._annotations,
        }
        return json.dumps(content, ensure_ascii=False) + "\n"

    def _category(self, target: Target) -> int:
        return self.run.labels.index(target.label) + 1


class _Cvat(Format):
    """CVAT for video 1.1: a track for each target, with `outside="1"` where it is lost or no longer followed."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._boxes: dict[Target, list[str]] = {target: [] for target in run.targets}
        self._shown: dict[Target, str] = {}  # the corners of those that are not outside

    def frame(self, frame: Frame, found: Mapping[Target, Track]) -> str:
        for target, boxes in self._boxes.items():
            track = found.get(target)
            corners, outside = self._shown.pop(target, None), 1
            if track and track.state != "lost":
                x, y, w, h = (float(v) for v in track.box)
                corners, outside = f'xtl="{x:.3f}" ytl="{y:.3f}" xbr="{x + w:.3f}" ybr="{y + h:.3f}"', 0
                self._shown[target] = corners
            if corners:
                flags = f'outside="{outside}" occluded="0" keyframe="1" z_order="0"'
                boxes.append(f'    <box frame="{frame.index}" {flags} {corners}></box>\n')
        return ""

    def tail(self) -> str:
        labels = "".join(f"<label><name>{escape(label)}</name></label>" for label in self.run.labels)
        tracks = "".join(
            f'  <track id="{target.id - 1}" label={quoteattr(target.label)} source="semi-auto">\n'
            f"{''.join(boxes)}  </track>\n"
            for target, boxes in self._boxes.items()
        )
        size = "<original_size><width>{}</width><height>{}</height></original_size>".format(*self.run.size)
        task = f"<name>{escape(self.run.source)}</name><mode>interpolation</mode><labels>{labels}</labels>{size}"
        head = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
        return f"{head}  <meta><task>{task}</task></meta>\n{tracks}</annotations>\n"


FORMATS: dict[str, type[Format]] = {
    **{"csv": _Csv, "json": _Json, "jsonl": _JsonLines, "txt": _Txt},
    **{"mot": _Mot, "coco": _Coco, "yolo": _Yolo, "cvat": _Cvat},
}
"""The formats by the names that `--export` takes."""


def row(frame: Frame, track: Track) -> dict[str, Any]:
    """The columns of a frame: 0-based index, time in seconds, x, y, w, h in pixels, score from 0 to 1, state."""
    when = {"frame": frame.index, "time": round(frame.time, 6)}
    return {**when, **xywh(track.box), "score": round(float(track.score), 4), "state": track.state}


def xywh(box: Sequence[float]) -> dict[str, float]:
    """The sides of a box, to 1/1000 pixel."""
    return dict(zip("xywh", (round(float(v), 3) for v in box), strict=True))


def in_view(found: Mapping[Target, Track]) -> list[tuple[Target, Track]]:
    """The targets that are not lost: a lost one's box is where it was last seen."""
    return [(target, track) for target, track in found.items() if track.state != "lost"]
