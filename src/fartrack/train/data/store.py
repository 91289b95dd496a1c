"""The prepared data: every picture decoded once into one memory-mapped file.

A store is a folder of three files. ``pixels.bin`` and ``masks.bin`` are plain bytes; ``index.safetensors`` says
where each picture and mask lies. Training reads crops straight out of the mapped file, so decoding never slows it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fartrack.errors import FartrackError
from fartrack.geometry import Box, Image

Mask = NDArray[np.bool_]


def extent(mask: Mask) -> tuple[slice, slice]:
    """The rows and the columns from the first to the last that a mask, which is not empty, reaches."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


@dataclass(frozen=True)
class Target:
    """A labelled object: its image box x, y, w, h in pixels and, where known, its mask over the whole picture."""

    box: Box
    mask: Mask | None = None


@dataclass(frozen=True)
class Picture:
    """A BGR picture ``(H, W, 3)`` with its labelled objects; one frame of a video, if ``sequence`` names one.

    Frames of a sequence follow each other in order and hold one target, or none where it is absent.
    """

    image: Image
    targets: tuple[Target, ...]
    sequence: str | None = None


@dataclass
class Store:
    """A prepared store, opened for reading; see :meth:`open`.

    Attributes:
        boxes: ``(targets, 4)`` image boxes x, y, w, h.
        owner: ``(targets,)`` the picture of each target.
        first: ``(pictures + 1,)``; picture ``i`` holds the targets ``first[i]`` to ``first[i + 1] - 1``.
        sequence: ``(pictures,)`` the number of the picture's sequence, -1 for a still.
    """

    pixels: NDArray[np.uint8]
    mask_bytes: NDArray[np.uint8]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    sequence: NDArray[np.int64]
    first: NDArray[np.int64]
    boxes: NDArray[np.float64]
    masks: NDArray[np.int64]
    owner: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        """Derive each target's picture."""
        self.owner = np.repeat(np.arange(len(self.size)), np.diff(self.first))

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Map a store that :func:`write_store` made.

        Raises:
            FartrackError: the folder holds no (whole) store.
        """
        try:
            index = load_file(folder / "index.safetensors")
            files = {name: (folder / f"{name}.bin") for name in ("pixels", "masks")}
            maps = {
                name: np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
                for name, path in files.items()
            }
            store = cls(pixels=maps["pixels"], mask_bytes=maps["masks"], **index)
        except (OSError, ValueError, TypeError, SafetensorError):
            raise FartrackError(f"{folder} holds no prepared data; make it with `fartrack train prepare`.") from None
        ends = {
            "pixels": store.offset + store.size.prod(1) * 3,
            "masks": store.masks[:, 0] + (store.masks[:, 3:].prod(1) + 7) // 8,
        }
        for name, end in ends.items():
            if len(maps[name]) < end.max(initial=0):
                raise FartrackError(f"{folder}/{name}.bin is cut short; make it anew with `fartrack train prepare`.")
        return store

    def image(self, picture: int) -> Image:
        """The pixels of a picture, ``(H, W, 3)`` BGR, still on disk until they are touched."""
        height, width = self.size[picture]
        start = self.offset[picture]
        return self.pixels[start : start + height * width * 3].reshape(height, width, 3)

    def sequences(self) -> list[NDArray[np.int64]]:
        """The targets of each sequence, in order of time; frames without one have no part in it."""
        numbers = self.sequence[self.owner]
        order = np.flatnonzero(numbers >= 0)
        order = order[np.argsort(numbers[order], kind="stable")]
        return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else []

    def cutout(self, target: int) -> tuple[int, int, Mask] | None:
        """A target's mask as the left and top of its bounding rectangle and the mask within; None without one."""
        start, x, y, width, height = self.masks[target]
        if start < 0:
            return None
        bits = np.unpackbits(self.mask_bytes[start : start + (width * height + 7) // 8], count=width * height)
        return int(x), int(y), bits.reshape(height, width).astype(bool)


class StoreWriter:
    """Writes a store picture by picture, under temporary names until the writer is closed without an error."""

    def __init__(self, folder: Path) -> None:
        """Start a new store in ``folder``, which is made; a store that stands there is replaced at the end."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._parts = {name: folder / f"{name}.part" for name in ("pixels.bin", "masks.bin", "index.safetensors")}
        self._pixels = self._parts["pixels.bin"].open("wb")
        self._masks = self._parts["masks.bin"].open("wb")
        self._sequences: dict[str, int] = {}
        self._rows: dict[str, list[object]] = {name: [] for name in ("offset", "size", "sequence", "boxes", "masks")}
        self._first = [0]

    def add(self, picture: Picture) -> None:
        """Append a picture and its targets."""
        height, width = picture.image.shape[:2]
        self._rows["offset"].append(self._pixels.tell())
        self._rows["size"].append((height, width))
        number = -1
        if picture.sequence is not None:
            number = self._sequences.setdefault(picture.sequence, len(self._sequences))
        self._rows["sequence"].append(number)
        self._pixels.write(np.ascontiguousarray(picture.image).data)
        for target in picture.targets:
            self._rows["boxes"].append(target.box)
            self._rows["masks"].append(self._add_mask(target.mask))
        self._first.append(len(self._rows["boxes"]))

    def _add_mask(self, mask: Mask | None) -> tuple[int, int, int, int, int]:
        if mask is None or not mask.any():
            return -1, 0, 0, 0, 0
        rows, columns = extent(mask)
        part = mask[rows, columns]
        start = self._masks.tell()
        self._masks.write(np.packbits(part).tobytes())
        return start, columns.start, rows.start, part.shape[1], part.shape[0]

    def __enter__(self) -> StoreWriter:
        """Use as a context manager."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Without an error, put the files in their places; with one, leave the folder as it was."""
        self._pixels.close()
        self._masks.close()
        if kind is not None:
            for part in self._parts.values():
                part.unlink(missing_ok=True)
            return
        index = {
            "offset": np.array(self._rows["offset"], np.int64),
            "size": np.array(self._rows["size"], np.int64).reshape(-1, 2),
            "sequence": np.array(self._rows["sequence"], np.int64),
            "first": np.array(self._first, np.int64),
            "boxes": np.array(self._rows["boxes"], np.float64).reshape(-1, 4),
            "masks": np.array(self._rows["masks"], np.int64).reshape(-1, 5),
        }
        save_file(index, self._parts["index.safetensors"])
        # Without its index a folder is no store, so an old index never points into new pixels.
        (self.folder / "index.safetensors").unlink(missing_ok=True)
        for name, part in self._parts.items():
            part.replace(self.folder / name)


def write_store(folder: Path, pictures: Iterable[Picture]) -> None:
    """Decode ``pictures`` into a new store in ``folder``."""
    with StoreWriter(folder) as writer:
        for picture in pictures:
            writer.add(picture)
