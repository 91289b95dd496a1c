"""How often a box collapses or swells while the target is in view, without the tracker saying that it is lost.

python benchmarks/collapses.py DATA RESULTS/folder

DATA is a folder of sequences and RESULTS what `fartrack eval --results` left of them, from whatever starts. A collapse
is a run of 20 frames or more with a target, on which the box's side, sqrt(w · h), is under a third of the true one; a
swelling, over three times. Of ours, a score of 0 says that the target is lost, and such frames do not count.
"""

from pathlib import Path

import numpy as np
import typer

from fartrack.datasets.sequences import packed_sequences
from fartrack.evaluate.runner import load_result
from fartrack.evaluate.tables import new_table, print_paragraphs

FRAMES, FACTOR = 20, 3.0


def longest(flags: np.ndarray) -> int:
    """The longest run of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def main(data: Path, results: Path) -> None:
    sequences = {sequence.name: sequence for sequence in packed_sequences(data)}
    table = new_table("tracker", "runs", "collapsed", "swollen", "which")
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        runs, collapsed, swollen = 0, [], []
        for path in sorted(folder.glob("*_score.txt")):
            name = path.name.removesuffix("_score.txt")
            origin, _, start = name.partition("@")
            sequence = sequences[origin].since(int(start or 0))
            result = sequence and load_result(folder, sequence)
            if sequence is None or result is None:
                continue
            sides, true = (np.sqrt(np.prod(boxes[:, 2:], axis=1)) for boxes in (result.boxes, sequence.boxes))
            with np.errstate(invalid="ignore"):
                counted = (true > 0) & (result.scores > 0)
                runs += 1
                collapsed += [name] if longest(counted & (sides * FACTOR < true)) >= FRAMES else []
                swollen += [name] if longest(counted & (sides > FACTOR * true)) >= FRAMES else []
        table.add_row(folder.name, str(runs), str(len(collapsed)), str(len(swollen)), ", ".join(collapsed + swollen))
    print_paragraphs(f"Runs with {FRAMES} such frames or more.", table)


if __name__ == "__main__":
    typer.run(main)
