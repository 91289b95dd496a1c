"""Start weights: an ImageNet ViT-Tiny (timm's key names) or an earlier FARTrack network, laid into a new one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fartrack.errors import FartrackError
from fartrack.model.config import ModelConfig
from fartrack.model.encoder import Block, FARTrack, resize_grid

_TIMM_NAMES = (
    (r"^patch_embed\.proj", "patch"),
    (r"^(blocks\.\d+)\.attn\.", r"\1."),
    (r"^(blocks\.\d+)\.mlp\.", r"\1."),
)


def load_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, as float32; of a training run's checkpoint, its averaged weights.

    Raises:
        FartrackError: the file is missing or is no safetensors file.
    """
    if not path.is_file():
        raise FartrackError(f"There is no weights file {path}; check the path.")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError):
        raise FartrackError(f"{path} is no readable safetensors file; give one, or fetch it anew.") from None
    average = {name.removeprefix("ema."): tensor for name, tensor in tensors.items() if name.startswith("ema.")}
    return {name: tensor.float() for name, tensor in (average or tensors).items()}


def start_network(config: ModelConfig, weights: Path) -> FARTrack:
    """A network with the start weights of a file; see :func:`load_weights` and :func:`start_from`."""
    network = FARTrack(config)
    start_from(network, load_weights(weights))
    return network


def start_from(network: FARTrack, weights: Mapping[str, Tensor]) -> list[str]:
    """Lay start weights, with our names or timm's, into a network, in place.

    * One position embedding (of an ImageNet ViT) serves the search as it is and the templates resized.
    * A network deeper than the weights keeps its further layers, which start as the identity (the outputs of
      their two residual branches are zero); a shallower one takes the first layers.
    * Weights without an embedding of the templates' boxes (``box_z``) get zeros.
    * More template identities, or a longer trajectory, than the weights have: the last identity is repeated, and
      the positions of the newest boxes are kept.

    Returns:
        The names of the network's parameters that the weights did not give (they stay as they were).

    Raises:
        FartrackError: no tensor fits, so that the weights are of something else; or one has another shape.
    """
    config, own = network.config, network.state_dict()
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        for pattern, ours in _TIMM_NAMES:
            name = re.sub(pattern, ours, name)
        found[name] = tensor
    if "patch.weight" in found and found["patch.weight"].ndim == 4:  # convolution (D, 3, p, p) → (D, p·p·3)
        found["patch.weight"] = found["patch.weight"].permute(0, 2, 3, 1).flatten(1)
    if "pos_embed" in found:
        found["pos_x"] = found["pos_z"] = found.pop("pos_embed")[0, 1:]  # the first is the class token's
    for name, count in (("pos_x", config.search_tokens), ("pos_z", config.template_tokens)):
        if name in found:
            found[name] = resize_grid(found[name], count)
    if "id_z" in found:
        found["id_z"] = found["id_z"][[min(i, len(found["id_z"]) - 1) for i in range(config.identities)]]
    if "pos_t" in found and found["pos_t"].shape[-1] == config.width:
        kept = min(len(own["pos_t"]), len(found["pos_t"]))
        found["pos_t"] = torch.cat([own["pos_t"][: len(own["pos_t"]) - kept], found["pos_t"][-kept:]])

    found.setdefault("box_z", torch.zeros(config.width))
    taken = {name: tensor for name, tensor in found.items() if name in own}
    if not any(name.startswith("blocks.0.") for name in taken):
        raise FartrackError("The start weights hold no ViT-Tiny or FARTrack layers; give a file that does.")
    for name, tensor in taken.items():
        if tensor.shape != own[name].shape:
            raise FartrackError(
                f"The start weights' {name} has shape {tuple(tensor.shape)}, the network's has "
                f"{tuple(own[name].shape)}; give weights of the same width."
            )
    network.load_state_dict(taken, strict=False)
    for index, block in enumerate(cast(list[Block], network.blocks)):
        if f"blocks.{index}.qkv.weight" not in taken:
            for parameter in (*block.proj.parameters(), *block.fc2.parameters()):
                torch.nn.init.zeros_(parameter)
    return sorted(set(own) - set(taken))
