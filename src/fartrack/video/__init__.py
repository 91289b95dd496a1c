"""Frames in and results out.

`frames_from_source` opens a video file, pictures, a webcam or a stream as one iterator of `Frame`; `open_sinks` writes
the tracks as an annotated video or in one of `FORMATS`, whole or not at all; `draw_track` and `draw_tracks` draw boxes;
`select_box` and `LiveView` are the two windows. All boxes are x, y, w, h in image pixels, all pictures uint8 BGR, and
whatever a user can fix is a `FartrackError` of one sentence.
"""

from fartrack.video.drawing import draw_track, draw_tracks
from fartrack.video.formats import FORMATS
from fartrack.video.sinks import TextSink, VideoSink, open_sinks
from fartrack.video.sources import Frame, FrameSource, frames_from_source
from fartrack.video.window import LiveView, select_box

__all__ = ["FORMATS", "Frame", "FrameSource", "LiveView", "TextSink", "VideoSink"]
__all__ += ["draw_track", "draw_tracks", "frames_from_source", "open_sinks", "select_box"]
