"""The trackers of OpenCV that need no network: CSRT, KCF and MIL.

fartrack eval --tracker pico,csrt=benchmarks.peers.opencv:CSRT,kcf=benchmarks.peers.opencv:KCF --data VAL

CSRT and KCF need the package ``opencv-contrib-python-headless``. MIL draws random numbers whose state OpenCV keeps for
the process and cannot reset, so its boxes depend on what the process tracked before.
"""

import cv2

from fartrack.errors import FartrackError
from fartrack.geometry import FloatArray, Image


class OpenCV:
    """A tracker of OpenCV; where it reports a failure, the box stays where it was."""

    NAME: str

    def __init__(self) -> None:
        create = f"Tracker{self.NAME}_create"
        self._create = getattr(cv2, create, None) or getattr(getattr(cv2, "legacy", None), create, None)
        if self._create is None:
            raise FartrackError(
                f"The installed OpenCV {cv2.__version__} lacks the tracker {self.NAME}; install the package "
                "opencv-contrib-python-headless in place of opencv-python-headless."
            )

    def init(self, frame: Image, box: FloatArray) -> None:
        x, y, w, h = (round(value) for value in box.tolist())  # OpenCV takes whole pixels only
        self._box: tuple[float, ...] = (x, y, max(w, 1), max(h, 1))
        self._tracker = self._create()
        self._tracker.init(frame, self._box)

    def update(self, frame: Image) -> tuple[float, ...]:
        good, box = self._tracker.update(frame)
        if good:
            self._box = box
        return self._box


class CSRT(OpenCV):
    NAME = "CSRT"


class KCF(OpenCV):
    NAME = "KCF"


class MIL(OpenCV):
    NAME = "MIL"
