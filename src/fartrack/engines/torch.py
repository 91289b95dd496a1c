"""PyTorch (extra ``train``): the reference that the exported graphs are held against."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from fartrack.engines.base import Floats
from fartrack.geometry import Image
from fartrack.model.encoder import FARTrack
from fartrack.model.init_weights import load_weights, without_layers
from fartrack.packages import WEIGHTS, Package, misfit


class TorchEngine:
    """Runs a network in eager PyTorch."""

    background = False  # training switches the network between its modes meanwhile

    def __init__(self, network: FARTrack) -> None:
        """Run this network, as it is, on the device it lies on."""
        self.network = network.eval()
        self.config = network.config

    @classmethod
    def load(cls, package: Package, threads: int | None = None) -> TorchEngine:
        """The network of a package. ``threads``, if given, holds for all of PyTorch in this process.

        Raises:
            FartrackError: the weights are missing or damaged.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        network = FARTrack(package.config)
        weights = load_weights(package.folder / WEIGHTS)
        weights = without_layers(weights, range(package.config.depth, package.layers))
        try:
            network.load_state_dict(weights)
        except RuntimeError:
            raise misfit(package) from None
        return cls(network)

    def _on_device(self, *arrays: NDArray[Any]) -> Iterator[torch.Tensor]:
        device = self.network.bias.device
        return (torch.from_numpy(array).to(device) for array in arrays)

    @torch.inference_mode()
    def memorise(self, crops: Image, identities: NDArray[np.int64]) -> Floats:
        """See :class:`fartrack.engines.base.Engine`."""
        memory = self.network.memorise(*self._on_device(crops[:, None], identities[:, None]))
        return cast(Floats, memory.cpu().numpy())

    @torch.inference_mode()
    def search(self, crops: Image, trajectory: NDArray[np.int64], memory: Floats) -> Floats:
        """See :class:`fartrack.engines.base.Engine`."""
        output = self.network(*self._on_device(crops, trajectory, memory), tracking=True)
        return cast(Floats, output.logits_B4V.cpu().numpy())

    @torch.inference_mode()
    def search_scored(self, crops: Image, trajectory: NDArray[np.int64], memory: Floats) -> tuple[Floats, Floats]:
        """See :class:`fartrack.engines.base.Engine`."""
        output = self.network(*self._on_device(crops, trajectory, memory), with_attention=True, tracking=True)
        return cast(Floats, output.logits_B4V.cpu().numpy()), cast(Floats, output.attention_BM.cpu().numpy())
