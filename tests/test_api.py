"""The library as programs use it, and as they misuse it."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fartrack
from fartrack import FartrackError, Tracker, TrackerSettings
from fartrack.api import DEFAULT_MODEL
from fartrack.geometry import check_box, iou, parse_box
from fartrack.model.config import ModelConfig
from fartrack.model.vocabulary import BINS, NO_TRAJECTORY
from fartrack.packages import open_package
from fartrack.video import VideoSink


@pytest.fixture(scope="module")
def engine():
    return fartrack.load(threads=1).engine


@pytest.fixture
def tracker(engine):
    return Tracker(engine)


def one_sentence(error):
    text = str(error)
    assert text.endswith(".") and "\n" not in text and len(text) < 250
    return text


def lies_in(box, width, height):
    x, y, w, h = box
    return x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= width + 1e-6 and y + h <= height + 1e-6


# --- boxes ------------------------------------------------------------------------------------------------

ANYTHING = st.one_of(
    st.text(),
    st.none(),
    st.integers(),
    st.floats(),
    st.lists(st.one_of(st.floats(), st.integers(), st.text(), st.none(), st.lists(st.floats())), max_size=6),
    st.dictionaries(st.text(), st.floats(), max_size=4),
    st.tuples(*[st.integers(-(10**400), 10**400)] * 4),
    st.tuples(*[st.floats(allow_nan=True, allow_infinity=True)] * 4),
)


@given(ANYTHING, st.integers(1, 10_000), st.integers(1, 10_000))
def test_a_box_is_four_floats_that_meet_the_frame_or_one_sentence(box, width, height):
    try:
        x, y, w, h = checked = check_box(box, width, height)
    except FartrackError as error:
        one_sentence(error)
    else:
        assert all(type(v) is float and np.isfinite(v) for v in checked)
        assert w > 0 and h > 0 and x < width and y < height and x + w > 0 and y + h > 0


@given(st.one_of(st.text(), st.text("0123456789.,-+e infa\n"), st.lists(st.floats()).map(lambda v: str(v)[1:-1])))
def test_the_text_of_a_box_is_four_numbers_or_one_sentence(text):
    try:
        assert len(parse_box(text)) == 4
    except FartrackError as error:
        one_sentence(error)


@given(st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 4))
def test_the_text_of_a_box_is_read_exactly(box):
    assert parse_box(",".join(map(repr, box))) == box


@pytest.mark.parametrize("box", [np.zeros((4, 4)), np.zeros(10_000), "x" * 10_000, {1: 2}, [[1], [2, 3]]])
def test_a_bad_box_is_told_short_and_in_one_line(box):
    with pytest.raises(FartrackError, match="not four numbers") as caught:
        check_box(box, 100, 100)
    one_sentence(caught.value)


# --- whatever the network says, the state stays sane ------------------------------------------------------


class Oracle:
    """An engine that answers with given tokens x0, y0, x1, y1, however absurd, for ever or at random."""

    def __init__(self, tokens=None, seed=0):
        self.config, self.tokens, self.rng = ModelConfig(), tokens, np.random.default_rng(seed)

    def begin_templates(self, crops, identities, boxes):
        return np.zeros((len(crops), 1, 1, 49, 2), np.float32), None

    def search(self, crops, trajectory, kv_cache):
        assert len(crops) in (1, 2)  # two windows where the target is sought
        assert crops.shape[1:] == (224, 224, 3) and crops.dtype == np.uint8
        assert trajectory.shape == (len(crops), 12) and trajectory.min() >= 0
        assert ((trajectory < BINS) | (trajectory == NO_TRAJECTORY)).all()
        logits = np.zeros((len(crops), 4, BINS), np.float32)
        tokens = self.rng.integers(0, BINS, 4) if self.tokens is None else self.tokens
        logits[:, range(4), tokens] = 20
        return logits


@pytest.mark.parametrize(
    "tokens",
    [(0, 0, BINS - 1, BINS - 1), (BINS - 1, BINS - 1, 0, 0), (300, 300, 300, 300), (0, 0, 0, 0), (0, 299, 599, 300)],
)
@pytest.mark.parametrize("lost_score", [0, 0.2])
def test_a_network_stuck_at_an_extreme(tokens, lost_score):
    frame = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
    tracker = Tracker(Oracle(tokens), TrackerSettings(lost_score=lost_score))
    tracker.init(frame, (60, 30, 20, 20))
    for _ in range(500):
        assert lies_in(tracker.update(frame).box, 160, 90)
    x, y, w, h = tracker.state.trajectory[-1]
    assert 1 <= w <= 160 and 1 <= h <= 90
    assert 0 <= x + w / 2 <= 160 and 0 <= y + h / 2 <= 90


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=2, max_size=12),
    corner=st.tuples(st.floats(-0.4, 0.9), st.floats(-0.4, 0.9)),
    share=st.tuples(st.floats(0.5, 9), st.floats(0.5, 9)),
    lost_score=st.sampled_from([0, 0.2]),
)
def test_a_raving_network_and_frames_of_any_size(seed, sizes, corner, share, lost_score):
    settings, (width, height) = TrackerSettings(interval=1, lost_score=lost_score), sizes[0]
    tracker = Tracker(Oracle(seed=seed), settings)
    box = (corner[0] * width, corner[1] * height, share[0] * width, share[1] * height)
    tracker.init(np.zeros((height, width, 3), np.uint8), box)
    for width, height in sizes[1:]:
        track = tracker.update(np.zeros((height, width, 3), np.uint8))
        assert lies_in(track.box, width, height) and 0 <= track.score <= 1
        assert np.isfinite(tracker.state.trajectory).all()


# --- frames -----------------------------------------------------------------------------------------------


def test_follows_the_cup(tracker, demo_clip):
    frames, truth = demo_clip
    tracks = [tracker.init(frames[0], truth[0])] + [tracker.update(frame) for frame in frames[1:]]
    np.testing.assert_allclose(tracks[0].box, truth[0], atol=1e-9)
    assert tracks[0].score == 1
    assert iou([track.box for track in tracks], truth).mean() > 0.7
    assert all(lies_in(track.box, 640, 360) and 0 < track.score < 1 for track in tracks[1:])


def test_rgb_and_bgr_are_the_same_up_to_the_corner_of_the_picture(engine, demo_clip):
    # Cut so that the cup lies at the corner and the windows reach far beyond: the padding must agree as well.
    frames = [frame[90:, 100:] for frame in demo_clip[0][:15]]
    bgr, rgb = Tracker(engine), Tracker(engine, color="rgb")
    bgr.init(frames[0], (0, 0, 95, 85))
    rgb.init(frames[0][..., ::-1], (0, 0, 95, 85))
    for frame in frames[1:]:
        assert rgb.update(np.ascontiguousarray(frame[..., ::-1])) == bgr.update(frame)


def test_views_read_only_and_other_layouts_are_the_same_frame(tracker, demo_clip):
    frame = demo_clip[0][1]
    state = tracker.start(demo_clip[0][0], demo_clip[1][0])
    _, expected = tracker.step(state, frame)
    frozen = frame.copy()
    frozen.setflags(write=False)
    for same in (np.asfortranarray(frame), frame[::-1].copy()[::-1], frame[..., ::-1].copy()[..., ::-1], frozen):
        assert tracker.step(state, same)[1] == expected


def test_frames_are_left_as_they_are(tracker, demo_clip):
    copies = [frame.copy() for frame in demo_clip[0][:2]]
    tracker.init(copies[0], demo_clip[1][0])
    tracker.update(copies[1])
    assert all(np.array_equal(copy, frame) for copy, frame in zip(copies, demo_clip[0], strict=False))


def test_the_size_of_the_frames_changes_amid_the_video(tracker, demo_clip):
    frames, truth = demo_clip
    tracker.init(frames[0], truth[0])
    for i in range(1, 20):
        zoom = 2 if i >= 10 else 1
        track = tracker.update(frames[i].repeat(zoom, 0).repeat(zoom, 1))
        assert iou(track.box, np.multiply(truth[i], zoom)) > 0.5


def test_a_huge_frame_and_a_box_of_nearly_all_of_it(tracker):
    frame = np.full((6000, 8000, 3), 90, np.uint8)
    frame[1000:5000, 1000:7000] = 200
    assert tracker.init(frame, (10, 10, 7980, 5980)).box == (10, 10, 7980, 5980)
    assert lies_in(tracker.update(frame).box, 8000, 6000)


@pytest.mark.parametrize("box", [(320, 180, 1, 1), (0, 0, 1, 1), (639, 359, 1, 1), (320.25, 180.5, 0.01, 0.01)])
def test_targets_of_a_pixel(tracker, demo_clip, box):
    np.testing.assert_allclose(tracker.init(demo_clip[0][0], box).box, box)
    for frame in demo_clip[0][1:4]:
        assert lies_in(tracker.update(frame).box, 640, 360)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (3, 2)])
def test_tiny_frames(tracker, size):
    frame = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    tracker.init(frame, (0, 0, size[1], size[0]))
    assert lies_in(tracker.update(frame).box, size[1], size[0])


def test_a_box_partly_outside_is_reported_as_what_is_inside(tracker, demo_clip):
    assert tracker.init(demo_clip[0][0], (-30, -20, 100, 90)).box == (0, 0, 70, 70)
    assert lies_in(tracker.update(demo_clip[0][1]).box, 640, 360)


BAD_FRAMES = {
    "float": np.zeros((20, 20, 3)),
    "gray": np.zeros((20, 20), np.uint8),
    "alpha": np.zeros((20, 20, 4), np.uint8),
    "empty": np.zeros((0, 20, 3), np.uint8),
    "16 bit": np.zeros((20, 20, 3), np.uint16),
    "channels first": np.zeros((3, 20, 20), np.uint8),
    "batch": np.zeros((1, 20, 20, 3), np.uint8),
    "list": [[[0, 0, 0]]],
    "None": None,
    "path": "frame.png",
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_a_bad_frame_is_named_and_changes_nothing(tracker, demo_clip, name):
    with pytest.raises(FartrackError, match="frame") as caught:
        tracker.init(BAD_FRAMES[name], (1, 1, 5, 5))
    one_sentence(caught.value)
    assert tracker.state is None
    tracker.init(demo_clip[0][0], demo_clip[1][0])
    state = tracker.state
    with pytest.raises(FartrackError, match="frame"):
        tracker.update(BAD_FRAMES[name])
    assert tracker.state is state


def test_a_bad_box_leaves_the_target_as_it_was(tracker, demo_clip):
    tracker.init(demo_clip[0][0], demo_clip[1][0])
    state = tracker.state
    with pytest.raises(FartrackError, match="outside"):
        tracker.init(demo_clip[0][0], (700, 0, 5, 5))
    assert tracker.state is state


def test_update_before_init(tracker, demo_clip):
    with pytest.raises(FartrackError, match=r"call init\(frame, box\) first"):
        tracker.update(demo_clip[0][0])


# --- load and track_video ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "huge"}, " or ".join(fartrack.shipped())),
        ({"model": None}, "'None'"),
        ({"engine": "tensorrt"}, "'tensorrt'; those are auto, onnxruntime, openvino, torch"),
        ({"precision": "int4"}, "'int4'; those are fp32, bf16, int8"),
        ({"engine": "openvino", "precision": "int8"}, "openvino has no precision int8"),
        ({"engine": None}, "None"),
        ({"color": "hsv"}, "'hsv'"),
        ({"threads": 0}, "threads is 0"),
        ({"threads": -2}, "threads is -2"),
    ],
)
def test_load_names_what_is_wrong(options, words):
    with pytest.raises(FartrackError) as caught:
        fartrack.load(**options)
    assert words in one_sentence(caught.value)


@pytest.fixture
def own_model(tmp_path):
    """A function that makes a model package which says these settings."""

    def make(settings):
        package = open_package(DEFAULT_MODEL)
        folder = shutil.copytree(package.folder, tmp_path / "own")
        record = json.loads((folder / "model.json").read_text())
        record |= {"settings": settings, "network": str(package.network)}
        (folder / "model.json").write_text(json.dumps(record))
        return folder

    return make


def test_the_settings_of_a_model_are_used_unless_others_are_given(own_model):
    folder = own_model({"retention": 0.75, "interval": 5})
    assert fartrack.load(folder, threads=1).settings == TrackerSettings(retention=0.75, interval=5)
    assert fartrack.load(folder, threads=1, interval=7).settings == TrackerSettings(retention=0.75, interval=7)
    given = TrackerSettings(interval=7)
    assert fartrack.load(folder, threads=1, **asdict(given)).settings == given


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"settings": TrackerSettings(templates=3)},
            r"^'settings' is no field of TrackerSettings; those are templates",
        ),
        ({"template": 3}, r"^'template' is no field of TrackerSettings"),
        ({"templates": 30}, r"^templates is 30; it must lie between 1 and 16\.$"),
    ],
)
def test_a_setting_that_is_none_is_not_passed_over(settings, words):
    with pytest.raises(FartrackError, match=words):
        fartrack.load(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"retain": 0.5}, r"own/model\.json: 'retain' is no field of TrackerSettings"),
        ({"retention": 2}, r"own/model\.json: retention is 2"),
        ({"retention": "half"}, r"own/model\.json: retention is 'half'"),
        ({"interval": None}, r"own/model\.json: interval is None"),
        ([0.5], "own is no FARTrack model"),
        ("runtime", "own is no FARTrack model"),
    ],
)
def test_settings_of_a_model_that_do_not_fit_are_named(own_model, settings, words):
    with pytest.raises(FartrackError, match=words):
        fartrack.load(own_model(settings), threads=1)


@pytest.mark.parametrize("name", fartrack.shipped())
def test_every_model_that_ships_tracks(name, demo_clip):
    tracker = fartrack.load(name, threads=1)
    tracker.init(demo_clip[0][0], demo_clip[1][0])
    assert iou(tracker.update(demo_clip[0][1]).box, demo_clip[1][1]) > 0.6


def test_settings_of_a_preset_that_do_not_fit_are_named_where_they_stand(own_model):
    folder = own_model({})
    record = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(record | {"presets": {"slow": {"retain": 0.5}}}))
    with pytest.raises(FartrackError, match=r"own/model\.json: 'retain' is no field of TrackerSettings"):
        fartrack.load(f"{folder}-slow", threads=1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory, demo_clip):
    path = tmp_path_factory.mktemp("api") / "clip.mp4"
    with VideoSink(path, 25) as sink:
        for index, frame in enumerate(demo_clip[0][:8]):
            sink.write(fartrack.video.Frame(index, index / 25, frame), fartrack.Track((0, 0, 9, 9), float("nan")))
    return path


def test_track_video_is_load_init_and_update(clip, tracker):
    box = (108, 95, 91, 84)
    tracks = list(fartrack.track_video(clip, box, tracker=tracker))
    again = Tracker(tracker.engine)
    with fartrack.video.frames_from_source(clip) as source:
        frames = [frame.image for frame in source]
    assert tracks == [again.init(frames[0], box), *map(again.update, frames[1:])]
    assert len(tracks) == 8 and tracks[0] == fartrack.Track(box, 1.0)
    late = list(fartrack.track_video(str(clip), box, start=5))
    assert len(late) == 3 and late[0].score == 1


def test_track_video_refuses_before_the_first_track(clip, tmp_path, tracker):
    for source, box, start, words in (
        (tmp_path / "missing.mp4", (1, 1, 5, 5), 0, "missing.mp4"),
        (clip, (1, 1, 5), 0, "four numbers"),
        (clip, (700, 1, 5, 5), 0, "outside"),
        (clip, (1, 1, 5, 5), 8, "0 to 7"),
        (clip, (1, 1, 5, 5), -1, "from 0"),
    ):
        with pytest.raises(FartrackError, match=words):
            next(fartrack.track_video(source, box, start=start, tracker=tracker))


def test_track_video_gives_what_a_damaged_folder_holds(tmp_path, demo_clip, tracker):
    import cv2

    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), demo_clip[0][i])
    (tmp_path / "3.png").write_bytes(b"broken")
    tracks = []
    with pytest.raises(FartrackError, match=r"3\.png"):
        tracks.extend(fartrack.track_video(tmp_path, (108, 95, 91, 84), tracker=tracker))
    assert len(tracks) == 3


# --- what tracking imports --------------------------------------------------------------------------------

LEAN = """
import sys, numpy, fartrack
tracker = fartrack.load(threads=1)
frame = numpy.full((90, 120, 3), 90, numpy.uint8)
tracker.init(frame, (30, 30, 20, 20))
tracker.update(frame)
print(sorted({"torch", "openvino", "onnx", "safetensors", "typer", "click", "rich", "tkinter"} & set(sys.modules)))
"""


def test_tracking_imports_none_of_the_heavy_libraries():
    done = subprocess.run([sys.executable, "-c", LEAN], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_video_is_refused_to_a_tracker_of_rgb_frames(tmp_path):
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(FartrackError, match="BGR order"):
        next(fartrack.track_video(tmp_path, (8, 8, 16, 16), tracker=fartrack.load(color="rgb")))
