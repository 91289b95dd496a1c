"""Results packed as the servers that keep the ground truth to themselves take them.

Boxes are ``x, y, w, h`` in pixels as the benchmark's own files count them, one line a frame, the given first included.
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
    """What packs the archive for a benchmark's server, to be asked for before anything is tracked.

    Raises:
        FartrackError: there is no such server.
    """
    if benchmark not in PACKERS:
        raise FartrackError(
            f"There is no server for {benchmark}, whose ground truth is public; "
            f"submissions are for {' and '.join(PACKERS)}."
        )
    return PACKERS[benchmark]


def pack_got10k(evaluation: Evaluation, path: Path) -> Path:
    """GOT-10k's test set: ``NAME/NAME_001.txt`` with the boxes and ``NAME/NAME_time.txt`` with seconds, for each NAME.

    The toolkit asks for one run of a tracker that does the same every time, and for three of another; here all are
    taken to be of the first kind.

    Raises:
        FartrackError: the results are not complete, or their times are not known.
    """
    texts = {}
    for result in _complete(evaluation, "got10k-test"):
        if len(result.seconds) != len(result.boxes) or not np.isfinite(result.seconds).all():
            raise FartrackError(
                f"GOT-10k asks for times, but those of {result.name} are not known; run the tracker here."
            )
        texts[f"{result.name}/{result.name}_001.txt"] = _boxes_text(result.boxes)
        texts[f"{result.name}/{result.name}_time.txt"] = "".join(f"{value:.8f}\n" for value in result.seconds.tolist())
    return _write_zip(path, texts)


def pack_trackingnet(evaluation: Evaluation, path: Path) -> Path:
    """TrackingNet's test set: ``VIDEO.txt`` with the boxes, for each VIDEO.

    Raises:
        FartrackError: the results are not complete.
    """
    results = _complete(evaluation, "trackingnet-test")
    return _write_zip(path, {f"{result.name}.txt": _boxes_text(result.boxes) for result in results})


PACKERS: dict[str, Callable[[Evaluation, Path], Path]] = {
    "got10k-test": pack_got10k,
    "trackingnet-test": pack_trackingnet,
}


def _complete(evaluation: Evaluation, benchmark: str) -> list[Result]:
    """The results, as the benchmark counts pixels, once it is sure that the server can use them all."""
    sequences, published = evaluation.benchmark.sequences, BENCHMARKS[benchmark]
    if evaluation.benchmark.name != benchmark:
        raise FartrackError(f"These are results on {evaluation.benchmark.name}; this submission needs {benchmark}.")
    if published and len(sequences) != published.count:
        raise FartrackError(
            f"{benchmark} has {published.count} sequences, but there are results of {len(sequences)}; run all of them."
        )
    results = {result.name: result for result in evaluation.results}
    mend = f"run {evaluation.tracker} on it again"
    complete = []
    for sequence in sequences:
        result = results.get(sequence.name)
        if result is None:
            raise FartrackError(f"There is no result of {sequence.name}; {mend}.")
        if len(result.boxes) != sequence.length:
            raise FartrackError(f"{sequence.name} has {len(result.boxes)} boxes for {sequence.length} frames; {mend}.")
        finite = np.isfinite(result.boxes).all(-1)
        if not finite.all():
            line = int(finite.argmin()) + 1
            raise FartrackError(f"Line {line} of the result of {sequence.name} is not four finite numbers; {mend}.")
        complete.append(replace(result, boxes=result.boxes + np.array([sequence.origin, sequence.origin, 0, 0])))
    return complete


def _boxes_text(boxes: FloatArray) -> str:
    return "".join(",".join(f"{value:.3f}" for value in box) + "\n" for box in boxes.tolist())


def _write_zip(path: Path, texts: Mapping[str, str]) -> Path:
    """A zip file of texts, written whole or not at all; the same texts give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, zipfile.ZipFile(part, "w") as file:
        for name, text in texts.items():
            file.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    return path
