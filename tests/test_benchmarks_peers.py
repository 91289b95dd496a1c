"""The other trackers' arithmetic, on networks that say where the target is."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.peers import nanotrack, vittrack
from benchmarks.peers.common import cut
from benchmarks.peers.opencv import KCF, MIL
from fartrack.errors import FartrackError
from fartrack.evaluate.trackers import TrackerSpec, as_track
from fartrack.geometry import iou

FILES = Path(__file__).parents[2] / "shared" / "data" / "peers"
FRAME = np.full((120, 160, 3), (10, 20, 30), np.uint8)


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
    tracker = KCF()
    for _ in range(2):  # a second sequence starts anew
        tracker.init(FRAME, np.array([10.4, 20.6, 30.0, 0.3]))
        found = [tracker.update(FRAME) for _ in range(3)]
        assert found == [(11, 21, 30, 1), (11, 21, 30, 1), (13, 21, 30, 1)]


def test_opencvs_mil_follows():
    if not hasattr(cv2, "TrackerMIL_create"):
        pytest.skip("the installed OpenCV lacks MIL")
    rng = np.random.default_rng(0)
    scene, target = (rng.integers(0, 255, size, np.uint8) for size in ((120, 160, 3), (30, 30, 3)))
    tracker = MIL()
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


class FullRate(nanotrack.NanoTrack):
    WINDOW, PENALTY, RATE = 0.1, 0.1, 1.0

    @classmethod
    def files(cls):
        return ["backbone", "head"]


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
    monkeypatch.setattr(nanotrack, "open_session", lambda path, threads, any_size=False: sessions[path])
    tracker = FullRate()
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
    nano.RATE = 0.5
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

    monkeypatch.setattr(vittrack, "open_session", lambda path, threads: Session(network, 16))
    monkeypatch.setattr(vittrack.VitTrack, "files", lambda self: ["network"])
    tracker = vittrack.VitTrack()
    tracker.maps = maps
    return tracker


def test_vittrack_sees_normalized_rgb(vit):
    vit.init(FRAME, np.array([60.0, 40, 20, 20]))
    vit.update(FRAME)
    template, search = vit.maps["seen"]
    assert template.shape == (1, 3, 128, 128)
    assert search.shape == (1, 3, 256, 256)
    expected = (np.array([30, 20, 10]) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(search[0, :, 128, 128], expected, rtol=1e-5)


def test_vittrack_reads_center_and_size_in_whole_pixels(vit):
    vit.init(FRAME, np.array([60.0, 40, 20, 20]))
    box, score = vit.update(FRAME)  # the window is 80 pixels wide around 70, 50
    assert box.tolist() == [60, 40, 20, 20]
    assert score == pytest.approx(0.9)
    vit.maps.update(cell=(7, 9), offset=(0.5, 0.3), size=(0.3, 0.205))
    box, _ = vit.update(FRAME)
    center = np.array([30 + 80 * 9.5 / 16, 10 + 80 * 7.3 / 16])
    np.testing.assert_array_equal(box, np.floor([*(center - [12, 8.2]), 24, 16.4]))
    vit.maps.update(cell=(2, 2), score=0.19)
    still, score = vit.update(FRAME)
    assert still.tolist() == box.tolist()
    assert score == pytest.approx(0.19)


# --- the published networks -------------------------------------------------------------------------------


@pytest.mark.parametrize("tracker", [nanotrack.V2, nanotrack.V3, vittrack.VitTrack])
def test_the_published_networks_follow_the_demo(tracker, demo_clip, monkeypatch):
    if not FILES.is_dir():
        pytest.skip("no networks of other trackers (shared/data/peers) beside the repository")
    if tracker is not vittrack.VitTrack:
        pytest.importorskip("onnx")
    monkeypatch.setenv("FARTRACK_PEERS", str(FILES))
    frames, boxes = demo_clip
    opened = tracker()
    opened.init(frames[0], np.array(boxes[0]))
    found = [as_track(opened.update(frame)) for frame in frames[1:25]]
    assert np.mean([iou(track.box, box) for track, box in zip(found, boxes[1:25], strict=True)]) > 0.6
    assert all(0 <= track.score <= 1 for track in found)


# --- what is missing --------------------------------------------------------------------------------------


def test_missing_files_are_named_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("FARTRACK_PEERS", str(tmp_path))
    with pytest.raises(FartrackError, match=r"nanotrackv3_backbone\.onnx is missing; set FARTRACK_PEERS to the folder"):
        TrackerSpec("benchmarks.peers.nanotrack:V3").identity()


def test_an_unreadable_network_is_named(tmp_path, monkeypatch):
    path = tmp_path / "object_tracking_vittrack_2023sep.onnx"
    path.write_bytes(b"no network")
    monkeypatch.setenv("FARTRACK_PEERS", str(tmp_path))
    with pytest.raises(FartrackError, match=f"{path} is not a readable ONNX model"):
        TrackerSpec("benchmarks.peers.vittrack:VitTrack").open()


def test_an_opencv_without_the_tracker_names_the_package(monkeypatch):
    for place in filter(None, (cv2, getattr(cv2, "legacy", None))):
        monkeypatch.delattr(place, "TrackerCSRT_create", raising=False)
    with pytest.raises(FartrackError, match="lacks the tracker CSRT; install the package opencv-contrib"):
        TrackerSpec("benchmarks.peers.opencv:CSRT").open()
