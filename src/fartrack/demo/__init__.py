"""The demo: a clip composed from photographs while it plays, so that its ground truth is exact."""

from fartrack.demo.clip import CLIP_FPS, CLIP_LENGTH, CLIP_SIZE, render_clip

__all__ = ["CLIP_FPS", "CLIP_LENGTH", "CLIP_SIZE", "render_clip"]
