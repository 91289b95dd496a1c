"""What a network costs: multiply-adds, worked out from its shape (no PyTorch here).

Counted are the products of matrices: the embedding of patches, the linear layers, both products of attention, the
output head. Norms, softmax, activations and lookups are not. One multiply-add is two floating-point operations.
"""

from __future__ import annotations

from fartrack.model.config import ModelConfig
from fartrack.model.vocabulary import BINS, COMMANDS


def search_macs(config: ModelConfig, template_tokens: int, search_tokens: int | None = None) -> int:
    """Multiply-adds of one search pass against so many template tokens, with so many search tokens (None: all).

    In the last layer only the four command tokens are queries, since only they are read out. With ``joint`` attention
    template tokens are queries like all others before that layer, and are embedded on every frame, as in the paper.
    """
    width, commands = config.width, len(COMMANDS)
    embedded = config.search_tokens if search_tokens is None else search_tokens
    keys = embedded + 4 * config.trajectory + commands + template_tokens
    joint = config.attention == "joint"
    queries = keys if joint else keys - template_tokens
    last = _layer_macs(config, commands, keys) + 2 * width**2 * (queries - commands)  # keys and values of the others
    return (
        (embedded + joint * template_tokens) * 3 * config.patch**2 * width
        + (config.depth - 1) * _layer_macs(config, queries, keys)
        + last
        + commands * width * BINS
    )


def template_macs(config: ModelConfig) -> int:
    """Multiply-adds of encoding one template: of the last layer only keys and values are needed.

    0 with ``joint`` attention, where :func:`search_macs` counts what is done.
    """
    if config.attention == "joint":
        return 0
    tokens, width = config.template_tokens, config.width
    layers = (config.depth - 1) * _layer_macs(config, tokens, tokens)
    return tokens * 3 * config.patch**2 * width + layers + 2 * width**2 * tokens


def _layer_macs(config: ModelConfig, queries: int, keys: int) -> int:
    """A whole layer for tokens that attend to so many."""
    width, hidden = config.width, int(config.width * config.mlp_ratio)
    return queries * (4 * width**2 + 2 * width * hidden) + 2 * queries * keys * width
