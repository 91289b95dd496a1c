"""Ways to do less work per frame: what each costs in accuracy and saves in time.

python benchmarks/less_work.py VAL [--model pico] [--frames N] [--only TEXT] [--json FILE] [--plot FILE]

VAL is a folder of sequences (NAME.mp4 beside NAME.txt). Every row tracks the first frames of each and is compared with
the first row, sequence by sequence; intervals are 95 % over sequences. Time is that of a whole frame on one thread
without decoding, given only for rows that run in ONNX Runtime; rows that change the network run in PyTorch, whose
times do not compare. GMAC are the network's multiply-adds per frame, templates included.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import Progress

from fartrack.datasets.sequences import packed_sequences
from fartrack.engines.base import Engine
from fartrack.engines.opening import open_engine
from fartrack.engines.torch import TorchEngine
from fartrack.evaluate.metrics import PLAIN, means, measure, paired
from fartrack.evaluate.runner import run_sequence
from fartrack.evaluate.tables import new_table, print_paragraphs
from fartrack.model.config import ModelConfig
from fartrack.model.cost import search_macs, template_macs
from fartrack.model.encoder import FARTrack
from fartrack.model.vocabulary import COMMANDS, decode
from fartrack.packages import open_package
from fartrack.tracking.settings import TrackerSettings
from fartrack.tracking.tracker import Tracker


class Counted:
    """An engine that counts multiply-adds."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.config, self.macs = engine, engine.config, 0.0

    def begin_templates(self, crops: Any, *known: Any) -> Any:
        self.macs += len(crops) * template_macs(self.config)  # of all layers, also where only the first are needed
        return self.engine.begin_templates(crops, *known)

    def finish_templates(self, tokens: Any) -> Any:
        return self.engine.finish_templates(tokens)

    def search(self, crops: Any, trajectory: Any, kv_cache: Any) -> Any:
        self.count(self.config, crops, kv_cache)
        return self.engine.search(crops, trajectory, kv_cache)

    def search_scored(self, crops: Any, trajectory: Any, kv_cache: Any) -> Any:
        self.count(self.config, crops, kv_cache)
        return self.engine.search_scored(crops, trajectory, kv_cache)

    def count(self, config: ModelConfig, crops: Any, kv_cache: Any) -> None:
        """Add a search pass of a network of this shape."""
        rows, columns = (side // config.patch for side in crops.shape[1:3])
        self.macs += len(crops) * search_macs(config, kv_cache.shape[-2], rows * columns)


class EarlyExit(Counted):
    """Stops after ``exit`` layers where the score of that exit is at least ``score``."""

    def __init__(self, engine: TorchEngine, exit: int, score: float) -> None:
        super().__init__(engine)
        self.exit, self.score = FARTrack(replace(engine.config, depth=exit)).eval(), score
        state = engine.network.state_dict()
        self.exit.load_state_dict({name: state[name] for name in self.exit.state_dict()})

    @torch.inference_mode()
    def search(self, crops: Any, trajectory: Any, kv_cache: Any) -> Any:
        inputs = [torch.from_numpy(array) for array in (crops, trajectory, kv_cache)]
        early = self.exit.track(inputs[0], inputs[1], inputs[2][:, : 2 * self.exit.config.depth]).numpy()
        if decode(early)[1].min() < self.score:
            return super().search(crops, trajectory, kv_cache)
        self.count(self.exit.config, crops, kv_cache)
        return early


class Dropping(Counted):
    """Drops, after ``layers`` layers, all search tokens but the ``keep`` that the command tokens attend to most."""

    def __init__(self, engine: TorchEngine, layers: int, keep: int) -> None:
        super().__init__(engine)
        self.network, self.layers, self.keep = engine.network, layers, keep

    @torch.inference_mode()
    def search(self, crops: Any, trajectory: Any, kv_cache: Any) -> Any:
        network, config, D = self.network, self.config, self.config.width
        search, tokens, rows = (torch.from_numpy(array) for array in (crops, trajectory, kv_cache))
        commands = torch.arange(COMMANDS.start, COMMANDS.stop).expand(len(search), 4)
        others = network.vocab[torch.cat([tokens, commands], dim=1)] + network.pos_t
        x = torch.cat([network._embed(search) + network.id_x, others], dim=1)
        M, searched = rows.shape[-2], x.shape[1] - others.shape[1]
        self.macs += searched * 3 * config.patch**2 * D
        for layer, block in enumerate(network.blocks):
            if layer == self.layers:
                q, k, _ = block.project(block.norm1(x))
                attention = torch.softmax(q[:, :, -4:] @ k.mT * q.shape[-1] ** -0.5, dim=-1)[..., :searched]
                best = attention.mean((1, 2)).topk(min(self.keep, searched)).indices.sort().values
                x = torch.cat([x.gather(1, best[..., None].expand(-1, -1, D)), x[:, searched:]], dim=1)
            N = x.shape[1]
            Q = 4 if layer == len(network.blocks) - 1 else N
            self.macs += N * 2 * D**2 + Q * 10 * D**2 + 2 * Q * (N + M) * D
            x, _, _ = block(x, (rows[:, 2 * layer], rows[:, 2 * layer + 1]))
        return network.head(network.norm(x[:, -4:])).numpy()


@dataclass(frozen=True)
class Row:
    """One line of the table: its name, tracker settings, and the function that makes another engine, if any."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    engine: Callable[[TorchEngine], Counted] | None = None


def close(least: float, **settings: Any) -> dict[str, Any]:
    """Settings that crop less than the whole search window."""
    return {"min_window": least, "confident_score": 0.4, **settings}


ROWS = [
    Row("everything"),
    *(Row(f"at least {least:.0%} of the window's side", close(least)) for least in (0.85, 0.7, 0.55, 0.42)),
    Row("at least 42 %, sure from 0.6", close(0.42, confident_score=0.6)),
    Row("at least 42 %, sure from 0.2", close(0.42, confident_score=0.2)),
    *(Row(f"{n} template{'s' * (n > 1)}", {"templates": n}) for n in (1, 2, 3)),
    Row("templates only from a score of 0.7", {"template_score": 0.7}),
    Row("a template every 40 frames", {"interval": 40}),
    Row("75 % of template tokens", {"retention": 0.75}),
    Row("at least 42 %, 3 templates", close(0.42, templates=3)),
    Row("at least 42 %, a template every 40 frames", close(0.42, interval=40)),
    Row("exit after 5 layers from a score of 0.8", engine=partial(EarlyExit, exit=5, score=0.8)),
    Row("exit after 4 layers from a score of 0.8", engine=partial(EarlyExit, exit=4, score=0.8)),
    *(
        Row(f"{keep} search tokens after {layers} layers", engine=partial(Dropping, layers=layers, keep=keep))
        for layers, keep in ((2, 64), (2, 49), (3, 49), (3, 25))
    ),
    *(
        Row(f"at least 42 %, {keep} search tokens after 3 layers", close(0.42), partial(Dropping, layers=3, keep=keep))
        for keep in (36, 25)
    ),
]


def main(
    val: Path,
    model: str = "pico",
    frames: Annotated[int, typer.Option(help="of each sequence")] = 10**6,
    only: Annotated[str, typer.Option(help="rows whose names match this pattern, and the first")] = "",
    output: Annotated[Path | None, typer.Option("--json")] = None,
    plot: Annotated[Path | None, typer.Option(help="accuracy against milliseconds")] = None,
) -> None:
    """Track with every row's saving and print the table."""
    torch.set_num_threads(1)
    package = open_package(model)
    fast, slow = open_engine(package, "onnxruntime", 1, "fp32"), TorchEngine.load(package, 1)
    sequences = [replace(sequence, boxes=sequence.boxes[:frames]) for sequence in packed_sequences(val)]
    rows = [row for row in ROWS if row is ROWS[0] or re.search(only, row.name)]
    tracked = sum(sequence.length for sequence in sequences)
    results: list[dict[str, Any]] = []
    with Progress() as progress:
        task = progress.add_task("tracking", total=len(rows) * tracked)
        for row in rows:
            engine = row.engine(slow) if row.engine else Counted(fast)
            tracker = Tracker(engine, TrackerSettings(**{**package.settings, "min_window": 1.0, **row.settings}))
            measured, seconds = [], 0.0
            for sequence in sequences:
                result = run_sequence(tracker, sequence, partial(progress.advance, task))
                measured.append(measure(result.boxes, sequence.boxes, None, PLAIN))
                seconds += result.seconds.sum()
            scores = means(measured)
            results.append(
                {
                    "name": row.name,
                    "each": [values["ao"] for values in measured if values],
                    "ao": str(scores["ao"]),
                    "mean": scores["ao"].mean,
                    "sr75": scores["sr75"].mean,
                    "ms": None if row.engine else 1000 * seconds / tracked,
                    "gmacs": engine.macs / tracked / 1e9,
                }
            )
    table = new_table(f"{model}, {len(sequences)} sequences", "AO", "SR75", "AO minus that of everything", "GMAC", "ms")
    for result in results:
        difference = str(paired(result["each"], results[0]["each"])) if result is not results[0] else ""
        ms = "" if result["ms"] is None else f"{result['ms']:.1f}"
        cells = (result["ao"], f"{result['sr75']:.3f}", difference, f"{result['gmacs']:.2f}", ms)
        table.add_row(result["name"], *cells)
    print_paragraphs(table)
    if output:
        output.write_text(json.dumps(results, indent=1))
    if plot:
        draw(results, plot)


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Accuracy against milliseconds, one point per row."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for result in results:
        if result["ms"] is not None:
            axes.plot(result["ms"], result["mean"], "o")
            place = (result["ms"], result["mean"])
            axes.annotate(result["name"], place, fontsize=7, xytext=(4, 3), textcoords="offset points")
    axes.set_xlabel("ms per frame, one thread")
    axes.set_ylabel("AO")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    typer.run(main)
