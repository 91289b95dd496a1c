"""FARTrack: draw a box on one frame, and the object is followed through the rest of the video.

tracker = fartrack.load("pico")
tracker.init(frame, (x, y, w, h))      # uint8 H×W×3 in OpenCV's BGR order
track = tracker.update(next_frame)     # track.box (x, y, w, h) in pixels, track.score

for track in fartrack.track_video("clip.mp4", (x, y, w, h)): ...
"""

from fartrack.api import load, track_video
from fartrack.errors import FartrackError
from fartrack.multi import MultiTracker
from fartrack.tracker import State, Track, Tracker, TrackerSettings
from fartrack.weights import shipped

__version__ = "0.1.0"

__all__ = [
    "FartrackError",
    "MultiTracker",
    "State",
    "Track",
    "Tracker",
    "TrackerSettings",
    "load",
    "shipped",
    "track_video",
]
