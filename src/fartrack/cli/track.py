"""The commands that track: ``track`` and ``demo``, and what tells of the models."""

import sys
import time
from collections.abc import Iterable
from contextlib import closing, redirect_stdout, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from fartrack.api import DEFAULT_MODEL, load
from fartrack.cli.common import Device, Engine, Model, Precision, Settings, Threads, app, with_options
from fartrack.engines.opening import resolve
from fartrack.errors import FartrackError
from fartrack.geometry import box_iou
from fartrack.packages import open_package, shipped
from fartrack.progress import Meter
from fartrack.signals import INTERRUPTED, stopped_afterwards, stopped_at_once
from fartrack.targets import Anchor, Target, check_targets, parse_targets
from fartrack.tracking.multi import TargetTracker
from fartrack.tracking.settings import parse_settings
from fartrack.tracking.tracker import Track, Tracker
from fartrack.version import __version__
from fartrack.video import FORMATS, Frame, LiveView, VideoSink, draw_tracks, frames_from_source, open_sinks, select_box
from fartrack.video.sources import PICTURES

VIDEOS = {
    *(".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"),
    *(".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
}
"""Extensions that are left out of the name of the annotated video."""

Output = Annotated[Path | None, typer.Option("--output", "-o", help="annotated H.264 video (.mp4, .mov, .mkv)")]


def tracker_options(
    model: Model = DEFAULT_MODEL,
    engine: Engine = "auto",
    precision: Precision = None,
    threads: Threads = None,
    device: Device = "cpu",
    settings: Settings = None,
) -> None:
    """What the commands that load a tracker have in common."""


@app.command()
@with_options(tracker_options)
def track(
    options: dict[str, Any],
    source: Annotated[str, typer.Argument(help="video file, folder of pictures, webcam number, or stream URL")],
    box: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME][@FRAME=]X,Y,W,H",
            help="a target, in pixels; repeat it for several targets, or with the same name and another frame for a "
            "correction; without one a window opens to draw it",
        ),
    ] = None,
    targets: Annotated[
        Path | None, typer.Option(help="CSV or JSON of targets: x,y,w,h and, if wanted, name,frame,end,label")
    ] = None,
    start: Annotated[int, typer.Option(help="frame of the boxes that name none, counted from 0")] = 0,
    output: Output = None,
    csv: Annotated[Path | None, typer.Option(help="one line a frame: frame,time,x,y,w,h,score,state")] = None,
    json: Annotated[Path | None, typer.Option(help="the same as JSON, with all that is known of the run")] = None,
    txt: Annotated[Path | None, typer.Option(help="x,y,w,h a line, as GOT-10k has it")] = None,
    export: Annotated[
        list[str] | None,
        typer.Option(metavar="FORMAT=PATH", help=f"another output, one of {', '.join(FORMATS)}; PATH - is stdout"),
    ] = None,
    show: Annotated[
        bool,
        typer.Option(
            help="show the frames while tracking (space pauses, r draws the box anew, 1 to 9 choose whose, q ends); "
            "on for a live source without an output"
        ),
    ] = False,
) -> None:
    """Track one object, or several, through a video."""
    outputs = parse_outputs(export or [], csv=csv, json=json, txt=txt)
    wanted = parse_targets(box or [], start, targets)
    begin = min((anchor.frame for target in wanted for anchor in target.anchors), default=start)
    with stopped_at_once():
        tracker = load_tracker(**options)
    broken: list[FartrackError] = []
    stopped = False
    with frames_from_source(source, start=begin) as frames:
        image = frames.first.image
        if not (output or outputs or show or frames.live):
            output = default_output(frames.name)
        watched = show or not (output or outputs)
        total = None if frames.frame_count is None else max(frames.frame_count - begin, 1)
        meter = Meter(f"tracking {frames.name}", total)
        about = {"model": options["model"], "settings": asdict(tracker.settings)}
        drawn = wanted or [Target()]
        with (
            open_sinks(frames, video=output, targets=drawn, about=about, **outputs) as sinks,
            closing(LiveView()) as view,
        ):
            if not wanted:
                drawn[0].anchors.append(Anchor(begin, select_box(image)))
            if len(frames.files) < 2:  # pictures in a folder may differ in size
                check_targets(drawn, image.shape[1], image.shape[0])
            follower = TargetTracker(tracker, drawn)
            if watched:  # already here, so that without a display nothing is written
                view.show(image)
            try:
                with meter, frames.reading_ahead():
                    for frame in frames:
                        found = follower.update(frame.index, frame.image)
                        going = not watched or watch(view, follower, frame, found)
                        with stopped_afterwards():
                            sinks.write(frame, found)
                            meter.count()
                        if not going:
                            break
                    else:
                        for anchor in follower.unreached()[:1]:
                            sentence = f"{frames.name} ended before frame {anchor.frame}, for which there is a box"
                            broken.append(FartrackError(f"{sentence}; check its number."))
            except KeyboardInterrupt:
                if not meter.frames:
                    raise
                stopped = not frames.live  # the ordinary end of a live source
            except FartrackError as error:  # what a damaged source holds is kept
                if not meter.frames or error in sinks.errors:
                    raise
                broken.append(error)
            try:
                sinks.close()
            except FartrackError as error:
                broken.append(error)
    piped = any(sink.descriptor == 1 for sink in sinks.sinks)
    with redirect_stdout(sys.stderr if piped else sys.stdout):
        meter.report(sink.path for sink in sinks.sinks)
    if broken:
        raise broken[0]
    if stopped:
        kept = f"; the first {meter.frames} frames are kept" if sinks.sinks else ""
        print(f"fartrack: Stopped before the end{kept}.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)


def watch(view: LiveView, follower: TargetTracker, frame: Frame, found: dict[Target, Track]) -> bool:
    """Show a frame, and correct a target where the user asks for it; whether to go on."""
    while view.show(draw_tracks(frame.image, found)):
        if not view.redraw:
            return True
        target = next((target for target in follower.targets if target.id == view.chosen), follower.targets[0])
        with suppress(FartrackError):  # none was drawn
            box = select_box(frame.image, f"FARTrack {target.title}")
            found[target] = follower.correct(target, frame.index, frame.image, box)
    return False


def parse_outputs(exports: Iterable[str], **outputs: Path | None) -> dict[str, Path]:
    """The paths of all outputs but the video by their formats; ``exports`` are written as ``FORMAT=PATH``;
    FartrackError for an unknown format, one without a path, or one that is given twice."""
    paths = {kind: path for kind, path in outputs.items() if path is not None}
    for text in exports:
        kind, _, path = text.partition("=")
        if kind not in FORMATS or not path:
            known = ", ".join(FORMATS)
            raise FartrackError(f"The export {text!r:.60} is not FORMAT=PATH; the formats are {known}.")
        if kind in paths:
            raise FartrackError(f"There are two outputs of the format {kind}; give one.")
        paths[kind] = Path(path)
    return paths


@app.command()
@with_options(tracker_options)
def demo(
    options: dict[str, Any],
    output: Annotated[Path, typer.Option("--output", "-o", help="annotated video")] = Path("fartrack-demo.mp4"),
) -> None:
    """Track a cup through a short clip made from photographs, and measure it against the exact truth."""
    from fartrack.demo import CLIP_FPS, CLIP_LENGTH, demo_frames
    from fartrack.evaluate.tables import describe_times

    with stopped_at_once():
        tracker = load_tracker(**options)
    model, device = options["model"], options["device"]
    kind = resolve(open_package(model), options["engine"], options["precision"], device)
    runs_on = ", ".join((model, *kind, device))
    ious: list[float] = []
    seconds: list[float] = []
    with VideoSink(output, CLIP_FPS) as sink, Meter("tracking the demo", CLIP_LENGTH) as meter:
        for index, (image, truth) in enumerate(demo_frames()):
            clock = time.perf_counter()
            found = tracker.update(image) if index else tracker.init(image, truth)
            if index:  # the first box is given: neither its time nor its fit is the tracker's merit
                seconds.append(time.perf_counter() - clock)
                ious.append(box_iou(found.box, truth))
            sink.write(Frame(index, index / CLIP_FPS, image), found)
            meter.count()
    print(f"mean IoU {np.mean(ious):.3f} over {len(ious)} frames, {len(ious) / sum(seconds):.0f} FPS ({runs_on})")
    print(f"milliseconds a frame, median, mean, 95 %, 99 %: {describe_times(np.array(seconds))}")
    print(f"saved {output}")


@app.command()
def models() -> None:
    """List the models that come with the library: size, accuracy and speed."""
    from fartrack.evaluate.tables import new_table, print_paragraphs

    table = new_table("model", "layers", "parameters", "AO", "ms a frame", "95 % under")
    for name in shipped():
        package = open_package(name)
        size = f"{package.config.depth}", f"{package.parameters / 1e6:.2f} M"
        table.add_row(name, *size, *(package.measured.get(key, "") for key in ("ao", "ms", "ms95")))
    print_paragraphs(
        table,
        "AO with its 95 % interval: 24 sequences, three starts. Milliseconds: median, "
        f"one thread of an AMD EPYC, 640×360; on this machine: fartrack bench --tracker {','.join(shipped())}",
    )


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def load_tracker(
    model: str, engine: str, precision: str | None, threads: int | None, device: str, settings: list[str] | None
) -> Tracker:
    """The tracker of a model with its own settings, and those of ``--set`` on top."""
    kind: dict[str, Any] = {"engine": engine, "precision": precision, "device": device}
    return load(model, threads=threads, **kind, **parsed_settings(model, settings))


def parsed_settings(model: str, settings: list[str] | None) -> dict[str, Any]:
    """All settings of a tracker if some are changed by ``--set``, else none."""
    package = open_package(model)
    return asdict(parse_settings(package.settings, settings, package.presets)) if settings else {}


def print_version(wanted: bool) -> None:
    """What ``--version`` does."""
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Draw a box on one frame; the object is followed through the rest of the video."""


def default_output(source: str) -> Path:
    """The annotated video of a source without outputs, named after it; `FartrackError` if it exists already."""
    path = Path(source.partition("?")[0] if "://" in source else source)
    name = path.name if path.name.strip(".") else path.resolve().name  # which may be . or ..
    if not path.is_dir() and Path(name).suffix.lower() in VIDEOS | PICTURES:
        name = Path(name).stem
    output = Path(f"{name}-tracked.mp4")
    if output.exists():
        raise FartrackError(f"{output} exists already; name the output with -o to replace it.")
    return output
