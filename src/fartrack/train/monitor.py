"""What a run shows of itself: a log, curves, pictures of its samples, and its accuracy on sequences it never learns."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from fartrack.datasets.sequences import packed_sequences
from fartrack.engines.torch import TorchEngine
from fartrack.evaluate.metrics import PLAIN, means, measure
from fartrack.evaluate.runner import run_sequence
from fartrack.files import write_whole
from fartrack.geometry import FloatArray, Image
from fartrack.model.encoder import FARTrack
from fartrack.model.losses import expected_coordinates
from fartrack.tracking.tracker import Tracker, TrackerSettings
from fartrack.train.objective import Batch, tapped_layers
from fartrack.train.recipe import Recipe
from fartrack.train.state import Checkpoint, save_checkpoint

LOG = "log.jsonl"
BEST = "best.safetensors"
EVERY = 20
"""Steps that a line of the log averages."""

PICTURE_EVERY = 500


class Monitor:
    """Writes ``log.jsonl``, TensorBoard's event files, ``samples.png`` and ``best.safetensors`` into a run's folder."""

    def __init__(self, run: Path, recipe: Recipe, val: Path | None = None, val_every: int = 1000) -> None:
        """Of the run in this folder; ``val`` holds sequences to be tracked every ``val_every`` steps.

        Raises:
            FartrackError: ``val`` holds no sequences.
        """
        self.run, self.recipe, self.val_every = run, recipe, val_every
        self.sequences = packed_sequences(val) if val else []
        self.writer: SummaryWriter | None = None
        self.sums: dict[str, float] = {}
        self.steps = self.crops = 0
        self.counted = self.samples = 0  # search crops of the run's first steps, so that each is counted once
        self.clock = time.perf_counter()

    def count(self, done: int, crops: int, rate: float, values: Mapping[str, float], last: bool) -> None:
        """One step more is done, ``done`` in all, on so many search crops; ``values`` are the terms of its loss."""
        self.steps, self.crops = self.steps + 1, self.crops + crops
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        if done % EVERY and not last:
            return
        seconds = time.perf_counter() - self.clock
        row = {"step": done, "samples": self.samples_of(done), "rate": round(rate, 6)}
        row |= {name: round(value / self.steps, 5) for name, value in self.sums.items()}
        row["samples_per_second"] = round(self.crops / seconds, 2)
        self.write(row)
        self.sums, self.steps, self.crops, self.clock = {}, 0, 0, time.perf_counter()

    def samples_of(self, done: int) -> int:
        """Search crops of the run's first ``done`` steps, which never become fewer."""
        self.samples += self.recipe.samples(done, self.counted)
        self.counted = done
        return self.samples

    def write(self, row: Mapping[str, float]) -> None:
        """A line of the log, and its values as points of TensorBoard's curves."""
        with (self.run / LOG).open("a") as log:
            log.write(json.dumps(row) + "\n")
        if self.writer is None:
            self.writer = SummaryWriter(str(self.run))
        for name, value in row.items():
            if name not in ("step", "samples"):
                self.writer.add_scalar(name, value, row["step"])

    def picture(self, done: int, batch: Batch, network: FARTrack) -> None:
        """Now and then, the step's crops with the boxes to be found (green) and found (red) as ``samples.png``."""
        if done % PICTURE_EVERY != 1 and done != 1:
            return
        image = draw_samples(batch, predict(network, batch))
        write_whole(self.run / "samples.png", cv2.imencode(".png", image)[1].tobytes())
        if self.writer is not None:
            self.writer.add_image("samples", np.ascontiguousarray(image[..., ::-1]), done, dataformats="HWC")

    def validate(self, done: int, network: FARTrack, average: Mapping[str, Tensor], last: bool) -> None:
        """Every ``val_every`` steps and at the end, AO of the averaged weights; the best ones are kept."""
        if not self.sequences or (done % self.val_every and not last):
            return
        judged = FARTrack(network.config).to(network.bias.device)
        judged.fades = network.fades
        judged.load_state_dict(average)
        tracker = Tracker(TorchEngine(judged), TrackerSettings(**self.recipe.settings))
        ao = means(measure(run_sequence(tracker, s).boxes, s.boxes, None, PLAIN) for s in self.sequences)["ao"].mean
        best = max((row["val_ao"] for row in read_log(self.run) if "val_ao" in row), default=-1.0)
        self.write({"step": done, "samples": self.samples_of(done), "val_ao": round(ao, 5)})
        if ao > best:
            tensors = {f"ema.{name}": tensor for name, tensor in average.items()}
            save_checkpoint(self.run / BEST, Checkpoint(done, asdict(self.recipe), tensors))
        self.clock = time.perf_counter()

    def close(self) -> None:
        """Finish the files."""
        if self.writer is not None:
            self.writer.close()


def read_log(run: Path) -> list[dict[str, float]]:
    """The lines of a run's log that were written whole; none if there is no log yet."""
    rows = []
    for line in (run / LOG).read_text().splitlines() if (run / LOG).is_file() else ():
        with suppress(ValueError):  # cut short by a full disk
            rows.append(json.loads(line))
    return rows


@torch.no_grad()
def predict(network: FARTrack, batch: Batch) -> FloatArray:
    """The boxes ``(B, 4)`` that a network finds on a batch, as corners in the crops' frames."""
    training = network.training
    network.eval()
    batch = {name: tensor.to(network.bias.device) for name, tensor in batch.items()}
    exits = tapped_layers(network, batch, (network.config.depth,))
    network.train(training)
    return np.asarray(expected_coordinates(exits[network.config.depth].logits_B4V).cpu().numpy(), np.float64)


def draw_samples(batch: Batch, found: FloatArray, columns: int = 6, rows: int = 4) -> Image:
    """A sheet of search crops, each under its first template: the box to be found green, where there is one, the one
    found red; BGR."""
    search, templates = batch["search"].cpu().numpy(), batch["templates"].cpu().numpy()
    shared = len(search) // len(batch["index"])
    firsts = batch["index"][:, 0].repeat_interleave(shared).tolist()
    picks = np.linspace(0, len(search) - 1, min(columns * rows, len(search))).astype(int)
    side, small = search.shape[1], templates.shape[1]
    sheet = np.full((-(-len(picks) // columns) * (side + small), columns * side, 3), 32, np.uint8)
    for place, pick in enumerate(picks.tolist()):
        crop = np.ascontiguousarray(search[pick, ..., ::-1])
        for corners, colour in ((batch["boxes"][pick].cpu().numpy(), (0, 200, 0)), (found[pick], (40, 40, 230))):
            if not np.isfinite(corners).all():
                continue
            x0, y0, x1, y1 = np.round(np.asarray(corners) * side).astype(int).tolist()
            cv2.rectangle(crop, (x0, y0), (x1, y1), colour, 1)
        top, left = place // columns * (side + small), place % columns * side
        sheet[top : top + small, left : left + small] = templates[firsts[pick]][..., ::-1]
        sheet[top + small : top + small + side, left : left + side] = crop
    return sheet
