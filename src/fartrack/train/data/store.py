"""The prepared data: every picture decoded once into one memory-mapped file.

In a store's folder, ``pixels.bin`` and ``masks.bin`` are plain bytes; ``index.safetensors`` says where each picture and
mask lies. Training reads crops straight out of the mapped file, so decoding never slows it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fartrack.datasets.pictures import Mask, Picture, mask_extent
from fartrack.errors import FartrackError
from fartrack.files import replacing
from fartrack.geometry import Image


@dataclass
class Store:
    """A prepared store, opened for reading (:meth:`open`): arrays over its N pictures and their M targets."""

    pixels: NDArray[np.uint8]  # the mapped files
    mask_bytes: NDArray[np.uint8]
    offset: NDArray[np.int64]  # (N,) where the picture's pixels begin
    sizes: NDArray[np.int64]  # (N, 2) width and height
    sequence: NDArray[np.int64]  # (N,) the number of its sequence, -1 for a still
    first: NDArray[np.int64]  # (N + 1,) picture i holds the targets first[i] to first[i + 1] - 1
    boxes: NDArray[np.float64]  # (M, 4) image boxes
    masks: NDArray[np.int64]  # (M, 5) where the mask begins (-1 without one), and its bounding rectangle x, y, w, h

    def __post_init__(self) -> None:
        """Derive each target's picture ``(M,)``."""
        self.owner = np.repeat(np.arange(len(self.sizes)), np.diff(self.first))

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Map a store that :func:`write_store` made; a FartrackError if the folder holds no whole one."""
        try:
            index = load_file(folder / "index.safetensors")
            pixels, masks = (
                np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
                for path in (folder / "pixels.bin", folder / "masks.bin")
            )
            store = cls(pixels=pixels, mask_bytes=masks, **index)
        except (OSError, ValueError, TypeError, SafetensorError):
            raise FartrackError(f"{folder} holds no prepared data; make it with `fartrack train prepare`.") from None
        for name, file, end in (
            ("pixels", pixels, store.offset + store.sizes.prod(1) * 3),
            ("masks", masks, store.masks[:, 0] + (store.masks[:, 3:].prod(1) + 7) // 8),
        ):
            if len(file) < end.max(initial=0):
                raise FartrackError(f"{folder}/{name}.bin is cut short; make it again with `fartrack train prepare`.")
        return store

    @property
    def masked(self) -> NDArray[np.int64]:
        """The targets that have a mask."""
        return np.flatnonzero(self.masks[:, 0] >= 0)

    def image(self, picture: int) -> Image:
        """The pixels of a picture, ``(H, W, 3)`` BGR, still on disk until they are touched."""
        width, height = self.sizes[picture]
        start = self.offset[picture]
        return self.pixels[start : start + height * width * 3].reshape(height, width, 3)

    def image_of(self, target: int) -> Image:
        """The pixels of a target's picture."""
        return self.image(int(self.owner[target]))

    def sequences(self) -> list[NDArray[np.int64]]:
        """The targets of each sequence, in order of time; frames without one are left out."""
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


def write_store(folder: Path, pictures: Iterable[Picture]) -> int:
    """Write pictures into a new store → how many they are; one that is there is replaced once the new one is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers, first = dict[str, int](), [0]
    about, boxes, masks = list[tuple[int, ...]](), list[tuple[float, ...]](), list[tuple[int, ...]]()
    index_path = folder / "index.safetensors"
    with (  # left in reverse order, so that the index comes last
        replacing(index_path) as index_part,
        replacing(folder / "pixels.bin") as pixels_part,
        replacing(folder / "masks.bin") as masks_part,
    ):
        with pixels_part.open("wb") as pixels_file, masks_part.open("wb") as masks_file:
            for picture in pictures:
                (height, width), name = picture.image.shape[:2], picture.sequence
                number = -1 if name is None else numbers.setdefault(name, len(numbers))
                about.append((pixels_file.tell(), width, height, number))
                pixels_file.write(np.ascontiguousarray(picture.image).data)
                for target in picture.targets:
                    boxes.append(target.box)
                    if target.mask is None or not target.mask.any():
                        masks.append((-1, 0, 0, 0, 0))
                        continue
                    rows, columns = mask_extent(target.mask)
                    size = columns.stop - columns.start, rows.stop - rows.start
                    masks.append((masks_file.tell(), columns.start, rows.start, *size))
                    masks_file.write(np.packbits(target.mask[rows, columns]).tobytes())
                first.append(len(boxes))
        table = np.array(about, np.int64).reshape(-1, 4)
        index: dict[str, NDArray[Any]] = {"offset": table[:, 0], "sizes": table[:, 1:3], "sequence": table[:, 3]}
        index["first"] = np.array(first, np.int64)
        index["boxes"] = np.array(boxes, np.float64).reshape(-1, 4)
        index["masks"] = np.array(masks, np.int64).reshape(-1, 5)
        save_file({name: np.ascontiguousarray(array) for name, array in index.items()}, index_part)
        index_path.unlink(missing_ok=True)  # an old index must never point into new pixels
    return len(about)
