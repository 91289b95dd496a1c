"""Shards, videos and folders are read as they are meant, and what is broken in them is counted, not fatal."""

import io
import json
import struct
import tarfile
import zlib
from collections import Counter
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pycocotools")

from pycocotools import mask as coco

from fartrack.datasets.pictures import Picture, Target, read_mask, shrink
from fartrack.datasets.readers import read_folder, read_video
from fartrack.datasets.stills import read_stills
from fartrack.errors import FartrackError


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


def huge_picture():
    """A picture whose head declares more pixels than OpenCV will decode."""
    data = encoded(picture(), ".png")
    head = b"IHDR" + struct.pack(">II", 100_000, 100_000) + data[24:29]
    return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]


def test_a_picture_that_opencv_refuses_is_counted(tmp_path):
    with pytest.raises(cv2.error):
        cv2.imdecode(np.frombuffer(huge_picture(), np.uint8), cv2.IMREAD_COLOR)
    write_shard(tmp_path / "a.tar", [("0.png", huge_picture()), ("0.json", {"objects": []})])
    assert read(tmp_path / "a.tar") == ([], {"picture that cannot be decoded": 1})


def cut_rle(mask):
    return {**compressed(mask), "counts": compressed(mask)["counts"][:-3]}


def unfinished_rle(mask):
    return {**compressed(mask), "counts": compressed(mask)["counts"] + "o"}


def short_runs(mask):
    return {**uncompressed(mask), "counts": uncompressed(mask)["counts"][:-1]}


def negative_runs(mask):
    return {**uncompressed(mask), "counts": [-1, 1, *uncompressed(mask)["counts"]]}


@pytest.mark.parametrize(
    "malformed",
    [
        cut_rle,
        unfinished_rle,
        short_runs,
        negative_runs,
        lambda mask: {"size": [48, 64], "counts": "no run lengths"},
        lambda mask: {"size": [48, 64], "counts": [1e400]},
        lambda mask: {"size": [48, 64], "counts": []},
        lambda mask: {"size": [48, 64]},
        lambda mask: {"size": 7, "counts": [48 * 64]},
        lambda mask: "no mask",
    ],
)
def test_a_malformed_mask_is_counted_and_the_box_kept(tmp_path, mask, malformed):
    label = {"objects": [{"bbox": [14, 10, 33, 21], "mask": malformed(mask)}]}
    write_shard(tmp_path / "a.tar", [("0.jpg", encoded(picture())), ("0.json", label)])
    (found,), skipped = read(tmp_path / "a.tar")
    assert [(target.box, target.mask) for target in found.targets] == [((14, 10, 33, 21), None)]
    assert skipped == {"mask that cannot be read": 1}


@pytest.mark.parametrize("seed", range(3))
def test_compressed_runs_are_those_of_pycocotools(seed):
    mask = np.random.default_rng(seed).random((37, 53)) < (0.5, 0.02, 0.999)[seed]
    np.testing.assert_array_equal(read_mask(compressed(mask), 53, 37, Counter()), mask)


def test_a_broken_shard_is_counted_and_what_it_holds_is_kept(tmp_path):
    label = {"objects": [{"bbox": [1, 1, 20, 20]}]}
    image = encoded(picture())
    write_shard(tmp_path / "cut.tar", [("0.jpg", image), ("0.json", label), ("1.jpg", image), ("1.json", label)])
    (tmp_path / "cut.tar").write_bytes((tmp_path / "cut.tar").read_bytes()[: 5 * 512 + len(image)])  # within 1.jpg
    (tmp_path / "bad.tar").write_bytes(b"this is no tar file")
    found, skipped = read(tmp_path / "cut.tar")
    assert len(found) == 1
    assert skipped == {"tar shard that is broken or cut off": 1}
    assert read(tmp_path / "bad.tar") == ([], {"tar shard that is broken or cut off": 1})


def test_what_lacks_its_other_half_is_counted(tmp_path):
    label = {"objects": []}
    files = [("0.jpg", encoded(picture())), ("1.json", label), ("2.json", label), ("LICENSE.txt", b"CC0")]
    write_shard(tmp_path / "a.tar", files)
    assert read(tmp_path / "a.tar") == ([], {"picture without a label": 1, "label without a picture": 2})


LINES = ["10,8,20,16", "0,0,0,0", "nan,nan,nan,nan", "12.5\t9\t20\t16", "10 8 3.5 16", "50,-4,30,26"]


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
        ((50, 0, 14, 22),),  # cut at the picture
    ]
    assert {p.sequence for p in found} == {str(tmp_path / "clip.mp4")}
    for index, p in enumerate(found):
        np.testing.assert_allclose(p.image.mean((0, 1)), (200, 100, 20 + 30 * index), atol=6)  # in BGR, and in order
    assert skipped == {"frame whose target is absent or too small": 3}


def test_frames_without_ground_truth_end_the_video(tmp_path):
    write_video(tmp_path / "clip.mp4", lines=LINES[:4])
    skipped = Counter()
    assert len(list(read_video(tmp_path / "clip.mp4", skipped))) == 4
    assert skipped["frame without a line in the ground truth"] == 1


def test_every_third_frame_of_a_video(tmp_path):
    write_video(tmp_path / "clip.mp4")
    found = list(read_video(tmp_path / "clip.mp4", Counter(), every=3))
    assert [len(p.targets) for p in found] == [1, 1]
    np.testing.assert_allclose([p.image[..., 2].mean() for p in found], (20, 110), atol=6)


def test_lines_without_a_frame_are_counted(tmp_path):
    write_video(tmp_path / "clip.mp4", frames=4)
    skipped = Counter()
    assert len(list(read_video(tmp_path / "clip.mp4", skipped))) == 4
    assert skipped["frame that is missing"] == 2


def test_a_video_that_breaks_off_keeps_what_was_read(tmp_path):
    path = tmp_path / "clip.mkv"  # readable without its end
    write_video(path, frames=60, lines=["10,8,20,16"] * 60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    skipped = Counter()
    found = list(read_folder(tmp_path, skipped))
    assert 0 < len(found) < 60 and all(len(p.targets) == 1 for p in found)
    assert skipped == {"video that breaks off": 1}


def break_video(video):
    video.write_bytes(b"this is no video")


def break_line(video):
    video.with_suffix(".txt").write_text("\n".join([*LINES[:5], "14,8,20"]))


def remove_text(video):
    video.with_suffix(".txt").unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (break_video, "video that cannot be read"),
        (break_line, "sequence whose ground truth cannot be read"),
        (remove_text, "sequence whose ground truth cannot be read"),
    ],
)
def test_a_video_that_cannot_be_used_is_counted(tmp_path, damage, reason):
    for name in "ab":
        write_video(tmp_path / f"{name}.mp4")
    damage(tmp_path / "a.mp4")
    skipped = Counter()
    found = list(read_folder(tmp_path, skipped))
    assert [p.sequence for p in found] == [str(tmp_path / "b.mp4")] * 6
    assert skipped[reason] == 1
    (tmp_path / "b.mp4").unlink()
    with pytest.raises(
        FartrackError, match=rf"{tmp_path.name} holds nothing to train on .found: 1 × {reason}.; give .*\.$"
    ):
        list(read_folder(tmp_path, skipped))  # only what this folder adds is named


def test_a_folder_of_shards_and_videos(tmp_path):
    for name in ("a.mp4", "a.webm", "sub/a.avi", "C.MOV"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_video(tmp_path / "a.mp4", frames=1, lines=LINES[:1])
        (tmp_path / "a.mp4").rename(tmp_path / name)  # containers are recognized by what they hold
        if name != "a.mp4":
            (tmp_path / "a.txt").rename((tmp_path / name).with_suffix(".txt"))
            write_video(tmp_path / "a.mp4", frames=1, lines=LINES[:1])
    for name in ("b.tar", "a.tar"):
        label = {"objects": [{"bbox": [1, 1, 20 + ord(name[0]) - ord("a"), 20]}]}
        write_shard(tmp_path / name, [("0.jpg", encoded(picture())), ("0.json", label)])
    found = list(read_folder(tmp_path, Counter()))
    names = ["C.MOV", "a.mp4", "a.webm", "sub/a.avi"]
    assert [p.sequence for p in found] == [None, None, *(str(tmp_path / name) for name in names)]
    assert [p.targets[0].box[2] for p in found[:2]] == [20, 21]


@pytest.mark.parametrize("files", [[], ["a.zip", "b.zip"]])
def test_a_folder_without_data_is_named(tmp_path, files):
    for name in files:
        (tmp_path / name).touch()
    words = "a.zip, b.zip" if files else "an empty folder"
    with pytest.raises(FartrackError, match=rf"{tmp_path.name} holds nothing to train on .found: {words}.; give "):
        list(read_folder(tmp_path, Counter()))


@pytest.mark.parametrize(
    ("folder", "options", "words"),
    [("absent", {}, "no folder .*absent"), (".", {"every": 0}, "every is 0"), (".", {"longest": 0}, "longest is 0")],
)
def test_wrong_arguments_are_named_before_anything_is_read(tmp_path, folder, options, words):
    with pytest.raises(FartrackError, match=words):
        read_folder(tmp_path / folder, Counter(), **options)


def test_shrinking_takes_boxes_and_masks_along(mask):
    image = np.where(mask[..., None], np.uint8(255), np.uint8(0)).repeat(3, 2)
    whole = Picture(image, (Target((14.0, 10.0, 33.0, 21.0), mask), Target((0.0, 0.0, 64.0, 48.0))), "name")
    skipped = Counter()
    small = shrink(whole, 32, skipped)
    assert small.image.shape == (24, 32, 3) and small.sequence == "name"
    assert [target.box for target in small.targets] == [(7, 5, 16.5, 10.5), (0, 0, 32, 24)]
    np.testing.assert_array_equal(small.targets[0].mask, small.image[..., 0] >= 128)
    assert not skipped
    assert shrink(whole, 64, skipped) is whole
    tiny = shrink(whole, 9, skipped)  # 9 × 7: each side has its own scale, as both are whole pixels
    assert tiny.image.shape == (7, 9, 3)
    assert [target.box for target in tiny.targets] == [(0, 0, 9, 7)]
    assert skipped == {"target too small": 1}


def test_longest_reaches_stills_and_videos(tmp_path):
    write_video(tmp_path / "a.mp4")
    label = {"objects": [{"bbox": [4, 8, 32, 16]}]}
    write_shard(tmp_path / "a.tar", [("0.jpg", encoded(picture())), ("0.json", label)])
    still, *frames = read_folder(tmp_path, Counter(), longest=32)
    assert {p.image.shape for p in (still, *frames)} == {(24, 32, 3)}
    assert still.targets[0].box == (2, 4, 16, 8)
    assert frames[0].targets[0].box == (5, 4, 10, 8)
