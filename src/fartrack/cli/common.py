"""What the commands share: the application, options, and errors in one sentence."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from fartrack.errors import FartrackError

app = typer.Typer(
    help="Draw a box on one frame; the object is followed through the rest of the video.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[str, typer.Option(help="a shipped model's name, or the folder of an exported one")]
Engine = Annotated[str, typer.Option(help="onnxruntime, openvino or torch; auto is the first that knows the device")]
Precision = Annotated[
    str | None,
    typer.Option(help="fp32, int8 (onnxruntime) or bf16 (openvino, torch); the model's own if the engine has it"),
]
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


def with_options(shared: Callable[..., None]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command with the options of the function ``shared`` too, which it gets as one dictionary, ``options``."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own, further = (inspect.signature(each, eval_str=True).parameters for each in (command, shared))

        @functools.wraps(command)
        def call(**values: Any) -> None:
            command(options={name: values.pop(name) for name in further}, **values)

        parameters = [parameter for parameter in (*own.values(), *further.values()) if parameter.name != "options"]
        ordered = sorted(parameters, key=lambda p: p.default is not inspect.Parameter.empty)
        call.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in ordered}
        return call

    return decorate


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turn a missing library of an extra into one sentence."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise FartrackError(
            f"This needs {error.name}, which is not installed; run pip install 'fartrack[{extra}]'."
        ) from None
