"""Let a detector find the targets: what moves is detected every few frames, and each new find is followed.

python examples/detector.py clip.mp4

The detector is OpenCV's background subtraction, for a camera that stands still. Any other that gives boxes x, y, w, h
in pixels, such as a neural network, takes the place of `MotionDetector`.
"""

import sys

import cv2
import numpy as np

import fartrack
from fartrack.geometry import iou
from fartrack.video import frames_from_source


class MotionDetector:
    """What differs from the background, if it is large enough."""

    def __init__(self, least_area: float = 400) -> None:
        self.background, self.least_area = cv2.createBackgroundSubtractorMOG2(detectShadows=False), least_area

    def __call__(self, image: np.ndarray) -> list[tuple[int, int, int, int]]:
        mask = cv2.dilate(self.background.apply(image), None, iterations=3)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        return [cv2.boundingRect(c) for c in contours if cv2.contourArea(c) >= self.least_area]


def main(source: str, every: int = 10, most: int = 8) -> dict[int, dict[int, fartrack.Track]]:
    """Detect on every ``every``-th frame and follow up to ``most`` targets at once; tracks by frame and target."""
    detect, many, story = MotionDetector(), fartrack.MultiTracker(fartrack.load("pico")), {}
    with frames_from_source(source) as frames:
        for frame in frames:
            tracks = story[frame.index] = many.update(frame.image)
            for number in [number for number, track in tracks.items() if track.score < 0.2]:
                many.remove(number)
            boxes = detect(frame.image)
            for box in boxes if frame.index and frame.index % every == 0 else ():
                new = all(iou(box, track.box) < 0.3 for track in tracks.values())
                if new and len(many.states) < most:
                    print(f"frame {frame.index}: target {many.add(frame.image, box)} at {box}")
    return story


if __name__ == "__main__":
    main(sys.argv[1])
