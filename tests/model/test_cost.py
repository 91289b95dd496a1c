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
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from fartrack.model.config import DEPTHS, ModelConfig
from fartrack.model.cost import search_macs, template_macs
from fartrack.model.encoder import FARTrack


class LinearMacs(TorchFunctionMode):
    """Counts the multiply-adds of linear layers as they run."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is F.linear:
            self.count += result.numel() * args[1].shape[1]
        return result


def linear_macs(network, retention):
    """Multiply-adds that the linear layers do for one frame, the template embedding included."""
    config = network.config
    z, x, T = config.template_size, config.search_size, config.templates
    kept = round(retention * config.template_tokens)
    keep = [config.template_tokens * template + token for template in range(T) for token in range(kept)]
    with torch.no_grad(), LinearMacs() as macs:
        templates = torch.zeros(1, T, z, z, 3, dtype=torch.uint8), torch.arange(T)[None], torch.zeros(1, T, 4)
        kv_cache = network.encode_templates(*templates)
        trajectory = torch.zeros(1, 4 * config.trajectory, dtype=torch.long)
        network(torch.zeros(1, x, x, 3, dtype=torch.uint8), trajectory, kv_cache[..., keep, :])
    return macs.count


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


def counted(call, *arguments, **options):
    """All multiply-adds of products of matrices in a call."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        result = call(*arguments, **options)
    return counter.get_total_flops() // 2, result


@pytest.mark.parametrize("attention", ["cached", "joint"])
@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("changes", [{}, {"width": 48, "mlp_ratio": 3.0, "trajectory": 0, "patch": 8}])
def test_macs_are_those_that_are_done(tiny, attention, depth, changes):
    config = tiny(attention=attention, depth=depth, **changes)
    network = FARTrack(config).eval()
    z, x, T, M = config.template_size, config.search_size, 3, 3 * config.template_tokens
    templates = torch.zeros(1, T, z, z, 3, dtype=torch.uint8), torch.zeros(1, T, dtype=torch.long), torch.zeros(1, T, 4)
    encoded, kv_cache = counted(network.encode_templates, *templates)
    trajectory = torch.zeros(1, 4 * config.trajectory, dtype=torch.long)
    for height, width in ((x, x), (x - 2 * config.patch, x)):  # the whole window, and less
        crop = torch.zeros(1, height, width, 3, dtype=torch.uint8)
        searched, _ = counted(network.track, crop, trajectory, kv_cache)
        cost = search_macs(config, M, height * width // config.patch**2)
        assert cost == searched + (encoded if attention == "joint" else 0)
        if height == x:
            assert cost == search_macs(config, M)
    # Of the last layer the network computes more than keys and values, which graphs leave out.
    spare = config.width**2 * (2 + 2 * config.mlp_ratio) + 2 * config.template_tokens * config.width
    spare *= config.template_tokens
    assert T * template_macs(config) == (0 if attention == "joint" else encoded - T * spare)


def test_the_cost_of_pico():
    config = ModelConfig()
    D, N, M = 192, 212, 245
    layers = 5 * (12 * D**2 * N + 2 * N * (N + M) * D)
    last = 2 * D**2 * N + 4 * 10 * D**2 + 2 * 4 * (N + M) * D
    assert search_macs(config, M) == 196 * 768 * D + layers + last + 4 * D * 600
    assert search_macs(config, 0, search_tokens=4) < search_macs(config, 0)
