"""A tracker as a process for the VOT toolkit: ``python -m fartrack.evaluate.vot pico``.

The TraX protocol is lines of text: a message is ``@@TRAX:`` and its name, then quoted arguments, the last of which are
``key=value``. The tracker says ``hello``; each ``initialize`` (image, region) and ``frame`` (image) is answered with a
``state`` (region), until either side says ``quit``. This is version 1 of the protocol, with files and rectangles. It is
implemented here so that nothing of the toolkit, which is under the GPL, is imported.
"""

import math
import re
import sys
from typing import Annotated, TextIO, cast

import numpy as np
import typer

from fartrack.engines.base import EngineName
from fartrack.errors import FartrackError
from fartrack.evaluate.trackers import AnyTracker, TrackerSpec, as_track
from fartrack.geometry import Image, check_box, parse_box
from fartrack.tracking.tracker import Track
from fartrack.video.sources import frames_from_source

PREFIX = "@@TRAX:"
HELLO = {"trax.version": "1", "trax.name": "fartrack", "trax.image": "path", "trax.region": "rectangle"}


def serve(tracker: AnyTracker, requests: TextIO, replies: TextIO) -> None:
    """Answer the messages of ``requests`` until a ``quit`` or the end. FartrackError, after a ``quit`` with the reason,
    for a message, image or region that cannot be used."""
    _send(replies, "hello", **HELLO)
    try:
        for line in requests:
            if line.startswith(PREFIX):  # other lines are not messages
                name, arguments = _parse(line)
                if name == "quit":
                    return
                track = _answer(tracker, name, arguments)
                score = {} if math.isnan(track.score) else {"confidence": f"{track.score:.4f}"}
                _send(replies, "state", ",".join(f"{v:.4f}" for v in track.box), **score)
    except FartrackError as error:
        _send(replies, "quit", **{"trax.reason": str(error)})
        raise


def _answer(tracker: AnyTracker, name: str, arguments: list[str]) -> Track:
    if name == "initialize" and len(arguments) >= 2:
        image = _image(arguments[0])
        box = check_box(parse_box(arguments[1]), image.shape[1], image.shape[0])
        tracker.init(image, np.array(box))
        return Track(box, 1.0)
    if name == "frame" and arguments:
        return as_track(tracker.update(_image(arguments[0])))
    raise FartrackError(f"The message {name!r} with {len(arguments)} arguments is not known; speak version 1 of TraX.")


def _image(address: str) -> Image:
    with frames_from_source(address.removeprefix("file://")) as source:
        return source.first.image


def _parse(line: str) -> tuple[str, list[str]]:
    """A message's name and arguments, in which quotes, backslashes and newlines are escaped."""
    name, _, rest = line.removeprefix(PREFIX).strip().partition(" ")
    words = re.findall(r'"((?:[^"\\]|\\.)*)"', rest)
    return name, [re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], word) for word in words]


def _send(replies: TextIO, name: str, *arguments: str, **named: str) -> None:
    words = [*arguments, *(f"{key}={value}" for key, value in named.items())]
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n")):
        words = [word.replace(plain, escaped) for word in words]
    print(PREFIX + name, *(f'"{word}"' for word in words), file=replies, flush=True)


def main(
    tracker: Annotated[str, typer.Argument(help="any that 'fartrack eval' takes, except published results")] = "pico",
    engine: Annotated[str, typer.Option(help="onnxruntime, openvino or torch; of our models")] = "onnxruntime",
    threads: Annotated[
        int | None, typer.Option(min=1, help="of one network call; the runtime's choice if left out")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="as for 'fartrack eval'")
    ] = None,
) -> None:
    """Track for a client that speaks the TraX protocol on standard input and output."""
    try:
        spec = TrackerSpec(tracker, cast(EngineName, engine), threads=threads, settings=tuple(settings or ()))
        serve(spec.open(), sys.stdin, sys.stdout)
    except FartrackError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})
    app.command()(main)
    app()
