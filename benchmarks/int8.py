"""The search graph in int8: speed and accuracy of a trained model, compared with its fp32 graph.

python benchmarks/int8.py VAL --calibration CLIPS [--model pico] [--threads 1] [--frames 100] [--rounds 60]

VAL and CLIPS are folders of sequences (NAME.mp4 beside NAME.txt): those that are tracked, and others on which the
static variants are calibrated. All encode templates in fp32. Variants take turns call by call, so that other work on
the machine affects all alike; with one thread, CPU time is measured. Without VNNI instructions the sum of two 8-bit
products can overflow 16 bits; with 7-bit weights it cannot. The tables are Markdown.
"""

import logging
import tempfile
import time
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, cast

import numpy as np
import onnx
import onnxruntime as ort
import typer
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static
from rich.progress import track as progress

from fartrack.config import from_dict
from fartrack.datasets.sequences import packed_sequences
from fartrack.engines.base import Floats
from fartrack.engines.onnxruntime import OnnxRuntimeEngine
from fartrack.evaluate.metrics import PLAIN, means, measure, paired
from fartrack.evaluate.tables import describe, new_table, print_paragraphs
from fartrack.export import fold
from fartrack.geometry import Box, FloatArray, Image
from fartrack.packages import Package, open_package
from fartrack.tracking.tracker import Tracker, TrackerSettings

SIDES = (224, 160, 128)
"""Of the timed search crops, in pixels: the whole window of pico, and what it looks at with ``least_window``."""

CLIPS, LENGTH, EVERY = 12, 81, 16
"""Calibration: on so many clips, of the first so many frames, every so many."""

Feed = dict[str, NDArray[Any]]


class Variant:
    """An engine with its own search graph, and the templates of another engine."""

    background = True

    def __init__(self, base: OnnxRuntimeEngine, graph: Path, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        self.session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self.config, self.memorise, self.search_scored = base.config, base.memorise, base.search_scored
        self.feeds: list[Feed] | None = None  # keeps the inputs, if it is a list

    def search(self, crops: Image, trajectory: NDArray[np.int64], memory: Floats) -> Floats:
        """See :class:`fartrack.engines.base.Engine`."""
        feed: Feed = {"search": crops, "trajectory": trajectory, "memory": memory}
        if self.feeds is not None:
            self.feeds.append(feed)
        return cast(Floats, self.session.run(None, feed)[0])


def calibration(clips: Path, engine: Variant, settings: TrackerSettings) -> list[Feed]:
    """The inputs of the network on clips spread over a folder."""
    sequences, kept = packed_sequences(clips), []
    places = sorted({round(place) for place in np.linspace(0, len(sequences) - 1, CLIPS)})
    for sequence in progress([sequences[place] for place in places], "calibration", transient=True):
        engine.feeds, tracker = [], Tracker(engine, settings)
        for number, image in enumerate(islice(sequence.frames(), LENGTH)):
            tracker.update(image) if number else tracker.init(image, sequence.boxes[0])
        kept += engine.feeds[::EVERY]
    engine.feeds = None
    return kept


def quantized(package: Package, feeds: list[Feed], folder: Path) -> dict[str, Path]:
    """Write the variants of the search graph into a folder; by name, fp32 as it is in the package first."""
    fp32, folded = package.graph("search"), folder / "folded.onnx"
    fold(fp32, folded)
    graph = onnx.load(folded).graph
    constants = {initializer.name for initializer in graph.initializer}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    every = [node.name for node in products]
    weighted = [node.name for node in products if node.input[1] in constants]  # all but attention's

    common: dict[str, Any] = {"op_types_to_quantize": ["MatMul", "Gemm"], "per_channel": True}
    common["weight_type"] = QuantType.QInt8
    static = {"activation_type": QuantType.QUInt8, "calibration_cache_path": folder / "ranges.json"}
    static["extra_options"] = {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]}  # products stay fp32
    paths = {"fp32": fp32}
    logging.disable(logging.WARNING)  # its advice to infer shapes first does not matter here
    for kind, narrow, nodes in (
        ("dynamic", False, weighted),
        ("dynamic, 7-bit weights", True, weighted),
        ("static", False, weighted),
        ("static, 7-bit weights", True, weighted),
        ("static, 7-bit weights, attention too", True, every),
    ):
        path = paths[f"int8 {kind}"] = folder / f"{kind}.onnx"
        choice = {"reduce_range": narrow, "nodes_to_quantize": nodes, **common}
        if kind.startswith("dynamic"):
            quantize_dynamic(folded, path, **choice)
        else:
            reader = SimpleNamespace(get_next=partial(next, iter(feeds), None))
            quantize_static(folded, path, reader, **choice, **static)
    logging.disable(logging.NOTSET)
    return paths


def milliseconds(threads: int) -> float:
    """CPU time of the calling thread, which other work does not lengthen; wall-clock time with several threads."""
    return 1000 * (time.thread_time() if threads == 1 else time.perf_counter())


def time_calls(engines: dict[str, Variant], feed: Feed, rounds: int, threads: int) -> dict[str, FloatArray]:
    """Milliseconds of ``rounds`` calls by variant, each after one call to warm up."""
    found = {name: np.zeros(rounds) for name in engines}
    for place in range(rounds):
        for name, engine in engines.items():
            engine.search(**feed)
            start = milliseconds(threads)
            engine.search(**feed)
            found[name][place] = milliseconds(threads) - start
    return found


def track_all(
    folder: Path, engines: dict[str, Variant], settings: TrackerSettings, frames: int, threads: int
) -> tuple[dict[str, list[dict[str, float]]], dict[str, FloatArray]]:
    """Measures on the first ``frames`` of every sequence, and milliseconds of every update, by variant."""
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in engines}
    times: dict[str, list[float]] = {name: [] for name in engines}
    for sequence in progress(packed_sequences(folder), "tracking", transient=True):
        trackers = {name: Tracker(engine, settings) for name, engine in engines.items()}
        boxes: dict[str, list[Box]] = {name: [] for name in engines}
        for number, image in enumerate(islice(sequence.frames(), min(frames, sequence.length))):
            for name, tracker in trackers.items():
                start = milliseconds(threads)
                found = tracker.update(image) if number else tracker.init(image, sequence.boxes[0])
                if number:
                    times[name].append(milliseconds(threads) - start)
                boxes[name].append(found.box)
        for name in engines:
            measured[name].append(measure(boxes[name], sequence.boxes[: len(boxes[name])], None, PLAIN))
    return measured, {name: np.array(values) for name, values in times.items()}


def difference(first: list[dict[str, float]], second: list[dict[str, float]], name: str) -> str:
    """The paired difference between two variants in a measure."""
    return describe(paired(*([values[name] for values in measured if values] for measured in (first, second))))


def quartiles(values: FloatArray, digits: int = 2) -> str:
    """Median and quartiles."""
    low, median, high = np.percentile(values, (25, 50, 75))
    return f"{median:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def main(
    val: Path,
    clips: Annotated[Path, typer.Option("--calibration", help="folder of sequences to calibrate on")],
    model: str = "pico",
    threads: Annotated[int, typer.Option(help="threads of one network call")] = 1,
    frames: Annotated[int, typer.Option(min=2, help="how many of each sequence are tracked")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="how often a call of every variant is timed")] = 60,
) -> None:
    package = open_package(model)
    settings, base = from_dict(TrackerSettings, package.settings), OnnxRuntimeEngine(package, threads)
    with tempfile.TemporaryDirectory() as scratch:
        feeds = calibration(clips, Variant(base, package.graph("search"), threads), settings)
        paths = quantized(package, feeds, Path(scratch))
        sizes = {name: f"{path.stat().st_size / 1e6:.1f}" for name, path in paths.items()} | {"fp32": "0"}
        engines = {name: Variant(base, path, threads) for name, path in paths.items()}

    rows, (*_, one), rng = settings.templates * package.config.template_tokens, feeds, np.random.default_rng(0)
    memory = np.take(one["memory"], np.arange(rows) % one["memory"].shape[-2], axis=-2)
    times: dict[str, dict[str, FloatArray]] = {}
    for side in SIDES:  # what is in the pixels does not matter
        crops = rng.integers(0, 256, (1, side, side, 3), np.uint8)
        feed = {"crops": crops, "trajectory": one["trajectory"], "memory": memory}
        times[f"{side} px"] = time_calls(engines, feed, rounds, threads)
    measured, times["whole frame"] = track_all(val, engines, settings, frames, threads)

    speed = new_table("", "MB", *(column for name in times for column in (f"{name}, ms", "of fp32")))
    accuracy = new_table("", "AO", "SR50", "SR75", "AO minus that of fp32", "SR75 minus that of fp32")
    for name in engines:
        ratios = ((quartiles(t[name], 1), quartiles(t[name] / t["fp32"])) for t in times.values())
        speed.add_row(name, sizes[name], *(cell for pair in ratios for cell in pair))
        scores = means(measured[name])
        differences = [difference(measured[name], measured["fp32"], m) for m in ("ao", "sr75") if name != "fp32"]
        accuracy.add_row(name, *(str(scores[m]) for m in ("ao", "sr50", "sr75")), *differences)
    print_paragraphs(
        f"{model}, ONNX Runtime {ort.__version__}, {threads} thread(s): milliseconds of a search call with {rows} "
        f"template tokens by the side of its crop ({rounds} rounds), and of a whole frame of tracking; medians and "
        "quartiles, those of the ratios round by round. MB: what its own weights add to the package.",
        speed,
        f"The first {frames} frames of {len(measured['fp32'])} sequences; 95 % intervals (differences: paired).",
        accuracy,
    )


if __name__ == "__main__":
    typer.run(main)
