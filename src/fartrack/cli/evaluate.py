"""The commands that measure: ``eval``, ``calibrate`` and ``bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from fartrack.api import DEFAULT_MODEL
from fartrack.cli.common import Engine, Meter, app, check_folders, console, needs
from fartrack.engines.base import EngineName
from fartrack.errors import FartrackError
from fartrack.files import write_whole
from fartrack.geometry import parse_box
from fartrack.packages import shipped

Data = Annotated[Path, typer.Option(help="folder of the benchmark")]
Benchmark = Annotated[str, typer.Option(help="got10k-val, lasot, otb100, ... or folder")]
Only = Annotated[str | None, typer.Option(help="names of sequences, separated by commas, in place of all")]
Results = Annotated[Path, typer.Option(help="folder of the raw results; a stopped run goes on there")]
Jobs = Annotated[int, typer.Option(min=1, help="sequences at once; above 1, speed is measured under load")]
Peers = Annotated[Path | None, typer.Option(help="folder of NanoTrack's and VitTrack's ONNX files")]
TrackerThreads = Annotated[int, typer.Option(min=1, help="threads of one tracker")]


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
