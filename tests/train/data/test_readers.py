"""Shards and packed videos are read as they are meant, and what is broken in them is counted, not fatal."""

import io
import json
import tarfile
from collections import Counter
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pycocotools")

from pycocotools import mask as coco

from fartrack.errors import FartrackError
from fartrack.train.data.readers import read_folder, read_stills, read_video


def picture(height=48, width=64, seed=0):
    smooth = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return cv2.resize(smooth, (width, height))


def encoded(image, suffix=".jpg"):
    return cv2.imencode(suffix, image)[1].tobytes()


def write_shard(path, files):
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def read(shard):
    skipped = Counter()
    return list(read_stills(shard, skipped)), skipped


def compressed(mask):
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def uncompressed(mask):
    """COCO's other form: the lengths of alternating runs of 0 and 1, column by column."""
    counts, value = [], 0
    flat = mask.astype(int).flatten(order="F").tolist()
    while flat:
        run = next((i for i, v in enumerate(flat) if v != value), len(flat))
        counts.append(run)
        flat, value = flat[run:], 1 - value
    return {"size": list(mask.shape), "counts": counts}


@pytest.fixture
def mask():
    mask = np.zeros((48, 64), bool)
    cv2.ellipse(mask.view(np.uint8), (30, 20), (15, 9), 20, 0, 360, 1, -1)
    return mask


@pytest.mark.parametrize("encode_mask", [compressed, uncompressed])
def test_stills_with_masks(tmp_path, mask, encode_mask):
    image = picture()
    label = {"objects": [{"bbox": [14, 10, 33, 21], "mask": encode_mask(mask)}, {"bbox": [1.5, 2.5, 10, 20]}]}
    write_shard(tmp_path / "a.tar", [("000.jpg", encoded(image)), ("000.json", label)])
    (found,), skipped = read(tmp_path / "a.tar")
    assert np.abs(found.image.astype(int) - image).mean() < 3  # JPEG loses a little; swapped channels much more
    assert [target.box for target in found.targets] == [(14, 10, 33, 21), (1.5, 2.5, 10, 20)]
    np.testing.assert_array_equal(found.targets[0].mask, mask)
    assert found.targets[1].mask is None
    assert found.sequence is None
    assert not skipped


def test_label_and_picture_come_in_any_order(tmp_path):
    first, second = (encoded(picture(seed=seed), ".webp") for seed in (1, 2))
    box = {"objects": [{"bbox": [1, 1, 20, 20]}]}
    files = [("d/one.json", box), ("d/two.webp", second), ("d/one.webp", first), ("d/two.json", {"objects": []})]
    write_shard(tmp_path / "a.tar", files)
    (one, two), skipped = read(tmp_path / "a.tar")
    assert (len(one.targets), len(two.targets)) == (1, 0)
    np.testing.assert_array_equal(one.image, cv2.imdecode(np.frombuffer(first, np.uint8), 1))
    np.testing.assert_array_equal(two.image, cv2.imdecode(np.frombuffer(second, np.uint8), 1))
    assert not skipped


def test_boxes_are_cut_at_the_picture(tmp_path):
    label = {"objects": [{"bbox": [-5, -6, 20, 20]}, {"bbox": [50, 40, 100, 100]}]}
    write_shard(tmp_path / "a.tar", [("0.jpg", encoded(picture())), ("0.json", label)])
    (found,), _ = read(tmp_path / "a.tar")
    assert [target.box for target in found.targets] == [(0, 0, 15, 14), (50, 40, 14, 8)]


def test_small_targets_are_counted(tmp_path):
    boxes = [[5, 5, 3.9, 30], [5, 5, 30, 3], [62, 5, 30, 30], [200, 5, 9, 9], [5, 5, 4, 4]]
    label = {"objects": [{"bbox": box} for box in boxes]}
    write_shard(tmp_path / "a.tar", [("0.jpg", encoded(picture())), ("0.json", label)])
    (found,), skipped = read(tmp_path / "a.tar")
    assert [target.box for target in found.targets] == [(5, 5, 4, 4)]
    assert skipped == {"target too small": 4}


@pytest.mark.parametrize("pixels", [b"", b"no picture", encoded(picture())[:20]], ids=["empty", "text", "cut"])
def test_a_broken_picture_is_counted(tmp_path, pixels):
    label = {"objects": [{"bbox": [1, 1, 20, 20]}]}
    whole = encoded(picture())
    write_shard(tmp_path / "a.tar", [("0.jpg", pixels), ("0.json", label), ("1.jpg", whole), ("1.json", label)])
    found, skipped = read(tmp_path / "a.tar")
    assert len(found) == 1
    assert skipped == {"picture that cannot be decoded": 1}


@pytest.mark.parametrize(
    "label",
    [
        b"{ cut off",
        b"[1, 2]",
        {"objects": [{"bbox": [1, 1, 20]}]},
        {"objects": [{"box": [1, 1, 20, 20]}]},
        {"objects": [{"bbox": [1, 1, "wide", 20]}]},
        {"objects": 7},
    ],
    ids=["cut", "list", "three numbers", "no box", "text", "no list"],
)
def test_a_broken_label_is_counted(tmp_path, label):
    whole, fine = encoded(picture()), {"objects": [{"bbox": [1, 1, 20, 20]}]}
    write_shard(tmp_path / "a.tar", [("0.jpg", whole), ("0.json", label), ("1.jpg", whole), ("1.json", fine)])
    found, skipped = read(tmp_path / "a.tar")
    assert [len(picture.targets) for picture in found] == [1]
    assert skipped == {"label that cannot be read": 1}


def test_a_box_that_is_not_finite_is_counted(tmp_path):
    label = {"objects": [{"bbox": [float("nan"), 1, 20, 20]}, {"bbox": [1, 1, 20, float("inf")]}]}
    write_shard(tmp_path / "a.tar", [("0.jpg", encoded(picture())), ("0.json", label)])
    (found,), skipped = read(tmp_path / "a.tar")
    assert found.targets == ()
    assert skipped == {"box that is not finite": 2}


def test_a_mask_of_another_size_is_counted_and_the_box_kept(tmp_path):
    label = {"objects": [{"bbox": [1, 1, 20, 20], "mask": compressed(np.ones((20, 20), bool))}]}
    write_shard(tmp_path / "a.tar", [("0.jpg", encoded(picture())), ("0.json", label)])
    (found,), skipped = read(tmp_path / "a.tar")
    assert [target.mask for target in found.targets] == [None]
    assert skipped == {"mask of another size": 1}


def test_a_broken_shard_is_named(tmp_path):
    (tmp_path / "bad.tar").write_bytes(b"this is no tar file")
    with pytest.raises(FartrackError, match=r"bad\.tar is no readable tar shard"):
        read(tmp_path / "bad.tar")
    with pytest.raises(FartrackError, match=r"absent\.tar is no readable tar shard"):
        read(tmp_path / "absent.tar")


LINES = ["10,8,20,16", "0,0,0,0", "nan,nan,nan,nan", "12.5\t9\t20\t16", "10 8 3.5 16", "14,8,20,16"]


def write_video(path, frames=6, lines=LINES):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(frames):
            image = np.full((48, 64, 3), (200, 100, 20 + 30 * index), np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    path.with_suffix(".txt").write_text("\n".join(lines) + "\n")


def test_a_packed_video(tmp_path):
    write_video(tmp_path / "clip.mp4")
    skipped = Counter()
    found = list(read_video(tmp_path / "clip.mp4", skipped))
    assert [tuple(t.box for t in p.targets) for p in found] == [
        ((10, 8, 20, 16),),
        (),
        (),
        ((12.5, 9, 20, 16),),
        (),
        ((14, 8, 20, 16),),
    ]
    assert {p.sequence for p in found} == {"clip"}
    for index, p in enumerate(found):
        np.testing.assert_allclose(p.image.mean((0, 1)), (200, 100, 20 + 30 * index), atol=6)  # in BGR, and in order
    assert skipped == {"frame whose target is absent or too small": 3}


def test_frames_without_ground_truth_end_the_video(tmp_path):
    write_video(tmp_path / "clip.mp4", lines=LINES[:4])
    skipped = Counter()
    assert len(list(read_video(tmp_path / "clip.mp4", skipped))) == 4
    assert skipped["frame without a line in the ground truth"] == 1


def test_a_broken_video_is_named(tmp_path):
    write_video(tmp_path / "clip.mp4")
    (tmp_path / "clip.mp4").write_bytes(b"this is no video")
    with pytest.raises(FartrackError, match=r"clip\.mp4 cannot be read as a video"):
        list(read_video(tmp_path / "clip.mp4", Counter()))


def test_a_line_that_is_no_box_is_named(tmp_path):
    write_video(tmp_path / "clip.mp4", lines=[*LINES[:5], "14,8,20"])
    with pytest.raises(FartrackError, match=r"clip\.txt, line 6"):
        list(read_video(tmp_path / "clip.mp4", Counter()))


def test_a_video_without_its_text_is_named(tmp_path):
    write_video(tmp_path / "clip.mp4")
    (tmp_path / "clip.txt").unlink()
    with pytest.raises(FartrackError, match=r"no readable ground truth .*clip\.txt"):
        list(read_video(tmp_path / "clip.mp4", Counter()))


def test_a_folder_of_both(tmp_path):
    write_video(tmp_path / "a.mp4")
    for name in ("b.tar", "a.tar"):
        label = {"objects": [{"bbox": [1, 1, 20 + ord(name[0]) - ord("a"), 20]}]}
        write_shard(tmp_path / name, [("0.jpg", encoded(picture())), ("0.json", label)])
    found = list(read_folder(tmp_path, Counter()))
    assert [p.sequence for p in found] == [None, None, *["a"] * 6]
    assert [p.targets[0].box[2] for p in found[:2]] == [20, 21]


def test_a_folder_without_data_is_named(tmp_path):
    with pytest.raises(FartrackError, match="holds neither tar shards"):
        list(read_folder(tmp_path, Counter()))
