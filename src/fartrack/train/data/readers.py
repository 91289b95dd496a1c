"""Readers: each turns a published or packed layout into pictures for the store."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from fartrack.errors import FartrackError
from fartrack.evaluate.sequences import read_boxes
from fartrack.geometry import Box
from fartrack.train.data.store import Mask, Picture, Target

SMALLEST_TARGET = 4.0
"""Targets with a side under this many pixels teach nothing and are skipped."""


def read_stills(shard: Path, skipped: Counter[str]) -> Iterator[Picture]:
    """Pictures of a tar shard: ``NAME.jpg`` or ``.webp`` beside ``NAME.json``.

    The JSON holds ``objects``: a list of ``{bbox: [x, y, w, h], mask?: COCO run-length encoding}`` in pixels.
    What cannot be used is counted in ``skipped`` by its reason, never fatal.

    Raises:
        FartrackError: the shard is no readable tar file.
    """
    try:
        with tarfile.open(shard) as tar:
            pixels: dict[str, bytes] = {}
            labels: dict[str, bytes] = {}
            for member in tar:
                stem, _, suffix = member.name.rpartition(".")
                file = tar.extractfile(member)
                if file is None:
                    continue
                (labels if suffix == "json" else pixels)[stem] = file.read()
                if stem in pixels and stem in labels:
                    picture = _still(pixels.pop(stem), labels.pop(stem), skipped)
                    if picture is not None:
                        yield picture
    except (tarfile.TarError, OSError) as error:
        raise FartrackError(f"{shard} is no readable tar shard ({error}); fetch it anew.") from None


def _still(pixels: bytes, label: bytes, skipped: Counter[str]) -> Picture | None:
    image = cv2.imdecode(np.frombuffer(pixels, np.uint8), cv2.IMREAD_COLOR) if pixels else None
    if image is None:
        skipped["picture that cannot be decoded"] += 1
        return None
    try:
        objects = _objects(label)
    except (ValueError, TypeError, KeyError, AttributeError):
        skipped["label that cannot be read"] += 1
        return None
    height, width = image.shape[:2]
    targets = []
    for (x, y, w, h), rle in objects:
        if not np.isfinite([x, y, w, h]).all():
            skipped["box that is not finite"] += 1
            continue
        x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)
        if min(x1 - x0, y1 - y0) < SMALLEST_TARGET:
            skipped["target too small"] += 1
            continue
        mask = _decode_mask(rle) if rle else None
        if mask is not None and mask.shape != (height, width):
            skipped["mask of another size"] += 1
            mask = None
        targets.append(Target((x0, y0, x1 - x0, y1 - y0), mask))
    return Picture(np.asarray(image, np.uint8), tuple(targets))


def _objects(label: bytes) -> list[tuple[Box, Any]]:
    """The box of each object and its run-length encoding, if it has one."""
    objects: list[tuple[Box, Any]] = []
    for entry in json.loads(label).get("objects", []):
        x, y, w, h = (float(v) for v in entry["bbox"])
        objects.append(((x, y, w, h), entry.get("mask")))
    return objects


def _decode_mask(rle: Any) -> Mask:
    from pycocotools import mask as coco

    if isinstance(rle.get("counts"), str):
        rle = {**rle, "counts": rle["counts"].encode()}
    elif isinstance(rle.get("counts"), list):
        rle = coco.frPyObjects(rle, *rle["size"])
    return np.asarray(coco.decode(rle), bool)


def read_video(video: Path, skipped: Counter[str]) -> Iterator[Picture]:
    """Frames of ``NAME.mp4`` with the boxes of ``NAME.txt``; a frame without a usable box has no target.

    Raises:
        FartrackError: the video or its text cannot be read.
    """
    boxes = read_boxes(video.with_suffix(".txt"))
    try:
        with av.open(str(video)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index >= len(boxes):
                    skipped["frame without a line in the ground truth"] += 1
                    return
                box = boxes[index]
                usable = np.isfinite(box).all() and box[2:].min() >= SMALLEST_TARGET
                if not usable:
                    skipped["frame whose target is absent or too small"] += 1
                x, y, w, h = box.tolist()
                targets = (Target((x, y, w, h)),) if usable else ()
                yield Picture(np.asarray(frame.to_ndarray(format="bgr24"), np.uint8), targets, sequence=video.stem)
    except (av.FFmpegError, IndexError) as error:
        raise FartrackError(f"{video} cannot be read as a video ({error}); fetch it anew.") from None


def read_folder(folder: Path, skipped: Counter[str]) -> Iterator[Picture]:
    """Everything in a folder: tar shards of stills, and packed videos beside their texts; sorted by name.

    Raises:
        FartrackError: there is nothing of either kind.
    """
    shards, videos = sorted(folder.glob("*.tar")), sorted(folder.glob("*.mp4"))
    if not shards and not videos:
        raise FartrackError(
            f"{folder} holds neither tar shards of stills nor .mp4 videos with .txt boxes; check the path."
        )
    for shard in shards:
        yield from read_stills(shard, skipped)
    for video in videos:
        yield from read_video(video, skipped)
