"""The recipes of examples/ run; those whose library is not installed, with a small stand-in for it."""

import json
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import fartrack
from fartrack.geometry import iou
from fartrack.video import Frame, VideoSink, frames_from_source

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are not here")
AWAY = fartrack.Track((-900.0, -900.0, 5.0, 5.0), 0.9)  # only its tag is seen, in a corner


def example(name):
    return SimpleNamespace(**runpy.run_path(str(EXAMPLES / f"{name}.py")))


@pytest.fixture(scope="module")
def clip(tmp_path_factory, demo_clip):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with VideoSink(path, 25) as sink:
        for index, image in enumerate(demo_clip[0][:12]):
            sink.write(Frame(index, index / 25, image), AWAY)
    return path


def text(box):
    return ",".join(map(str, box))


def test_every_example_is_short_and_says_how_to_run_it():
    paths = sorted(EXAMPLES.glob("*.py"))
    assert len(paths) >= 5
    for path in paths:
        source = path.read_text("utf-8")
        compile(source, path.name, "exec")
        assert f"examples/{path.name} " in source.split('"""')[1] and source.count("\n") < 60


def test_opencv_loop(clip, demo_clip, tmp_path):
    tracks = example("opencv_loop").main(str(clip), text(demo_clip[1][0]), str(tmp_path / "out.avi"))
    assert len(tracks) == 12 and iou([track.box for track in tracks], demo_clip[1][:12]).min() > 0.6
    with frames_from_source(tmp_path / "out.avi") as frames:
        assert sum(1 for _ in frames) == 12


def test_a_detector_starts_targets(tmp_path):
    """Two squares that appear and move over a still background are found once each, and followed."""
    rng = np.random.default_rng(0)
    still, square = rng.integers(40, 120, (240, 320, 3), np.uint8), rng.integers(120, 255, (40, 40, 3), np.uint8)
    with VideoSink(tmp_path / "clip.mp4", 25) as sink:
        for index in range(22):
            image = still.copy()
            if index > 3:
                image[40:80, 4 * index : 4 * index + 40] = square
                image[150:190, 270 - 4 * index : 310 - 4 * index] = square[::-1]
            sink.write(Frame(index, index / 25, image), AWAY)
    story = example("detector").main(str(tmp_path / "clip.mp4"), every=5)
    assert story[5] == {} and sorted(story[21]) == [0, 1]
    rows = sorted(track.box[1] + track.box[3] / 2 for track in story[21].values())
    assert np.allclose(rows, (60, 170), atol=12)


def test_supervision(clip, demo_clip, tmp_path):
    pytest.importorskip("supervision", reason="supervision is not installed")
    recipe = example("supervision_annotators")
    lost, seen = fartrack.Track((1, 2, 3, 4), 0.0, "lost"), fartrack.Track((10, 20, 30, 40), 0.5)
    found = recipe.to_detections({0: lost, 4: seen})
    assert found.xyxy.tolist() == [[10, 20, 40, 60]] and found.tracker_id.tolist() == [4]
    assert len(recipe.to_detections({0: lost})) == 0
    recipe.main(str(clip), text(demo_clip[1][0]), str(tmp_path / "out.mp4"))
    with frames_from_source(tmp_path / "out.mp4") as frames:
        assert sum(1 for _ in frames) == 12


def stand_in(monkeypatch, **modules):
    """Put modules with these contents in the place of a library; ``a__b`` is the module ``a.b``."""
    for name, contents in modules.items():
        module = ModuleType(name.replace("__", "."))
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_fiftyone(monkeypatch, tmp_path):
    class Dataset:
        def __init__(self, name, overwrite):
            self.samples = []

        def add_sample(self, sample):
            self.samples.append(sample)

    make = {name: SimpleNamespace for name in ("Detection", "Detections", "Frame")}
    sample = {"Sample": lambda filepath: SimpleNamespace(filepath=filepath, frames={}), "Dataset": Dataset}
    stand_in(monkeypatch, fiftyone=make | sample)
    row = {"frame": 3, "x": 32, "y": 0, "w": 16, "h": 24, "score": 0.5, "state": "lost", "target": 2}
    result = {"width": 64, "height": 48, "frames": [row], "targets": [{"id": 2, "label": "cup"}]}
    (tmp_path / "clip.json").write_text(json.dumps(result))
    (made,) = example("fiftyone_dataset").main("clip.mp4", tmp_path / "clip.json").samples
    assert list(made.frames) == [4] and Path(made.filepath).is_absolute()
    (found,) = made.frames[4].fartrack.detections
    assert (found.label, found.bounding_box, found.confidence, found.index) == ("cup", [0.5, 0, 0.25, 0.5], 0.5, 2)


class Node:
    """Stands in for rclpy's."""

    parameters: dict = {}  # noqa: RUF012

    def __init__(self, name):
        self.published = []

    def declare_parameter(self, name, value):
        return SimpleNamespace(value=self.parameters.get(name, value))

    def create_publisher(self, kind, topic, depth):
        return SimpleNamespace(publish=self.published.append)

    def create_subscription(self, kind, topic, callback, depth):
        setattr(self, f"on_{topic}", callback)


def test_ros2_node(monkeypatch, demo_clip):
    def detection(header):
        place = SimpleNamespace(center=SimpleNamespace(position=SimpleNamespace()))
        return SimpleNamespace(header=header, bbox=place, results=[])

    def image(frame, encoding="bgr8"):
        wide = np.concatenate([frame, np.zeros((len(frame), 1, 3), np.uint8)], axis=1)  # rows may be longer
        height, width = frame.shape[:2]
        return SimpleNamespace(
            height=height, width=width, step=3 * width + 3, data=wide.tobytes(), encoding=encoding, header=object()
        )

    hypothesis = {"ObjectHypothesisWithPose": lambda: SimpleNamespace(hypothesis=SimpleNamespace())}
    stand_in(monkeypatch, rclpy={}, rclpy__node={"Node": Node}, sensor_msgs={}, std_msgs={}, vision_msgs={})
    stand_in(monkeypatch, sensor_msgs__msg={"Image": object}, std_msgs__msg={"String": object})
    stand_in(monkeypatch, vision_msgs__msg={"Detection2D": detection} | hypothesis)
    frames, boxes = demo_clip
    node = example("ros2_node").TrackNode()
    node.on_image(image(frames[0]))
    assert node.published == []  # no box yet
    node.on_box(SimpleNamespace(data=text(boxes[0])))
    for frame in frames[:3]:
        node.on_image(image(frame))
    node.on_image(image(frames[3][..., ::-1], "rgb8"))
    assert len(node.published) == 4
    for found, truth in zip(node.published, boxes, strict=False):
        center, result = found.bbox.center.position, found.results[0].hypothesis
        box = center.x - found.bbox.size_x / 2, center.y - found.bbox.size_y / 2, found.bbox.size_x, found.bbox.size_y
        assert iou(box, truth) > 0.6 and result.class_id == "tracking" and 0 < result.score <= 1
