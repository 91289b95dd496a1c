"""Exports, read back by readers that are not ours, or strictly."""

import csv
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import numpy as np
import pytest

from fartrack import __version__
from fartrack.errors import FartrackError
from fartrack.targets import Anchor, Target
from fartrack.video import FORMATS, Frame
from fartrack.video.formats import Run
from fartrack.video.sinks import FolderSink, TextSink


@dataclass(frozen=True)
class Track:
    box: tuple[float, float, float, float]
    score: float
    state: str = "tracking"


CUP = Target(1, 'a "cup", <red>', 'a "cup", <red>', [Anchor(2, (10.0, 20.0, 30.0, 39.5))])
HE, SHE = (Target(i, name, "person", [Anchor(3, (0.0, 0.0, 8.0, 6.0), 5)]) for i, name in ((2, "he"), (3, "she")))
RUN = Run(
    "film.mp4", [CUP, HE, SHE], (80, 60), 25.0, Fraction(4, 3), about={"model": "pico", "settings": {"interval": 20}}
)
LOST = Track((10.0, 20.0, 30.0, 39.5), 0.0, "lost")
STORY = [  # frames 2 to 6
    {CUP: Track((10.0, 20.0, 30.0, 39.5), 1.0)},
    {CUP: Track((11.23456, 20.0, 30.0, 40.0), 0.87654), HE: Track((0.0, 0.0, 8.0, 6.0), 1.0)},
    {CUP: LOST, HE: Track((1.0, 0.0, 8.0, 6.0), 0.5, "uncertain"), SHE: Track((72.0, 54.0, 8.0, 6.0), 1.0)},
    {CUP: LOST},
    {CUP: Track((12.0, 20.0, 30.0, 40.0), 0.25)},
]
IMAGE = np.zeros((60, 80, 3), np.uint8)


def write(path, kind, run=RUN, story=STORY):
    with (FolderSink if FORMATS[kind].folder else TextSink)(path, kind, run) as sink:
        for index, found in enumerate(story, 2):
            sink.write(Frame(index, index / 25, IMAGE), found)
    return path


def rows_of(story=STORY):
    return [(index, target, track) for index, found in enumerate(story, 2) for target, track in found.items()]


def test_csv_has_the_name_in_its_last_column(tmp_path):
    with write(tmp_path / "a", "csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["frame", "time", "x", "y", "w", "h", "score", "state", "target"]
    assert [(int(row["frame"]), row["target"], row["state"]) for row in rows] == [
        (index, target.name, track.state) for index, target, track in rows_of()
    ]
    assert rows[1]["x"] == "11.235" and rows[1]["score"] == "0.8765"


def test_json(tmp_path):
    result = json.loads(write(tmp_path / "a", "json").read_text())
    frames, targets = result.pop("frames"), result.pop("targets")
    assert result == {
        "schema_version": 1, "fartrack": __version__, "source": "film.mp4", "fps": 25.0,
        "boxes": "x,y,w,h in pixels, from the top left", "width": 80, "height": 60, "sample_aspect_ratio": "4:3",
        "model": "pico", "settings": {"interval": 20},
    }  # fmt: skip
    assert [(f["frame"], f["target"], f["state"]) for f in frames] == [(i, t.id, k.state) for i, t, k in rows_of()]
    anchor = {"frame": 2, "x": 10, "y": 20, "w": 30, "h": 39.5, "end": None}
    assert targets[0] == {"id": 1, "name": CUP.name, "label": CUP.name, "anchors": [anchor]}
    assert [(t["label"], t["anchors"][0]["end"]) for t in targets[1:]] == [("person", 5)] * 2


def test_json_lines_tell_the_time_of_day(tmp_path):
    lines = [json.loads(line) for line in write(tmp_path / "a", "jsonl").read_text().splitlines()]
    assert [(f["frame"], f["target"], f["name"]) for f in lines] == [(i, t.id, t.name) for i, t, _ in rows_of()]
    assert {"time", "x", "y", "w", "h", "score", "state"} < lines[0].keys()
    assert abs(datetime.fromisoformat(lines[0]["timestamp"]) - datetime.now(UTC)) < timedelta(minutes=5)


def test_txt_is_for_one_target(tmp_path):
    with pytest.raises(FartrackError, match="one target only"):
        write(tmp_path / "a", "txt")
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "a", "txt", Run("", [CUP]), [STORY[0], {}])
    assert (tmp_path / "a").read_text() == "10.0,20.0,30.0,39.5\nnan,nan,nan,nan\n"


def test_mot(tmp_path):
    text = write(tmp_path / "a", "mot").read_text()
    assert text.splitlines()[:2] == [
        "3,1,11.0,21.0,30.0,39.5,1.0,-1,-1,-1",
        "4,1,12.235,21.0,30.0,40.0,0.8765,-1,-1,-1",
    ]
    table = np.loadtxt(tmp_path / "a", delimiter=",")
    seen = [(i + 1, t.id) for i, t, track in rows_of() if track.state != "lost"]
    assert table.shape == (len(seen), 10) and [tuple(row) for row in table[:, :2]] == seen
    assert (table[:, 0] >= 1).all() and (table[:, 4:6] > 0).all() and (table[:, 7:] == -1).all()


def test_coco(tmp_path):
    pycocotools = pytest.importorskip("pycocotools.coco")
    coco = pycocotools.COCO(str(write(tmp_path / "a", "coco")))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == [CUP.name, "person"]
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == [f"{i:06d}.jpg" for i in range(2, 7)]
    people = coco.loadAnns(coco.getAnnIds(catIds=coco.getCatIds("person")))
    assert [(a["image_id"], a["track_id"], a["bbox"]) for a in people] == [
        (4, 2, [0, 0, 8, 6]), (5, 2, [1, 0, 8, 6]), (5, 3, [72, 54, 8, 6]),
    ]  # fmt: skip
    assert len(coco.getAnnIds()) == 6 and coco.getAnnIds(imgIds=[6]) == []  # nothing where all are lost
    assert people[0]["area"] == 48
    content = json.loads((tmp_path / "a").read_text())
    assert content["videos"] == [{"id": 1, "name": "film.mp4", "width": 80, "height": 60}]
    assert [track["category_id"] for track in content["tracks"]] == [1, 2, 2]
    assert {key: content["images"][0][key] for key in ("video_id", "frame_index")} == {"video_id": 1, "frame_index": 2}
    # and the evaluation of that library accepts it as truth and as results
    results = [{k: a[k] for k in ("image_id", "category_id", "bbox", "score")} for a in content["annotations"]]
    evaluation = pytest.importorskip("pycocotools.cocoeval").COCOeval(coco, coco.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == 1


def test_yolo(tmp_path):
    folder = write(tmp_path / "labels", "yolo")
    assert sorted(path.name for path in folder.iterdir()) == [*(f"{i:06d}.txt" for i in range(2, 7)), "classes.txt"]
    assert (folder / "classes.txt").read_text().splitlines() == [CUP.name, "person"]
    assert (folder / "000005.txt").read_text() == ""  # lost: background
    rows = np.loadtxt(folder / "000004.txt", ndmin=2)
    assert rows.tolist() == [[1, 0.0625, 0.05, 0.1, 0.1], [1, 0.95, 0.95, 0.1, 0.1]]
    for path in folder.glob("0*.txt"):
        for line in path.read_text().splitlines():
            kind, x, y, w, h = map(float, line.split())
            assert kind in (0, 1)
            assert min(x - w / 2, y - h / 2) > -2e-6 and max(x + w / 2, y + h / 2) < 1 + 2e-6  # of six decimals


def test_names_of_pictures_are_kept(tmp_path):
    pictures = [tmp_path / f"img{i}.png" for i in range(7)]
    run = Run("folder", [CUP, HE, SHE], (80, 60), pictures=pictures)
    assert (write(tmp_path / "labels", "yolo", run) / "img6.txt").exists()
    content = json.loads(write(tmp_path / "a", "coco", run).read_text())
    assert content["images"][0]["file_name"] == "img2.png"


def test_an_existing_folder_is_refused_and_an_exception_leaves_none(tmp_path):
    (tmp_path / "labels").mkdir()
    with pytest.raises(FartrackError, match="labels exists already"):
        write(tmp_path / "labels", "yolo")
    with pytest.raises(FartrackError, match="no folder"):
        write(tmp_path / "no" / "labels", "yolo")
    with pytest.raises(KeyboardInterrupt), FolderSink(tmp_path / "new", "yolo", RUN) as sink:
        sink.write(Frame(0, 0.0, IMAGE), STORY[0])
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["labels"]


def test_cvat(tmp_path):
    root = ElementTree.parse(write(tmp_path / "a", "cvat")).getroot()
    assert root.tag == "annotations" and root.findtext("version") == "1.1"
    assert [label.findtext("name") for label in root.iter("label")] == [CUP.name, "person"]
    size = root.find("meta/task/original_size")
    assert (size.findtext("width"), size.findtext("height")) == ("80", "60")
    tracks = root.findall("track")
    assert [(t.get("id"), t.get("label")) for t in tracks] == [("0", CUP.name), ("1", "person"), ("2", "person")]
    flags = [[(int(b.get("frame")), int(b.get("outside"))) for b in track.findall("box")] for track in tracks]
    # lost on frame 4 and back on 6; the others are no longer followed from frame 5 on
    assert flags == [[(2, 0), (3, 0), (4, 1), (6, 0)], [(3, 0), (4, 0), (5, 1)], [(4, 0), (5, 1)]]
    needed = {"frame", "outside", "occluded", "keyframe", "z_order", "xtl", "ytl", "xbr", "ybr"}
    assert all(set(box.keys()) == needed for box in root.iter("box"))
    first = tracks[0].find("box")
    assert [float(first.get(key)) for key in ("xtl", "ytl", "xbr", "ybr")] == [10, 20, 40, 59.5]


def test_all_formats_bear_a_run_without_frames_and_numpy_numbers(tmp_path):
    track = Track(tuple(np.float32([1, 2, 3, 4])), np.float32(0.5))
    for kind in FORMATS:
        run = Run("x", [CUP])
        write(tmp_path / f"{kind}-0", kind, run, [])
        write(tmp_path / f"{kind}-1", kind, run, [{CUP: track}])
