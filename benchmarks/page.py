"""The page in headless Chromium against Python, over whole clips: ``python -m benchmarks.page --data DIR``.

DIR holds packed videos with their true boxes (``clip.mp4``, ``clip.txt``). On each clip the first true box is dragged,
the clip is tracked, and the CSV file is compared with Python's boxes in single precision, frame by frame.
"""

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

import fartrack
from fartrack.geometry import iou
from fartrack.tracking.tracker import GRID
from fartrack.video import frames_from_source

WEB = Path(__file__).parents[1] / "web"


def drawn(clip):
    """The first true box on the grid on which the page draws, within the frame."""
    x, y, w, h = (float(v) for v in re.split(r"[\s,]+", clip.with_suffix(".txt").read_text().splitlines()[0].strip()))
    with frames_from_source(clip) as frames:
        height, width = frames.first.image.shape[:2]
    corners = np.clip([x, y, x + w, y + h], 0, [width, height, width, height])
    x0, y0, x1, y1 = (np.round(corners / GRID) * GRID).tolist()
    return [x0, y0, x1 - x0, y1 - y0]


def compare(job):
    """How many frames are the same, at most one step of the grid apart, and the rest of what is told of a clip."""
    rows = list(csv.DictReader(Path(job["csv"]).read_text().splitlines()))
    ours = np.array([[float(row[name]) for name in "xywh"] for row in rows])
    tracker = fartrack.load(job["model"], precision="fp32", threads=1)
    theirs = np.array([track.box for track in fartrack.track_video(job["clip"], ours[0], tracker=tracker)])
    if len(ours) != len(theirs):
        return f"{len(ours)} frames, but Python has {len(theirs)}"
    apart = np.abs(ours - theirs).max(1)
    parted = np.flatnonzero(apart > 1e-3)
    overlap = iou(ours, theirs)
    told = json.loads(Path(job["csv"] + ".json").read_text())
    first = f"apart from frame {parted[0]}" if len(parted) else "never apart"
    same, near = np.count_nonzero(apart < 1e-3), np.count_nonzero(apart <= GRID)
    return (
        f"{len(ours)} frames: {same} the same, {near} within a step, {first}, at most {apart.max():.3f} px; "
        f"IoU mean {overlap.mean():.4f}, least {overlap.min():.3f}; {told['message']} "
        f"{told['cpu'] / len(ours) * 1000:.0f} ms of processor time a frame"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="pico-fast")
    parser.add_argument("--clips", nargs="*", help="names without the extension; all if left out")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    clips = [clip for clip in sorted(options.data.glob("*.mp4")) if not options.clips or clip.stem in options.clips]
    paths = os.pathsep.join([str(WEB), str(WEB.parent / "src")])
    command = [sys.executable, "-m", "fartrack", "web", "--port", "0", "--no-open"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True) as server,
    ):
        try:
            address = server.stdout.readline().split()[0].rstrip("/")
            for clip in clips:
                job = {
                    "clip": str(clip),
                    "box": drawn(clip),
                    "model": options.model,
                    "csv": f"{folder}/{clip.stem}.csv",
                }
                Path(folder, "jobs.json").write_text(json.dumps([job]))
                variables = {"PAGE": address, "JOBS": f"{folder}/jobs.json"}
                run = ["npx", "playwright", "test", "track.spec.ts"]
                done = subprocess.run(run, cwd=WEB, env=os.environ | variables, capture_output=True, text=True)
                print(clip.stem, compare(job) if done.returncode == 0 else done.stdout[-1500:], sep="\t", flush=True)
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
