"""Render the clip of `fartrack demo`: a cup of coffee drifts over a lawn, a look-alike passes, a cat leans in.

Photographs (LICENSES.md beside this file) are moved, scaled and turned along smooth paths and laid over one
another, so the box of the cup is computed, not annotated: it is exact even while the cat hides the cup.
Coordinates are continuous, pixel column i covering [i, i + 1), so a box of whole pixels has whole numbers.
"""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from fartrack.geometry import Box, Image

CLIP_FPS = 25
"""Frames a second at which the clip is meant to be shown."""
CLIP_SIZE = (640, 360)
"""Width and height of a frame, in pixels."""
CLIP_LENGTH = 180
"""Frames in the clip."""

Matrix = NDArray[np.float64]
Keys = Sequence[tuple[float, float, float, float, float]]

# Key poses of each path: frame, x, y, scale, angle (see Pose). A cup is 256 sprite pixels wide.
_CUP: Keys = (
    (0, 150, 130, 0.36, -6),
    (28, 250, 200, 0.38, 8),
    (52, 375, 160, 0.33, 16),
    (76, 330, 90, 0.20, -4),
    (94, 250, 145, 0.26, -14),
    (112, 252, 222, 0.38, -10),
    (130, 262, 215, 0.44, 4),
    (158, 390, 175, 0.66, 14),
    (180, 500, 215, 0.52, -8),
)
_LOOKALIKE: Keys = (
    (0, 570, 330, 0.33, 10),
    (26, 520, 290, 0.33, 6),
    (48, 420, 240, 0.33, -4),
    (66, 335, 195, 0.33, -12),
    (90, 420, 130, 0.30, -4),
    (130, 560, 80, 0.32, 10),
    (180, 600, 40, 0.36, 20),
)
_CAT: Keys = (
    (0, -330, 184, 1.36, 0),
    (84, -330, 184, 1.36, 0),
    (104, 108, 180, 1.36, 2),
    (118, 108, 184, 1.36, -1),
    (140, -330, 182, 1.36, 0),
    (180, -330, 182, 1.36, 0),
)
# The camera: the point of the lawn at the middle of the frame, its zoom and its turn.
_CAMERA: Keys = (
    (0, 400, 560, 1.00, -3),
    (60, 520, 470, 0.92, 0),
    (110, 470, 400, 0.96, 3),
    (180, 380, 330, 0.84, -2),
)

_SUBSTEPS = 4  # Poses a frame: the shutter is open from one before the frame's own to one after it.
_SMOOTHING = 22  # Frames over which the corners of a path are rounded.
_LAWN_SIZE = 896
_NOISE_MARGIN = 64


def render_clip(seed: int = 0) -> Iterator[tuple[Image, Box]]:
    """Render the clip, frame by frame.

    Yields `CLIP_LENGTH` pairs: a frame, uint8 of shape (360, 640, 3), BGR; and the box of the red cup as
    x, y, w, h in pixels. The box is the extent of the cup's outline (where its cut-out is at least half
    opaque) at mid-exposure, as it would be seen with nothing in front of it; it agrees with the rendered
    half-opaque edge to within half a pixel and never leaves the frame.

    The same seed gives the same clip; others move the paths by some pixels and change noise and light.
    """
    scene = Scene(seed)
    for index in range(CLIP_LENGTH):
        yield scene.frame(index), scene.box(index)


class Pose(NamedTuple):
    """Where a sprite is: its center in frame pixels, frame pixels a sprite pixel, degrees clockwise."""

    x: float
    y: float
    scale: float
    angle: float


class Sprite:
    """A cut-out that can be laid over a frame at any pose."""

    def __init__(self, picture: Image) -> None:
        """Take a BGRA picture of shape (H, W, 4), its colors not multiplied by its alpha."""
        alpha = picture[..., 3]
        self.height, self.width = alpha.shape
        level = np.dstack([_veil(picture[..., :3], alpha), alpha])
        self._levels = [level]
        while min(level.shape[:2]) >= 64:  # Halved copies, so that a small sprite does not alias.
            level = _image(cv2.resize(level, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
            self._levels.append(level)

    def box(self, pose: Pose) -> Box:
        """Return the extent x, y, w, h, in frame pixels, of the half-opaque outline at a pose."""
        points = _apply(self._matrix(pose), self._outline)
        (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
        return left, top, right - left, bottom - top

    def draw(self, frame: Image, exposure: Sequence[Pose]) -> None:
        """Lay the sprite over a BGR frame (H, W, 3), in place, averaged over the poses of an exposure."""
        frame_height, frame_width = frame.shape[:2]
        rim = np.array([(0, 0), (self.width, 0), (self.width, self.height), (0, self.height)])
        reach = np.concatenate([_apply(self._matrix(pose), rim) for pose in exposure])
        left, top = np.clip(reach.min(0) - 1, 0, (frame_width, frame_height)).astype(int).tolist()
        right, bottom = np.clip(reach.max(0) + 2, 0, (frame_width, frame_height)).astype(int).tolist()
        if left >= right or top >= bottom:
            return
        picture = self._levels[min(max(int(-math.log2(exposure[0].scale)), 0), len(self._levels) - 1)]
        enlarge = np.diag([self.width / picture.shape[1], self.height / picture.shape[0], 1])
        total = np.zeros((bottom - top, right - left, 4), np.float32)
        for pose in exposure:
            matrix = _shift(-left, -top) @ self._matrix(pose) @ enlarge
            cv2.accumulate(_warp(picture, matrix, (right - left, bottom - top)), total)
        layer = _image(cv2.convertScaleAbs(total, alpha=1 / len(exposure)))
        behind = frame[top:bottom, left:right]
        behind[:] = cv2.add(layer[..., :3], _veil(behind, 255 - layer[..., 3]))

    @cached_property
    def _outline(self) -> NDArray[np.float32]:
        """The convex hull of the pixels that are at least half opaque, corners included: (N, 2)."""
        rows, columns = np.nonzero(self._levels[0][..., 3] >= 128)
        corners = [np.stack([columns + right, rows + below], 1) for right in (0, 1) for below in (0, 1)]
        return np.asarray(cv2.convexHull(np.concatenate(corners).astype(np.float32))[:, 0], np.float32)

    def _matrix(self, pose: Pose) -> Matrix:
        """From sprite pixels to frame pixels."""
        return _shift(pose.x, pose.y) @ _turn(pose) @ _shift(-self.width / 2, -self.height / 2)


class Actor:
    """A sprite, the shadow it casts and the path it takes."""

    def __init__(self, picture: Image, keys: Keys, rng: np.random.Generator) -> None:
        """Take a BGRA cut-out (H, W, 4), its key poses, and what varies them."""
        self.sprite = Sprite(picture)
        self._shadow = Sprite(_shadow(picture))
        self._path = _path(keys, rng)

    def exposure(self, index: int) -> list[Pose]:
        """Return the three poses in a frame's exposure; the middle one is the frame's own."""
        start = _SUBSTEPS * index
        return [Pose(*values) for values in self._path[start : start + 3].tolist()]

    def draw(self, frame: Image, index: int) -> None:
        """Lay shadow and sprite over the frame of that index (H, W, 3), in place."""
        exposure = self.exposure(index)
        pose = exposure[1]
        height = 60 * pose.scale  # What is larger is nearer to the camera, so its shadow is further off.
        self._shadow.draw(frame, [pose._replace(x=pose.x + height, y=pose.y + height)])
        self.sprite.draw(frame, exposure)


class Scene:
    """Everything in the clip, and where it is in each frame."""

    def __init__(self, seed: int = 0) -> None:
        """Load the photographs and lay out the paths."""
        rng = np.random.default_rng(seed)
        self.cup = Actor(_load("cup.webp"), _CUP, rng)
        self.lookalike = Actor(_load("cup_blue.webp"), _LOOKALIKE, rng)
        self.cat = Actor(_load("cat.webp"), _CAT, rng)
        self._lawn = _lawn(rng)
        self._camera = _path(_CAMERA, rng)
        self._light = 1 + 0.1 * np.sin(np.linspace(0, 9, CLIP_LENGTH) + rng.uniform(0, math.tau))
        width, height = (side + _NOISE_MARGIN for side in CLIP_SIZE)
        self._noise = rng.normal(128, 3, (height, width, 3)).astype(np.uint8)
        self._noise_corners = rng.integers(0, _NOISE_MARGIN, (CLIP_LENGTH, 2)).tolist()

    def box(self, index: int) -> Box:
        """Return the red cup's box x, y, w, h in the frame of that index, in pixels."""
        return self.cup.sprite.box(self.cup.exposure(index)[1])

    def frame(self, index: int) -> Image:
        """Render the frame of that index: uint8 of shape (360, 640, 3), BGR."""
        width, height = CLIP_SIZE
        camera = Pose(*self._camera[_SUBSTEPS * index + 1].tolist())
        view = _shift(width / 2, height / 2) @ _turn(camera) @ _shift(-camera.x, -camera.y)
        frame = _warp(self._lawn, view, CLIP_SIZE)
        for actor in (self.lookalike, self.cup, self.cat):
            actor.draw(frame, index)
        x, y = self._noise_corners[index]
        noise = self._noise[y : y + height, x : x + width]
        return _image(cv2.addWeighted(frame, self._light[index], noise, 1, -128))


def _path(keys: Keys, rng: np.random.Generator) -> NDArray[np.float64]:
    """Round the path through key poses and let it sway by some pixels: (steps, 4), columns as in Pose.

    Step `_SUBSTEPS · i + 1` is the pose at frame i.
    """
    frames, *columns = np.array(keys, float).T
    steps = (np.arange(_SUBSTEPS * CLIP_LENGTH + 2) - 1) / _SUBSTEPS
    window = np.hanning(_SUBSTEPS * _SMOOTHING + 1)
    ends = len(window) // 2
    padded = np.concatenate([np.full(ends, steps[0]), steps, np.full(ends, steps[-1])])
    corners = [np.interp(padded, frames, column) for column in columns]
    path = np.stack([np.convolve(values, window / window.sum(), "valid") for values in corners], 1)
    path[:, :2] += 3 * np.sin(steps[:, None] / (9, 7) + rng.uniform(0, math.tau, 2))
    return path


def _lawn(rng: np.random.Generator) -> Image:
    """Enlarge the photograph of grass and let sun and shade fall on it."""
    size = (_LAWN_SIZE, _LAWN_SIZE)
    grass = cv2.resize(_load("grass.jpg"), size, interpolation=cv2.INTER_CUBIC)
    light = cv2.resize(rng.uniform(0.55, 1.25, (6, 6)), size, interpolation=cv2.INTER_CUBIC)
    return _image(np.clip(grass * light[..., None], 0, 255))


def _shadow(picture: Image) -> Image:
    """Return the soft shadow of a BGRA cut-out: a black one of its shape, with room for the blur."""
    blur = 16
    alpha = np.pad(picture[..., 3], 3 * blur)
    shadow = np.zeros((*alpha.shape, 4), np.uint8)
    shadow[..., 3] = cv2.GaussianBlur(alpha, (0, 0), blur) * 0.55
    return shadow


def _load(name: str) -> Image:
    """Decode a picture of this package: BGR, or BGRA if it has an alpha channel."""
    data = Path(__file__).with_name(name).read_bytes()
    return _image(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))


def _shift(x: float, y: float) -> Matrix:
    """The 3 × 3 matrix that moves a point by (x, y)."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float)


def _turn(pose: Pose) -> Matrix:
    """The 3 × 3 matrix that scales and turns about the origin."""
    angle = math.radians(pose.angle)
    a, b = pose.scale * math.cos(angle), pose.scale * math.sin(angle)
    return np.array([[a, -b, 0], [b, a, 0], [0, 0, 1]])


def _apply(matrix: Matrix, points: NDArray[Any]) -> NDArray[np.float64]:
    """Map points of shape (N, 2)."""
    return np.asarray(points @ matrix[:2, :2].T + matrix[:2, 2])


def _warp(picture: Image, matrix: Matrix, size: tuple[int, int]) -> Image:
    """Map a picture through a matrix between continuous coordinates (OpenCV counts from pixel centers)."""
    centered = _shift(-0.5, -0.5) @ matrix @ _shift(0.5, 0.5)
    return _image(cv2.warpAffine(picture, centered[:2], size, flags=cv2.INTER_LINEAR))


def _veil(picture: Image, alpha: Image) -> Image:
    """Multiply a BGR picture by an opacity of 0 to 255."""
    return _image(cv2.multiply(picture, cv2.merge([alpha] * 3), scale=1 / 255))


def _image(picture: NDArray[Any] | None) -> Image:
    """Name the type, which OpenCV's own annotations leave open."""
    return np.asarray(picture, np.uint8)


def main() -> None:
    """Write clip.mp4 and clip.txt into src/fartrack/demo."""
    place = Path(__file__).parents[2] / "src/fartrack/demo/clip.mp4"
    boxes = []
    with av.open(str(place), "w") as container:
        stream = container.add_stream("libx264", rate=CLIP_FPS, options={"crf": "24", "preset": "slow"})
        stream.width, stream.height = CLIP_SIZE
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, CLIP_FPS)
        for image, box in render_clip():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
            boxes.append(",".join(f"{value:.3f}" for value in box))
        container.mux(stream.encode())
    place.with_suffix(".txt").write_text("\n".join(boxes) + "\n")


if __name__ == "__main__":
    main()
