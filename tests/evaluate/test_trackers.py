"""Each kind of tracker opens or says why not, and what it returns is a track or a sentence."""

import json
import math
import shutil
import sys
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from fartrack.errors import FartrackError
from fartrack.evaluate import trackers
from fartrack.evaluate.trackers import TrackerSpec, as_track, parse_trackers
from fartrack.packages import open_package, shipped
from fartrack.tracking.settings import TrackerSettings
from fartrack.tracking.tracker import Track

# --- names ------------------------------------------------------------------------------------------------


def test_trackers_are_named_by_their_specs():
    found = parse_trackers("pico, old=raw:results/ATOM,raw:x/MDNet,my.module:Best,runs/export")
    assert {name: spec.spec for name, spec in found.items()} == {
        "pico": "pico",
        "old": "raw:results/ATOM",
        "MDNet": "raw:x/MDNet",
        "Best": "my.module:Best",
        "export": "runs/export",
    }
    assert found["old"].published == Path("results/ATOM") and found["pico"].published is None
    assert parse_trackers("pico", threads=2)["pico"] == TrackerSpec("pico", threads=2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "does not name a tracker"),
        ("pico,", "does not name a tracker"),
        ("a=", "does not name a tracker"),
        ("a/b=pico", "does not name a tracker"),
        ("..", "does not name a tracker"),
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
        (TrackerSpec("nothing"), f"no tracker 'nothing'; use {', '.join(shipped())}, the folder of"),
        (TrackerSpec("pico-slow"), "no preset 'slow'; it has paper, fast"),
        (TrackerSpec("no_such_module:Class"), "No module named 'no_such_module'"),
        (TrackerSpec("math:Nothing"), "no attribute 'Nothing'"),
        (TrackerSpec("decimal:Decimal"), "lacks init"),
        (TrackerSpec("pico", settings=("interval=0",)), "interval"),
        (TrackerSpec("pico", engine="abacus"), "abacus"),
    ],
)
def test_what_cannot_be_opened_is_told(spec, told):
    with pytest.raises(FartrackError, match=told):
        spec.open()


def test_identities_tell_models_and_settings_apart(tmp_path):
    def identity(spec="pico", **options):
        return TrackerSpec(spec, **options).identity()

    copy = tmp_path / "copy"
    copy.mkdir()
    for path in open_package("pico").folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert identity() == identity()
    assert identity(str(copy)) == identity()
    assert identity(f"{copy}-fast") == identity("pico-fast") != identity()
    assert identity("pico-paper")["settings"]["retention"] == 0.75
    assert identity(settings=("interval=7",)) != identity()
    assert identity(engine="openvino") != identity()
    with (copy / "weights.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    assert identity(str(copy)) != identity()


def test_identities_tell_the_code_apart_that_decides_boxes(tmp_path, monkeypatch):
    """Results of a loop that was changed since are another tracker's; whatever else changes leaves them as they are."""
    copy = tmp_path / "fartrack"
    shutil.copytree(trackers.ROOT, copy, ignore=shutil.ignore_patterns("weights", "__pycache__"))
    before = TrackerSpec("pico").identity()
    monkeypatch.setattr(trackers, "ROOT", copy)
    assert TrackerSpec("pico").identity() == before
    for name, same in (("cli/main.py", True), ("tracking/recovery.py", False)):
        with (copy / name).open("a") as file:
            file.write("# a change\n")
        assert (TrackerSpec("pico").identity() == before) == same


def test_identities_tell_variants_of_one_model_apart(tmp_path):
    pico = open_package("pico")
    record = json.loads((pico.folder / "model.json").read_text()) | {"network": str(pico.network)}
    shallow = [{"config": record["config"] | {"depth": depth}} for depth in (5, 4)]
    found = []
    for number, own in enumerate([{}, *shallow, {"score": {"slope": 0.5, "bias": 0.25}}]):
        variant = tmp_path / str(number)
        variant.mkdir()
        (variant / "model.json").write_text(json.dumps(record | own))
        found.append(TrackerSpec(str(variant), engine="torch").identity())
    assert found[0] == TrackerSpec("pico", engine="torch").identity()
    assert all(one != other for one, other in combinations(found, 2))


CODE = """
from pathlib import Path

class Quick:
    def __init__(self, threads=None):
        self.threads = threads

    def init(self, frame, box):
        pass

    def update(self, frame):
        return 1, 2, 3, 4


class Weighted(Quick):
    def __init__(self):
        super().__init__("none")

    @staticmethod
    def files():
        return [Path("weights.bin")]
"""


@pytest.fixture
def classes(tmp_path, monkeypatch):
    """A module ``some_classes`` in the current folder."""
    (tmp_path / "some_classes.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("some_classes", None)


def test_a_class_of_the_current_folder_gets_the_threads_if_it_wants_them(classes):
    assert TrackerSpec("some_classes:Quick", threads=3, settings=("interval=7",)).open().threads == 3
    Path("weights.bin").write_bytes(b"")
    assert TrackerSpec("some_classes:Weighted", threads=3).open().threads == "none"


def test_the_files_of_a_class_are_part_of_its_identity(classes):
    found = []
    for content in (b"1", b"2"):
        Path("weights.bin").write_bytes(content)
        found.append(TrackerSpec("some_classes:Weighted").identity())
    assert found[0] != found[1]
    assert TrackerSpec("some_classes:Weighted").identity() == found[1]


def test_settings_are_those_of_the_model_with_changes_on_top():
    package = open_package("pico-fast")
    tracker = TrackerSpec("pico-fast", settings=("interval=7", "min_window=1")).open()
    assert asdict(tracker.settings) == asdict(TrackerSettings(**{**package.settings, "interval": 7, "min_window": 1.0}))


# --- boxes ------------------------------------------------------------------------------------------------


def test_what_update_may_return():
    box = (1.0, 2.0, 3.0, 4.0)
    assert as_track(Track(box, 0.5)) == Track(box, 0.5)
    assert as_track(Track(box, 0.5, "lost")).state == "lost"
    assert as_track((np.array(box, np.float32), np.float32(0.5))) == Track(box, 0.5)
    assert as_track(list(box)).box == box
    assert math.isnan(as_track(list(box)).score)


@pytest.mark.parametrize("found", [None, 3, (1, 2, 3), "abcd", (None, 2), (1, 2), ((1, 2, 3), 0.5), (1, 2, 3, np.inf)])
def test_what_update_may_not_return(found):
    with pytest.raises(FartrackError, match="update returned"):
        as_track(found)
