"""The clip of ``fartrack demo``, with exact boxes."""

from fartrack.demo.clip import CLIP, CLIP_FPS, CLIP_LENGTH, demo_frames

__all__ = ["CLIP", "CLIP_FPS", "CLIP_LENGTH", "demo_frames"]
