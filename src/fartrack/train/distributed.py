"""Several processes, on one host or many, that train one network: each takes its share of every batch.

DistributedDataParallel would expect one forward call a step; templates, search and dense head are three.
"""

import atexit
import os
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from fartrack.errors import FartrackError


@dataclass(frozen=True)
class Group:
    """The processes that ``torchrun`` has started, or this one alone."""

    rank: int  # of this process; 0 writes checkpoints and logs
    size: int
    device: torch.device
    restarted: bool = False  # by torchrun, after a process was lost

    @classmethod
    def join(cls, device: str | None = None) -> Self:
        """The group that the environment describes, on ``cpu`` or ``cuda``; by default on a GPU where there is one.
        FartrackError for another device, or ``cuda`` where PyTorch finds no GPU."""
        found = torch.cuda.is_available()
        kind = device or ("cuda" if found else "cpu")
        if kind not in ("cpu", "cuda"):
            raise FartrackError(f"device is {kind!r}; it must be cpu or cuda.")
        if kind == "cuda" and not found:
            build = torch.version.cuda or "none"
            raise FartrackError(f"PyTorch finds no GPU here (its CUDA: {build}); use device cpu, or leave it out.")
        place = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if kind == "cuda" else kind)
        if kind == "cuda":
            torch.cuda.set_device(place)
        if "WORLD_SIZE" not in os.environ:
            return cls(0, 1, place)
        attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
        if not dist.is_initialized():
            store, rank, size = next(rendezvous("env://"))
            # A store outlives the processes that torchrun replaces: nothing of theirs may be found in it.
            store = dist.PrefixStore(f"attempt {attempt}", store)  # type: ignore[attr-defined]
            backend = "nccl" if kind == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=size)
            atexit.register(dist.destroy_process_group)  # not after each run: a group cannot be formed again
        group = cls(dist.get_rank(), dist.get_world_size(), place)
        return replace(group, restarted=group.any(attempt > 0))

    def sum(self, value: Tensor) -> Tensor:
        """A tensor summed over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def sum_gradients(self, network: nn.Module) -> None:
        """Every gradient summed over the processes, in one message; a parameter without one counts as zero."""
        if self.size == 1:
            return
        gradients = []
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                gradients.append(parameter.grad)
        vector_to_parameters(self.sum(parameters_to_vector(gradients)), gradients)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any of the processes."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0)
