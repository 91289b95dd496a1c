"""What a run writes: a log, curves, pictures of its samples, and its accuracy on sequences that it never trains on."""

import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from fartrack.datasets.sequences import packed_sequences
from fartrack.engines.torch import TorchEngine
from fartrack.evaluate.metrics import PLAIN, means, measure
from fartrack.evaluate.runner import run_sequence
from fartrack.files import read_json_lines, write_whole
from fartrack.geometry import FloatArray, Image
from fartrack.model.encoder import FARTrack
from fartrack.model.losses import expected_coordinates
from fartrack.tracking.settings import TrackerSettings
from fartrack.tracking.tracker import Tracker
from fartrack.train.data.batches import Batch
from fartrack.train.objective import forward_exits
from fartrack.train.recipe import Recipe
from fartrack.train.state import Checkpoint, TrainState, save_checkpoint

LOG = "log.jsonl"
BEST = "best.safetensors"
LOG_EVERY = 20  # steps that a line of the log averages
PICTURE_EVERY = 500


class Monitor:
    """Writes ``log.jsonl``, TensorBoard's event files, ``samples.png`` and ``best.safetensors`` into a run's folder."""

    def __init__(self, run: Path, recipe: Recipe, val: Path | None = None, val_every: int = 1000) -> None:
        """Of the run in this folder; a FartrackError if there are no sequences in ``val``, to be tracked every
        ``val_every`` steps."""
        self.run, self.recipe, self.val_every = run, recipe, val_every
        self.sequences = packed_sequences(val) if val else []
        self.writer: SummaryWriter | None = None
        self.sums: Counter[str] = Counter()
        self.clock = time.perf_counter()

    def count(self, state: TrainState, rate: float, values: Mapping[str, float], last: bool) -> None:
        """Add the step that was just done to the line of the log: the terms of its loss, and its crops."""
        self.sums.update({"steps": 1, **values})
        if state.step % LOG_EVERY and not last:
            return
        steps, crops = self.sums.pop("steps"), self.sums.pop("crops")
        means = {name: round(value / steps, 5) for name, value in self.sums.items()}
        speed = {"samples_per_second": round(crops / (time.perf_counter() - self.clock), 2)}
        self.write({"step": state.step, "samples": state.samples, "rate": round(rate, 6), **means, **speed})
        self.sums, self.clock = Counter(), time.perf_counter()

    def write(self, row: Mapping[str, float]) -> None:
        """A line of the log, and its values as points of TensorBoard's curves."""
        with (self.run / LOG).open("a") as log:
            log.write(json.dumps(row) + "\n")
        if self.writer is None:
            self.writer = SummaryWriter(str(self.run))
        for name in row.keys() - {"step", "samples"}:
            self.writer.add_scalar(name, row[name], row["step"])

    def picture(self, step: int, batch: Batch, network: FARTrack) -> None:
        """Every :data:`PICTURE_EVERY` steps, the crops with the true and the predicted boxes as ``samples.png``."""
        if step % PICTURE_EVERY != 1 and step != 1:
            return
        image = draw_samples(batch, predict(network, batch))
        write_whole(self.run / "samples.png", cv2.imencode(".png", image)[1].tobytes())
        if self.writer is not None:
            self.writer.add_image("samples", np.ascontiguousarray(image[..., ::-1]), step, dataformats="HWC")

    def validate(self, state: TrainState, last: bool) -> None:
        """Every ``val_every`` steps and at the end, AO of the averaged weights; the best ones are kept."""
        if not self.sequences or (state.step % self.val_every and not last):
            return
        network = FARTrack(self.recipe.model).to(state.network.bias.device)
        network.load_state_dict(state.average)
        tracker = Tracker(TorchEngine(network), TrackerSettings(**self.recipe.settings))
        ao = means(measure(run_sequence(tracker, s).boxes, s.boxes, None, PLAIN) for s in self.sequences)["ao"].mean
        best = max((row["val_ao"] for row in read_json_lines(self.run / LOG) if "val_ao" in row), default=-1.0)
        self.write({"step": state.step, "samples": state.samples, "val_ao": round(ao, 5)})
        if ao > best:
            tensors = {f"ema.{name}": tensor for name, tensor in state.average.items()}
            save_checkpoint(self.run / BEST, Checkpoint(state.step, state.samples, self.recipe, tensors))
        self.clock = time.perf_counter()

    def close(self) -> None:
        """Finish the files."""
        if self.writer is not None:
            self.writer.close()


@torch.no_grad()
def predict(network: FARTrack, batch: Batch) -> FloatArray:
    """The boxes ``(B, 4)`` that a network predicts on a batch, as corners in the crops' frames."""
    training = network.training
    network.eval()
    (last,) = forward_exits(network, batch.to(network.bias.device), [network.config.depth])
    network.train(training)
    return np.asarray(expected_coordinates(last.logits_B4V).cpu().numpy(), np.float64)


def draw_samples(batch: Batch, predicted: FloatArray, columns: int = 6, rows: int = 4) -> Image:
    """A sheet of search crops, each under its first template, with the true box, if there is one, in green and the
    predicted one in red; BGR."""
    search, templates, boxes = (t.cpu().numpy() for t in (batch.search, batch.templates, batch.boxes))
    firsts = batch.index[:, 0].repeat_interleave(batch.shared).tolist()
    picks = np.linspace(0, len(search) - 1, min(columns * rows, len(search))).astype(int)
    side, small = search.shape[1], templates.shape[1]
    sheet = np.full((-(-len(picks) // columns) * (side + small), columns * side, 3), 32, np.uint8)
    for place, pick in enumerate(picks.tolist()):
        crop = np.ascontiguousarray(search[pick, ..., ::-1])
        for corners, color in ((boxes[pick], (0, 200, 0)), (predicted[pick], (40, 40, 230))):
            if np.isfinite(corners).all():
                x0, y0, x1, y1 = np.round(corners * side).astype(int).tolist()
                cv2.rectangle(crop, (x0, y0), (x1, y1), color, 1)
        top, left = place // columns * (side + small), place % columns * side
        sheet[top : top + small, left : left + small] = templates[firsts[pick]][..., ::-1]
        sheet[top + small : top + small + side, left : left + side] = crop
    return sheet
