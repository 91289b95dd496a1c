"""The commands that train: ``train prepare`` and the phases, and ``export``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fartrack.cli.common import Meter, app, needs
from fartrack.errors import FartrackError

if TYPE_CHECKING:
    from fartrack.train.data.store import Picture

train_app = typer.Typer(help="Prepare data and train networks (needs the extra 'train').", no_args_is_help=True)
app.add_typer(train_app, name="train")


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
