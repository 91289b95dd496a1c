"""What a network costs: multiply-adds, worked out from its shape (no PyTorch here).

Counted are the products of matrices: the embedding of patches, the linear layers, both products of attention, the
output head. Norms, softmax, activations and look-ups are not. One multiply-add is two floating-point operations.
"""

from __future__ import annotations

from fartrack.model.config import ModelConfig
from fartrack.model.vocabulary import BINS, COMMANDS


def search_macs(config: ModelConfig, memory: int, side: int | None = None) -> int:
    """Multiply-adds of one search pass.

    In the last layer only the four command tokens are queries, since only they are read out. With ``joint`` attention
    template tokens are queries like all others before that layer, and their patches are counted as embedded on every
    frame, as in the paper.

    Args:
        config: the shape of the network.
        memory: template tokens that are attended to.
        side: search tokens a side; the configuration's whole window if left out.
    """
    search = (config.search_size // config.patch if side is None else side) ** 2
    commands, joint = len(COMMANDS), config.attention == "joint"
    queries = search + 4 * config.trajectory + commands + (memory if joint else 0)
    keys = queries if joint else queries + memory
    embedded = search + (memory if joint else 0)
    last = _layer_macs(config, commands, keys) + _key_macs(config, queries - commands)
    return (
        _patch_macs(config, embedded)
        + (config.depth - 1) * _layer_macs(config, queries, keys)
        + last
        + commands * config.width * BINS
    )


def template_macs(config: ModelConfig) -> int:
    """Multiply-adds of encoding one template: of the last layer only keys and values are needed.

    0 with ``joint`` attention, where :func:`search_macs` counts what is done.
    """
    if config.attention == "joint":
        return 0
    tokens = config.template_tokens
    layers = (config.depth - 1) * _layer_macs(config, tokens, tokens)
    return _patch_macs(config, tokens) + layers + _key_macs(config, tokens)


def _patch_macs(config: ModelConfig, tokens: int) -> int:
    return tokens * 3 * config.patch**2 * config.width


def _key_macs(config: ModelConfig, tokens: int) -> int:
    """Keys and values alone, of tokens that are no queries."""
    return 2 * config.width**2 * tokens


def _layer_macs(config: ModelConfig, queries: int, keys: int) -> int:
    """A whole layer for tokens that attend to so many."""
    width = config.width
    query, projection, mlp = width**2, width**2, 2 * width * int(width * config.mlp_ratio)
    return queries * (query + projection + mlp) + _key_macs(config, queries) + 2 * queries * keys * width
