"""Draw docs/demo.gif, the picture at the top of the README: the demo clip, tracked.

make gif
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import cv2

import fartrack
from fartrack.demo import CLIP_FPS, demo_frames
from fartrack.video import draw_track

EVERY, SIZE = 5, (320, 180)


def main(path: Path) -> None:
    tracker, animation = fartrack.load("pico"), cv2.Animation()
    frames = []
    for index, (image, box) in enumerate(islice(demo_frames(), 150)):
        track = tracker.update(image) if index else tracker.init(image, box)
        if index % EVERY == 0:
            drawn = cv2.resize(draw_track(image, track), SIZE, interpolation=cv2.INTER_AREA)
            frames.append(cv2.cvtColor(drawn, cv2.COLOR_BGR2BGRA))
    animation.frames = frames
    animation.durations = [1000 * EVERY // CLIP_FPS] * len(frames)
    cv2.imwriteanimation(str(path), animation)
    print(f"saved {path}, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/demo.gif"))
