"""COCO's labels in miniature: crowds, polygons, run lengths, and what is broken in them."""

import json
from collections import Counter

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pycocotools")

from pycocotools import mask as coco

from fartrack.datasets.readers import read_folder
from fartrack.errors import FartrackError

SQUARE = [20, 10, 40, 10, 40, 30, 20, 30]
LISTED = {"id": 7, "file_name": "000000000007.jpg", "width": 64, "height": 48}


def annotation(**fields):
    return {"id": 1, "image_id": 7, "category_id": 3, "iscrowd": 0, "bbox": [20, 10, 20, 20], **fields}


def write(root, annotations, images=(LISTED,), split="train2017", folder="train2017"):
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    content = {"images": list(images), "annotations": list(annotations), "categories": []}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    (root / folder).mkdir(parents=True, exist_ok=True)
    for image in images:
        if isinstance(image, dict) and "file_name" in image:
            cv2.imwrite(str(root / folder / image["file_name"]), np.full((48, 64, 3), 90, np.uint8))


def read(root, **options):
    skipped = Counter()
    return list(read_folder(root, skipped, **options)), skipped


def rle(mask, compress):
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    if compress:
        return {"size": [48, 64], "counts": encoded["counts"].decode()}
    flat = np.concatenate([[0], mask.flatten(order="F").astype(int), [2]])
    return {"size": [48, 64], "counts": np.diff(np.flatnonzero(np.diff(flat)), prepend=0).tolist()}


def test_boxes_and_polygons(tmp_path):
    hole = [22, 12, 24, 12, 24, 14, 22, 14]
    two_parts = [[20, 10, 28, 10, 28, 30, 20, 30], [32, 10, 40, 10, 40, 30, 32, 30]]
    write(tmp_path, [annotation(segmentation=[SQUARE, hole]), annotation(segmentation=two_parts), annotation()])
    (picture,), skipped = read(tmp_path)
    assert picture.sequence is None and picture.image.shape == (48, 64, 3)
    assert [target.box for target in picture.targets] == [(20, 10, 20, 20)] * 3
    whole, parts, without = (target.mask for target in picture.targets)
    expected = np.zeros((48, 64), bool)
    expected[10:30, 20:40] = True
    np.testing.assert_array_equal(whole, expected)  # parts of an object are joined, none is a hole
    expected[:, 28:32] = False
    np.testing.assert_array_equal(parts, expected)
    assert without is None
    assert not skipped


@pytest.mark.parametrize("compress", [True, False])
def test_run_lengths(tmp_path, compress):
    mask = np.zeros((48, 64), bool)
    mask[12:29, 21:38] = True
    mask[15:20, 25:30] = False
    write(tmp_path, [annotation(segmentation=rle(mask, compress))])
    (picture,), skipped = read(tmp_path)
    np.testing.assert_array_equal(picture.targets[0].mask, mask)
    assert not skipped


def test_crowds_are_no_targets(tmp_path):
    write(tmp_path, [annotation(iscrowd=1, segmentation={"size": [48, 64], "counts": [3072]}), annotation()])
    (picture,), skipped = read(tmp_path)
    assert len(picture.targets) == 1
    assert skipped == {"crowd": 1}


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [48, 64], "counts": [1, 2, 3]},
        {"size": [48, 64], "counts": [10**15]},
        {"size": [48, 64], "counts": "01"},
        {"size": [48, 64]},
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, float("nan"), 5, 6]],
        [SQUARE, 5],
        [SQUARE, [1, 2]],
        [["a"] * 6],
        "polygon",
    ],
)
def test_a_malformed_mask_is_counted_and_the_box_kept(tmp_path, segmentation):
    write(tmp_path, [annotation(segmentation=segmentation)])
    (picture,), skipped = read(tmp_path)
    assert [(target.box, target.mask) for target in picture.targets] == [((20, 10, 20, 20), None)]
    assert skipped == {"mask that cannot be read": 1}


def test_a_polygon_that_reaches_far_outside_is_cut_at_the_picture(tmp_path):
    write(tmp_path, [annotation(segmentation=[[20, 10, 1e12, 10, 1e12, 1e12, 20, 1e12]])])
    (picture,), _ = read(tmp_path)
    expected = np.zeros((48, 64), bool)
    expected[10:, 20:] = True
    np.testing.assert_array_equal(picture.targets[0].mask, expected)


def test_each_kind_of_broken_label_is_counted(tmp_path):
    write(
        tmp_path,
        [
            annotation(bbox=[60, 40, 3, 3]),
            annotation(bbox=[-10, 40, 20, 20]),
            annotation(bbox=[float("nan"), 1, 9, 9]),
            annotation(bbox=[1, 1, 9]),
            annotation(image_id=8),
            annotation(image_id=[]),
            annotation(segmentation={"size": [64, 48], "counts": [3072]}),
            "no annotation",
        ],
        images=[LISTED, {"id": 9}, "no picture"],
    )
    (picture,), skipped = read(tmp_path)
    assert [target.box for target in picture.targets] == [(0, 40, 10, 8), (20, 10, 20, 20)]
    assert skipped == {
        "target too small": 1,
        "box that is not finite": 1,
        "label that cannot be read": 5,
        "label of a picture that is not listed": 1,
        "mask of another size": 1,
    }


def test_pictures_that_are_missing_broken_or_of_another_size_are_counted(tmp_path):
    images = [{**LISTED, "id": n, "file_name": f"{n}.jpg", "height": 64 if n == 4 else 48} for n in (5, 4, 3, 2, 1)]
    write(tmp_path, [annotation(image_id=n, bbox=[n, n, 9, 9]) for n in (1, 2, 3, 4)], images)
    (tmp_path / "train2017" / "2.jpg").unlink()
    (tmp_path / "train2017" / "3.jpg").write_bytes(b"no picture")
    found, skipped = read(tmp_path)
    assert [[t.box[0] for t in p.targets] for p in found] == [[1], []]  # by name; one without objects is kept
    assert skipped == {
        "picture that is missing": 1,
        "picture that cannot be decoded": 1,
        "picture of another size than its labels say": 1,
    }


def test_both_splits_and_either_place_of_the_pictures(tmp_path):
    write(tmp_path, [annotation(bbox=[2, 2, 9, 9])], split="val2017", folder="images/val2017")
    write(tmp_path, [annotation(bbox=[1, 1, 9, 9])])
    (tmp_path / "annotations" / "captions_train2017.json").write_text("{}")
    found, skipped = read(tmp_path)
    assert [p.targets[0].box[0] for p in found] == [1, 2]
    assert not skipped


@pytest.mark.parametrize("content", ["{ cut off", "[]", '{"images": []}', '{"images": 1, "annotations": []}'])
def test_a_file_of_labels_that_is_broken_or_without_pictures_is_counted(tmp_path, content):
    write(tmp_path, [annotation()])
    (tmp_path / "annotations" / "instances_a.json").write_text(content)
    (tmp_path / "a").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text("{}")  # its pictures were not fetched
    found, skipped = read(tmp_path)
    assert len(found) == 1
    assert skipped == {"file of labels that cannot be read": 1, "file of labels without its folder of pictures": 1}
    (tmp_path / "annotations" / "instances_train2017.json").unlink()
    with pytest.raises(FartrackError, match=r"holds nothing to train on \(found: 1 × file of labels"):
        read(tmp_path)


def test_longest_takes_masks_along(tmp_path):
    write(tmp_path, [annotation(segmentation=[SQUARE])])
    (picture,), _ = read(tmp_path, longest=32)
    assert picture.targets[0].box == (10, 5, 10, 10)
    expected = np.zeros((24, 32), bool)
    expected[5:15, 10:20] = True
    np.testing.assert_array_equal(picture.targets[0].mask, expected)
