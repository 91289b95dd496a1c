"""Parameters and multiply-adds are those of the paper's table.

The rule by which the table's figures come out: *parameters* are those of the layers of the ViT (patch embedding,
encoder layers, final norm), for embedding tables are no layers; *MACs* are the multiply-adds of the linear layers alone
(patch embedding, queries, keys and values, projection, MLP) over all template and search tokens and the four command
tokens. Products of attention, norms and the output head are not counted. As in the authors' released model, attention
is joint over five templates and there are no trajectory tokens; where a share of the template tokens is kept, those
dropped are embedded and then removed.
"""

import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from fartrack.model.config import DEPTHS, ModelConfig
from fartrack.model.encoder import FARTrack


def linear_macs(network, retention):
    """Multiply-adds that the linear layers do for one frame, counted as they run, the template embedding included."""
    config, counted = network.config, []

    def count(module, inputs, output):
        counted.append(output.numel() * module.in_features)

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Linear)]
    z, x, T = config.template_size, config.search_size, config.templates
    kept = round(retention * config.template_tokens)
    keep = [config.template_tokens * template + token for template in range(T) for token in range(kept)]
    with torch.no_grad():
        memory = network.memorise(torch.zeros(1, T, z, z, 3, dtype=torch.uint8), torch.arange(T)[None])
        trajectory = torch.zeros(1, 4 * config.trajectory, dtype=torch.long)
        network(torch.zeros(1, x, x, 3, dtype=torch.uint8), trajectory, memory[..., keep, :])
    for hook in hooks:
        hook.remove()
    return sum(counted)


def network_of(variant, trajectory=0):
    """The network of a published variant."""
    config = ModelConfig(depth=DEPTHS[variant], attention="joint", identities=5, trajectory=trajectory)
    return FARTrack(config).eval()


@pytest.mark.parametrize(("variant", "millions"), [("pico", 2.81), ("nano", 4.59), ("tiny", 6.82)])
def test_layers_have_the_published_number_of_parameters(variant, millions):
    network = network_of(variant)
    layers = {name: p.numel() for name, p in network.named_parameters() if name.startswith(("patch", "blocks", "norm"))}
    assert sum(layers.values()) == {"pico": 2_817_216, "nano": 4_596_672, "tiny": 6_820_992}[variant]
    assert sum(layers.values()) / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize(
    ("variant", "retention", "billions"),
    [("tiny", 0.75, 2.65), ("nano", 0.75, 1.78), ("pico", 0.75, 1.08), ("tiny", 1.0, 2.99)],
)
def test_a_frame_costs_the_published_macs(variant, retention, billions):
    assert linear_macs(network_of(variant), retention) / 1e9 == pytest.approx(billions, rel=0.02)


def test_three_past_boxes_cost_twelve_tokens():
    plain, ours = (linear_macs(network_of("pico", boxes), 0.75) for boxes in (0, 3))
    assert ours - plain == 6 * 12 * 12 * 192**2  # layers, tokens, and 12 D² a token and layer
