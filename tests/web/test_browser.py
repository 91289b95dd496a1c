"""The page in a real browser: parity with Python, what a visitor does, and whole clips."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

import fartrack
from fartrack.demo.clip import CLIP
from fartrack.tracking.tracker import GRID
from tests.web.fixtures import write

WEB = Path(__file__).parents[2] / "web"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(
    not shutil.which("npx") or not (WEB / "node_modules").is_dir(), reason="the page's tools are missing; run make web"
)
browser = pytest.mark.skipif(
    not CHROMIUM or not (WEB / "fartrack_web" / "page" / "index.html").is_file(),
    reason="Chromium or the built page is missing; install Chromium and run make web",
)


def npx(*arguments, **variables):
    done = subprocess.run(
        ["npx", *arguments],
        cwd=WEB,
        env=os.environ | {"CHROMIUM": CHROMIUM or "", "CI": "1"} | variables,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def page():
    """The address of the page, served by the command."""
    paths = os.pathsep.join([str(WEB), str(Path(fartrack.__file__).parents[1])])
    command = [sys.executable, "-m", "fartrack", "web", "--port", "0", "--no-open"]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield re.match(r"(http://127\.0\.0\.1:\d+)/", server.stdout.readline())[1]
        finally:
            server.terminate()


def test_types():
    npx("tsc", "--noEmit")


def test_parity(tmp_path):
    write(tmp_path / "fixtures.json")
    npx("vitest", "run", FIXTURES=str(tmp_path / "fixtures.json"))


@browser
def test_boxes_are_those_of_python(page, tmp_path):
    """A box is dragged on the demo's clip; every frame's box is within one step of the grid of Python's."""
    job = {
        "clip": str(CLIP),
        "box": [108.125, 95, 91.5, 83.875],
        "model": "pico-fast",
        "csv": str(tmp_path / "out.csv"),
    }
    (tmp_path / "jobs.json").write_text(json.dumps([job]))
    npx("playwright", "test", "track.spec.ts", PAGE=page, JOBS=str(tmp_path / "jobs.json"))
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    ours = np.array([[float(row[name]) for name in "xywh"] for row in rows])
    assert ours[0].tolist() == job["box"]
    tracker = fartrack.load("pico-fast", precision="fp32", threads=1)
    tracks = list(fartrack.track_video(CLIP, job["box"], tracker=tracker))
    assert np.abs(ours - [track.box for track in tracks]).max() <= GRID
    assert np.abs([float(row["score"]) - track.score for row, track in zip(rows, tracks, strict=True)]).max() < 1e-3
    assert [row["state"] for row in rows] == [track.state for track in tracks]


@browser
def test_what_a_visitor_does(page, tmp_path):
    write_hevc(tmp_path / "hevc.mp4")
    npx("playwright", "test", "page.spec.ts", PAGE=page, HEVC=str(tmp_path / "hevc.mp4"))


def write_hevc(path):
    """A clip that few browsers can decode."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", 25, {"x265-params": "log-level=none"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for value in range(0, 200, 40):
            image = np.full((96, 128, 3), value, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode(None))
