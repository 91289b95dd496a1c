"""How fast tracking is on a CUDA GPU, and how far from its limits.

python benchmarks/gpu.py [--model pico] [--batches 1,2,4] [--compile] [--json FILE]
python benchmarks/gpu.py --rehearse       # the same on a CPU, a few small runs, only to see that nothing is missing

Four tables, of the network with five cached templates, in single precision (fp32), in half (bf16), and in half as a
CUDA graph, which is launched as one:

* agreement: how far the boxes on frames of the demo clip, in units of the search window's side, are from those of fp32
  with crops cut on the CPU as the tracker cuts them;
* latency: one target, the network alone and a whole step, from a Full HD frame in the host's memory to the box there:
  upload, crop, past boxes to tokens, network, logits to box; between frames, boxes stay on the GPU;
* limits: the rate of a large bf16 matmul, and of a large copy;
* throughput: many targets at once, in bf16 as a CUDA graph, and the share of these limits. The arithmetic is
  what ``fartrack.model.cost`` counts; the bytes are the least that must be moved, every weight, memory and crop once.

With ``--compile``, the same once more with a compiled network. All figures are medians. Let nothing else run meanwhile.
"""

import json as json_format
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, cast

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from fartrack.demo import demo_frames
from fartrack.engines.torch import TorchEngine
from fartrack.errors import FartrackError
from fartrack.geometry import MIN_WINDOW, PADDING_BGR, Box, Crop, Image
from fartrack.model.cost import search_macs
from fartrack.model.encoder import FARTrack
from fartrack.model.vocabulary import BIN_CENTERS, BIN_WIDTH, BINS, DECODING_RADIUS, LOW, encode
from fartrack.packages import open_package
from fartrack.tracking.tracker import GRID

SAMPLES = 4
"""Samples of the frame, along either side, that a pixel of a crop averages; a graph's shapes cannot follow the box."""

Call = Callable[[], Any]


@dataclass(frozen=True)
class Way:
    """A way to run the network."""

    name: str
    dtype: torch.dtype
    graph: bool = False
    compiled: bool = False


FP32 = Way("fp32", torch.float32)
WAYS = (FP32, Way("bf16", torch.bfloat16), Way("bf16, graph", torch.bfloat16, graph=True))
COMPILED = (
    Way("bf16, compiled", torch.bfloat16, compiled=True),
    Way("bf16, compiled, graph", torch.bfloat16, graph=True, compiled=True),
)
"""The last one of either is what throughput is measured with."""


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    frames: int = 30
    zoom: int = 3  # of the demo's frames, to 1920 × 1080
    warmup: int = 30
    repeats: int = 200
    rows: int = 10  # of calls, where a rate is measured
    seconds: float = 0.1  # a row
    product: int = 8192  # rows and columns
    copied: int = 2**30  # bytes


REHEARSAL = Effort(frames=3, zoom=1, warmup=1, repeats=1, rows=1, seconds=0, product=64, copied=2**20)


# --- a step on the GPU -----------------------------------------------------------------------------------


class Step:
    """One step of several targets in one frame. All it reads and writes stays in place, as a CUDA graph needs it.

    Attributes:
        host: the frame in the host's memory, uint8 BGR.
        past: ``(B, max(trajectory, 1), 4)`` the last boxes, x, y, w, h in pixels, oldest first.
        crops, trajectory, memory: what the network is given.
        corners: ``(B, 4)`` what it finds, in the search window's frame.
        found: in the host's memory, the boxes ``(B, 4)`` and their scores.
    """

    def __init__(self, network: FARTrack, way: Way, memory: Tensor, size: tuple[int, int]) -> None:
        """Set up for the memories ``(B, …, M, C)`` and a frame of ``size``, height and width."""
        config, device, B = network.config, memory.device, len(memory)
        pinned = device.type == "cuda"
        self.config, self.memory = config, memory.to(way.dtype)
        self.host = torch.zeros(*size, 3, dtype=torch.uint8, pin_memory=pinned)
        self.frame = torch.zeros(*size, 3, dtype=torch.uint8, device=device)
        self.past = torch.ones(B, max(config.trajectory, 1), 4, device=device)
        self.crops = torch.zeros(B, config.search_size, config.search_size, 3, dtype=torch.uint8, device=device)
        self.trajectory = torch.zeros(B, 4 * config.trajectory, dtype=torch.long, device=device)
        self.corners = torch.zeros(B, 4, device=device)
        self.found = torch.zeros(B, 5, pin_memory=pinned)
        self._found = torch.zeros(B, 5, device=device)
        self._padding = torch.tensor(PADDING_BGR[::-1], dtype=torch.float32, device=device)[:, None, None]
        self._bins = torch.arange(BINS, device=device)
        self._centers = torch.tensor(BIN_CENTERS, dtype=torch.float32, device=device)
        self._limits = torch.tensor([size[1], size[0]], dtype=torch.float32, device=device)
        self._way = way

        def logits(crops: Tensor, trajectory: Tensor, memory: Tensor) -> Tensor:
            return cast(Tensor, network.track(crops, trajectory, memory))

        mode = "max-autotune-no-cudagraphs"
        self._logits = torch.compile(logits, mode=mode, dynamic=False) if way.compiled else logits

    @cached_property
    def network(self) -> Call:
        """Crops, trajectory and memory → logits."""
        return self._prepared(self._network)

    @cached_property
    def search(self) -> Call:
        """Crops, trajectory and memory → corners."""
        return self._prepared(lambda: self._decode(self._network()))

    @cached_property
    def compute(self) -> Call:
        """The uploaded frame and the past boxes → the new boxes."""
        return self._prepared(self._compute)

    def whole(self) -> None:
        """A frame in the host's memory → the boxes in the host's memory."""
        self.frame.copy_(self.host, non_blocking=True)
        self.compute()
        self.found.copy_(self._found, non_blocking=True)
        if self.frame.is_cuda:
            torch.cuda.current_stream().synchronize()

    def _prepared(self, call: Call) -> Call:
        """The call, captured as a CUDA graph if that is the way."""
        if not self._way.graph:
            return call
        past = self.past.clone()
        call()  # what is compiled, is compiled here
        self.past.copy_(past)
        if not self.frame.is_cuda:
            return call
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        self.past.copy_(past)
        return graph.replay

    def _network(self) -> Tensor:
        return self._logits(self.crops, self.trajectory, self.memory)

    def _compute(self) -> None:
        x, y, w, h = self.past[:, -1].unbind(-1)
        side = (self.config.search_factor * (w * h).sqrt()).clamp(min=MIN_WINDOW)
        origin = torch.stack([x + w / 2 - side / 2, y + h / 2 - side / 2], -1)
        self.crops.copy_(self._cut(origin, side))
        past = self.past[:, self.past.shape[1] - self.config.trajectory :]
        low = (past[..., :2] - origin[:, None]) / side[:, None, None]
        corners = torch.cat([low, low + past[..., 2:] / side[:, None, None]], -1)
        self.trajectory.copy_(((corners.flatten(1) - LOW) / BIN_WIDTH).floor().clamp(0, BINS - 1))

        score = self._decode(self._network())
        first, second = self.corners[:, :2], self.corners[:, 2:]
        size = ((first - second).abs() * side[:, None]).clamp(min=1).minimum(self._limits)
        center = ((first + second) / 2 * side[:, None] + origin).clamp(min=0).minimum(self._limits)
        box = (torch.cat([center - size / 2, size], -1) / GRID).round() * GRID
        self.past.copy_(torch.cat([self.past[:, 1:], box[:, None]], 1))
        self._found.copy_(torch.cat([box, score[:, None]], -1))

    def _cut(self, origin: Tensor, side: Tensor) -> Tensor:
        """The windows of the frame, ``(B, S, S, 3)`` uint8 RGB."""
        height, width = self.frame.shape[:2]
        zero = torch.zeros_like(side)
        x, y = (2 * origin + side[:, None]).unbind(-1)
        rows = (
            torch.stack([side / width, zero, x / width - 1], -1),
            torch.stack([zero, side / height, y / height - 1], -1),
        )
        B, S = len(side), self.config.search_size
        grid = F.affine_grid(torch.stack(rows, 1), [B, 3, SAMPLES * S, SAMPLES * S], align_corners=False)
        # beyond the frame grid_sample gives 0, which is the color of the padding once that is added again
        image = self.frame.flip(-1).permute(2, 0, 1).float() - self._padding
        samples = F.grid_sample(image.expand(B, -1, -1, -1), grid, align_corners=False)
        crops = F.avg_pool2d(samples, SAMPLES) + self._padding
        return crops.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    def _decode(self, logits_B4V: Tensor) -> Tensor:
        """Set the corners, and return the scores ``(B,)``; see ``fartrack.model.vocabulary.decode``."""
        weights = torch.softmax(logits_B4V.float(), -1)
        distance = (self._bins - weights.argmax(-1, keepdim=True)).abs()
        window = torch.where(distance <= DECODING_RADIUS, weights, 0.0)
        mass = window.sum(-1)
        self.corners.copy_(window @ self._centers / mass)
        return mass.amin(-1)


# --- the demo clip ----------------------------------------------------------------------------------------


class Scene:
    """Enlarged frames of the demo clip, uint8 BGR, their true boxes, and templates taken from them."""

    def __init__(self, count: int, zoom: int) -> None:
        """Render ``count`` frames."""
        clip = list(islice(demo_frames(), count))
        self.frames = [enlarged(image, zoom) for image, _ in clip]
        self.boxes: list[Box] = [cast(Box, tuple(zoom * v for v in box)) for _, box in clip]
        self.size = self.frames[0].shape[:2]

    def crop(self, number: int, window: Crop, size: int) -> Image:
        """A window of a frame, RGB."""
        return np.ascontiguousarray(window.extract(self.frames[number], size)[..., ::-1])

    def past(self, number: int, count: int) -> list[Box]:
        """The true boxes of the ``count`` frames before."""
        return [self.boxes[max(i, 0)] for i in range(number - count, number)]

    def memory(self, network: FARTrack, batch: int) -> Tensor:
        """Memories ``(batch, …, M, C)`` of as many templates as the network takes, the same for all."""
        config, device = network.config, network.bias.device
        numbers = np.linspace(0, len(self.frames) - 1, config.templates).astype(int)
        windows = [Crop.template(self.boxes[i], config.template_factor) for i in numbers]
        crops = [self.crop(i, window, config.template_size) for i, window in zip(numbers, windows, strict=True)]
        identities = torch.tensor([config.identity(slot) for slot in range(config.templates)])
        boxes = [window.to_crop(self.boxes[i]).clip(0, 1) for i, window in zip(numbers, windows, strict=True)]
        inputs = (torch.from_numpy(np.stack(crops)), identities, torch.from_numpy(np.stack(boxes)).float())
        rows = network.encode_templates(*(tensor[None].to(device) for tensor in inputs))
        return rows.repeat(batch, *[1] * (rows.ndim - 1))

    def show(self, step: Step, number: int) -> None:
        """Set a step before a frame, and give it the crop that the tracker would cut on the CPU."""
        config, past = step.config, self.past(number, step.past.shape[1])
        window = Crop.around(past[-1], config.search_factor)
        tokens = encode(window.to_crop(np.reshape(past[len(past) - config.trajectory :], (-1, 4)))).reshape(-1)
        step.host.copy_(torch.from_numpy(self.frames[number]))
        step.past.copy_(torch.tensor(past))
        step.crops.copy_(torch.from_numpy(self.crop(number, window, config.search_size)))
        step.trajectory.copy_(torch.from_numpy(tokens))


def enlarged(image: Image, zoom: int) -> Image:
    return cast(Image, cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC))


# --- measuring --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Latency:
    """Milliseconds of the network and of a whole step: on the GPU, and until the program has synchronized with it."""

    way: str
    network: float
    network_synchronized: float
    whole: float
    whole_synchronized: float


@dataclass(frozen=True)
class Limits:
    """Measured limits of the GPU: TFLOP/s of a bf16 matmul, GB/s read and written by a copy."""

    product: float
    copy: float


@dataclass(frozen=True)
class Throughput:
    """Many targets at once; shares are of the limits."""

    batch: int
    milliseconds: float
    searches: float  # a second
    product: float  # TFLOP/s
    product_share: float
    copy: float  # GB/s
    copy_share: float


def latency(call: Call, effort: Effort, cuda: bool) -> tuple[float, float]:
    """Median milliseconds of a call on the GPU, and until the program has synchronized with it."""
    for _ in range(effort.warmup):
        call()
    on_gpu, synchronized = [], []
    for _ in range(effort.repeats):
        if cuda:
            torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2)) if cuda else (None, None)
        clock = time.perf_counter()
        if start and end:
            start.record()
            call()
            end.record()
            end.synchronize()
        else:
            call()
        synchronized.append(1e3 * (time.perf_counter() - clock))
        on_gpu.append(start.elapsed_time(end) if start and end else synchronized[-1])
    return statistics.median(on_gpu), statistics.median(synchronized)


def rate(call: Call, effort: Effort, cuda: bool) -> float:
    """Calls a second, one after another without waiting in between; the median of several rows of calls."""

    def seconds(count: int) -> float:
        if not cuda:
            clock = time.perf_counter()
            for _ in range(count):
                call()
            return time.perf_counter() - clock
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    seconds(effort.warmup)
    count = max(round(effort.seconds / seconds(1)), 1)
    return count / statistics.median([seconds(count) for _ in range(effort.rows)])


def limits(device: torch.device, effort: Effort) -> Limits:
    """Measure the GPU."""
    cuda, n = device.type == "cuda", effort.product
    left, right = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.zeros(effort.copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = 2 * n**3 * rate(lambda: left @ right, effort, cuda)
    copy = 2 * effort.copied * rate(lambda: target.copy_(source), effort, cuda)
    return Limits(product / 1e12, copy / 1e9)


def least_bytes(step: Step, network: FARTrack) -> int:
    """What one search of a whole batch must move at least: weights, memories and crops read, logits written."""
    weights = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("aux"))
    moved = step.memory.numel() + 4 * BINS * len(step.memory) + weights
    return moved * step.memory.element_size() + step.crops.numel()


def agreement(reference: Step, steps: dict[Way, Step], scene: Scene) -> dict[str, tuple[float, float]]:
    """By way, the largest difference of a coordinate from fp32 with the tracker's crops, in units of the window's side:
    of the network on the same crops, and of the whole step with crops cut on the device."""
    differences = {way.name: (0.0, 0.0) for way in steps}
    for number in range(1, len(scene.frames)):
        scene.show(reference, number)
        reference.search()
        expected = reference.corners
        for way, step in steps.items():
            scene.show(step, number)
            found = []
            for call in (step.search, step.whole):
                call()
                found.append((step.corners - expected).abs().max().item())
            network, whole = differences[way.name]
            differences[way.name] = (max(network, found[0]), max(whole, found[1]))
    return differences


def throughput(step: Step, network: FARTrack, limit: Limits, effort: Effort, cuda: bool) -> Throughput:
    config, batch = network.config, len(step.memory)
    calls = rate(step.network, effort, cuda)
    macs = search_macs(config, config.templates * config.template_tokens)
    product, copy = 2 * macs * batch * calls / 1e12, least_bytes(step, network) * calls / 1e9
    return Throughput(batch, 1e3 / calls, batch * calls, product, product / limit.product, copy, copy / limit.copy)


def measure(
    network: FARTrack, effort: Effort, batches: Sequence[int], compile: bool, save: Callable[[dict[str, Any]], None]
) -> None:
    """Measure a network on the device that it lies on, print the tables, and save all figures so far after each."""
    device, console = network.bias.device, Console()
    cuda = device.type == "cuda"
    networks = {dtype: deepcopy(network).to(dtype) for dtype in (torch.float32, torch.bfloat16)}
    scene = Scene(effort.frames, effort.zoom)

    def step_of(way: Way, batch: int = 1) -> Step:
        return Step(networks[way.dtype], way, scene.memory(networks[way.dtype], batch), scene.size)

    reference = step_of(FP32)
    card = torch.cuda.get_device_name() if cuda else "CPU (a rehearsal, its figures mean nothing)"
    limit = limits(device, effort)
    console.print(f"{card}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}")
    console.print(f"limits: {limit.product:.3g} TFLOP/s (bf16 matmul), {limit.copy:.3g} GB/s (copy)")
    record: dict[str, Any] = {"device": card, "torch": torch.__version__, "cuda": torch.version.cuda}
    record |= {"limits": asdict(limit), "agreement": {}, "latency": [], "throughput": {}}
    for ways in (WAYS, COMPILED) if compile else (WAYS,):
        steps = {way: step_of(way) for way in ways}
        differences = agreement(reference, steps, scene)
        record["agreement"] |= differences
        save(record)
        table = Table("", "network", "whole step", title="largest difference")
        for name, values in differences.items():
            table.add_row(name, *(f"{v:.1e}" for v in values))
        console.print(table)

        table = Table("", "network", "synchronized", "whole step", "synchronized", title="one target, milliseconds")
        for way, step in steps.items():
            scene.show(step, 1)
            times = Latency(way.name, *latency(step.network, effort, cuda), *latency(step.whole, effort, cuda))
            record["latency"].append(asdict(times))
            table.add_row(way.name, *(f"{v:.3f}" for v in list(asdict(times).values())[1:]))
            save(record)
        console.print(table)

        steps.clear()
        columns = "targets", "ms", "searches/s", "TFLOP/s", "of the matmul", "GB/s", "of the copy"
        table = Table(*columns, title=f"throughput, {ways[-1].name}")
        for batch in batches:
            if ways[-1].compiled:
                torch.compiler.reset()  # of one function only so many shapes are compiled
            step = step_of(ways[-1], batch)
            scene.show(step, 1)
            done = throughput(step, network, limit, effort, cuda)
            record["throughput"].setdefault(ways[-1].name, []).append(asdict(done))
            save(record)
            rates = f"{done.milliseconds:.3f}", f"{done.searches:,.0f}", f"{done.product:.2f}"
            table.add_row(str(batch), *rates, f"{done.product_share:.1%}", f"{done.copy:.0f}", f"{done.copy_share:.1%}")
        console.print(table)


def main(
    model: Annotated[str, typer.Option(help="a shipped model's name, or the folder of an exported one")] = "pico",
    batches: Annotated[str, typer.Option(help="numbers of targets at once")] = "1,2,4,8,16,32,64,128,256",
    compile: Annotated[bool, typer.Option("--compile", help="also a compiled network; takes minutes")] = False,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="tiny, on the CPU, without CUDA graphs")] = False,
    json: Annotated[Path | None, typer.Option(help="file for all figures")] = None,
) -> None:
    def save(record: dict[str, Any]) -> None:
        if json:
            json.write_text(json_format.dumps({"model": model} | record, indent=1) + "\n", encoding="utf-8")

    try:
        if not (rehearse or torch.cuda.is_available()):
            raise FartrackError("There is no CUDA GPU; use a machine with one, or add --rehearse to try this on a CPU.")
        sizes = [int(size) if size.isdecimal() else 0 for size in batches.split(",")]
        if min(sizes) < 1:
            raise FartrackError(f"batches is {batches!r}; give whole numbers from 1 on, such as 1,16,256.")
        if json and not json.parent.is_dir():
            raise FartrackError(f"The folder {json.parent} does not exist; make it first.")
        network = TorchEngine.load(open_package(model)).network
    except FartrackError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    with torch.no_grad():
        if rehearse:
            measure(network, REHEARSAL, (1, 2), compile, save)
        else:
            measure(network.cuda(), Effort(), sizes, compile, save)


if __name__ == "__main__":
    typer.run(main)
