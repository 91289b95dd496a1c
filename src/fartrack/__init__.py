"""FARTrack: draw a box on one frame, and the object is followed through the rest of the video.

tracker = fartrack.load("pico")
tracker.init(frame, (x, y, w, h))      # uint8 H×W×3 in OpenCV's BGR order
track = tracker.update(next_frame)     # track.box (x, y, w, h) in pixels, track.score

for track in fartrack.track_video("clip.mp4", (x, y, w, h)): ...
"""

from typing import TYPE_CHECKING

from fartrack.errors import FartrackError
from fartrack.lazy import lazy_names
from fartrack.version import __version__

if TYPE_CHECKING:
    from fartrack.api import load, track_video
    from fartrack.packages import shipped
    from fartrack.tracking.multi import MultiTracker
    from fartrack.tracking.settings import TrackerSettings
    from fartrack.tracking.tracker import State, Track, Tracker

__all__ = [
    "FartrackError",
    "MultiTracker",
    "State",
    "Track",
    "Tracker",
    "TrackerSettings",
    "__version__",
    "load",
    "shipped",
    "track_video",
]

# Imported when used, so that the command can be stopped from its first moment.
__getattr__ = lazy_names(
    __name__,
    {
        "MultiTracker": "fartrack.tracking.multi",
        "State": "fartrack.tracking.tracker",
        "Track": "fartrack.tracking.tracker",
        "Tracker": "fartrack.tracking.tracker",
        "TrackerSettings": "fartrack.tracking.settings",
        "load": "fartrack.api",
        "shipped": "fartrack.packages",
        "track_video": "fartrack.api",
    },
)
