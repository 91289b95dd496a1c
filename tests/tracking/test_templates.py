"""The memory is bounded and spread over time, and pruning keeps what has the best scores."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fartrack.tracking.templates import LIKENESS_LAYER, Template, TemplateMemory, appearance, best_tokens


def template(frame, tokens=4):
    kv_cache = np.arange(tokens, dtype=np.float32)[:, None] + np.zeros((2, 1, tokens, 3), np.float32)
    nothing = np.zeros(3, np.float32)
    return Template(frame, np.zeros((8, 8, 3), np.uint8), np.zeros(4, np.float32), 0, kv_cache, nothing, nothing)


def grown(frames, slots=5, capacity=16):
    memory = TemplateMemory(slots, capacity, (template(0),))
    for frame in frames:
        memory = memory.add(template(frame))
    return memory


@given(st.integers(1, 6), st.integers(6, 20), st.integers(0, 400), st.integers(1, 12))
def test_memory_is_bounded_and_keeps_first_and_newest(slots, capacity, count, interval):
    frames = [interval * (i + 1) for i in range(count)]
    memory = grown(frames, slots, capacity)
    assert len(memory.history) == min(count + 1, capacity)
    held = [t.frame for t in memory.history]
    assert held == sorted(set(held))
    assert held[0] == 0 and held[-1] == ([0, *frames])[-1]
    chosen = memory.chosen
    assert len(chosen) == min(slots, len(held))
    assert chosen[0] == 0 and list(chosen) == sorted(set(chosen))
    if slots > 1:
        assert chosen[-1] == len(held) - 1


@pytest.mark.parametrize("count", [16, 40, 137, 1000])
def test_chosen_templates_are_spread_linearly_over_the_history(count):
    memory = grown(range(1, count))
    frames = np.array([memory.history[place].frame for place in memory.chosen])
    wanted = np.linspace(0, count - 1, 5)
    # Thinned to 16 of `count`, gaps stay under twice 2 · count / 16; the nearest template is half a gap away.
    assert np.abs(frames - wanted).max() <= 2 * count / 16


def test_everything_is_spread_exactly_while_it_fits():
    memory = grown(range(1, 9), slots=5, capacity=16)
    assert [memory.history[i].frame for i in memory.chosen] == [0, 2, 4, 6, 8]


def test_gaps_stay_even():
    memory = grown(range(1, 5000))
    gaps = np.diff([t.frame for t in memory.history])
    assert gaps.max() <= 2.5 * 5000 / 15


def test_prune_keeps_the_best_tokens_and_removes_the_others():
    pruned = template(0, tokens=8).prune(np.array([5, 1, 7, 2, 6, 0, 3, 4], np.float32), 0.5)
    assert pruned.keep.tolist() == [0, 2, 4, 7]
    assert pruned.kv_cache.shape == (2, 1, 4, 3)
    assert pruned.kv_cache[0, 0, :, 0].tolist() == [0, 2, 4, 7]


def test_the_best_tokens_are_chosen_and_nothing_is_removed():
    held, scores = template(0, tokens=6), np.array([3, 9, 1, 9, 2, 3], np.float32)
    for count, expected in ((1, [1]), (2, [1, 3]), (3, [0, 1, 3]), (4, [0, 1, 3, 5]), (6, [0, 1, 2, 3, 4, 5])):
        assert best_tokens(scores, count / 6).tolist() == expected  # of equals, the first
    assert best_tokens(scores, 0).tolist() == [1]
    assert held.kv_cache.shape[-2] == 6 and held.keep is None


def test_a_pruned_template_is_otherwise_the_same():
    held = template(3, tokens=6)
    pruned = held.prune(np.arange(6, dtype=np.float32), 0.5)
    assert pruned.kv_cache.flags.c_contiguous
    for name in ("frame", "crop", "identity"):
        assert getattr(pruned, name) is getattr(held, name)


@given(st.integers(1, 60), st.floats(0.01, 1))
def test_prune_keeps_the_share_asked_for_and_at_least_one(tokens, retention):
    pruned = template(0, tokens).prune(np.linspace(0, 1, tokens, dtype=np.float32), retention)
    assert len(pruned.keep) == max(round(retention * tokens), 1)


def test_adding_leaves_the_old_memory_as_it_was():
    memory = grown([1, 2])
    memory.add(template(3))
    assert [t.frame for t in memory.history] == [0, 1, 2]


def test_replace_changes_one_place():
    memory = grown([1, 2]).replace(1, template(1, tokens=2))
    assert [t.kv_cache.shape[-2] for t in memory.history] == [4, 2, 4]


def test_the_joined_cache_is_made_once_and_anew_when_the_memory_changes():
    memory = grown([1, 2])
    assert memory.kv_cache is memory.kv_cache and memory.kv_cache.shape[-2] == 3 * 4
    assert memory.add(template(3)).kv_cache.shape[-2] == 4 * 4
    restored = pickle.loads(pickle.dumps(memory))
    assert np.array_equal(restored.kv_cache, memory.kv_cache) and restored.chosen == memory.chosen
    assert len(pickle.dumps(memory)) < 2 * memory.kv_cache.nbytes + 4000  # without what can be made anew


def plain_appearance(kv_cache, box):
    """Feature sums token by token, each patch measured with 100 × 100 points."""
    H, M, E = kv_cache.shape[1:]
    grid, sums = round(M**0.5), np.zeros((2, H * E))
    points = (np.arange(100) + 0.5) / 100
    for token in range(M):
        row, column = divmod(token, grid)
        x, y = (column + points) / grid, (row + points) / grid
        share = ((x > box[0]) & (x < box[2])).mean() * ((y > box[1]) & (y < box[3])).mean()
        feature = np.concatenate([kv_cache[min(LIKENESS_LAYER, len(kv_cache) - 1), h, token] for h in range(H)])
        sums += np.outer([share, 1 - share], feature)
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)


@pytest.mark.parametrize("layers", [2, 12])
def test_appearance_is_the_mean_inside_and_around(layers):
    rng = np.random.default_rng(layers)
    kv_cache, box = rng.standard_normal((layers, 3, 49, 8), np.float32), np.float32([0.13, 0.3, 0.62, 0.97])
    np.testing.assert_allclose(appearance(kv_cache, box), plain_appearance(kv_cache, box), atol=0.01)


def test_likeness_is_between_the_target_and_its_context():
    rng = np.random.default_rng(0)
    inside, around, other = rng.standard_normal((3, 3, 8), np.float32)
    box = np.float32([2 / 7, 2 / 7, 5 / 7, 5 / 7])
    covered = np.zeros((7, 7), bool)
    covered[2:5, 2:5] = True

    def seen(feature):
        tokens = np.where(covered.ravel()[:, None], feature[:, None], around[:, None])  # (3, 49, 8)
        return Template.encoded(0, np.zeros((8, 8, 3), np.uint8), box, 0, tokens[None].astype(np.float32))

    first = seen(inside)
    assert first.likeness(seen(inside)) == pytest.approx(1, abs=1e-5)
    assert first.likeness(seen(around)) == pytest.approx(-1, abs=1e-5)
    assert -1 < first.likeness(seen(other)) < 0.9
    memory = TemplateMemory(3, 4, (first,)).add(seen(other))
    assert memory.likeness(seen(other)) == pytest.approx(1, abs=1e-5)  # like one of them


def test_the_center_is_a_square_of_tokens_and_may_be_pruned():
    whole = replace(template(0, tokens=49), rest=np.arange(49, dtype=np.float32)[None, :, None])
    assert whole.center(7) is whole
    center = whole.center(3)
    expected = [16, 17, 18, 23, 24, 25, 30, 31, 32]
    assert center.keep.tolist() == expected and not center.pruned
    assert center.kv_cache[1, 0, :, 2].tolist() == expected and center.rest[0, :, 0].tolist() == expected
    scores = np.array([0, 9, 0, 0, 0, 8, 0, 0, 7], np.float32)
    best = center.prune(scores, 1 / 3)
    assert best.keep.tolist() == [17, 25, 32] == best.kv_cache[0, 0, :, 0].tolist() and best.pruned
