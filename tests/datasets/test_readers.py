"""Each published layout of sequences, in miniature: its quirks are read right, and what is broken is counted."""

import shutil
from collections import Counter

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pycocotools")

from fartrack.datasets.readers import read_folder
from fartrack.errors import FartrackError

ABSENT = "frame whose target is absent or too small"
NO_TRUTH = "sequence whose ground truth cannot be read"
UNMATCHED = "sequence whose ground truth does not match its frames"


def write_pictures(folder, names):
    """JPEGs of 64 × 48, each of one gray that tells its place in the sequence."""
    folder.mkdir(parents=True)
    for index, name in enumerate(names):
        assert cv2.imwrite(str(folder / name), np.full((48, 64, 3), 10 * index, np.uint8))


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(str, lines)) + "\n")


def boxes(count, x=10):
    """Lines of boxes; the x of each tells its frame."""
    return [f"{x + index}.0000,8.0000,20.0000,16.0000" for index in range(count)]


def read(folder, **options):
    skipped = Counter()
    return list(read_folder(folder, skipped, **options)), skipped


def places(pictures):
    """Of each picture, its own place in the sequence, and the one that its box tells (None without a box)."""
    return [(round(p.image.mean() / 10), int(p.targets[0].box[0] - 10) if p.targets else None) for p in pictures]


def numbered(count, digits=8, first=1, suffix=".jpg"):
    return [f"{index:0{digits}}{suffix}" for index in range(first, first + count)]


def write_got10k(root, name, frames=4, absence=None, cover=None):
    folder = root / name
    write_pictures(folder, numbered(frames))
    write_lines(folder / "groundtruth.txt", boxes(frames))
    write_lines(folder / "absence.label", absence or [0] * frames)
    write_lines(folder / "cover.label", cover or [8] * frames)
    write_lines(folder / "cut_by_image.label", [1] * frames)
    (folder / "meta_info.ini").write_text("[METAINFO]\n")
    return folder


def test_got10k(tmp_path):
    root = tmp_path / "train"
    write_got10k(root, "GOT-10k_Train_000002", absence=[0, 1, 0, 0], cover=[8, 8, 0, 1])
    write_got10k(root, "GOT-10k_Train_000001", frames=2)
    write_lines(root / "list.txt", ["GOT-10k_Train_000001", "GOT-10k_Train_000002"])
    found, skipped = read(root)
    first, second = (str(root / f"GOT-10k_Train_00000{n}") for n in (1, 2))
    assert [p.sequence for p in found] == [first] * 2 + [second] * 4
    assert places(found) == [(0, 0), (1, 1), (0, 0), (1, None), (2, None), (3, 3)]
    assert found[0].targets[0].box == (10, 8, 20, 16) and found[0].targets[0].mask is None
    assert skipped == {ABSENT: 2}


def test_list_txt_says_which_sequences_are_read(tmp_path):
    for name in "abc":
        write_got10k(tmp_path, name, frames=1)
    write_lines(tmp_path / "list.txt", ["c", "missing", "a"])
    found, skipped = read(tmp_path)
    assert [p.sequence for p in found] == [str(tmp_path / name) for name in "ac"]
    assert skipped == {"sequence that is listed but missing": 1}
    write_lines(tmp_path / "list.txt", ["buy", "milk"])  # no list of sequences at all
    assert len(read(tmp_path)[0]) == 3
    (tmp_path / "list.txt").unlink()
    assert len(read(tmp_path)[0]) == 3


def write_lasot(folder, frames=4, occluded=(), outside=()):
    write_pictures(folder / "img", numbered(frames))
    write_lines(folder / "groundtruth.txt", [f"{11 + index},9,20,16" for index in range(frames)])
    for name, indices in (("full_occlusion", occluded), ("out_of_view", outside)):
        (folder / f"{name}.txt").write_text(",".join(str(int(index in indices)) for index in range(frames)))
    write_lines(folder / "nlp.txt", ["a white airplane"])


@pytest.mark.parametrize("parent", ["airplane", "."], ids=["by category", "flat"])
def test_lasot_counts_from_one(tmp_path, parent):
    write_lasot(tmp_path / parent / "airplane-1", occluded=[1], outside=[2])
    found, skipped = read(tmp_path)
    assert {p.sequence for p in found} == {str(tmp_path / parent / "airplane-1")}
    assert places(found) == [(0, 0), (1, None), (2, None), (3, 3)]
    assert found[0].targets[0].box == (10, 8, 20, 16)
    assert skipped == {ABSENT: 2}


def test_sequences_of_one_name_stay_apart(tmp_path):
    for parent in "ab":
        write_lasot(tmp_path / parent / "same-1", frames=1)
    assert len({p.sequence for p in read(tmp_path)[0]}) == 2


def test_trackingnet_counts_from_zero_and_by_number(tmp_path):
    for split in ("TRAIN_0", "TRAIN_1"):
        write_pictures(tmp_path / split / "frames" / "v_-x.y", [f"{index}.jpg" for index in range(12)])
        write_lines(tmp_path / split / "anno" / "v_-x.y.txt", boxes(12))
    write_lines(tmp_path / "TRAIN_1" / "anno" / "zipped.txt", boxes(5))
    found, skipped = read(tmp_path)
    assert [p.sequence for p in found[::12]] == [str(tmp_path / f"TRAIN_{n}/frames/v_-x.y") for n in (0, 1)]
    assert places(found) == [(index, index) for index in range(12)] * 2
    assert skipped == {"sequence without pictures": 1}
    (tmp_path / "TRAIN_0" / "frames" / "v_-x.y" / "0.jpg").unlink()
    found, skipped = read(tmp_path / "TRAIN_0")
    assert places(found) == [(index, index) for index in range(1, 12)]
    assert skipped == {"frame that is missing": 1}


def test_trackingnet_whose_frames_are_a_link(tmp_path):
    write_pictures(tmp_path / "disk" / "v", ["0.jpg", "1.jpg"])
    write_lines(tmp_path / "data" / "TRAIN_0" / "anno" / "v.txt", boxes(2))
    (tmp_path / "data" / "TRAIN_0" / "frames").symlink_to(tmp_path / "disk")
    assert places(read(tmp_path / "data")[0]) == [(0, 0), (1, 1)]


@pytest.mark.parametrize("truth", ["Groundtruth.txt", "groundtruth.txt"])
@pytest.mark.parametrize("absence", ["0\n1\n0\n", "0,1,0", None])
def test_vasttrack(tmp_path, truth, absence):
    folder = tmp_path / "Air Hockey" / "Air Hockey-1"
    write_pictures(folder / "imgs", numbered(3, digits=5))
    write_lines(folder / truth, [*boxes(2), "0,0,0,0"])
    if absence:
        (folder / "absence.txt").write_text(absence)
    found, skipped = read(tmp_path)
    assert places(found) == [(0, 0), (1, None if absence else 1), (2, None)]
    assert skipped == {ABSENT: 2 if absence else 1}


@pytest.mark.parametrize("where", ["frames", "img", "."])
@pytest.mark.parametrize(
    "names", [numbered(3, 4, first=0, suffix=".png"), numbered(3, 1, first=300), ["a.png", "b.JPG", "c.jpg"]]
)
def test_plain_folders(tmp_path, where, names):
    folder = tmp_path / "one"
    write_pictures(folder / where, names)
    write_lines(folder / "groundtruth.txt", boxes(3))
    (folder / where / "._a.jpg").touch()
    for root in (tmp_path, folder):
        found, skipped = read(root)
        assert places(found) == [(0, 0), (1, 1), (2, 2)]
        assert {p.sequence for p in found} == {str(folder)}
        assert not skipped


def test_datasets_beside_each_other(tmp_path):
    write_got10k(tmp_path / "got10k" / "train", "GOT-10k_Train_000001", frames=1)
    write_lasot(tmp_path / "lasot" / "cat" / "cat-1", frames=1)
    write_pictures(tmp_path / "trackingnet" / "TRAIN_0" / "frames" / "v", ["0.jpg"])
    write_lines(tmp_path / "trackingnet" / "TRAIN_0" / "anno" / "v.txt", boxes(1))
    found, skipped = read(tmp_path)
    assert [t.box for p in found for t in p.targets] == [(10, 8, 20, 16)] * 3
    assert not skipped


def test_boxes_are_cut_and_those_outside_small_or_without_numbers_are_absent(tmp_path):
    folder = write_got10k(tmp_path, "a", frames=5)
    write_lines(
        folder / "groundtruth.txt", ["-5,-6,20,20", "50,40,99,99", "70,8,20,16", "1,1,3.9,9", "nan,nan,nan,nan"]
    )
    found, skipped = read(tmp_path)
    assert [[t.box for t in p.targets] for p in found] == [[(0, 0, 15, 14)], [(50, 40, 14, 8)], [], [], []]
    assert skipped == {ABSENT: 3}


def test_frames_that_are_missing_or_broken_are_counted(tmp_path):
    folder = write_got10k(tmp_path, "a", frames=6)
    (folder / "00000002.jpg").unlink()
    (folder / "00000004.jpg").write_bytes((folder / "00000004.jpg").read_bytes()[:200])
    (folder / "00000005.jpg").write_bytes(b"")
    found, skipped = read(tmp_path)
    assert places(found) == [(0, 0), (2, 2), (5, 5)]
    assert skipped == {"frame that is missing": 1, "picture that cannot be decoded": 2}


def shorten(folder):
    for path in folder.glob("*.label"):
        path.unlink()
    write_lines(folder / "groundtruth.txt", boxes(3))


def empty(folder):
    shorten(folder)
    (folder / "groundtruth.txt").write_text("")


def garble(folder):
    write_lines(folder / "groundtruth.txt", [*boxes(3), "13,8,20"])


def scramble(folder):
    (folder / "groundtruth.txt").write_bytes(b"\xff\xfe\x00")


def remove(folder):
    (folder / "groundtruth.txt").unlink()


def shorten_labels(folder):
    write_lines(folder / "absence.label", [0, 0, 0])


def garble_labels(folder):
    write_lines(folder / "cover.label", [8, 8, "all", 8])


def remove_pictures(folder):
    for path in folder.glob("*.jpg"):
        path.unlink()


def repeat_a_number(folder):
    shutil.copy(folder / "00000001.jpg", folder / "1.jpg")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (shorten, UNMATCHED),
        (empty, UNMATCHED),
        (repeat_a_number, UNMATCHED),
        (garble, NO_TRUTH),
        (scramble, NO_TRUTH),
        (shorten_labels, NO_TRUTH),
        (garble_labels, NO_TRUTH),
        (remove, "folder of pictures without ground truth"),
        (remove_pictures, "sequence without pictures"),
    ],
)
def test_a_sequence_that_cannot_be_used_is_counted(tmp_path, damage, reason):
    damage(write_got10k(tmp_path, "a"))
    with pytest.raises(FartrackError, match=rf"holds nothing to train on \(found: 1 × {reason}\); give .*\.$"):
        read(tmp_path)
    write_got10k(tmp_path, "b")
    found, skipped = read(tmp_path)
    assert [p.sequence for p in found] == [str(tmp_path / "b")] * 4
    assert skipped == {reason: 1}


def test_every_third_frame(tmp_path):
    folder = write_got10k(tmp_path, "a", frames=8, absence=[0, 0, 0, 1, 0, 0, 0, 0])
    (folder / "00000006.jpg").write_bytes(b"")  # not looked at
    found, skipped = read(tmp_path, every=3)
    assert places(found) == [(0, 0), (3, None), (6, 6)]
    assert skipped == {ABSENT: 1}


def test_longest(tmp_path):
    write_lasot(tmp_path / "cat-1", frames=1)
    ((picture,), _) = read(tmp_path, longest=32)
    assert picture.image.shape == (24, 32, 3)
    assert picture.targets[0].box == (5, 4, 10, 8)


def test_a_picture_is_not_read_before_it_is_asked_for(tmp_path):
    folder = write_got10k(tmp_path, "a")
    skipped = Counter()
    pictures = read_folder(tmp_path, skipped)
    next(pictures)
    shutil.rmtree(folder)
    assert list(pictures) == []
    assert skipped == {"picture that is missing": 3}


def test_folders_that_loop_end(tmp_path):
    write_got10k(tmp_path / "x", "a", frames=1)
    (tmp_path / "x" / "loop").symlink_to(tmp_path)
    assert 1 <= len(read(tmp_path)[0]) < 10
