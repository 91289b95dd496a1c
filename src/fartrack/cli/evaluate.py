"""The commands that measure: ``eval`` and ``bench``; and ``explain``."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fartrack.api import DEFAULT_MODEL
from fartrack.cli.common import Device, Engine, Precision, Settings, app, needs, with_options
from fartrack.cli.track import load_tracker, tracker_options
from fartrack.datasets.layouts import read_boxes
from fartrack.errors import FartrackError
from fartrack.files import check_folder, write_whole
from fartrack.geometry import parse_box
from fartrack.progress import Meter
from fartrack.video import frames_from_source


@app.command(name="eval")
def evaluate_trackers(
    data: Annotated[Path, typer.Option(help="folder of the benchmark")],
    tracker: Annotated[
        str,
        typer.Option(
            help="what is compared, separated by commas: a model's name or folder, raw:DIR (published results) or "
            "module:Class (Python, such as benchmarks.peers.nanotrack:V3); NAME=... gives one a name"
        ),
    ] = DEFAULT_MODEL,
    benchmark: Annotated[str, typer.Option(help="got10k-val, lasot, otb100, ... or folder")] = "folder",
    only: Annotated[str | None, typer.Option(help="names of sequences, separated by commas, instead of all")] = None,
    results: Annotated[Path, typer.Option(help="folder of the raw results, where a stopped run resumes")] = Path(
        "results"
    ),
    report: Annotated[Path | None, typer.Option(help="folder of the report: a page and pictures")] = None,
    pack: Annotated[Path | None, typer.Option(help="archive for the server of GOT-10k or TrackingNet")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="sequences at once; above 1, speed is measured under load")] = 1,
    engine: Engine = "auto",
    precision: Precision = None,
    device: Device = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="threads of one tracker")] = 1,
    settings: Settings = None,
    starts: Annotated[
        str, typer.Option(help="frames that each sequence is started from, such as 0,5,10; one run alone says little")
    ] = "0",
) -> None:
    """Measure trackers on a benchmark, side by side."""
    from fartrack.evaluate.benchmarks import from_starts, open_benchmark
    from fartrack.evaluate.runner import evaluate
    from fartrack.evaluate.submission import check_server, write_submission
    from fartrack.evaluate.tables import print_tables
    from fartrack.evaluate.trackers import parse_trackers

    trackers = parse_trackers(
        tracker, engine=engine, precision=precision, device=device, threads=threads, settings=tuple(settings or ())
    )
    first_frames = parse_numbers(starts, "--starts")
    if pack:  # fails before the run, not after it
        check_server(benchmark)
        if len(trackers) > 1 or first_frames != [0]:
            raise FartrackError("A server takes one tracker from the first frames; name one, or leave out --pack.")
    if report:
        with needs("eval"):
            from fartrack.evaluate.report import write_report
    sequences = open_benchmark(benchmark, data, only.split(",") if only else None)
    if first_frames != [0]:
        sequences = from_starts(sequences, first_frames)
    failed: list[str] = []

    def left_out(name: str, error: FartrackError) -> None:
        failed.append(name)
        print(f"fartrack: {name} is left out. {str(error).removeprefix(f'{name}: ')}", file=sys.stderr)

    with Meter(f"tracking {data}", None) as meter:
        evaluations = evaluate(trackers, sequences, results, jobs, meter.reach, left_out)
    print_tables(evaluations, sequences, threads)
    if report:
        print(f"saved {write_report(evaluations, report, shlex.join(['fartrack', *sys.argv[1:]]))}")
    if pack:
        print(f"saved {write_submission(evaluations[0], pack)}")
    if failed:
        raise FartrackError(f"{', '.join(failed)} could not be evaluated, for the reason told above; the others were.")


@app.command()
def bench(
    clips: Annotated[
        list[str] | None, typer.Argument(help="video files or folders of pictures; the demo clip if left out")
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(
            help="x,y,w,h in pixels of a clip's first frame, once a clip; else the first line of its NAME.txt"
        ),
    ] = None,
    tracker: Annotated[
        str, typer.Option(help="what is compared, as for eval; ratios are to the first")
    ] = DEFAULT_MODEL,
    threads: Annotated[str, typer.Option(help="threads of a tracker, each in turn, such as 1,2")] = "1",
    sizes: Annotated[str | None, typer.Option(help="such as 640x360,1280x720; the clip's own if left out")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="in each of which every tracker has its turn")] = 5,
    frames: Annotated[int, typer.Option(min=1, help="of one turn")] = 30,
    paced: Annotated[float | None, typer.Option(help="time them at so many frames a second too, such as 30")] = None,
    warm_up: Annotated[int, typer.Option(min=0, help="frames of each before the first round")] = 100,
    engine: Engine = "auto",
    precision: Precision = None,
    device: Device = "cpu",
    settings: Settings = None,
    json: Annotated[Path | None, typer.Option(help="the times of all frames, and their statistics")] = None,
    plot: Annotated[Path | None, typer.Option(help="picture (.png) of the times")] = None,
) -> None:
    """Time trackers side by side, each in a process of its own, in turns."""
    from fartrack.evaluate import speed
    from fartrack.evaluate.trackers import parse_trackers

    sources = dict(zip(clips or (), first_boxes(clips or [], box or []), strict=True))
    trackers = parse_trackers(
        tracker, engine=engine, precision=precision, device=device, settings=tuple(settings or ())
    )
    if plot:
        with needs("eval"):
            import matplotlib  # noqa: F401
    for path in (json, plot):
        if path:
            check_folder(path)  # what would fail in the end fails at once
    options: dict[str, Any] = {"rounds": rounds, "frames": frames, "warm_up": warm_up, "paced": paced}
    options |= {"threads": parse_numbers(threads, "--threads"), "sizes": parse_sizes(sizes) if sizes else ()}
    with Meter("timing (turns)", None, live=False) as meter:
        found = speed.bench(trackers, sources, report=meter.reach, **options)
    speed.print_speed(found)
    if json:
        write_whole(json, found.to_json())
        print(f"saved {json}")
    if plot:
        write_whole(plot, speed.plot_speed(found))
        print(f"saved {plot}")


def first_boxes(clips: list[str], boxes: list[str]) -> list[tuple[float, ...]]:
    """The box of each clip: as given, one a clip, or if none is the first of its NAME.txt; FartrackError otherwise."""
    if len(set(clips)) < len(clips):
        raise FartrackError("A clip is named twice; name each once.")
    if boxes and len(boxes) != len(clips):
        raise FartrackError(f"There are {len(boxes)} boxes for {len(clips)} clips; give CLIP --box x,y,w,h for each.")
    if boxes:
        return [parse_box(box) for box in boxes]
    found = []
    for clip in clips:
        truth = Path(clip).with_suffix(".txt")
        first = read_boxes(truth)[:1].tolist() if truth.is_file() else []
        if not first:
            raise FartrackError(f"There is no box for {clip}; give CLIP --box x,y,w,h, or put it into {truth}.")
        found.append(tuple(first[0]))
    return found


@app.command()
@with_options(tracker_options)
def explain(
    options: dict[str, Any],
    clip: Annotated[str, typer.Argument(help="video file or folder of pictures")],
    box: Annotated[str, typer.Option(help="x,y,w,h in pixels of the frame --start")],
    frames: Annotated[str, typer.Option(help="frames to look at, such as 10,50,200")],
    output: Annotated[Path, typer.Option("--output", "-o", help="a picture (.png) or a page (.html)")],
    start: Annotated[int, typer.Option(help="frame on which the box was drawn, counted from 0")] = 0,
) -> None:
    """Show what the network sees and answers on some frames: search window, past boxes, distributions, templates."""
    with needs("eval"):
        from fartrack.evaluate.explain import draw_looks, looks
        from fartrack.evaluate.report import html_page, img, png
    wanted, page = parse_numbers(frames, "--frames"), output.suffix.lower() == ".html"
    if not page and output.suffix.lower() != ".png":
        raise FartrackError(f"{output} is neither .png nor .html; name a picture or a page.")
    check_folder(output)
    tracker = load_tracker(**options)
    with frames_from_source(clip, start=start) as source:
        looked = list(looks(tracker, source, parse_box(box), wanted))
    picture = png(draw_looks(looked))
    content = html_page(f"{options['model']} on {clip}", [img("what the network sees", picture)]) if page else picture
    write_whole(output, content)
    print(f"saved {output}")


def parse_sizes(text: str) -> list[tuple[int, int]]:
    """Sizes such as ``640x360,1280x720`` → width and height of each; FartrackError if one is not from 16 to 8192."""
    sizes = []
    for part in text.split(","):
        width, _, height = part.strip().lower().replace("×", "x").partition("x")
        if not (width.isdecimal() and height.isdecimal() and all(16 <= int(n) <= 8192 for n in (width, height))):
            raise FartrackError(f"{part.strip()!r} is not a size; give WIDTHxHEIGHT in pixels, such as 640x360.")
        sizes.append((int(width), int(height)))
    return list(dict.fromkeys(sizes))


def parse_numbers(text: str, option: str) -> list[int]:
    """Whole numbers such as ``1,2``, each once; FartrackError, which names the option, if one is not."""
    try:
        return list(dict.fromkeys(map(int, text.split(","))))
    except ValueError:
        raise FartrackError(f"{option} is {text!r}; list whole numbers, such as 1,2.") from None
