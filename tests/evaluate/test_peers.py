"""Each kind of tracker opens or says why not; the peers' arithmetic, on networks that say where the target is."""

import json
import math
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest

from fartrack.errors import FartrackError
from fartrack.evaluate import peers
from fartrack.evaluate.peers import (
    NanoTrack,
    OpenCVTracker,
    TrackerSpec,
    VitTrack,
    as_track,
    cut,
    open_tracker,
    parse_trackers,
)
from fartrack.geometry import iou
from fartrack.packages import SHIPPED, open_package, shipped
from fartrack.tracking.tracker import Track

FILES = Path(__file__).parents[3] / "shared" / "data" / "peers"
FRAME = np.full((120, 160, 3), (10, 20, 30), np.uint8)


# --- names ------------------------------------------------------------------------------------------------


def test_trackers_are_named_by_their_specs():
    found = parse_trackers("pico, old=raw:results/ATOM,raw:x/MDNet,my.module:Best,runs/export")
    assert found == {
        "pico": "pico",
        "old": "raw:results/ATOM",
        "MDNet": "raw:x/MDNet",
        "Best": "my.module:Best",
        "export": "runs/export",
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is none"),
        ("pico,", "is none"),
        ("a=", "is none"),
        ("a/b=pico", "is none"),
        ("..", "is none"),
        ("pico,a,pico", "Two trackers are called pico"),
        ("x/run,y/run", "NAME=y/run"),
    ],
)
def test_trackers_that_cannot_be_named(text, told):
    with pytest.raises(FartrackError, match=told):
        parse_trackers(text)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (TrackerSpec("nothing"), f"no tracker 'nothing'; use {', '.join(shipped())}, nanotrack-v2"),
        (TrackerSpec("vittrack"), "vittrack needs its ONNX files object_tracking_vittrack_2023sep.onnx; name"),
        (TrackerSpec("nanotrack-v3", peers=Path("nowhere")), "needs nowhere/nanotrackv3_backbone.onnx"),
        (TrackerSpec("no_such_module:Class"), "No module named 'no_such_module'"),
        (TrackerSpec("math:Nothing"), "no attribute 'Nothing'"),
        (TrackerSpec("decimal:Decimal"), "lacks init"),
        (TrackerSpec("pico", settings={"interval": 0}), "interval"),
        (TrackerSpec("pico", engine="abacus"), "abacus"),
    ],
)
def test_what_cannot_be_opened_is_told(spec, told):
    with pytest.raises(FartrackError, match=told):
        spec.open()


def test_an_unreadable_network_is_named(tmp_path):
    path = tmp_path / "object_tracking_vittrack_2023sep.onnx"
    path.write_bytes(b"no network")
    with pytest.raises(FartrackError, match=f"{path} is no readable ONNX model"):
        open_tracker("vittrack", peers=tmp_path)


def test_an_opencv_without_the_tracker_names_the_package(monkeypatch):
    for place in filter(None, (cv2, getattr(cv2, "legacy", None))):
        monkeypatch.delattr(place, "TrackerCSRT_create", raising=False)
    with pytest.raises(FartrackError, match="lacks the tracker csrt; install the package opencv-contrib"):
        open_tracker("csrt")


def test_identities_tell_models_and_settings_apart(tmp_path):
    def identity(spec="tiny", **options):
        return TrackerSpec(spec, **options).identity()

    copy = tmp_path / "copy"
    copy.mkdir()
    for path in open_package("tiny").folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert identity() == identity()
    assert identity(str(copy)) == identity()
    assert identity(settings={"interval": 7}) != identity()
    assert identity(engine="openvino") != identity()
    with (copy / "weights.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    assert identity(str(copy)) != identity()


def test_identities_tell_variants_of_one_model_apart(tmp_path):
    found = []
    for number, own in enumerate([{}, {"depth": 5}, {"depth": 4}, {"score": {"slope": 0.5, "bias": 0.25}}]):
        folder = tmp_path / str(number)
        folder.mkdir()
        record = json.loads((SHIPPED / "pico" / "model.json").read_text()) | {"network": str(SHIPPED / "tiny")}
        record["config"] |= {name: value for name, value in own.items() if name == "depth"}
        record |= {name: value for name, value in own.items() if name == "score"}
        (folder / "model.json").write_text(json.dumps(record))
        found.append(TrackerSpec(str(folder), engine="torch").identity())
    assert found[0] == TrackerSpec("pico", engine="torch").identity()
    assert all(one != other for one, other in combinations(found, 2))


def test_settings_are_given_to_our_tracker_alone(monkeypatch):
    monkeypatch.setattr(cv2, "TrackerCSRT_create", FakeOpenCV, raising=False)
    assert open_tracker("pico", settings={"interval": 7, "retention": 0.5}).settings.interval == 7
    assert isinstance(open_tracker("csrt", settings={"interval": 7}), OpenCVTracker)


# --- boxes ------------------------------------------------------------------------------------------------


def test_what_update_may_return():
    box = (1.0, 2.0, 3.0, 4.0)
    assert as_track(Track(box, 0.5)) == Track(box, 0.5)
    assert as_track((np.array(box, np.float32), np.float32(0.5))) == Track(box, 0.5)
    assert as_track(list(box)).box == box
    assert math.isnan(as_track(list(box)).score)


@pytest.mark.parametrize("found", [None, 3, (1, 2, 3), "abcd", (None, 2), (1, 2), ((1, 2, 3), 0.5), (1, 2, 3, np.inf)])
def test_what_update_may_not_return(found):
    with pytest.raises(FartrackError, match="update returned"):
        as_track(found)


def test_a_window_reaches_beyond_the_frame():
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 255, (30, 40, 3), np.uint8)
    inside, middle = cut(frame, np.array([20.0, 15.0]), 10, 10)
    np.testing.assert_array_equal(inside, frame[10:20, 15:25])
    assert middle.tolist() == [20, 15]
    corner, middle = cut(frame, np.array([1.2, 2.0]), 10, 10, (7, 8, 9))
    assert middle.tolist() == [1, 2]
    np.testing.assert_array_equal(corner[3:, 4:], frame[:7, :6])
    assert (corner[:3] == (7, 8, 9)).all()
    assert (corner[:, :4] == (7, 8, 9)).all()
    opposite, _ = cut(frame, np.array([40.0, 30.0]), 10, 10)
    np.testing.assert_array_equal(opposite[:5, :5], frame[25:, 35:])
    assert (opposite[5:] == 0).all()
    large, _ = cut(frame, np.array([20.0, 15.0]), 60, 60)
    np.testing.assert_array_equal(large[15:45, 10:50], frame)


# --- OpenCV -----------------------------------------------------------------------------------------------


class FakeOpenCV:
    """Fails on every second frame."""

    def init(self, frame, box):
        assert all(isinstance(value, int) for value in box)
        self.box, self.count = box, 0

    def update(self, frame):
        self.count += 1
        x, y, w, h = self.box
        return self.count % 2 == 1, (x + self.count, y, w, h)


def test_where_opencv_fails_the_box_stays(monkeypatch):
    monkeypatch.setattr(cv2, "TrackerKCF_create", FakeOpenCV, raising=False)
    tracker = open_tracker("kcf")
    for _ in range(2):  # a second sequence starts anew
        tracker.init(FRAME, np.array([10.4, 20.6, 30.0, 0.3]))
        found = [tracker.update(FRAME) for _ in range(3)]
        assert found == [(11, 21, 30, 1), (11, 21, 30, 1), (13, 21, 30, 1)]


def test_opencvs_mil_follows():
    if not hasattr(cv2, "TrackerMIL_create"):
        pytest.skip("the installed OpenCV lacks MIL")
    rng = np.random.default_rng(0)
    scene, target = (rng.integers(0, 255, size, np.uint8) for size in ((120, 160, 3), (30, 30, 3)))
    tracker = open_tracker("mil")
    for step in range(3):
        frame = scene.copy()
        frame[40:70, 50 + 2 * step : 80 + 2 * step] = target
        box = (50 + 2 * step, 40, 30, 30)
        found = tracker.update(frame) if step else tracker.init(frame, np.array(box, float)) or box
    assert iou(found, box) > 0.5


# --- networks that say where the target is ----------------------------------------------------------------


class Session:
    """Stands for a network: calls a function with what goes in."""

    def __init__(self, function, cells):
        self.run = lambda names, feed: function(**feed)
        self.cells = cells

    def get_outputs(self):
        return [type("Output", (), {"shape": [1, 1, self.cells, self.cells]})]


CELLS = 15


@pytest.fixture
def nano(monkeypatch):
    """A NanoTrack of full rate whose networks answer as its attributes say; ``seen`` holds the crops."""
    maps = {"best": (7, 7), "sides": (32, 32, 32, 32), "seen": []}

    def backbone(input):
        maps["seen"].append(input)
        return [input]

    def head(input1, input2):
        classes = np.zeros((1, 2, CELLS, CELLS), np.float32)
        classes[0, 1] = -20
        classes[0, 1, maps["best"][0], maps["best"][1]] = 20
        sides = np.tile(np.reshape(maps["sides"], (1, 4, 1, 1)), (1, 1, CELLS, CELLS)).astype(np.float32)
        return [classes, sides]

    sessions = {"backbone": Session(backbone, 16), "head": Session(head, CELLS)}
    monkeypatch.setattr(peers, "open_session", lambda path, threads, any_size=False: sessions[path.name])
    tracker = NanoTrack([Path("backbone"), Path("head")], 1, window=0.1, penalty=0.1, rate=1.0)
    tracker.maps = maps
    return tracker


def test_nanotrack_cuts_with_a_margin_and_pads_with_the_mean(nano):
    frame = FRAME.copy()
    frame[:, :80] = (50, 60, 70)
    nano.init(frame, np.array([0.0, 40, 20, 20]))  # half of the sides is added: a square of 40 pixels
    nano.update(frame)
    template, search = nano.maps["seen"]
    assert template.shape == (1, 3, 127, 127)
    assert search.shape == (1, 3, 255, 255)
    assert template[0, :, 63, 0].tolist() == [30, 40, 50]  # BGR, 0 to 255, the mean beyond the border
    assert template[0, :, 63, 100].tolist() == [50, 60, 70]
    # the search window: 40 · 255 / 127 pixels, of which 30 lie left of the frame
    assert search[0, :, 128, 93].tolist() == [30, 40, 50]
    assert search[0, :, 128, 99].tolist() == [50, 60, 70]


def test_nanotrack_reads_the_sides_around_the_best_point(nano):
    scale = 127 / 40  # of a target of 20 × 20 with its margin
    nano.maps["sides"] = tuple(np.array([10, 10, 10, 10]) * scale)
    nano.init(FRAME, np.array([60.0, 40, 20, 20]))
    box, score = nano.update(FRAME)
    np.testing.assert_allclose(box, [60, 40, 20, 20], atol=0.3)
    assert score == pytest.approx(1)
    nano.maps["best"] = (8, 9)  # one point further down, two to the right
    box, _ = nano.update(FRAME)
    np.testing.assert_allclose(box, [60 + 32 / scale, 40 + 16 / scale, 20, 20], atol=0.6)


def test_nanotrack_mixes_sizes_by_confidence(nano):
    scale = 127 / 40
    nano.maps["sides"] = tuple(np.array([12, 10, 12, 10]) * scale)
    nano._rate = 0.5
    nano.init(FRAME, np.array([60.0, 40, 20, 20]))
    box, _ = nano.update(FRAME)
    size, shape = math.sqrt((24 + 22) * (20 + 22)) / 40, 24 / 20
    trust = math.exp(-0.1 * (size * shape - 1))
    assert box[2] == pytest.approx(20 + 0.5 * trust * 4, abs=0.05)
    assert box[3] == pytest.approx(20, abs=0.05)


def test_nanotrack_prefers_the_middle(nano):
    head = nano._head.run

    def two(names, feed):
        classes, sides = head(names, feed)
        classes[0, 1, 7, 7] = classes[0, 1, 2, 12] = 20
        return classes, sides

    nano._head.run = two
    nano.init(FRAME, np.array([60.0, 40, 20, 20]))
    box, _ = nano.update(FRAME)
    np.testing.assert_allclose(box[:2] + box[2:] / 2, [70, 50], atol=0.6)


@pytest.fixture
def vit(monkeypatch):
    """A VitTrack whose network answers as its ``maps`` say."""
    maps = {"cell": (8, 8), "offset": (0.0, 0.0), "size": (0.25, 0.25), "score": 0.9, "seen": []}

    def network(template, search):
        maps["seen"] = [template, search]
        scores = np.full((1, 1, 16, 16), 0.01, np.float32)
        scores[0, 0, maps["cell"][0], maps["cell"][1]] = maps["score"]
        grids = [np.tile(np.reshape(maps[name], (1, 2, 1, 1)), (1, 1, 16, 16)) for name in ("size", "offset")]
        return [scores, *(grid.astype(np.float32) for grid in grids)]

    monkeypatch.setattr(peers, "open_session", lambda path, threads: Session(network, 16))
    tracker = VitTrack([Path("network")], 1)
    tracker.maps = maps
    return tracker


def test_vittrack_sees_normalised_rgb(vit):
    vit.init(FRAME, np.array([60.0, 40, 20, 20]))
    vit.update(FRAME)
    template, search = vit.maps["seen"]
    assert template.shape == (1, 3, 128, 128)
    assert search.shape == (1, 3, 256, 256)
    expected = (np.array([30, 20, 10]) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(search[0, :, 128, 128], expected, rtol=1e-5)


def test_vittrack_reads_centre_and_size_in_whole_pixels(vit):
    vit.init(FRAME, np.array([60.0, 40, 20, 20]))
    box, score = vit.update(FRAME)  # the window is 80 pixels wide around 70, 50
    assert box.tolist() == [60, 40, 20, 20]
    assert score == pytest.approx(0.9)
    vit.maps.update(cell=(7, 9), offset=(0.5, 0.3), size=(0.3, 0.205))
    box, _ = vit.update(FRAME)
    centre = np.array([30 + 80 * 9.5 / 16, 10 + 80 * 7.3 / 16])
    np.testing.assert_array_equal(box, np.floor([*(centre - [12, 8.2]), 24, 16.4]))
    vit.maps.update(cell=(2, 2), score=0.19)
    still, score = vit.update(FRAME)
    assert still.tolist() == box.tolist()
    assert score == pytest.approx(0.19)


# --- the published networks -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nanotrack-v2", "nanotrack-v3", "vittrack"])
def test_the_published_networks_follow_the_demo(name, demo_clip):
    if not FILES.is_dir():
        pytest.skip("no networks of other trackers (shared/data/peers) beside the repository")
    if name != "vittrack":
        pytest.importorskip("onnx")
    frames, boxes = demo_clip
    tracker = open_tracker(name, peers=FILES)
    tracker.init(frames[0], np.array(boxes[0]))
    found = [as_track(tracker.update(frame)) for frame in frames[1:25]]
    assert np.mean([iou(track.box, box) for track, box in zip(found, boxes[1:25], strict=True)]) > 0.6
    assert all(0 <= track.score <= 1 for track in found)
