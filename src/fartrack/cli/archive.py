"""The command that tracks many videos: ``archive``."""

import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from fartrack.api import DEFAULT_MODEL
from fartrack.cli.common import Engine, Model, Precision, Settings, app, needs
from fartrack.cli.track import parsed_settings
from fartrack.errors import FartrackError
from fartrack.progress import Meter
from fartrack.video import FORMATS


@app.command()
def archive(
    videos: Annotated[Path, typer.Argument(help="folder of videos")],
    targets: Annotated[Path, typer.Option(help="CSV or JSON: video,x,y,w,h, and name,frame,end,label as for track")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of the results and of manifest.jsonl")],
    formats: Annotated[str, typer.Option(help=f"of {', '.join(FORMATS)}, and video, separated by commas")] = "csv",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="videos at once on this machine, one thread each; else one a processor")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(help="address of a Ray cluster instead (auto: the one that runs here)")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="track those again that failed")] = False,
    model: Model = DEFAULT_MODEL,
    engine: Engine = "auto",
    precision: Precision = None,
    settings: Settings = None,
) -> None:
    """Track targets in many videos; the same command goes on where it was stopped."""
    from fartrack.archive import archive_jobs, processes, ray_cluster, run_archive

    kinds = list(dict.fromkeys(formats.split(",")))
    for kind in kinds:
        if kind not in (*FORMATS, "video"):
            raise FartrackError(f"{kind!r:.60} is no format; those are {', '.join(FORMATS)}, and video.")
    model = str(Path(model).absolute()) if Path(model).is_dir() else model
    options = {"model": model, "engine": engine, "precision": precision, "threads": 1}
    options |= parsed_settings(model, settings)
    plan = archive_jobs(videos.absolute(), targets, output.absolute(), kinds, options)
    clock = time.perf_counter()
    with ExitStack() as stack:
        if ray:
            with needs("ray"):
                submit, width = stack.enter_context(ray_cluster(ray))
        else:
            width = jobs or os.cpu_count() or 1
            submit = stack.enter_context(processes(width))
        meter = stack.enter_context(Meter("tracking videos", len(plan), "videos a second"))

        def report(done: int, frames: int) -> None:
            speed = frames / (time.perf_counter() - clock)
            meter.reach(done, what=f"tracking videos, {frames} frames, {speed:.0f} FPS")

        rows = run_archive(plan, output, submit, width, retry, report)
    failed = [row for row in rows if row["error"]]
    frames, seconds = sum(row["frames"] for row in rows), time.perf_counter() - clock
    print(f"{len(rows) - len(failed)} of {len(rows)} videos, {frames} frames; {meter.frames} now, in {seconds:.0f} s")
    print(f"saved {output}")
    for row in failed:
        print(f"failed {row['video']}: {row['error']}")
    if failed:
        raise FartrackError(f"{len(failed)} of {len(rows)} videos failed, see above; mend them, or give --retry.")
