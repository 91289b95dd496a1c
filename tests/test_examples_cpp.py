"""The C++ example is built against ONNX Runtime's headers and finds the boxes of Python, frame by frame."""

import csv
import re
import shutil
import subprocess
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

import fartrack
from fartrack.datasets.layouts import read_boxes
from fartrack.engines.onnxruntime import ort
from fartrack.packages import SHIPPED
from fartrack.tracking.tracker import GRID
from fartrack.video import frames_from_source

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "examples" / "cpp" / "track.cpp"
SEQUENCES = ROOT.parent / "shared" / "data" / "video" / "val"
HEADERS = [ROOT / "build" / "onnxruntime", *map(Path, ("/usr/include/onnxruntime", "/usr/local/include"))]
pytestmark = pytest.mark.skipif(not SOURCE.is_file(), reason="the examples are not here")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The program, linked with the library that Python uses."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    headers = next((path for path in HEADERS if (path / "onnxruntime_cxx_api.h").is_file()), None)
    library = next((Path(ort.__file__).parent / "capi").glob("libonnxruntime.so.*"), None)
    if not compiler or not headers or not library:
        pytest.skip("no C++ compiler, no headers of ONNX Runtime (make build/onnxruntime), or no shared library of it")
    version = re.search(r"define ORT_API_VERSION (\d+)", (headers / "onnxruntime_c_api.h").read_text("utf-8"))
    if int(version[1]) > int(ort.__version__.split(".")[1]):
        pytest.skip(f"the headers are of ONNX Runtime 1.{version[1]}, the library is {ort.__version__}")
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "libonnxruntime.so.1").symlink_to(library)
    options = ["-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", f"-Wl,-rpath,{folder}"]
    command = [compiler, *options, "-isystem", headers, SOURCE, folder / "libonnxruntime.so.1", "-o", folder / "track"]
    subprocess.run(command, check=True)
    return folder / "track"


def ppm(frame):
    return b"P6 %d %d 255\n" % frame.shape[1::-1] + np.ascontiguousarray(frame[..., ::-1]).tobytes()


def run(program, frames, box, *changes, folder=SHIPPED / "pico"):
    command = [program, folder, ",".join(map(str, box)), *changes]
    return subprocess.run(command, input=b"".join(map(ppm, frames)), capture_output=True)


def compare(program, frames, box, **changes):
    """Hold the program's track against Python's: the states are the same, the boxes too but for a step of the grid on a
    few frames. Returns the states."""
    found = run(program, frames, box, *(f"{key}={value}" for key, value in changes.items()))
    assert found.returncode == 0, found.stderr.decode()
    rows = list(csv.DictReader(found.stdout.decode().splitlines()))
    tracker = fartrack.load("pico", **changes)
    tracks = [tracker.update(frame) if i else tracker.init(frame, box) for i, frame in enumerate(frames)]
    assert [row["state"] for row in rows] == [track.state for track in tracks]
    assert [int(row["frame"]) for row in rows] == list(range(len(frames)))
    boxes = np.array([[float(row[key]) for key in "xywh"] for row in rows])
    away = np.abs(boxes - [track.box for track in tracks]).max(axis=1)
    equal = int((away < 1e-3).sum())
    assert away.max() < GRID + 1e-3 and equal >= 0.95 * len(frames), f"{equal} of {len(frames)} frames have equal boxes"
    np.testing.assert_allclose([float(row["score"]) for row in rows], [track.score for track in tracks], atol=0.02)
    return [row["state"] for row in rows]


@pytest.mark.parametrize(
    "changes",
    [{}, {"preset": "fast"}, {"precision": "fp32", "threads": 1, "lost_score": 0, "interval": 4}, {"retention": 0.5}],
)
def test_the_boxes_are_those_of_python(program, demo_clip, changes):
    frames, boxes = demo_clip
    assert set(compare(program, frames, boxes[0], **changes)) == {"tracking"}


def test_a_target_is_lost_and_found_as_in_python(program, demo_clip):
    """Large frames, which are averaged first: black ones, then another scene, then the target elsewhere."""
    frames, boxes = demo_clip
    large = [cv2.resize(frame, (1600, 900)) for frame in frames[:40]]
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    other = cv2.resize(noise, (1600, 900), interpolation=cv2.INTER_CUBIC)
    moved = [np.roll(frame, 700, axis=1) for frame in large[24:]]
    shown = [*large[:24], *[np.zeros_like(other)] * 4, *[other] * 12, *moved]
    states = compare(program, shown, [2.5 * value for value in boxes[0]])
    assert states[23] == "tracking" and states[35] == "lost" and states[-1] == "tracking"


def test_a_copy_of_the_target_beside_it_is_not_taken_for_it(program, demo_clip):
    """Two cups, of which the one that is followed is covered: the other is known, and the target stays lost."""
    frame, box = demo_clip[0][0].copy(), demo_clip[1][0]
    x, y, w, h = (round(value) for value in box)
    frame[y : y + h, x + 250 : x + 250 + w] = frame[y : y + h, x : x + w]
    covered = frame.copy()
    covered[y - 10 : y + h + 10, x - 10 : x + w + 10] = frame[-h - 20 :, : w + 20]
    states = compare(program, [frame] * 15 + [covered] * 25, box)
    assert states[14] == "tracking" and states[-1] == "lost"


def test_a_target_found_elsewhere_is_followed_back_as_in_python(program, demo_clip):
    """A cup that is covered; then its copy beside that place; then both."""
    frame, box = demo_clip[0][0].copy(), demo_clip[1][0]
    x, y, w, h = (round(value) for value in box)
    covered, copied, both = frame.copy(), frame.copy(), frame.copy()
    both[y : y + h, x + 250 : x + 250 + w] = frame[y : y + h, x : x + w]
    for image, source in ((covered, frame), (copied, both)):
        image[:] = source
        image[y - 10 : y + h + 10, x - 10 : x + w + 10] = frame[-h - 20 :, : w + 20]
    shown = [frame] * 5 + [covered] * 12 + [copied] * 20 + [both] * 8
    states = compare(program, shown, box)
    assert states[16] == "lost" and states[36] == "tracking" and "lost" in states[37:41] and states[-1] == "tracking"


def test_a_real_sequence(program):
    if not SEQUENCES.is_dir():
        pytest.skip("no validation sequences (shared/data/video/val) beside the repository")
    with frames_from_source(SEQUENCES / "otb-Biker.mp4") as source:
        frames = [frame.image for frame in islice(source, 120)]
    compare(program, frames, read_boxes(SEQUENCES / "otb-Biker.txt")[0].tolist())


def test_mistakes_are_told_in_a_sentence(program, demo_clip, tmp_path):
    frame, box = demo_clip[0][0], demo_clip[1][0]

    def mistake(*arguments, **options):
        found = run(program, [frame], *arguments, **options)
        assert found.returncode == 2
        return found.stderr.decode()

    assert "usage" in mistake([1, 2, 3])
    assert "has no model.json" in mistake(box, folder=tmp_path)
    assert "There is no setting speed." in mistake(box, "speed=3")
    assert "No preset slow." in mistake(box, "preset=slow")
    for text, words in ((ppm(frame)[:-1], "cut off"), (b"P5 2 2 255\n....", "no binary PPM")):
        found = subprocess.run([program, SHIPPED / "pico", "1,2,3,4"], input=text, capture_output=True)
        assert found.returncode == 2 and words in found.stderr.decode()
