"""FARTrack: draw a box on one frame, and the object is followed through the rest of the video."""

__version__ = "0.1.0"
