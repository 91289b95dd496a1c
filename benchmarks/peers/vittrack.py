"""VitTrack of the OpenCV model zoo under ONNX Runtime, written from the published description.

FARTRACK_PEERS=DIR fartrack eval --tracker pico,vittrack=benchmarks.peers.vittrack:VitTrack --data VAL

DIR holds the network as an ONNX file.
"""

import math
from pathlib import Path

import numpy as np

from benchmarks.peers.common import Floats, as_batch, center_and_size, cut, keep_inside, onnx_files, open_session
from fartrack.geometry import FloatArray, Image
from fartrack.model.config import IMAGENET_MEAN, IMAGENET_STD


class VitTrack:
    """A small transformer that sees template and search window together, and gives on a grid of cells how likely each
    holds the target's center, where in the cell, and the target's size.

    As in OpenCV, the box is rounded down to whole pixels, and stays where it was on a frame with a low score.
    """

    TEMPLATE, SEARCH, LOWEST_SCORE = 128, 256, 0.2

    def __init__(self, threads: int | None = 1) -> None:
        self._network = open_session(self.files()[0], threads)
        cells = int(self._network.get_outputs()[0].shape[-1])
        bell = np.hanning(cells + 2)[1:-1]
        self._hann = np.outer(bell, bell)

    @staticmethod
    def files() -> list[Path]:
        return onnx_files("object_tracking_vittrack_2023sep.onnx")

    def init(self, frame: Image, box: FloatArray) -> None:
        self._center, self._size = center_and_size(box)
        self._template = self._crop(frame, 2, self.TEMPLATE)[0]

    def update(self, frame: Image) -> tuple[FloatArray, float]:
        search, middle, side = self._crop(frame, 4, self.SEARCH)
        scores, sizes, offsets = (
            part[0] for part in self._network.run(None, {"template": self._template, "search": search})
        )
        row, column = np.unravel_index(np.argmax(scores[0] * self._hann), self._hann.shape)
        score = float(scores[0, row, column])
        if score >= self.LOWEST_SCORE:
            cell = np.array([column, row]) + offsets[:, row, column]
            center, size = middle + (cell / len(self._hann) - 0.5) * side, sizes[:, row, column] * side
            whole = np.floor(np.concatenate([center - size / 2, size]))
            self._center, self._size = keep_inside(*center_and_size(whole), frame, 1)
        return np.concatenate([self._center - self._size / 2, self._size]), score

    def _crop(self, frame: Image, factor: float, size: int) -> tuple[Floats, FloatArray, int]:
        side = math.ceil(factor * math.sqrt(self._size.prod()))
        crop, middle = cut(frame, self._center, side, size)
        return as_batch((crop[..., ::-1] / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)), middle, side
