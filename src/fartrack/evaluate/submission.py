"""Archives of results for the servers of test sets whose ground truth is not public.

Boxes are ``x, y, w, h`` in pixels as the benchmark's own files count them, one line per frame, the first included.
"""

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from fartrack.errors import FartrackError
from fartrack.evaluate.benchmarks import BENCHMARKS
from fartrack.evaluate.runner import Evaluation, Result
from fartrack.files import replacing


def write_submission(evaluation: Evaluation, path: Path) -> Path:
    """Write the zip file for a benchmark's server, the same bytes for the same results, completely or not at all;
    FartrackError if there is no server or the results are incomplete."""
    check_server(evaluation.benchmark.name)
    texts: dict[str, str] = {}
    for result in _complete(evaluation):
        texts |= FILES[evaluation.benchmark.name](result)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, zipfile.ZipFile(part, "w") as file:
        for name, text in texts.items():
            file.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    return path


def check_server(benchmark: str) -> None:
    """Check that a benchmark has a server that takes submissions; FartrackError if not."""
    if benchmark not in FILES:
        servers = " and ".join(FILES)
        raise FartrackError(f"There is no server for {benchmark}, whose ground truth is public; one is for {servers}.")


def _complete(evaluation: Evaluation) -> list[Result]:
    """The results in the benchmark's own pixels, checked to be complete."""
    sequences, published = evaluation.benchmark.sequences, BENCHMARKS[evaluation.benchmark.name]
    if published and len(sequences) != published.count:
        raise FartrackError(
            f"{evaluation.benchmark.name} has {published.count} sequences, but there are results of {len(sequences)}; "
            "run all of them."
        )
    results = {result.name: result for result in evaluation.results}
    complete = []
    for sequence in sequences:
        result = results.get(sequence.name)
        if result is None or result.boxes.shape != (sequence.length, 4) or not np.isfinite(result.boxes).all():
            raise FartrackError(
                f"The result of {sequence.name} is not four finite numbers for each of its {sequence.length} frames; "
                f"run {evaluation.tracker} on it again."
            )
        complete.append(replace(result, boxes=result.boxes + np.array([sequence.origin] * 2 + [0, 0])))
    return complete


def _boxes_text(result: Result) -> str:
    return "".join(",".join(f"{value:.3f}" for value in box) + "\n" for box in result.boxes.tolist())


def _got10k_files(result: Result) -> dict[str, str]:
    """Boxes and seconds. One run is packed; the toolkit asks for three of a tracker that is not deterministic."""
    name, seconds = result.name, result.seconds
    if len(seconds) != len(result.boxes) or not np.isfinite(seconds).all():
        raise FartrackError(f"GOT-10k asks for times, but those of {name} are unknown; run the tracker here.")
    times = "".join(f"{value:.8f}\n" for value in seconds.tolist())
    return {f"{name}/{name}_001.txt": _boxes_text(result), f"{name}/{name}_time.txt": times}


FILES: dict[str, Callable[[Result], dict[str, str]]] = {
    "got10k-test": _got10k_files,
    "trackingnet-test": lambda result: {f"{result.name}.txt": _boxes_text(result)},
}
"""The files of a sequence's result, by benchmark."""
