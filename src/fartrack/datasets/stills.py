"""Stills with any number of labeled objects: tar shards, and COCO's pictures beside one file of labels."""

import json
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fartrack.datasets.pictures import MALFORMED, Picture, Target, fit_box, read_mask
from fartrack.errors import FartrackError
from fartrack.geometry import Box, Image
from fartrack.video.sources import PICTURES, frames_from_source

BAD_PICTURE = "picture that cannot be decoded"
BAD_LABEL = "label that cannot be read"


def read_stills(shard: Path, skipped: Counter[str]) -> Iterator[Picture]:
    """Pictures of a tar shard in webdataset's layout: ``NAME.jpg`` (or .png, .webp, …) beside ``NAME.json``.

    The JSON holds ``objects``: a list of ``{bbox: [x, y, w, h], mask?: COCO run-length encoding}`` in pixels.
    What cannot be used, the rest of a shard that is cut off included, is counted in ``skipped``.
    """
    pixels: dict[str, bytes] = {}
    labels: dict[str, bytes] = {}
    try:
        with tarfile.open(shard) as tar:
            for member in tar:
                stem, _, suffix = member.name.rpartition(".")
                kind = labels if suffix == "json" else pixels if f".{suffix.lower()}" in PICTURES else None
                file = tar.extractfile(member) if kind is not None and member.isfile() else None
                if kind is None or file is None:
                    continue
                kind[stem] = file.read()
                if stem in pixels and stem in labels:
                    picture = _still(pixels.pop(stem), labels.pop(stem), skipped)
                    if picture is not None:
                        yield picture
    except (tarfile.TarError, OSError):
        skipped["tar shard that is broken or cut off"] += 1
    for reason, left in (("picture without a label", pixels), ("label without a picture", labels)):
        if left:
            skipped[reason] += len(left)


def _still(pixels: bytes, label: bytes, skipped: Counter[str]) -> Picture | None:
    try:
        image = cv2.imdecode(np.frombuffer(pixels, np.uint8), cv2.IMREAD_COLOR) if pixels else None
    except cv2.error:
        image = None
    if image is None:
        skipped[BAD_PICTURE] += 1
        return None
    try:
        objects = [(_box(entry), entry.get("mask")) for entry in json.loads(label).get("objects", [])]
    except MALFORMED:
        skipped[BAD_LABEL] += 1
        return None
    return _labeled(np.asarray(image, np.uint8), objects, skipped)


def read_coco(labels: Path, skipped: Counter[str]) -> Iterator[Picture]:
    """Pictures of COCO 2017: ``annotations/instances_SPLIT.json`` beside ``SPLIT/`` (or ``images/SPLIT/``).

    Boxes are x, y, w, h counted from zero; masks are polygons or run lengths. Objects with ``iscrowd`` are no targets.
    The labels are read whole (a few GB of memory for train2017), the pictures one by one in the order of their names.
    What cannot be used is counted in ``skipped`` by its reason.
    """
    split = labels.stem.removeprefix("instances_")
    root = labels.parent.parent
    folder = next((folder for folder in (root / split, root / "images" / split) if folder.is_dir()), None)
    if folder is None:
        skipped["file of labels without its folder of pictures"] += 1
        return
    try:
        content = json.loads(labels.read_bytes())
        entries, annotations = list(content["images"]), list(content["annotations"])
    except (OSError, *MALFORMED):
        skipped["file of labels that cannot be read"] += 1
        return
    pictures: dict[Any, tuple[str, Any, Any]] = {}
    for entry in entries:
        try:
            pictures[entry["id"]] = str(entry["file_name"]), entry["width"], entry["height"]
        except MALFORMED:
            skipped[BAD_LABEL] += 1
    objects: dict[Any, list[tuple[Box, Any]]] = defaultdict(list)
    for annotation in annotations:
        try:
            if annotation.get("iscrowd"):
                skipped["crowd"] += 1
            elif annotation["image_id"] not in pictures:
                skipped["label of a picture that is not listed"] += 1
            else:
                objects[annotation["image_id"]].append((_box(annotation), annotation.get("segmentation")))
        except MALFORMED:
            skipped[BAD_LABEL] += 1
    for key, (name, width, height) in sorted(pictures.items(), key=lambda item: item[1][0]):
        image = read_image(folder / name, skipped)
        if image is None:
            continue
        if image.shape[:2] != (height, width):
            skipped["picture of another size than its labels say"] += 1
            continue
        yield _labeled(image, objects.get(key, []), skipped)


def read_image(path: Path, skipped: Counter[str]) -> Image | None:
    """A picture's pixels ``(H, W, 3)`` BGR; None, counted in ``skipped``, if it is missing or cannot be decoded."""
    if not path.is_file():
        skipped["picture that is missing"] += 1
        return None
    try:
        with frames_from_source(path) as source:
            return source.first.image
    except FartrackError:
        skipped[BAD_PICTURE] += 1
        return None


def _box(entry: Any) -> Box:
    x, y, w, h = (float(v) for v in entry["bbox"])
    return x, y, w, h


def _labeled(image: Image, objects: Iterable[tuple[Box, Any]], skipped: Counter[str]) -> Picture:
    """The picture with those of its objects, each a box and a segmentation or None, that can be used."""
    height, width = image.shape[:2]
    targets = []
    for given, segmentation in objects:
        box = fit_box(given, width, height)
        if box is None:
            skipped["target too small" if np.isfinite(given).all() else "box that is not finite"] += 1
            continue
        targets.append(Target(box, read_mask(segmentation, width, height, skipped)))
    return Picture(image, tuple(targets))
