"""Start weights of every origin land where they belong, or the error names what does not fit."""

import pytest

pytest.importorskip("torch")

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from fartrack.errors import FartrackError
from fartrack.model.encoder import FARTrack
from fartrack.model.init_weights import load_weights, start_from

WIDTH, PATCH = 24, 16


@pytest.fixture
def vit():
    """A tiny ViT under timm's names: two layers, a 4 × 4 grid of patches and a class token."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 17, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
        "head.weight": (10, WIDTH),
        "head.bias": (10,),
    }
    for layer in range(2):
        for name, (out, into) in {
            "attn.qkv": (3 * WIDTH, WIDTH),
            "attn.proj": (WIDTH, WIDTH),
            "mlp.fc1": (4 * WIDTH, WIDTH),
            "mlp.fc2": (WIDTH, 4 * WIDTH),
        }.items():
            shapes |= {f"blocks.{layer}.{name}.weight": (out, into), f"blocks.{layer}.{name}.bias": (out,)}
        for name in ("norm1", "norm2"):
            shapes |= {f"blocks.{layer}.{name}.weight": (WIDTH,), f"blocks.{layer}.{name}.bias": (WIDTH,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def output(network, seed=0):
    """The logits for random inputs."""
    generator, config = torch.Generator().manual_seed(seed), network.config
    z, x = config.template_size, config.search_size
    templates = torch.randint(256, (2, 2, z, z, 3), dtype=torch.uint8, generator=generator)
    search = torch.randint(256, (2, x, x, 3), dtype=torch.uint8, generator=generator)
    trajectory = torch.randint(600, (2, 4 * config.trajectory), generator=generator)
    boxes = torch.rand(2, 2, 4, generator=generator).sort(-1).values
    with torch.no_grad():
        memory = network.encode_templates(templates, torch.tensor([[0, 1], [0, 1]]), boxes)
        return network.eval()(search, trajectory, memory).logits_B4V


def test_from_a_vit_file(tiny, vit, tmp_path):
    save_file(vit, tmp_path / "vit.safetensors")
    network = FARTrack(tiny())
    missing = start_from(network, load_weights(tmp_path / "vit.safetensors"))
    assert missing == ["aux.bias", "aux.weight", "bias", "id_x", "id_z", "pos_t", "vocab"]
    state = network.state_dict()
    for layer in range(2):
        for ours, theirs in {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "norm2": "norm2"}.items():
            assert torch.equal(state[f"blocks.{layer}.{ours}.weight"], vit[f"blocks.{layer}.{theirs}.weight"])
    assert torch.equal(state["norm.bias"], vit["norm.bias"])
    assert torch.equal(state["pos_x"], vit["pos_embed"][0, 1:])
    assert state["pos_z"].shape == (4, WIDTH)  # resized from 4 × 4 to 2 × 2, in the same places
    corners = vit["pos_embed"][0, 1:].reshape(2, 2, 2, 2, WIDTH).mean((1, 3)).reshape(4, WIDTH)
    similarity = F.cosine_similarity(state["pos_z"][:, None], corners[None], dim=-1)
    assert similarity.argmax(1).tolist() == [0, 1, 2, 3]


def test_the_patch_embedding_computes_the_convolution(tiny, vit):
    network = FARTrack(tiny())
    start_from(network, vit)
    crops = torch.randint(256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    pixels = ((crops - network.mean) / network.std).permute(0, 3, 1, 2)
    expected = F.conv2d(pixels, vit["patch_embed.proj.weight"], vit["patch_embed.proj.bias"], stride=PATCH)
    # Sums of 768 products near 1 in another order: 1e-4 is a few roundings of single precision.
    torch.testing.assert_close(
        network.patchify(crops).detach(), expected.flatten(2).transpose(1, 2), atol=1e-4, rtol=1e-4
    )


def test_our_own_weights_round_trip(tiny, random_network, tmp_path):
    source, network = random_network(tiny()), FARTrack(tiny())
    save_file(source.state_dict(), tmp_path / "own.safetensors")
    assert start_from(network, load_weights(tmp_path / "own.safetensors")) == []
    assert torch.equal(output(network), output(source))


def test_weights_from_before_the_boxes_of_templates_get_zeros(tiny, random_network):
    source, network = random_network(tiny()).state_dict(), random_network(tiny(), 9)
    del source["box_z"]
    assert start_from(network, source) == []
    assert not network.box_z.any()
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in source.items())


def test_half_precision_is_widened(tiny, random_network, tmp_path):
    source, network = random_network(tiny()), FARTrack(tiny())
    save_file({k: v.half() for k, v in source.state_dict().items()}, tmp_path / "half.safetensors")
    start_from(network, load_weights(tmp_path / "half.safetensors"))
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert torch.equal(network.vocab, source.vocab.half().float())


def test_of_a_checkpoint_the_averaged_weights_are_taken(tiny, random_network, tmp_path):
    raw, average, network = random_network(tiny()), random_network(tiny(), 1), FARTrack(tiny())
    tensors = {f"ema.{name}": tensor for name, tensor in average.state_dict().items()}
    for part in ("model", "exp_avg", "exp_avg_sq", "teacher"):
        tensors |= {f"{part}.{name}": tensor.clone() for name, tensor in raw.state_dict().items()}
    save_file(tensors, tmp_path / "checkpoint.safetensors")
    weights = load_weights(tmp_path / "checkpoint.safetensors")
    assert set(weights) == set(average.state_dict())
    assert start_from(network, weights) == []
    assert torch.equal(output(network), output(average))


@pytest.mark.parametrize("attention", ["cached", "joint"])
def test_further_layers_start_as_the_identity(tiny, random_network, attention):
    shallow, deep = random_network(tiny(attention=attention)), random_network(tiny(attention=attention, depth=5), 9)
    missing = start_from(deep, shallow.state_dict())
    assert {name.split(".")[1] for name in missing} == {"2", "3", "4"}
    assert torch.equal(output(deep), output(shallow))


def test_a_shallower_network_takes_the_first_layers(tiny, random_network):
    deep, shallow = random_network(tiny(depth=3)), FARTrack(tiny(depth=2))
    assert start_from(shallow, deep.state_dict()) == []
    for layer in range(2):
        for own, given in zip(shallow.blocks[layer].parameters(), deep.blocks[layer].parameters(), strict=True):
            assert torch.equal(own, given)


def test_more_identities_repeat_the_last(tiny, random_network):
    source = random_network(tiny(attention="joint", templates=5))
    network = FARTrack(tiny(attention="joint", templates=5, identities=5))
    start_from(network, source.state_dict())
    assert torch.equal(network.id_z, source.id_z[[0, 1, 1, 1, 1]])


def test_a_longer_trajectory_keeps_the_newest_positions(tiny, random_network):
    source, network = random_network(tiny(trajectory=3)), random_network(tiny(trajectory=7), 9)
    before = network.pos_t.detach().clone()
    start_from(network, source.state_dict())
    assert torch.equal(network.pos_t[-16:], source.pos_t)  # three boxes and the commands
    assert torch.equal(network.pos_t[:16], before[:16])


def test_a_shorter_trajectory_keeps_the_newest_positions(tiny, random_network):
    source, network = random_network(tiny(trajectory=3)), FARTrack(tiny(trajectory=1))
    start_from(network, source.state_dict())
    assert torch.equal(network.pos_t, source.pos_t[-8:])


def test_another_crop_size_resizes_the_positions(tiny, random_network):
    source, network = random_network(tiny()), FARTrack(tiny(search_size=96))
    start_from(network, source.state_dict())
    grid = source.pos_x.T.reshape(1, WIDTH, 4, 4)
    resized = network.pos_x.T.reshape(1, WIDTH, 6, 6)
    # Bicubic weights sum to one, so the mean over the grid changes by edge effects only.
    assert (grid.mean((2, 3)) - resized.mean((2, 3))).abs().max() < 0.1


@pytest.mark.parametrize("width", [12, 36, 48])
def test_another_width_is_named(tiny, random_network, width):
    with pytest.raises(FartrackError, match=rf"has shape \(\d+, {width}\), the .* has \(\d+, {WIDTH}\); .*same width"):
        start_from(FARTrack(tiny()), random_network(tiny(width=width)).state_dict())


def test_a_vit_of_another_width_is_named(tiny, vit):
    with pytest.raises(FartrackError, match=r"start weights' \S+ has .*24.* the network's has .*48"):
        start_from(FARTrack(tiny(width=48)), vit)


def test_another_patch_size_is_named(tiny, random_network):
    with pytest.raises(FartrackError, match=r"patch\.weight"):
        start_from(FARTrack(tiny()), random_network(tiny(patch=8)).state_dict())


def test_weights_of_something_else(tiny):
    with pytest.raises(FartrackError, match="no ViT-Tiny or FARTrack layers"):
        start_from(FARTrack(tiny()), {"conv1.weight": torch.zeros(3, 3)})


def test_a_refused_file_leaves_the_network_alone(tiny, random_network):
    network = random_network(tiny())
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(FartrackError):
        start_from(network, random_network(tiny(patch=8), 9).state_dict())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FartrackError, match=r"no weights file .*absent\.safetensors"):
        load_weights(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x02}q\x00."], ids=["empty", "text", "pickle"])
def test_a_foreign_file_is_named(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(FartrackError, match=r"model\.pt is no readable safetensors"):
        load_weights(path)


def test_a_file_cut_short_is_named(tiny, random_network, tmp_path):
    path = tmp_path / "cut.safetensors"
    save_file(random_network(tiny()).state_dict(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FartrackError, match=r"cut\.safetensors is no readable"):
        load_weights(path)
