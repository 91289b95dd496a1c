"""What the commands share: the application, options, progress, and errors in one sentence."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fartrack.errors import FartrackError

app = typer.Typer(
    help="Draw a box on one frame; the object is followed through the rest of the video.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console(stderr=True, highlight=False)

Model = Annotated[str, typer.Option(help="a shipped model's name, or the folder of an exported one")]
Engine = Annotated[str, typer.Option(help="onnxruntime, openvino or torch; auto is the first that knows the device")]
Precision = Annotated[str | None, typer.Option(help="fp32, or int8 (onnxruntime only); the model's own if left out")]
Device = Annotated[
    str,
    typer.Option(help="cpu, cuda, tensorrt, coreml, directml, gpu, npu or mps; auto is a GPU if there is one"),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="threads of one network call; the runtime's choice if left out")
]

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="a setting of the tracker on top of the model's own, such as interval=40 or preset=paper",
    ),
]


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turn a missing library of an extra into one sentence."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise FartrackError(
            f"This needs {error.name}, which is not installed; run pip install 'fartrack[{extra}]'."
        ) from None


def check_folders(*files: Path | None) -> None:
    """Check that each file to be written has a folder, so that what would fail in the end fails at once."""
    for path in files:
        if path and not path.parent.is_dir():
            raise FartrackError(f"There is no folder {path.parent} for {path.name}; make it first.")


class Meter:
    """Progress with frames per second on stderr, and the closing line."""

    def __init__(self, what: str, total: int | None, *, live: bool = True) -> None:
        """``total`` frames are expected, None if that is unknown. Unless ``live``, nothing is drawn between two counts,
        since that takes time from what is timed, and no speed is shown."""
        description = TextColumn("{task.description}", markup=False)  # brackets in a path are no markup
        speed = TextColumn("{task.fields[fps]:.0f} FPS" if live else "")
        columns = (description, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), speed)
        quiet = not console.is_terminal
        self._progress = Progress(*columns, console=console, transient=True, auto_refresh=live, disable=quiet)
        self._task = self._progress.add_task(what, total=total, fps=0.0)
        self._clock, self._live = time.perf_counter(), live
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
        self._progress.update(self._task, completed=frames, total=total, fps=self.fps, refresh=not self._live)

    def report(self, paths: Iterable[Path | None]) -> None:
        """Say how many frames were tracked, how fast, and what was saved."""
        print(f"tracked {self.frames} frames, {self.fps:.0f} FPS with reading and writing")
        for path in paths:
            if path is not None:
                print(f"saved {path}")
