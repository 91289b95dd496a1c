"""PyTorch (extra ``train``): the reference that the exported graphs are held against."""

from __future__ import annotations

import os
from typing import Any, cast

import torch
from numpy.typing import NDArray

from fartrack.engines.base import Floats, Precision, Tokens, misfit
from fartrack.geometry import Image
from fartrack.model.encoder import FARTrack
from fartrack.model.init_weights import load_weights
from fartrack.packages import WEIGHTS, Package

if hasattr(os, "register_at_fork"):  # its threads do not survive a fork, and it would wait for them for ever
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


class TorchEngine:
    """Runs a network in eager PyTorch."""

    def __init__(self, network: FARTrack, *, bf16: bool = False) -> None:
        """Run this network, as it is, on the device it lies on; matmuls in ``bf16`` if wanted."""
        self.network, self.bf16 = network.eval(), bf16
        self.config = network.config

    @classmethod
    def load(
        cls, package: Package, threads: int | None = None, precision: Precision = "fp32", device: str = "cpu"
    ) -> TorchEngine:
        """The network of a package on a device. ``threads``, if given, holds for all of PyTorch in this process.

        Raises:
            FartrackError: the weights are missing or damaged.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        network, weights = FARTrack(package.config), load_weights(package.network / WEIGHTS)
        try:
            network.load_state_dict({name: tensor for name, tensor in weights.items() if name in network.state_dict()})
        except RuntimeError:
            raise misfit(package) from None
        return cls(network.to(device), bf16=precision == "bf16")

    def _on_device(self, *arrays: NDArray[Any]) -> list[torch.Tensor]:
        return [torch.from_numpy(array).to(self.network.bias.device) for array in arrays]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.network.bias.device.type, torch.bfloat16, enabled=self.bf16)

    @torch.inference_mode()
    def begin_templates(self, crops: Image, identities: Tokens, boxes: Floats) -> tuple[Floats, Floats | None]:
        """See :class:`fartrack.engines.base.Engine`."""
        inputs = self._on_device(crops[:, None], identities[:, None], boxes[:, None])
        with self._autocast():
            kv_cache, tokens = self.network.begin_templates(*inputs)
        return kv_cache.float().cpu().numpy(), None if tokens is None else tokens.float().cpu().numpy()

    @torch.inference_mode()
    def finish_templates(self, tokens: Floats) -> Floats:
        """See :class:`fartrack.engines.base.Engine`."""
        with self._autocast():
            kv_cache = self.network.finish_templates(*self._on_device(tokens))
        return cast(Floats, kv_cache.float().cpu().numpy())

    @torch.inference_mode()
    def search(self, crops: Image, trajectory: Tokens, kv_cache: Floats) -> Floats:
        """See :class:`fartrack.engines.base.Engine`."""
        shown, tokens, cache = self._on_device(crops, trajectory, kv_cache)
        with self._autocast():
            logits = cast(torch.Tensor, self.network.track(shown, tokens, cache))
        return cast(Floats, logits.float().cpu().numpy())

    @torch.inference_mode()
    def search_scored(self, crops: Image, trajectory: Tokens, kv_cache: Floats) -> tuple[Floats, Floats]:
        """See :class:`fartrack.engines.base.Engine`."""
        shown, tokens, cache = self._on_device(crops, trajectory, kv_cache)
        with self._autocast():
            logits, scores = self.network.track(shown, tokens, cache, scored=True)
        return cast(Floats, logits.float().cpu().numpy()), cast(Floats, scores.float().cpu().numpy())
