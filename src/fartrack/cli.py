"""The command ``fartrack``. Whatever a user can mend is one sentence on stderr and exit code 2."""

from __future__ import annotations

import io
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fartrack.api import DEFAULT_MODEL, load, track_frames
from fartrack.engines.base import EngineName, resolve
from fartrack.errors import FartrackError
from fartrack.files import write_whole
from fartrack.geometry import check_box, iou, parse_box
from fartrack.packages import open_package, shipped
from fartrack.tracking.tracker import Track
from fartrack.version import __version__
from fartrack.video import Frame, LiveView, VideoSink, draw_track, frames_from_source, open_sinks, select_box

if TYPE_CHECKING:
    from fartrack.train.data.store import Picture

app = typer.Typer(
    help="Draw a box on one frame; the object is followed through the rest of the video.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
train_app = typer.Typer(help="Prepare data and train networks (needs the extra 'train').", no_args_is_help=True)
app.add_typer(train_app, name="train")
console = Console(stderr=True, highlight=False)

Model = Annotated[str, typer.Option(help="a shipped model's name, or the folder of an exported one")]
Engine = Annotated[
    str,
    typer.Option(help="onnxruntime, onnxruntime-int8, openvino or torch; auto: the model's or the fastest here"),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="threads of one network call; the runtime's choice if left out")
]
Data = Annotated[Path, typer.Option(help="folder of the benchmark")]
Benchmark = Annotated[str, typer.Option(help="got10k-val, lasot, otb100, ... or folder")]
Only = Annotated[str | None, typer.Option(help="names of sequences, separated by commas, in place of all")]
Results = Annotated[Path, typer.Option(help="folder of the raw results; a stopped run goes on there")]
Jobs = Annotated[int, typer.Option(min=1, help="sequences at once; above 1, speed is measured under load")]
Peers = Annotated[Path | None, typer.Option(help="folder of NanoTrack's and VitTrack's ONNX files")]
TrackerThreads = Annotated[int, typer.Option(min=1, help="threads of one tracker")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="annotated H.264 video (.mp4, .mov, .mkv)")]


@app.command()
def track(
    source: Annotated[str, typer.Argument(help="video file, folder of pictures, webcam number, or stream URL")],
    box: Annotated[str | None, typer.Option(help="x,y,w,h in pixels; without it a window opens to draw it")] = None,
    start: Annotated[int, typer.Option(help="frame on which the box was drawn, counted from 0")] = 0,
    output: Output = None,
    csv: Annotated[Path | None, typer.Option(help="one line a frame: frame,time,x,y,w,h,score")] = None,
    json: Annotated[Path | None, typer.Option(help="the same as JSON")] = None,
    txt: Annotated[Path | None, typer.Option(help="x,y,w,h a line, as GOT-10k has it")] = None,
    show: Annotated[
        bool, typer.Option(help="show the frames while tracking; on for a live source without an output")
    ] = False,
    model: Model = DEFAULT_MODEL,
    engine: Engine = "auto",
    threads: Threads = None,
) -> None:
    """Track one object through a video."""
    given = None if box is None else parse_box(box)
    tracker = load(model, engine=cast(EngineName, engine), threads=threads)
    with frames_from_source(source, start=start) as frames:
        image = frames.first.image
        if not (output or csv or json or txt or show or frames.live):
            path = Path(frames.name)  # which may be . or ..
            output = Path(f"{path.stem.strip('.') or path.resolve().stem}-tracked.mp4")
            if output.exists():
                raise FartrackError(f"{output} exists already; name the output with -o to replace it.")
        outputs = (output, csv, json, txt)
        watched = show or not any(outputs)
        total = None if frames.frame_count is None else max(frames.frame_count - start, 1)
        meter = Meter(f"tracking {frames.name}", total)
        broken: list[FartrackError] = []
        with open_sinks(frames, video=output, csv=csv, json=json, txt=txt) as sinks, closing(LiveView()) as view:
            given = given or select_box(image)
            check_box(given, image.shape[1], image.shape[0])
            if watched:  # already here, so that without a display nothing is written
                view.show(image)
            try:
                with meter:
                    for frame, found in until_broken(track_frames(tracker, frames, given), broken):
                        sinks.write(frame, found)
                        meter.count()
                        if watched and not view.show(draw_track(frame.image, found)):
                            break
            except KeyboardInterrupt:
                if not frames.live:  # the ordinary end of a live source only
                    raise
    meter.report(outputs)
    if broken:
        raise broken[0]


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="annotated video")] = Path("fartrack-demo.mp4"),
    model: Model = DEFAULT_MODEL,
    engine: Engine = "auto",
    threads: Threads = None,
) -> None:
    """Track a cup through a short clip made from photographs, and measure it against the exact truth."""
    from fartrack.demo import CLIP_FPS, CLIP_LENGTH, render_clip

    engine = resolve(open_package(model), cast(EngineName, engine), threads)
    tracker = load(model, engine=engine, threads=threads)
    ious: list[float] = []
    busy = 0.0
    with VideoSink(output, CLIP_FPS) as sink, Meter("tracking the demo", CLIP_LENGTH) as meter:
        for index, (image, truth) in enumerate(render_clip()):
            clock = time.perf_counter()
            found = tracker.update(image) if index else tracker.init(image, truth)
            if index:  # the first box is given: neither its time nor its fit is the tracker's merit
                busy += time.perf_counter() - clock
                ious.append(float(iou(found.box, truth)))
            sink.write(Frame(index, index / CLIP_FPS, image), found)
            meter.count()
    print(f"mean IoU {np.mean(ious):.3f} over {len(ious)} frames, {len(ious) / busy:.0f} FPS ({model}, {engine})")
    print(f"saved {output}")


@app.command(name="eval")
def evaluate_trackers(
    tracker: Annotated[
        str,
        typer.Option(
            help="what is compared, separated by commas: a model's name or folder, nanotrack-v2, nanotrack-v3, "
            "vittrack, csrt, kcf, mil, raw:DIR (published results), module:Class (Python); NAME=... gives one a name"
        ),
    ],
    data: Data,
    benchmark: Benchmark = "folder",
    only: Only = None,
    results: Results = Path("results"),
    report: Annotated[Path | None, typer.Option(help="folder of the report: a page and pictures")] = None,
    pack: Annotated[Path | None, typer.Option(help="archive for the server of GOT-10k or TrackingNet")] = None,
    jobs: Jobs = 1,
    peers: Peers = None,
    engine: Engine = "auto",
    threads: TrackerThreads = 1,
    templates: Annotated[int | None, typer.Option(help="the most templates that a model uses at once")] = None,
    interval: Annotated[int | None, typer.Option(help="frames between two templates")] = None,
    template_score: Annotated[float | None, typer.Option(help="least score of a frame that gives a template")] = None,
    retention: Annotated[float | None, typer.Option(help="share of each template's tokens that are kept")] = None,
    starts: Annotated[
        str, typer.Option(help="frames that each sequence is started from, such as 0,5,10; one run alone says little")
    ] = "0",
) -> None:
    """Measure trackers on a benchmark, side by side."""
    from fartrack.evaluate.benchmarks import from_starts, open_benchmark
    from fartrack.evaluate.peers import TrackerSpec, parse_trackers
    from fartrack.evaluate.runner import evaluate
    from fartrack.evaluate.submission import packer_of
    from fartrack.evaluate.tables import print_tables

    given = {"templates": templates, "interval": interval, "template_score": template_score, "retention": retention}
    settings = {name: value for name, value in given.items() if value is not None}
    options: dict[str, Any] = {"engine": engine, "threads": threads, "settings": settings, "peers": peers}
    trackers = {name: TrackerSpec(spec, **options) for name, spec in parse_trackers(tracker).items()}
    if pack and len(trackers) > 1:
        raise FartrackError("An archive for a server holds the results of one tracker; name one, or leave out --pack.")
    try:
        first_frames = [int(start) for start in starts.split(",")]
    except ValueError:
        raise FartrackError(f"--starts is {starts!r}; list frames, such as 0,5,10.") from None
    if pack and first_frames != [0]:
        raise FartrackError("A server wants every sequence from its first frame; leave out --starts or --pack.")
    packer = packer_of(benchmark) if pack else None  # what would fail in the end fails at once
    if report:
        with needs("eval"):
            from fartrack.evaluate.report import write_report
    sequences = open_benchmark(benchmark, data, only.split(",") if only else None)
    if first_frames != [0]:
        sequences = from_starts(sequences, first_frames)
    with Meter(f"tracking {data}", None) as meter:
        evaluations = evaluate(trackers, sequences, results, jobs, meter.reach)
    print_tables(evaluations, sequences, threads)
    if report:
        print(f"saved {write_report(evaluations, report)}")
    if packer and pack:
        print(f"saved {packer(evaluations[0], pack)}")


def check_folders(*files: Path | None) -> None:
    """Check that each file to be written has a folder, so that what would fail in the end fails at once.

    Raises:
        FartrackError: there is none.
    """
    for path in files:
        if path and not path.parent.is_dir():
            raise FartrackError(f"There is no folder {path.parent} for {path.name}; make it first.")


@app.command()
def calibrate(
    tracker: Annotated[str, typer.Option(help="whose score is measured: one, as for eval")],
    data: Data,
    benchmark: Benchmark = "folder",
    only: Only = None,
    results: Results = Path("results"),
    jobs: Jobs = 1,
    peers: Peers = None,
    engine: Engine = "auto",
    threads: TrackerThreads = 1,
    plot: Annotated[Path | None, typer.Option(help="picture (.png): predicted chance against what was seen")] = None,
    write: Annotated[
        bool, typer.Option("--write", help="put the calibration into model.json of the tracker, a folder of yours")
    ] = False,
) -> None:
    """Turn a tracker's score into the chance that its box is right, and measure how far it holds."""
    from fartrack.evaluate.benchmarks import open_benchmark
    from fartrack.evaluate.peers import TrackerSpec, parse_trackers
    from fartrack.evaluate.reliability import assess, gather, print_reliability, write_calibration
    from fartrack.evaluate.runner import evaluate

    (name, spec), *others = parse_trackers(tracker).items()
    if others:
        raise FartrackError("One tracker is calibrated at a time; name one.")
    chosen = TrackerSpec(spec, engine=cast(EngineName, engine), threads=threads, peers=peers)
    package = chosen.package()
    # what would fail in the end fails at once
    if write and (package is None or spec in shipped()):
        raise FartrackError(f"{spec} is no model folder of yours, so nothing can be written there; leave out --write.")
    if plot:
        with needs("eval"):
            from fartrack.evaluate.reliability_plot import plot_reliability
    check_folders(plot)
    sequences = open_benchmark(benchmark, data, only.split(",") if only else None)
    with Meter(f"tracking {data}", None) as meter:
        (evaluation,) = evaluate({name: chosen}, sequences, results, jobs, meter.reach)
    present = package.calibration if package else None
    found = assess(gather(evaluation, present), present)
    print_reliability(found, f"{name} on {benchmark}")
    if plot:
        write_whole(plot, plot_reliability(found, name))
        print(f"saved {plot}")
    if write:
        write_calibration(Path(spec), found.calibration)
        print(f"saved {Path(spec) / 'model.json'}")


@app.command()
def bench(
    clip: Annotated[
        str | None, typer.Argument(help="video file or folder of pictures; the demo clip if left out")
    ] = None,
    box: Annotated[str | None, typer.Option(help="x,y,w,h in pixels of the clip's first frame")] = None,
    tracker: Annotated[
        str, typer.Option(help="what is compared, as for eval; ratios are to the first")
    ] = DEFAULT_MODEL,
    threads: Annotated[str, typer.Option(help="threads of a tracker, each in turn, such as 1,2")] = "1",
    sizes: Annotated[str | None, typer.Option(help="such as 640x360,1280x720; the clip's own if left out")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="in each of which every tracker has its turn")] = 5,
    frames: Annotated[int, typer.Option(min=1, help="of one turn")] = 30,
    warm_up: Annotated[int, typer.Option(min=0, help="frames of each before the first round")] = 100,
    peers: Peers = None,
    engine: Engine = "auto",
    json: Annotated[Path | None, typer.Option(help="the times of all frames, and what they come to")] = None,
    plot: Annotated[Path | None, typer.Option(help="picture (.png) of the times")] = None,
) -> None:
    """Time trackers side by side, each in a process of its own, in turns."""
    from fartrack.evaluate import speed
    from fartrack.evaluate.peers import TrackerSpec, parse_trackers

    if (clip is None) != (box is None):
        raise FartrackError("A clip and the box on its first frame go together; give CLIP --box x,y,w,h, or neither.")
    options: dict[str, Any] = {"engine": engine, "peers": peers}
    trackers = {name: TrackerSpec(spec, **options) for name, spec in parse_trackers(tracker).items()}
    if plot:
        with needs("eval"):
            from fartrack.evaluate.speed.plot import plot_speed
    check_folders(json, plot)
    measured: dict[str, Any] = {"threads": speed.parse_threads(threads), "plan": speed.Plan(rounds, frames, warm_up)}
    measured["sizes"] = speed.parse_sizes(sizes) if sizes else ()
    # The bar moves only between bursts, since drawing it takes time from whoever works.
    columns = (TextColumn("timing"), BarColumn(), MofNCompleteColumn(), TextColumn("turns"))
    bar = Progress(*columns, console=console, transient=True, auto_refresh=False, disable=not console.is_terminal)
    with bar:
        task = bar.add_task("timing", total=None)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, refresh=True)

        found = speed.bench(trackers, clip, None if box is None else parse_box(box), report=report, **measured)
    speed.print_speed(found)
    if json:
        write_whole(json, speed.to_json(found))
        print(f"saved {json}")
    if plot:
        write_whole(plot, plot_speed(found))
        print(f"saved {plot}")


@app.command()
def models() -> None:
    """List the models that come with the library."""
    for name in shipped():
        package = open_package(name)
        settings = "".join(f", {setting} {value}" for setting, value in package.settings.items())
        print(f"{name}\t{package.config.depth} layers, {package.config.attention} attention{settings}")


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="checkpoint.safetensors of a training run")],
    folder: Annotated[Path, typer.Argument(help="where the model goes")],
    depth: Annotated[int | None, typer.Option(help="only the first layers, as an exit of the network")] = None,
    exits: Annotated[
        str, typer.Option(help="such as nano=10,pico=6: models beside it, of so many of its layers, with no weights")
    ] = "",
    int8: Annotated[
        str | None, typer.Option(help="the depths that get an 8-bit graph, such as 6,15, or none; all if left out")
    ] = None,
    mean: Annotated[
        list[Path] | None,
        typer.Option(
            help="a further checkpoint, or weights, of the same model: the mean of all is exported; repeatable"
        ),
    ] = None,
) -> None:
    """Turn a training run's averaged weights into a model that tracks without PyTorch, and its exits into more."""
    try:
        pairs = [exit.partition("=") for exit in exits.split(",") if exits]
        named = {name.strip(): int(layers) for name, _, layers in pairs}
    except ValueError:
        raise FartrackError(f"exits is {exits!r}; give names and depths, such as nano=10,pico=6.") from None
    try:
        depths = None if int8 is None else [int(layers) for layers in int8.split(",") if int8 != "none"]
    except ValueError:
        raise FartrackError(f"int8 is {int8!r}; give depths, such as 6,15, or none.") from None
    with needs("train"):
        from fartrack.export import export_checkpoint
    export_checkpoint(checkpoint, folder, depth, named, depths, mean or ())
    for saved in (folder, *(folder.parent / name for name in named)):
        print(f"saved {saved}")


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


@train_app.command()
def prepare(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="folders of tar shards, of NAME.mp4 with NAME.txt, of pictures with a groundtruth.txt, "
            "or of COCO, GOT-10k, LaSOT, TrackingNet or VastTrack"
        ),
    ],
    data: Annotated[Path, typer.Option(help="folder that the prepared data go to")],
    every: Annotated[int, typer.Option(min=1, help="of a sequence, keep every N-th frame", metavar="N")] = 1,
    longest: Annotated[
        int | None, typer.Option(min=1, help="shrink pictures whose longer side is over this", metavar="PIXELS")
    ] = None,
    masks: Annotated[
        bool,
        typer.Option(
            "--masks", help="estimate masks for objects without one, 20 to 30 ms each, where they fit the box"
        ),
    ] = False,
) -> None:
    """Decode training data once, into memory-mapped arrays."""
    with needs("train"):
        from fartrack.train.data.masks import with_masks
        from fartrack.train.data.readers import read_folder
        from fartrack.train.data.store import write_store
    skipped: Counter[str] = Counter()
    meter = Meter("decoding pictures", None)

    # opened before the first is read, so that a wrong path is noticed at once
    readers = [read_folder(folder, skipped, every=every, longest=longest) for folder in sources]

    def pictures() -> Iterator[Picture]:
        for reader in readers:
            for picture in reader:
                yield with_masks(picture) if masks else picture
                meter.count()

    with meter:
        write_store(data, pictures())
    print(f"{meter.frames} pictures in {data}")
    for reason, count in skipped.most_common():
        print(f"skipped {count}: {reason}")


RecipeFile = Annotated[Path, typer.Option("--recipe", help="TOML file, or the name of one that ships")]
DataFolder = Annotated[Path, typer.Option("--data", help="folder of prepared data")]
RunFolder = Annotated[Path, typer.Option("--run", help="folder of this run: checkpoint, log, curves, pictures")]
StartWeights = Annotated[
    Path | None, typer.Option("--start", help="start weights, or an earlier run's checkpoint; random if left out")
]
Resume = Annotated[bool, typer.Option("--resume", help="go on from the run's checkpoint")]
Workers = Annotated[int, typer.Option("--workers", min=0, help="processes that make batches")]
Device = Annotated[str | None, typer.Option("--device", help="cpu or cuda; a GPU if there is one")]
Compile = Annotated[bool, typer.Option("--compile", help="compile the network")]
Minutes = Annotated[float | None, typer.Option("--minutes", min=0, help="stop after this long, to be resumed later")]
Val = Annotated[Path | None, typer.Option("--val", help="sequences to track now and then; the best weights are kept")]
ValEvery = Annotated[int, typer.Option("--val-every", min=1, help="steps between")]


def add_phase(phase: str, about: str) -> None:
    """Add the command of one phase of training; they differ in what their recipe must hold."""

    def command(
        recipe: RecipeFile,
        data: DataFolder,
        run: RunFolder,
        start: StartWeights = None,
        resume: Resume = False,
        workers: Workers = 1,
        device: Device = None,
        compile: Compile = False,
        minutes: Minutes = None,
        val: Val = None,
        val_every: ValEvery = 1000,
    ) -> None:
        options: dict[str, Any] = {"start": start, "resume": resume, "workers": workers, "device": device}
        options |= {"compile": compile, "minutes": minutes, "val": val, "val_every": val_every}
        with needs("train"):
            from fartrack.train.loop import train
            from fartrack.train.phases import read_recipe
        network = train(read_recipe(recipe, phase), data, run, **options)
        print(f"saved {run}" if network else f"stopped before the end, saved {run}; add --resume to go on")

    train_app.command(name=phase, help=about)(command)


add_phase("pretrain", "Phase 1: learn from single frames with several templates each.")
add_phase("distill", "Phase 2: self-distillation, which makes every layer from the first tapped one on an exit.")
add_phase("sparsify", "Phase 3: roll over clips while a share of the template tokens is removed.")


@train_app.command(name="all")
def train_all(
    recipes: Annotated[Path, typer.Option(help="folder of the three phases' recipes, or the name of one that ships")],
    data: DataFolder,
    run: RunFolder,
    start: StartWeights = None,
    workers: Workers = 1,
    device: Device = None,
    compile: Compile = False,
    minutes: Minutes = None,
    val: Val = None,
    val_every: ValEvery = 1000,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="a few small batches of each phase only")] = False,
) -> None:
    """All three phases, then the exported variants; called again, it goes on where it stopped."""
    options: dict[str, Any] = {"start": start, "workers": workers, "device": device, "compile": compile}
    options |= {"minutes": minutes, "val": val, "val_every": val_every, "rehearse": rehearse}
    with needs("train"):
        from fartrack.train.phases import train_phases
    exported = train_phases(recipes, data, run, **options)
    for folder in exported or ():
        print(f"saved {folder}")
    if exported is None:
        print("stopped before the end; give the same command again to go on")


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turn a missing library of an extra into one sentence."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise FartrackError(
            f"This needs {error.name}, which is not installed; run pip install 'fartrack[{extra}]'."
        ) from None


def until_broken(tracks: Iterable[tuple[Frame, Track]], broken: list[FartrackError]) -> Iterator[tuple[Frame, Track]]:
    """The tracks of a source up to where it breaks off, for what a damaged one holds is kept.

    The error that ends it goes to ``broken``; one before the first track is raised.
    """
    begun = False
    try:
        for pair in tracks:
            begun = True
            yield pair
    except FartrackError as error:
        if not begun:
            raise
        broken.append(error)


class Meter:
    """Progress with frames per second on stderr, and the closing line."""

    def __init__(self, what: str, total: int | None) -> None:
        """``total`` frames are expected, None if that is unknown."""
        description = TextColumn("{task.description}", markup=False)  # brackets in a path are no markup
        columns = (description, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        speed = TextColumn("{task.fields[fps]:.0f} FPS")
        quiet = not console.is_terminal
        self._progress = Progress(*columns, speed, console=console, transient=True, disable=quiet)
        self._task = self._progress.add_task(what, total=total, fps=0.0)
        self._clock = time.perf_counter()
        self.frames = 0

    def __enter__(self) -> Meter:
        """Start the clock and show the bar."""
        self._clock = time.perf_counter()
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        self._progress.stop()

    @property
    def fps(self) -> float:
        """Frames per second so far, everything included."""
        return self.frames / max(time.perf_counter() - self._clock, 1e-9)

    def count(self) -> None:
        """One frame more is done."""
        self.reach(self.frames + 1)

    def reach(self, frames: int, total: int | None = None) -> None:
        """So many frames are done, of ``total`` if that is known only now."""
        self.frames = frames
        self._progress.update(self._task, completed=frames, total=total, fps=self.fps)

    def report(self, paths: Iterable[Path | None]) -> None:
        """Say how many frames were tracked, how fast, and what was saved."""
        print(f"tracked {self.frames} frames, {self.fps:.0f} FPS with reading and writing")
        for path in paths:
            if path is not None:
                print(f"saved {path}")


def main() -> None:
    """Entry point of the command."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stop tidies up as Ctrl-C does
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may hold what the terminal's encoding lacks
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except FartrackError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or 'A file'} cannot be used ({error.strerror or error}); check it and its permissions.")


def fail(sentence: str) -> NoReturn:
    """Say on stderr, in one line, what the user can mend, and end with exit code 2."""
    print("fartrack:", " ".join(sentence.splitlines()), file=sys.stderr)
    sys.exit(2)
