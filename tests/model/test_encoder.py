"""The network against a plain re-computation from its parameters: loops, one joint attention matrix, own softmax."""

import math

import pytest

pytest.importorskip("torch")

import torch

from fartrack.model.encoder import FARTrack, attend, coverage, resize_grid
from fartrack.model.vocabulary import BINS, COMMANDS, NO_TRAJECTORY

B, T = 2, 3

# The plain re-computation is in double precision, so what differs is the rounding of the network's single
# precision: about 1e-7 of logits near 1, over two or three layers.
TOLERANCE = 1e-5


@pytest.fixture(params=["cached", "joint"])
def attention(request):
    return request.param


@pytest.fixture
def inputs():
    """Search crops, trajectory tokens, template crops, identities and boxes of B samples."""
    generator = torch.Generator().manual_seed(1)
    search = torch.randint(256, (B, 64, 64, 3), dtype=torch.uint8, generator=generator)
    templates = torch.randint(256, (B, T, 32, 32, 3), dtype=torch.uint8, generator=generator)
    trajectory = torch.randint(BINS, (B, 12), generator=generator)
    trajectory[1, :4] = NO_TRAJECTORY
    low = torch.rand(B, T, 2, generator=generator) * 0.6
    boxes = torch.cat([low, low + 0.1 + torch.rand(B, T, 2, generator=generator) * 0.3], dim=-1)
    return search, trajectory, templates, torch.tensor([[0, 1, 1]]).expand(B, T), boxes


def norm(x, state, name):
    centered = x - x.mean(-1, keepdim=True)
    whitened = centered / (centered.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return whitened * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def embed(crop, state, patch=16):
    mean = 255 * torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)
    std = 255 * torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)
    pixels = (crop.double() - mean) / std
    steps = range(0, len(crop), patch)
    patches = [pixels[y : y + patch, x : x + patch].reshape(-1) for y in steps for x in steps]
    return linear(torch.stack(patches), state, "patch")


def covered(box, grid):
    """How much of each patch a box covers, row by row: the overlap of two rectangles."""
    x0, y0, x1, y1 = (grid * value for value in box.tolist())
    shares = [
        max(min(x1, x + 1) - max(x0, x), 0) * max(min(y1, y + 1) - max(y0, y), 0)
        for y in range(grid)
        for x in range(grid)
    ]
    return torch.tensor(shares, dtype=torch.float64)[:, None]


def plain(network, search, trajectory, templates, identities, boxes, removed=(), kept=slice(None)):
    """Logits, template scores and final tokens of one sample, from one sequence [templates | search, trajectory,
    commands]."""
    config = network.config
    state = {name: tensor.detach().double() for name, tensor in network.state_dict().items()}
    grid = config.template_size // config.patch
    rows = [
        embed(crop, state) + state["pos_z"] + state["id_z"][identity] + covered(box, grid) * state["box_z"]
        for crop, identity, box in zip(templates, identities, boxes, strict=True)
    ]
    M, owner = sum(map(len, rows)), [i for i, row in enumerate(rows) for _ in row]
    rows.append((embed(search, state) + state["pos_x"] + state["id_x"])[kept])
    searched = len(rows[-1])
    tokens = [*trajectory.tolist(), *COMMANDS]
    rows.append(torch.stack([state["vocab"][token] + state["pos_t"][i] for i, token in enumerate(tokens)]))
    x = torch.cat(rows)

    allowed = torch.ones(len(x), len(x), dtype=torch.bool)
    if config.attention == "cached":
        for i in range(M):
            for j in range(len(x)):
                allowed[i, j] = j < M and owner[i] == owner[j]
        allowed[M:, list(removed)] = False
    else:
        allowed[:, list(removed)] = False
    scores = torch.zeros(M, dtype=torch.float64)
    for layer in range(config.depth):
        name, width = f"blocks.{layer}", config.head_width
        q, k, v = linear(norm(x, state, f"{name}.norm1"), state, f"{name}.qkv").split(config.width, dim=-1)
        heads = []
        for head in range(config.heads):
            part = slice(head * width, (head + 1) * width)
            weights = torch.exp(q[:, part] @ k[:, part].T / math.sqrt(width)) * allowed
            weights = weights / weights.sum(-1, keepdim=True)
            heads.append(weights @ v[:, part])
            received = weights[-4:, :M].mean(0)
            if layer < config.depth - 1:  # the last layer is computed for the commands alone
                received += weights[M : M + searched, :M].mean(0)
            scores += received / config.heads / config.depth
        x = x + linear(torch.cat(heads, dim=-1), state, f"{name}.proj")
        hidden = linear(norm(x, state, f"{name}.norm2"), state, f"{name}.fc1")
        hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        x = x + linear(hidden, state, f"{name}.fc2")
    tokens = norm(x, state, "norm")
    return tokens[-4:] @ state["vocab"][:BINS].T + state["bias"], scores, tokens


def plain_batch(network, *inputs, removed=()):
    results = [plain(network, *sample, removed) for sample in zip(*inputs, strict=True)]
    return tuple(torch.stack(part).float() for part in zip(*results, strict=True))


@torch.no_grad()
def run(network, search, trajectory, *templates, **options):
    return network(search, trajectory, network.encode_templates(*templates), **options)


@torch.no_grad()
def track(network, search, trajectory, *templates):
    """Logits and scores."""
    return network.track(search, trajectory, network.encode_templates(*templates), scored=True)


def cut(network, config):
    """The network of the first layers."""
    first = FARTrack(config).eval()
    first.load_state_dict({name: network.state_dict()[name] for name in first.state_dict()})
    return first


def close(first, second, tolerance=TOLERANCE):
    torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance)


def test_logits_are_those_of_one_masked_sequence(tiny, random_network, attention, inputs):
    network = random_network(tiny(attention=attention))
    expected, *_ = plain_batch(network, *inputs)
    assert expected.std() > 0.3  # otherwise the tolerance would prove nothing
    close(run(network, *inputs).logits_B4V, expected)


def test_the_boxes_of_templates_are_told(tiny, random_network, attention, inputs):
    network = random_network(tiny(attention=attention))
    *others, boxes = inputs
    told = run(network, *inputs).logits_B4V
    for other in (torch.zeros_like(boxes), boxes[..., [1, 0, 3, 2]], boxes.roll(1, dims=1)):
        assert (run(network, *others, other).logits_B4V - told).abs().max() > 1e-3


@pytest.mark.parametrize("grid", [1, 2, 7])
def test_coverage_is_what_is_painted(grid):
    """Boxes on a raster of 12 cells to a patch, some of them reaching out of the crop."""
    generator, cells = torch.Generator().manual_seed(0), 12 * grid
    corners = torch.randint(-3, cells + 4, (40, 2, 2), generator=generator).sort(dim=1).values.flatten(1)
    for box, found in zip(corners, coverage(corners / cells, grid), strict=True):
        raster = torch.zeros(cells, cells)
        x0, y0, x1, y1 = box.clamp(0, cells).tolist()
        raster[y0:y1, x0:x1] = 1
        patches = [raster[y : y + 12, x : x + 12].mean() for y in range(0, cells, 12) for x in range(0, cells, 12)]
        close(found, torch.stack(patches))


def test_coverage_sums_to_the_area_of_the_box():
    low = torch.rand(100, 2, generator=torch.Generator().manual_seed(0)) * 0.7
    sides = torch.rand(100, 2, generator=torch.Generator().manual_seed(1)) * 0.3
    shares = coverage(torch.cat([low, low + sides], dim=1), 7)
    assert shares.shape == (100, 49) and shares.min() >= 0 and shares.max() <= 1 + 1e-5
    close(shares.mean(1), sides.prod(1))


def test_cached_and_joint_attention_differ(tiny, random_network, inputs):
    cached, joint = (run(random_network(tiny(attention=a)), *inputs).logits_B4V for a in ("cached", "joint"))
    assert (cached - joint).abs().max() > 0.01


def test_five_identities_as_in_the_paper(tiny, random_network, inputs):
    network = random_network(tiny(attention="joint", identities=3))
    search, trajectory, templates, _, boxes = inputs
    inputs = search, trajectory, templates, torch.arange(T).expand(B, T), boxes
    close(run(network, *inputs).logits_B4V, plain_batch(network, *inputs)[0])


def test_search_crops_may_share_a_set_of_templates(tiny, random_network, attention, inputs):
    network, K = random_network(tiny(attention=attention)), 3
    generator = torch.Generator().manual_seed(2)
    search = torch.randint(256, (B * K, 64, 64, 3), dtype=torch.uint8, generator=generator)
    trajectory = torch.randint(BINS, (B * K, 12), generator=generator)
    _, _, *templates = inputs
    shared = run(network, search, trajectory, *templates).logits_B4V
    for i in range(B * K):
        own = (tensor[i // K : i // K + 1] for tensor in templates)
        close(shared[i : i + 1], run(network, search[i : i + 1], trajectory[i : i + 1], *own).logits_B4V)


def test_pruned_tokens_are_masked_tokens(tiny, random_network, attention, inputs):
    network, removed = random_network(tiny(attention=attention)), [0, 5, 6, 11]
    search, trajectory, *templates = inputs
    with torch.no_grad():
        kv_cache = network.encode_templates(*templates)
        kept = [i for i in range(kv_cache.shape[-2]) if i not in removed]
        output = network(search, trajectory, kv_cache[..., kept, :])
        tracked, found = network.track(search, trajectory, kv_cache[..., kept, :], scored=True)
    logits, scores, _ = plain_batch(network, *inputs, removed=removed)
    close(output.logits_B4V, logits)
    close(tracked, logits)
    close(found, scores[:, kept])
    assert (logits - plain_batch(network, *inputs)[0]).abs().max() > 0.01  # the removed ones mattered


def test_caches_join_along_their_tokens(tiny, random_network, attention, inputs):
    network = random_network(tiny(attention=attention))
    search, trajectory, *templates = inputs
    with torch.no_grad():
        parts = [network.encode_templates(*(tensor[:, i : i + 1] for tensor in templates)) for i in range(T)]
        joined = network(search, trajectory, torch.cat(parts, dim=-2)).logits_B4V
    close(joined, run(network, *inputs).logits_B4V)


def test_attention_of_template_tokens(tiny, random_network, attention, inputs):
    network = random_network(tiny(attention=attention))
    logits, scores = track(network, *inputs)
    close(logits, run(network, *inputs).logits_B4V)
    close(scores, plain_batch(network, *inputs)[1])
    # Search and command tokens give at most all of their attention each.
    assert scores.shape == (B, T * network.config.template_tokens)
    assert (scores > 0).all()
    assert (scores.sum(-1) < 2).all()


def test_every_trajectory_token_counts(tiny, random_network, attention, inputs):
    network = random_network(tiny(attention=attention))
    search, trajectory, *templates = inputs
    before = run(network, *inputs).logits_B4V
    for position in range(12):
        changed = trajectory.clone()
        changed[:, position] = (changed[:, position] + 100) % BINS
        after = run(network, search, changed, *templates).logits_B4V
        assert ((before - after).abs().amax((1, 2)) > 1e-3).all(), position


def test_no_trajectory_is_a_token_of_its_own(tiny, random_network, inputs):
    network = random_network(tiny())
    search, trajectory, *templates = inputs
    withheld = run(network, search, torch.full_like(trajectory, NO_TRAJECTORY), *templates).logits_B4V
    assert withheld.isfinite().all()
    assert (withheld - run(network, *inputs).logits_B4V).abs().max() > 0.01


def test_a_network_without_a_trajectory(tiny, random_network, attention, inputs):
    search, _, *templates = inputs
    inputs = search, torch.zeros(B, 0, dtype=torch.long), *templates
    network = random_network(tiny(attention=attention, trajectory=0))
    close(run(network, *inputs).logits_B4V, plain_batch(network, *inputs)[0])


def test_drop_path_is_for_training_only(tiny, random_network, inputs):
    network = random_network(tiny(drop_path=0.9))
    close(run(network, *inputs).logits_B4V, run(random_network(tiny()), *inputs).logits_B4V, 0)
    network.train()
    torch.manual_seed(0)
    drawn = [run(network, *inputs).logits_B4V for _ in range(8)]
    assert any((other - drawn[0]).abs().max() > 0.01 for other in drawn[1:])


def test_drop_path_drops_whole_samples_and_keeps_the_expectation(tiny):
    network = FARTrack(tiny(depth=3, drop_path=0.4)).train()
    assert [block.drop_path for block in network.blocks] == pytest.approx([0, 0.2, 0.4])
    torch.manual_seed(0)
    n, block = 20_000, network.blocks[2]
    branch = block.drop(torch.ones(n, 2, 3))
    assert torch.equal(branch, branch[:, :1, :1].expand_as(branch))
    values = branch[:, 0, 0]
    assert set(values.unique().tolist()) == {0.0, values.max().item()}
    # Five deviations of the mean of n draws that are 0 or 1/0.6.
    assert values.mean().item() == pytest.approx(1, abs=5 * math.sqrt(0.4 / 0.6 / n))


def test_gradients_reach_every_parameter(tiny, random_network, attention, inputs):
    network = random_network(tiny(attention=attention)).train()
    search, trajectory, *templates = inputs
    output = network(search, trajectory, network.encode_templates(*templates))
    (output.logits_B4V.square().mean() + network.aux(output.tokens_BND[:, :16]).square().mean()).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def run_with_tokens_removed(network, search, trajectory, *templates, valid):
    """Logits of each sample on its own, its masked template tokens dropped."""
    logits = []
    for i, kept in enumerate(valid):
        kv_cache = network.encode_templates(*(tensor[i : i + 1] for tensor in templates))
        kv_cache = kv_cache[..., kept.nonzero().flatten(), :]
        logits.append(network(search[i : i + 1], trajectory[i : i + 1], kv_cache).logits_B4V)
    return torch.cat(logits)


def masked(*removed):
    """``valid`` of a batch in whose rows these tokens are masked."""
    valid = torch.ones(len(removed), 4 * T, dtype=torch.bool)
    for row, tokens in zip(valid, removed, strict=True):
        row[list(tokens)] = False
    return valid


@pytest.mark.parametrize("masked", [False, True])
def test_attention_that_learns_is_that_which_tracks(masked):
    """Values and gradients, against PyTorch's own kernel."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8, generator=generator, requires_grad=True) for n in (5, 9, 9))
    seen = torch.rand(2, 1, 1, 9, generator=generator) > 0.4 if masked else None
    weight = torch.randn(2, 3, 5, 8, generator=generator)
    found, reference = attend(q, k, v, seen), torch.nn.functional.scaled_dot_product_attention(q, k, v, seen)
    torch.testing.assert_close(found, reference)
    torch.testing.assert_close(attend(q.detach(), k, v, seen), reference)
    for one, other in zip(
        *(torch.autograd.grad((y * weight).sum(), (q, k, v)) for y in (found, reference)), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "valid",
    [masked([0, 5, 6, 11], [0, 5, 6, 11]), masked([], [3]), masked([0, 5], [1, 2, 4, 7, 8, 9, 10, 11])],
    ids=["the same", "one", "others in every row"],
)
@torch.no_grad()
def test_masked_tokens_are_as_good_as_removed(tiny, random_network, attention, inputs, valid):
    network = random_network(tiny(attention=attention, depth=3))
    logits = run_with_tokens_removed(network, *inputs, valid=valid)
    close(run(network, *inputs, valid=valid).logits_B4V, logits)
    assert (logits - run(network, *inputs).logits_B4V)[1].abs().max() > 0.01  # the masked ones mattered


@torch.no_grad()
def test_what_a_masked_token_holds_makes_no_difference(tiny, random_network, attention, inputs):
    network, valid = random_network(tiny(attention=attention)), masked([0, 5], [2, 3, 7])
    search, trajectory, *templates = inputs
    kv_cache = network.encode_templates(*templates)
    changed = torch.where(valid[:, None, None, :, None], kv_cache, 100 * torch.randn(kv_cache.shape))
    outputs = [network(search, trajectory, cache, valid=valid) for cache in (kv_cache, changed)]
    for name in ("logits_B4V", "tokens_BND"):
        close(getattr(outputs[0], name), getattr(outputs[1], name))


def test_no_mask_is_a_mask_of_nothing(tiny, random_network, attention, inputs):
    network = random_network(tiny(attention=attention))
    first, second = (run(network, *inputs, valid=valid) for valid in (None, masked([], [])))
    close(first.logits_B4V, second.logits_B4V)


def test_exits_are_what_shallower_networks_give(tiny, random_network, attention, inputs):
    network, M = random_network(tiny(attention=attention, depth=3)), 4 * T
    output = run(network, *inputs, exits=(1, 3))
    assert set(output.exits) == {1, 3}
    for depth, found in output.exits.items():
        shallow = cut(network, tiny(attention=attention, depth=depth))
        close(found.logits_B4V, run(shallow, *inputs).logits_B4V)
        close(found.logits_B4V, track(shallow, *inputs)[0])
        tokens = plain_batch(shallow, *inputs)[2]
        close(found.tokens_BND, tokens[:, M:])
        if attention == "joint":
            close(found.template_BMD, tokens[:, :M])
        else:
            assert found.template_BMD is None
    assert (output.exits[1].logits_B4V - output.logits_B4V).abs().max() > 0.01
    close(output.exits[3].tokens_BND, output.tokens_BND, 0)
    assert run(network, *inputs).exits == {}


def test_keeping_every_search_token_changes_nothing(tiny, random_network, attention, inputs):
    network = random_network(tiny(attention=attention))
    everything = torch.arange(16).expand(B, 16)
    first, second = (run(network, *inputs, kept=kept) for kept in (None, everything))
    close(first.logits_B4V, second.logits_B4V)
    close(first.tokens_BND, second.tokens_BND)


def test_search_tokens_that_are_kept_and_no_others(tiny, random_network, attention, inputs):
    network, kept = random_network(tiny(attention=attention)), torch.tensor([[0, 1, 5, 9, 14], [2, 5, 8, 10, 15]])
    output = run(network, *inputs, kept=kept)
    for row, sample in enumerate(zip(*inputs, strict=True)):
        logits, _, tokens = (part.float() for part in plain(network, *sample, kept=kept[row]))
        close(output.logits_B4V[row], logits)
        close(output.tokens_BND[row], tokens[4 * T :])


def test_a_dropped_search_token_is_not_seen(tiny, random_network, attention, inputs):
    network, kept = random_network(tiny(attention=attention)), torch.tensor([[0, 1, 5, 9, 14], [2, 5, 8, 10, 15]])
    search, *rest = inputs
    output = run(network, *inputs, kept=kept)
    assert output.tokens_BND.shape == (B, 5 + 12 + 4, network.config.width)
    assert (output.logits_B4V - run(network, *inputs).logits_B4V).abs().max() > 0.01
    for patch in range(16):
        y, x = 16 * (patch // 4), 16 * (patch % 4)
        changed = search.clone()
        changed[:, y : y + 16, x : x + 16] = 255 - changed[:, y : y + 16, x : x + 16]
        after = run(network, changed, *rest, kept=kept)
        for row in range(B):
            differs = (after.logits_B4V[row] - output.logits_B4V[row]).abs().max() > 1e-3
            assert differs == (patch in kept[row]), (patch, row)


def test_to_track_a_smaller_crop_is_the_center_of_the_window(tiny, random_network, attention, inputs):
    network, (search, *rest) = random_network(tiny(attention=attention)), inputs
    center = torch.tensor([5, 6, 9, 10])
    logits, scores = track(network, search[:, 16:48, 16:48].contiguous(), *rest)
    for row, sample in enumerate(zip(*inputs, strict=True)):
        expected = [part.float() for part in plain(network, *sample, kept=center)]
        close(logits[row], expected[0])
        close(scores[row], expected[1])
    assert (logits - track(network, *inputs)[0]).abs().max() > 0.01


@pytest.mark.parametrize(("rows", "columns", "center"), [(2, 4, range(4, 12)), (4, 2, [1, 2, 5, 6, 9, 10, 13, 14])])
def test_to_track_a_crop_need_not_be_square(tiny, random_network, attention, inputs, rows, columns, center):
    network, (search, *rest) = random_network(tiny(attention=attention)), inputs
    top, left = 8 * (4 - rows), 8 * (4 - columns)
    part = search[:, top : 64 - top, left : 64 - left].contiguous()
    assert part.shape[1:3] == (16 * rows, 16 * columns)
    logits, scores = track(network, part, *rest)
    for row, sample in enumerate(zip(*inputs, strict=True)):
        expected = [found.float() for found in plain(network, *sample, kept=torch.tensor([*center]))]
        close(logits[row], expected[0])
        close(scores[row], expected[1])


def test_to_train_a_smaller_crop_is_the_center_of_the_window(tiny, random_network, attention, inputs):
    network, (search, *rest) = random_network(tiny(attention=attention)), inputs
    part = search[:, 16:48, 16:48].contiguous()
    output = run(network, part, *rest)
    assert output.tokens_BND.shape[1] == 4 + 12 + 4
    close(output.logits_B4V, track(network, part, *rest)[0])


@pytest.mark.parametrize("kept", [[0, 3], [1], [3, 1, 2]])
def test_the_last_layers_take_some_of_a_templates_tokens(tiny, random_network, inputs, kept):
    """As if they had no others: what they find of these is the same in any order."""
    network = random_network(tiny(depth=6))
    _, tokens = network.begin_templates(*inputs[2:])
    some, again = (network.finish_templates(tokens[:, :, order]) for order in (kept, kept[::-1]))
    assert some.shape == (B, 2 * 3, 3, T * len(kept), 8)
    back = again.reshape(B, 6, 3, T, len(kept), 8).flip(4).flatten(3, 4)
    close(some, back)
    whole = network.finish_templates(tokens).reshape(B, 6, 3, T, 4, 8)[..., kept, :].flatten(3, 4)
    close(some[:, :2], whole[:, :2])  # keys and values of the next layer are each token's own
    assert (some[:, 2:] - whole[:, 2:]).abs().max() > 1e-3


def test_resizing_a_grid_keeps_places_and_levels():
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
    grid = torch.stack([x, y, torch.full_like(x, 7)], dim=-1).reshape(36, 3)
    assert resize_grid(grid, 36) is grid
    half = resize_grid(grid, 9).reshape(3, 3, 3)
    # The middle of half as many cells lies between two of the old ones; at the borders the filter is cut off.
    expected = torch.tensor([0.5, 2.5, 4.5])
    close(half[..., 0], expected.expand(3, 3), 0.2)
    close(half[..., 1], expected[:, None].expand(3, 3), 0.2)
    close(half[..., 2], torch.full((3, 3), 7.0))


@torch.no_grad()
@pytest.mark.parametrize(("depth", "first"), [(1, 1), (2, 2), (3, 3), (4, 3), (6, 3), (9, 4)])
def test_templates_are_encoded_in_two_parts(tiny, random_network, inputs, depth, first):
    network, templates = random_network(tiny(depth=depth)), inputs[2:]
    kv_cache, tokens = network.begin_templates(*templates)
    assert torch.equal(kv_cache, cut(network, tiny(depth=first)).encode_templates(*templates))
    assert (tokens is None) == (depth == first)
    rest = [] if tokens is None else [network.finish_templates(tokens)]
    assert torch.equal(torch.cat([kv_cache, *rest], dim=1), network.encode_templates(*templates))
    assert kv_cache.shape[1] == 2 * first and sum(part.shape[1] for part in rest) == 2 * (depth - first)


@torch.no_grad()
def test_single_templates_join_to_sets(tiny, random_network, attention, inputs):
    network = random_network(tiny(attention=attention, identities=2))
    templates, boxes, identities = inputs[2].flatten(0, 1), inputs[4].flatten(0, 1), torch.tensor([0, 1, 0, 1, 0, 1])
    index = torch.tensor([[0, 3, 5], [4, 1, 1], [2, 0, 3]])
    singles = network.encode_templates(templates[:, None], identities[:, None], boxes[:, None])
    together = network.encode_templates(templates[index], identities[index], boxes[index])
    close(network.join(singles, index), together)
    assert (network.join(singles, index.flip(1)) - together).abs().max() > 0.01
