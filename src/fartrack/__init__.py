"""FARTrack: draw a box on one frame, and the object is followed through the rest of the video.

tracker = fartrack.load("pico")
tracker.init(frame, (x, y, w, h))      # uint8 H×W×3 in OpenCV's BGR order
track = tracker.update(next_frame)     # track.box (x, y, w, h) in pixels, track.score

for track in fartrack.track_video("clip.mp4", (x, y, w, h)): ...
"""

from importlib import import_module

from fartrack.errors import FartrackError
from fartrack.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fartrack.api import load, track_video
    from fartrack.packages import shipped
    from fartrack.tracking.multi import MultiTracker
    from fartrack.tracking.tracker import State, Track, Tracker, TrackerSettings

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


def __getattr__(name: str) -> object:
    """Import what is used when it is used, so that the command can be stopped from its first moment."""
    for module in () if name.startswith("__") else ("api", "packages", "tracking.multi", "tracking.tracker"):
        found = import_module(f"fartrack.{module}")
        if name in __all__ and hasattr(found, name):
            return getattr(found, name)
    if name in globals():  # a module that these have imported
        return globals()[name]
    raise AttributeError(f"module 'fartrack' has no attribute {name!r}")
