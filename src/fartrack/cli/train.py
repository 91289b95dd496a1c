"""The commands that train: ``train prepare``, ``run``, ``all`` and ``recipes``; and ``export``."""

from collections import Counter
from itertools import chain, takewhile
from pathlib import Path
from typing import Annotated, Any

import typer

from fartrack.cli.common import app, needs, with_options
from fartrack.config import to_toml
from fartrack.errors import FartrackError
from fartrack.progress import progress

train_app = typer.Typer(help="Prepare data and train networks (needs the extra 'train').", no_args_is_help=True)
app.add_typer(train_app, name="train")


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="checkpoint.safetensors of a training run")],
    folder: Annotated[Path, typer.Argument(help="where the model goes")],
    depth: Annotated[int | None, typer.Option(help="only the first layers, as an exit of the network")] = None,
    exits: Annotated[str, typer.Option(help="such as nano=10,pico=6: models beside it, of its first layers")] = "",
    int8: Annotated[str | None, typer.Option(help="depths that get an 8-bit graph (6,15), or none; else all")] = None,
    mean: Annotated[list[Path] | None, typer.Option(help="another checkpoint; exports the mean; repeatable")] = None,
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
        from fartrack.train.export import export_checkpoint
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
        int | None, typer.Option(min=1, help="longer sides are shrunk to this", metavar="PIXELS")
    ] = None,
) -> None:
    """Decode training data once, into memory-mapped arrays."""
    with needs("train"):
        from fartrack.datasets.readers import read_folder
        from fartrack.train.data.store import write_store
    skipped: Counter[str] = Counter()
    # opened before the first is read, so that a wrong path is noticed at once
    readers = [read_folder(folder, skipped, every=every, longest=longest) for folder in sources]
    print(f"{write_store(data, progress(chain(*readers), 'decoding pictures'))} pictures in {data}")
    for reason, count in skipped.most_common():
        print(f"skipped {count}: {reason}")


def training_options(
    data: Annotated[Path, typer.Option(help="folder of prepared data")],
    run: Annotated[Path, typer.Option(help="folder of this run: checkpoint, log, curves, pictures")],
    start: Annotated[Path | None, typer.Option(help="weights, or another run's checkpoint; else random")] = None,
    features: Annotated[
        Path | None, typer.Option(help="weights whose features are kept (loss.features); else those of --start")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="processes that make batches")] = 1,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; a GPU if there is one")] = None,
    compile: Annotated[bool, typer.Option("--compile", help="compile the network")] = False,
    minutes: Annotated[float | None, typer.Option(min=0, help="stop after this long, to be resumed later")] = None,
    val: Annotated[Path | None, typer.Option(help="sequences to track now and then; the best weights are kept")] = None,
    val_every: Annotated[int, typer.Option(min=1, help="steps between")] = 1000,
) -> None:
    """What the commands that train have in common."""


@train_app.command()
@with_options(training_options)
def run(
    options: dict[str, Any],
    recipe: Annotated[Path, typer.Option(help="TOML file, or the name of one that ships (fartrack train recipes)")],
    resume: Annotated[bool, typer.Option("--resume", help="go on from the run's checkpoint")] = False,
    until: Annotated[int | None, typer.Option(min=1, help="stop after this step", metavar="STEP")] = None,
) -> None:
    """Train by one recipe."""
    with needs("train"):
        from fartrack.train.loop import train
        from fartrack.train.recipe import Recipe, recipe_path
    network = train(Recipe.read(recipe_path(recipe)), options.pop("data"), resume=resume, until=until, **options)
    saved = f"saved {options['run']}"
    print(saved if network else f"stopped before the end, {saved}; add --resume to go on")


@train_app.command(name="all")
@with_options(training_options)
def train_all(
    options: dict[str, Any],
    recipes: Annotated[Path, typer.Option(help="folder of the three phases' recipes, or the name of one that ships")],
    rehearse: Annotated[bool, typer.Option("--rehearse", help="a few small batches of each phase only")] = False,
) -> None:
    """All three phases, then the exported variants; called again, it goes on where it stopped."""
    with needs("train"):
        from fartrack.train.phases import train_phases
    exported = train_phases(recipes, options.pop("data"), rehearse=rehearse, **options)
    for folder in exported or ():
        print(f"saved {folder}")
    if exported is None:
        print("stopped before the end; give the same command again to go on")


@train_app.command()
def recipes(name: Annotated[str | None, typer.Argument(help="of one of them, or a TOML file")] = None) -> None:
    """List the recipes that ship; or print one as a whole, every field with its meaning and default."""
    with needs("train"):
        from fartrack.train.recipe import Recipe, recipe_path, shipped_recipes
    shipped = shipped_recipes()
    if name is None:
        for each, path in shipped.items():
            print(f"{each:{max(map(len, shipped))}}  {path.read_text().splitlines()[0].lstrip('# ')}")
        return
    path = recipe_path(Path(name))
    if not path.exists():
        raise FartrackError(f"No recipe {name!r} ships; `fartrack train recipes` lists those that do.")
    header = takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    print(*header, "", to_toml(Recipe.read(path)), sep="\n", end="")
