"""Archives of results for the servers of test sets whose ground truth is not public.

Boxes are ``x, y, w, h`` in pixels as the benchmark's own files count them, one line per frame, the first included.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from fartrack.errors import FartrackError
from fartrack.evaluate.benchmarks import BENCHMARKS
from fartrack.evaluate.runner import Evaluation, Result
from fartrack.files import replacing
from fartrack.geometry import FloatArray


def packer_of(benchmark: str) -> Callable[[Evaluation, Path], Path]:
    """The function that packs the archive for a benchmark's server; FartrackError if there is none."""
    if benchmark not in PACKERS:
        raise FartrackError(
            f"There is no server for {benchmark}, whose ground truth is public; "
            f"submissions are for {' and '.join(PACKERS)}."
        )
    return PACKERS[benchmark]


def pack_got10k(evaluation: Evaluation, path: Path) -> Path:
    """GOT-10k's test set: for each sequence ``NAME/NAME_001.txt`` with boxes and ``NAME/NAME_time.txt`` with seconds.

    One run is packed; the toolkit asks for three of a tracker that is not deterministic.

    Raises:
        FartrackError: the results are incomplete, or their times are unknown.
    """
    texts = {}
    for result in _complete(evaluation, "got10k-test"):
        if len(result.seconds) != len(result.boxes) or not np.isfinite(result.seconds).all():
            raise FartrackError(
                f"GOT-10k asks for times, but those of {result.name} are unknown; run the tracker here."
            )
        texts[f"{result.name}/{result.name}_001.txt"] = _boxes_text(result.boxes)
        texts[f"{result.name}/{result.name}_time.txt"] = "".join(f"{value:.8f}\n" for value in result.seconds.tolist())
    return _write_zip(path, texts)


def pack_trackingnet(evaluation: Evaluation, path: Path) -> Path:
    """TrackingNet's test set: ``VIDEO.txt`` with boxes for each video; FartrackError if the results are incomplete."""
    results = _complete(evaluation, "trackingnet-test")
    return _write_zip(path, {f"{result.name}.txt": _boxes_text(result.boxes) for result in results})


PACKERS: dict[str, Callable[[Evaluation, Path], Path]] = {
    "got10k-test": pack_got10k,
    "trackingnet-test": pack_trackingnet,
}


def _complete(evaluation: Evaluation, benchmark: str) -> list[Result]:
    """The results in the benchmark's own pixels, checked to be complete."""
    sequences, published = evaluation.benchmark.sequences, BENCHMARKS[benchmark]
    if evaluation.benchmark.name != benchmark:
        raise FartrackError(f"These are results on {evaluation.benchmark.name}; this submission needs {benchmark}.")
    if published and len(sequences) != published.count:
        raise FartrackError(
            f"{benchmark} has {published.count} sequences, but there are results of {len(sequences)}; run all of them."
        )
    results = {result.name: result for result in evaluation.results}
    fix = f"run {evaluation.tracker} on it again"
    complete = []
    for sequence in sequences:
        result = results.get(sequence.name)
        if result is None:
            raise FartrackError(f"There is no result of {sequence.name}; {fix}.")
        if len(result.boxes) != sequence.length:
            raise FartrackError(f"{sequence.name} has {len(result.boxes)} boxes for {sequence.length} frames; {fix}.")
        finite = np.isfinite(result.boxes).all(-1)
        if not finite.all():
            line = int(finite.argmin()) + 1
            raise FartrackError(f"Line {line} of the result of {sequence.name} is not four finite numbers; {fix}.")
        complete.append(replace(result, boxes=result.boxes + np.array([sequence.origin, sequence.origin, 0, 0])))
    return complete


def _boxes_text(boxes: FloatArray) -> str:
    return "".join(",".join(f"{value:.3f}" for value in box) + "\n" for box in boxes.tolist())


def _write_zip(path: Path, texts: Mapping[str, str]) -> Path:
    """Write texts to a zip file, completely or not at all; the same texts give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, zipfile.ZipFile(part, "w") as file:
        for name, text in texts.items():
            file.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    return path
