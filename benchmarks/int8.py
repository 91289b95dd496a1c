"""Whether the search graph is worth having in int8: speed and accuracy of a trained model, against its fp32 graph.

python benchmarks/int8.py VAL --calibration CLIPS [--model pico] [--threads 1] [--frames 100] [--rounds 60]

VAL and CLIPS are folders of sequences (NAME.mp4 beside NAME.txt): those that are tracked, and others that the static
variants are calibrated on. Templates are encoded in fp32 by all. Everything is interleaved, one variant after the
other, so that other work on the machine meets them all alike; with one thread, time is that of the processor. Without
VNNI instructions the sum of two products of 8 bits can overflow 16; weights of 7 bits cannot. The tables are Markdown.
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
import typer
from numpy.typing import NDArray
from rich.progress import track as progress

from fartrack.config import from_dict
from fartrack.datasets.sequences import packed_sequences
from fartrack.engines.base import Floats
from fartrack.engines.onnxruntime import OnnxRuntimeEngine, ort
from fartrack.evaluate.metrics import overlaps, paired, score_sequences
from fartrack.evaluate.speed import Spread
from fartrack.evaluate.tables import describe, new_table, print_paragraphs
from fartrack.export import fold
from fartrack.geometry import Box, FloatArray, Image
from fartrack.packages import Package, open_package
from fartrack.tracking.tracker import Tracker, TrackerSettings

SIDES = (224, 160, 128)
"""Of the timed search crops, in pixels: the whole window of pico, and what it looks at with ``min_window``."""

CLIPS, LENGTH, EVERY = 12, 81, 16
"""Calibration: on so many clips, of the first so many frames, every so many."""

Feed = dict[str, NDArray[Any]]


class Variant:
    """An engine that searches with a graph of its own and encodes templates with another engine."""

    def __init__(self, base: OnnxRuntimeEngine, graph: Path, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        self.session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self.config, self.encode_templates, self.search_scored = base.config, base.encode_templates, base.search_scored
        self.feeds: list[Feed] | None = None  # where what it is shown is kept, if it is a list

    def search(self, crops: Image, trajectory: NDArray[np.int64], kv_cache: Floats) -> Floats:
        """See :class:`fartrack.engines.base.Engine`."""
        feed: Feed = {"search": crops, "trajectory": trajectory, "kv_cache": kv_cache}
        if self.feeds is not None:
            self.feeds.append(feed)
        return cast(Floats, self.session.run(None, feed)[0])


def calibration(clips: Path, engine: Variant, settings: TrackerSettings) -> list[Feed]:
    """What a tracker shows its network on clips spread over a folder."""
    sequences, kept = packed_sequences(clips), []
    places = sorted({round(place) for place in np.linspace(0, len(sequences) - 1, CLIPS)})
    for sequence in progress([sequences[place] for place in places], "calibration", transient=True):
        engine.feeds, tracker = [], Tracker(engine, settings)
        for number, image in enumerate(islice(sequence.frames(), LENGTH)):
            tracker.update(image) if number else tracker.init(image, sequence.boxes[0])
        kept += engine.feeds[::EVERY]
    engine.feeds = None
    return kept


def quantised(package: Package, feeds: list[Feed], folder: Path) -> dict[str, Path]:
    """Write the variants of the search graph into a folder; by name, fp32 as it is in the package first."""
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static

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
    """Of the calling thread's processor time, which other work does not lengthen; of real time if it has helpers."""
    return 1000 * (time.thread_time() if threads == 1 else time.perf_counter())


def time_calls(engines: dict[str, Variant], feed: Feed, rounds: int, threads: int) -> dict[str, FloatArray]:
    """Milliseconds of ``rounds`` calls by variant, each after one that warms its weights up."""
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
) -> tuple[dict[str, list[FloatArray]], dict[str, FloatArray]]:
    """IoU of the first ``frames`` of every sequence, and milliseconds of every update, by variant."""
    ious: dict[str, list[FloatArray]] = {name: [] for name in engines}
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
            ious[name].append(overlaps(boxes[name], sequence.boxes[: len(boxes[name])]))
    return ious, {name: np.array(values) for name, values in times.items()}


def difference(first: list[FloatArray], second: list[FloatArray], level: float | None) -> str:
    """What two variants' mean IoU of a sequence, or their share of frames with one above ``level``, differ by."""
    one, other = (
        [float((values if level is None else values > level).mean()) for values in ious if len(values)]
        for ious in (first, second)
    )
    return describe(paired(one, other))


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
        paths = quantised(package, feeds, Path(scratch))
        sizes = {name: f"{path.stat().st_size / 1e6:.1f}" for name, path in paths.items()} | {"fp32": "0"}
        engines = {name: Variant(base, path, threads) for name, path in paths.items()}

    rows, (*_, one), rng = settings.templates * package.config.template_tokens, feeds, np.random.default_rng(0)
    kv_cache = np.take(one["kv_cache"], np.arange(rows) % one["kv_cache"].shape[-2], axis=-2)
    times: dict[str, dict[str, FloatArray]] = {}
    for side in SIDES:  # what is in the pixels does not matter
        crops = rng.integers(0, 256, (1, side, side, 3), np.uint8)
        feed = {"crops": crops, "trajectory": one["trajectory"], "kv_cache": kv_cache}
        times[f"{side} px"] = time_calls(engines, feed, rounds, threads)
    ious, times["whole frame"] = track_all(val, engines, settings, frames, threads)

    speed = new_table("", "MB", *(column for name in times for column in (f"{name}, ms", "of fp32")))
    accuracy = new_table("", "AO", "SR50", "SR75", "AO less that of fp32", "SR75 less that of fp32")
    for name in engines:
        ratios = ((Spread.of(t[name]).text(1), Spread.of(t[name] / t["fp32"]).text()) for t in times.values())
        speed.add_row(name, sizes[name], *(cell for pair in ratios for cell in pair))
        scores = score_sequences(ious[name])
        differences = [difference(ious[name], ious["fp32"], level) for level in (None, 0.75) if name != "fp32"]
        accuracy.add_row(name, str(scores.ao), str(scores.sr50), str(scores.sr75), *differences)
    print_paragraphs(
        f"{model}, ONNX Runtime {ort.__version__}, {threads} thread(s): milliseconds of a search call with {rows} "
        f"template rows by the side of its crop ({rounds} rounds), and of a whole frame of tracking; medians and "
        "quartiles, those of the ratios round by round. MB: what the weights of its own add to the package.",
        speed,
        f"The first {frames} frames of {scores.sequences} sequences; 95 % intervals (differences: paired).",
        accuracy,
    )


if __name__ == "__main__":
    typer.run(main)
