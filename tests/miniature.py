"""Miniature copies of the benchmarks in their published layouts."""

import cv2
import numpy as np

JPEG = cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))[1].tobytes()


def write_pictures(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(JPEG)


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def numbered(count, digits=8, first=1, suffix=".jpg"):
    return [f"{index:0{digits}}{suffix}" for index in range(first, first + count)]


def boxes(count, separator=",", origin=0):
    """Lines of boxes; the x of each tells its frame."""
    return [separator.join(map(str, (10 + origin + index, 8 + origin, 20, 16))) for index in range(count)]


def write_got10k(root, name, frames=3, split="val"):
    folder = root / split / name
    write_pictures(folder, numbered(frames))
    write_lines(folder / "groundtruth.txt", boxes(1 if split == "test" else frames))
    if split == "val":
        write_lines(folder / "absence.label", [0] * frames)
        write_lines(folder / "cover.label", [8] * frames)
        write_lines(folder / "cut_by_image.label", [0] * frames)
    (folder / "meta_info.ini").write_text("[METAINFO]\nresolution: (64, 48)\n")
    with (root / split / "list.txt").open("a") as file:
        file.write(f"{name}\n")
    return folder


def write_lasot(root, name, frames=3):
    folder = root / name.rpartition("-")[0] / name
    write_pictures(folder / "img", numbered(frames))
    write_lines(folder / "groundtruth.txt", boxes(frames, origin=1))
    for label in ("full_occlusion", "out_of_view"):
        (folder / f"{label}.txt").write_text(",".join(["0"] * frames))
    write_lines(folder / "nlp.txt", ["a white airplane"])
    return folder


def write_trackingnet(root, name, frames=3):
    folder = root / "TEST" / "frames" / name
    write_pictures(folder, numbered(frames, 1, 0))
    write_lines(root / "TEST" / "anno" / f"{name}.txt", boxes(1))
    return folder


def vatic(count):
    return [f'0 {10 + index} 8 {30 + index} 24 {index + 1} 0 0 0 "thing"' for index in range(count)]


def write_nfs(root, name, frames=3, rate=30, lines=None):
    folder = root / name
    write_pictures(folder / str(rate) / name, numbered(frames, 5))
    write_lines(folder / str(rate) / f"{name}.txt", vatic(lines or frames))
    return folder


def write_uav123(root, name, frames=3, folder=None, first=1):
    write_pictures(root / "data_seq" / "UAV123" / (folder or name), numbered(frames, 6, first))
    write_lines(root / "anno" / "UAV123" / f"{name}.txt", boxes(frames))
    return root / "data_seq" / "UAV123" / (folder or name)


def write_otb(root, name, frames=3, pictures=None, truth="groundtruth_rect.txt", separator=","):
    write_pictures(root / name / "img", numbered(pictures or frames, 4))
    write_lines(root / name / truth, boxes(frames, separator, origin=1))
    return root / name


def write_dtb70(root, name, frames=3):
    write_pictures(root / name / "img", numbered(frames, 5))
    write_lines(root / name / "groundtruth_rect.txt", boxes(frames))
    return root / name


def write_tnl2k(root, name, frames=3):
    write_pictures(root / name / "imgs", numbered(frames, 8, suffix=".png"))
    write_lines(root / name / "groundtruth.txt", boxes(frames))
    write_lines(root / name / "language.txt", ["a thing"])
    return root / name


def write_vasttrack(root, name, frames=3):
    folder = root / name.rpartition("-")[0] / name
    write_pictures(folder / "imgs", numbered(frames, 5))
    write_lines(folder / "Groundtruth.txt", boxes(frames))
    write_lines(folder / "absence.txt", [0] * frames)
    return folder


WRITERS = {
    "got10k-val": write_got10k,
    "got10k-test": lambda root, name, **options: write_got10k(root, name, split="test", **options),
    "lasot": write_lasot,
    "lasot-ext": write_lasot,
    "trackingnet-test": write_trackingnet,
    "nfs30": write_nfs,
    "nfs240": lambda root, name, **options: write_nfs(root, name, rate=240, **options),
    "uav123": write_uav123,
    "otb100": write_otb,
    "tnl2k": write_tnl2k,
    "vasttrack": write_vasttrack,
    "dtb70": write_dtb70,
}
