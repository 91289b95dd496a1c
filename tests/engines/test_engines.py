"""Every engine finds the same boxes, in single steps and in the closed loop over real frames.

Tolerances. The engines' outputs differ by about 1e-7 of the search window, which is 1e-5 to 1e-4 px of the frame:
one thousandth of the grid (``tracker.GRID``, 1/8 px) that boxes are rounded to. So boxes are expected to be equal,
except where a coordinate lies within such a difference of the middle between two grid points, about once in some
thousand coordinates; there it may fall to either side. ``agree`` therefore allows single frames to differ. In a
single step that is one grid step; in the loop the next frames may carry it on until both round alike again, so four
are allowed there. Without the grid, no two frames in a row would be equal, and the boxes would be pixels apart.
"""

from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

import fartrack
from fartrack import Tracker, TrackerSettings
from fartrack.datasets.layouts import read_boxes
from fartrack.geometry import iou
from fartrack.model.vocabulary import decode
from fartrack.tracking.tracker import GRID
from fartrack.video import frames_from_source

SEQUENCES = Path(__file__).parents[2] / "shared" / "data" / "video" / "val"
SEQUENCE = "otb-Biker"
FRAMES = 40
RETENTION = 0.75
SCORE_TOLERANCE = 1e-4  # measured: up to 1.5e-6; a mass depends on few logits, so there is nothing to amplify it

REFERENCE, *OTHERS = ("onnxruntime", "openvino", "torch")
LIBRARIES = {"torch": ("torch", "safetensors"), "openvino": ("openvino",)}


@pytest.fixture(scope="module")
def engine():
    """A function that opens an engine by name, once, or skips the test where its library is not installed."""
    opened = {}

    def get(name):
        for library in LIBRARIES.get(name, ()):
            pytest.importorskip(library)
        if name not in opened:
            opened[name] = fartrack.load(engine=name, precision="fp32", threads=1).engine
        return opened[name]

    return get


@pytest.fixture(scope="module", params=[("demo", 1.0), ("demo", RETENTION), ("sequence", 1.0)], ids=str)
def case(request, demo_clip):
    """A clip (its frames, its true boxes and its name) and a retention to track it with."""
    name, retention = request.param
    if name == "demo":
        return (*(part[:FRAMES] for part in demo_clip), name), retention
    if not SEQUENCES.is_dir():
        pytest.skip("no validation sequences (shared/data/video/val) beside the repository")
    with frames_from_source(SEQUENCES / f"{SEQUENCE}.mp4") as source:
        frames = [frame.image for frame in islice(source, FRAMES)]
    return (frames, read_boxes(SEQUENCES / f"{SEQUENCE}.txt")[:FRAMES], name), retention


@pytest.fixture(scope="module")
def loop(engine):
    """A function that tracks a clip in the closed loop, once for each engine and retention: states and tracks."""
    done = {}

    def run(name, clip, retention):
        frames, truth, key = clip
        if (name, key, retention) not in done:
            tracker = Tracker(engine(name), TrackerSettings(retention=retention, interval=10))
            states, tracks = [tracker.start(frames[0], truth[0])], []
            for frame in frames[1:]:
                state, track = tracker.step(states[-1], frame)
                states.append(state)
                tracks.append(track)
            done[name, key, retention] = states, tracks
        return done[name, key, retention]

    return run


def agree(first, second, steps):
    """Check that two engines' tracks are equal, up to ties in the rounding; see the head of this file."""
    boxes = np.array([[track.box for track in tracks] for tracks in (first, second)])
    difference = np.abs(boxes[0] - boxes[1]).max(-1)
    assert difference.max() <= steps * GRID
    assert (difference == 0).mean() >= 0.9
    scores = np.array([[track.score for track in tracks] for tracks in (first, second)])
    same = difference == 0
    np.testing.assert_allclose(scores[0][same], scores[1][same], atol=SCORE_TOLERANCE)


@pytest.mark.parametrize("name", OTHERS)
def test_engines_agree_in_the_closed_loop(loop, case, name):
    agree(loop(REFERENCE, *case)[1], loop(name, *case)[1], steps=4)


@pytest.mark.parametrize("name", OTHERS)
def test_engines_agree_step_by_step_from_the_same_state(engine, loop, case, name):
    (frames, _, _), retention = case
    states, expected = loop(REFERENCE, *case)
    tracker = Tracker(engine(name), TrackerSettings(retention=retention, interval=10))
    steps = range(0, FRAMES - 1, 3)
    tracks = [tracker.step(states[i], frames[i + 1])[1] for i in steps]
    agree([expected[i] for i in steps], tracks, steps=1)


def test_the_loop_tracks(loop, case):
    # Else agreement would say nothing: engines that see nothing agree as well.
    _, tracks = loop(REFERENCE, *case)
    assert iou([track.box for track in tracks], case[0][1][1:]).mean() > 0.5


@pytest.mark.parametrize("name", [REFERENCE, *OTHERS])
def test_pruned_tokens_are_removed(loop, demo_clip, name):
    states, _ = loop(name, (*demo_clip, "demo"), RETENTION)
    for before, after in pairwise(states):
        newest = after.memory.history[-1]
        for template in after.memory.history:
            fresh = template is newest and template.frame == after.frame
            kept = 49 if fresh else round(RETENTION * 49)
            assert template.kv_cache.shape[-2] == kept
            assert template.keep is None if fresh else template.keep.shape == (kept,)
        assert before.memory.history[0].crop is after.memory.history[0].crop
    assert len(states[-1].memory.history) > 3


@pytest.mark.parametrize("name", OTHERS)
def test_engines_keep_the_same_tokens(loop, demo_clip, name):
    clip = (*demo_clip, "demo")
    ours, theirs = (loop(n, clip, RETENTION)[0][-1].memory.history for n in (REFERENCE, name))
    assert [t.frame for t in ours] == [t.frame for t in theirs]
    # Two scores may be as close as the engines are, so that one token of a template may be another.
    shared = [len(np.intersect1d(a.keep, b.keep)) for a, b in zip(ours, theirs, strict=True) if a.keep is not None]
    assert min(shared) >= round(RETENTION * 49) - 1


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("shown", [(32, 32), (96, 96), (160, 96), (32, 224), (224, 224)])
def test_engines_agree_on_the_center_of_a_window(engine, loop, demo_clip, name, shown):
    frames, truth = demo_clip
    tracker = Tracker(engine(REFERENCE))
    state = tracker.start(frames[0], truth[0])
    (look,) = tracker.search_regions(state, frames[1])
    crop = replace(look, shown=shown).pixels[None]
    assert crop.shape == (1, *shown[::-1], 3)
    asked = (crop, look.tokens[None], tracker.prepared(state.memory).kv_cache[None])
    for call in ("search", "search_scored"):
        expected, found = (getattr(engine(one), call)(*asked) for one in (REFERENCE, name))
        np.testing.assert_allclose(found[0], expected[0], atol=1e-3)


def test_looking_closely_finds_what_looking_at_all_does(engine, demo_clip):
    frames, truth = demo_clip
    tracker = Tracker(engine(REFERENCE), TrackerSettings(min_window=0.42, confident_score=0.4))
    tracker.init(frames[0], truth[0])
    ious, sides = [], []
    for frame, box in zip(frames[1:], truth[1:], strict=True):
        sides.append(len(tracker.search_regions(tracker.state, frame)[0].crop))
        ious.append(iou(tracker.update(frame).box, box))
    assert np.mean(ious) > 0.7 and np.mean(sides) < 170


def test_int8_finds_nearly_the_same(engine, loop, demo_clip):
    # Along the same states: errors of a frame are not fed back. 0.02 of the window's side were the most in 8 bits.
    frames, _ = demo_clip
    states, _ = loop(REFERENCE, (*demo_clip, "demo"), 1.0)
    int8 = Tracker(fartrack.load(precision="int8", threads=1).engine)
    differences = []
    for state, frame in zip(states[:-1], frames[1:], strict=False):
        (look,) = int8.search_regions(state, frame)
        shown = (look.crop[None], look.tokens[None], int8.prepared(state.memory).kv_cache[None])
        corners = [decode(one.search(*shown)[0])[0] for one in (engine(REFERENCE), int8.engine)]
        differences.append(np.abs(corners[0] - corners[1]).max())
    logits, scores = int8.engine.search_scored(*shown)  # one graph more, the same answers
    np.testing.assert_array_equal(logits, int8.engine.search(*shown))
    expected = engine(REFERENCE).search_scored(*shown)[1]
    assert np.abs(scores - expected).max() < 0.2 * expected.max() and np.corrcoef(scores, expected)[0, 1] > 0.95
    assert 0 < np.median(differences) < 0.005 and max(differences) < 0.03


def test_a_graph_serves_any_number_of_templates_and_crops(engine, demo_clip):
    # One batch of two crops must say what two batches of one do.
    reference, (frames, truth) = engine(REFERENCE), demo_clip
    tracker = Tracker(reference)
    state = tracker.start(frames[0], truth[0])
    one = tracker.prepared(state.memory).kv_cache[None]
    crops = np.stack([frame[:224, :224] for frame in frames[:2]])
    tokens = np.tile(np.arange(12, dtype=np.int64) * 40, (2, 1))
    both = reference.search(crops, tokens, np.concatenate([one, one], axis=0))
    single = [reference.search(crops[i : i + 1], tokens[:1], one)[0] for i in range(2)]
    np.testing.assert_allclose(both, single, atol=1e-3)  # logits reach 20, sums are taken in another order
    doubled = reference.search(crops[:1], tokens[:1], np.concatenate([one, one], axis=-2))
    assert doubled.shape == single[0][None].shape and np.isfinite(doubled).all()
