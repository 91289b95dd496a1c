"""Broken datasets: each is named in one sentence with its fix, before anything runs, or is taken as the field does."""

import os
import shutil
from functools import partial

import numpy as np
import pytest

from fartrack.errors import FartrackError
from fartrack.evaluate.benchmarks import open_benchmark
from miniature import JPEG, boxes, numbered, write_lines, write_pictures

NAME = "airplane-1"


def lines(*changed):
    """Three lines of a sound ground truth that counts from one, with those changed that are given by index."""
    sound = boxes(3, origin=1)
    for index, line in changed:
        sound[index] = line
    return sound


def truth(folder, *changed):
    write_lines(folder / "groundtruth.txt", lines(*changed))


# --- what is named ----------------------------------------------------------------------------------------


def no_ground_truth(folder):
    (folder / "groundtruth.txt").unlink()


def empty_ground_truth(folder):
    (folder / "groundtruth.txt").write_text("\n")


def short_ground_truth(folder):
    write_lines(folder / "groundtruth.txt", lines()[:2])


def extra_line(folder):
    write_lines(folder / "groundtruth.txt", [*lines(), "14,9,20,16"])


def letters(folder):
    truth(folder, (1, "12,9,x,16"))


def three_numbers(folder):
    truth(folder, (1, "12,9,20"))


def five_numbers(folder):
    truth(folder, (1, "12,9,20,16,1"))


def infinity(folder):
    truth(folder, (1, "12,9,inf,16"))


def empty_line(folder):
    truth(folder, (1, ""))


def no_utf8(folder):
    (folder / "groundtruth.txt").write_bytes(b"\xff\xfe1\x002\x00\xd8")


def truth_is_a_folder(folder):
    (folder / "groundtruth.txt").unlink()
    (folder / "groundtruth.txt").mkdir()


def truth_link_to_nothing(folder):
    (folder / "groundtruth.txt").unlink()
    (folder / "groundtruth.txt").symlink_to(folder / "elsewhere.txt")


def no_first_box(folder):
    truth(folder, (0, "nan,nan,nan,nan"))


def first_box_without_area(folder):
    truth(folder, (0, "11,9,-20,16"))


def no_pictures(folder):
    shutil.rmtree(folder / "img")
    (folder / "img").mkdir()


def no_picture_folder(folder):
    shutil.rmtree(folder / "img")


def picture_missing(folder):
    (folder / "img" / "00000002.jpg").unlink()


def picture_link_to_nothing(folder):
    picture_missing(folder)
    (folder / "img" / "00000002.jpg").symlink_to(folder / "elsewhere.jpg")


def picture_twice(folder):
    shutil.copy(folder / "img" / "00000002.jpg", folder / "img" / "00000002.png")


def no_labels(folder):
    (folder / "out_of_view.txt").unlink()


def short_labels(folder):
    (folder / "out_of_view.txt").write_text("0,0")


def letters_in_labels(folder):
    (folder / "out_of_view.txt").write_text("0,no,0")


def short_attributes(folder):
    write_lines(folder.parent.parent / "att" / f"{NAME}.txt", ["1,0,0"])


def unknown_attributes(folder):
    write_lines(folder.parent.parent / "att" / f"{NAME}.txt", ["IV, FUN"])


def twice_the_name(folder):
    shutil.copytree(folder, folder.parent.parent / "plane" / NAME)


def sequence_missing(folder):
    shutil.rmtree(folder)
    (folder.parent / "airplane-2" / "img").mkdir(parents=True)


def download_cut_off(folder):
    shutil.rmtree(folder)
    (folder.parent.parent / "airplane.zip").write_bytes(b"PK")


NAMED = {
    no_ground_truth: r"There is no file .*groundtruth\.txt; download",
    empty_ground_truth: r"groundtruth\.txt does not begin with a box that has an area.*; correct",
    short_ground_truth: r"has 2 lines for 3 pictures in .*img; download .* or correct",
    extra_line: r"has 4 lines for 3 pictures",
    letters: r"groundtruth\.txt, line 2: '12,9,x,16' is not four numbers x,y,w,h; correct",
    three_numbers: r"line 2: '12,9,20' is not four numbers",
    five_numbers: r"line 2: '12,9,20,16,1' is not four numbers",
    infinity: r"line 2: .* is not four numbers",
    empty_line: r"line 2: '' is not four numbers",
    no_utf8: r"groundtruth\.txt is not text in UTF-8; save or download",
    truth_is_a_folder: r"There is no file .*groundtruth\.txt; download",
    truth_link_to_nothing: r"There is no file .*groundtruth\.txt; download",
    no_first_box: r"does not begin with a box that has an area.*; correct",
    first_box_without_area: r"does not begin with a box that has an area.*; correct",
    no_pictures: r"img holds no pictures of airplane-1; download",
    no_picture_folder: r"img holds no pictures of airplane-1; download",
    picture_missing: r"has 3 lines for 2 pictures",
    picture_link_to_nothing: r"has 3 lines for 2 pictures",
    picture_twice: r"has 3 lines for 4 pictures",
    no_labels: r"There is no file .*out_of_view\.txt; download",
    short_labels: r"out_of_view\.txt has 2 labels for 3 frames of ground truth; download",
    letters_in_labels: r"out_of_view\.txt holds more than numbers; download",
    short_attributes: r"airplane-1\.txt names an attribute '1'; use IV, .* or 0 or 1 for each of these 14",
    unknown_attributes: r"names an attribute 'FUN'; use IV, POC",
    twice_the_name: r"are both named airplane-1; remove one",
    sequence_missing: r"the sequence airplane-1 is missing; download",
    download_cut_off: r"the sequence airplane-1 is missing; download",
}


@pytest.mark.parametrize("damage", NAMED, ids=lambda d: d.__name__)
def test_what_is_broken_is_named(tmp_path, write_sequence, damage):
    write_lines(tmp_path / "testing_set.txt", [NAME])
    damage(write_sequence("lasot", NAME))
    with pytest.raises(FartrackError, match=NAMED[damage]) as raised:
        open_benchmark("lasot", tmp_path)
    said = str(raised.value)
    assert "\n" not in said and said.endswith(".") and said.encode()  # one line, and it can be printed
    if damage is not twice_the_name:
        assert said.startswith(f"lasot in {tmp_path} is incomplete, 0 of 1 sequences can be used: ")


@pytest.mark.parametrize("damage", [each for each in NAMED if each is not twice_the_name], ids=lambda d: d.__name__)
def test_the_others_can_still_be_taken(tmp_path, write_sequence, damage):
    write_lines(tmp_path / "testing_set.txt", [NAME, "cat-1"])
    damage(write_sequence("lasot", NAME))
    write_sequence("lasot", "cat-1")
    with pytest.raises(FartrackError, match="1 of 2 sequences"):
        open_benchmark("lasot", tmp_path)
    assert [s.name for s in open_benchmark("lasot", tmp_path, only=["cat-1"]).sequences] == ["cat-1"]


def test_no_such_folder(tmp_path):
    with pytest.raises(FartrackError, match=r"There is no folder .*nothing; give the one that holds lasot"):
        open_benchmark("lasot", tmp_path / "nothing")


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "LaSOT.zip").write_bytes(b"PK")
    with pytest.raises(FartrackError, match=r"There is no folder .*LaSOT\.zip; give the one that holds lasot"):
        open_benchmark("lasot", tmp_path / "LaSOT.zip")


@pytest.mark.parametrize(("benchmark", "count"), [("lasot", 280), ("got10k-val", 180), ("dtb70", 70), ("nfs30", 100)])
def test_an_empty_folder(tmp_path, benchmark, count):
    with pytest.raises(FartrackError, match=f"0 of {count} sequences can be used"):
        open_benchmark(benchmark, tmp_path)
    with pytest.raises(FartrackError, match="holds no sequences; give a folder of"):
        open_benchmark("folder", tmp_path)


def test_the_wrong_benchmark(tmp_path, write_sequence):
    write_sequence("dtb70", "Animal1")
    with pytest.raises(
        FartrackError, match=r"got10k-val in .* 0 of 180 sequences can be used: .*holds no pictures of Animal1"
    ):
        open_benchmark("got10k-val", tmp_path)


def test_a_list_without_names_and_one_that_is_no_text(tmp_path, write_sequence):
    write_sequence("got10k-val", "a")
    (tmp_path / "val" / "list.txt").write_text("\n\n")
    with pytest.raises(FartrackError, match="1 of 180 sequences can be used: there are folders of 1 sequences"):
        open_benchmark("got10k-val", tmp_path)
    (tmp_path / "val" / "list.txt").write_bytes(b"\xff\xff")
    with pytest.raises(FartrackError, match=r"list\.txt is not text in UTF-8"):
        open_benchmark("got10k-val", tmp_path)


def test_a_sequence_whose_name_is_no_text(tmp_path, write_sequence):
    folder = write_sequence("dtb70", "a")
    os.rename(folder, os.fsencode(tmp_path) + b"/b\xff")  # noqa: PTH104
    with pytest.raises(FartrackError, match=r"The name of .*b\\udcff is not text in UTF-8; rename"):
        open_benchmark("dtb70", tmp_path)


@pytest.mark.parametrize("benchmark", ["got10k-test", "trackingnet-test"])
def test_a_gap_where_only_the_first_box_is_published(tmp_path, write_sequence, benchmark):
    folder = write_sequence(benchmark, "a", frames=5)
    sorted(folder.glob("*.jpg"))[2].unlink()
    with pytest.raises(FartrackError, match=f"has no picture number {2 if 'net' in benchmark else 3}; download"):
        open_benchmark(benchmark, tmp_path, only=["a"])


def test_a_frame_outside_a_shared_folder(tmp_path, write_sequence):
    write_pictures(tmp_path / "data_seq" / "UAV123" / "bird1", numbered(200, 6))
    write_lines(tmp_path / "anno" / "UAV123" / "bird1_1.txt", boxes(253))
    with pytest.raises(FartrackError, match="253 lines for 200 pictures"):
        open_benchmark("uav123", tmp_path, only=["bird1_1"])
    write_lines(tmp_path / "anno" / "UAV123" / "bird1_2.txt", boxes(703))
    with pytest.raises(FartrackError, match="no pictures of bird1_2"):
        open_benchmark("uav123", tmp_path, only=["bird1_2"])


@pytest.mark.parametrize("name", ["", "a/img"])
def test_a_folder_without_permission(tmp_path, write_sequence, monkeypatch, name):
    write_sequence("dtb70", "a")

    def refuse(allowed, path):
        if os.fspath(path) == str(tmp_path / name):
            raise PermissionError(13, "Permission denied", str(path))
        return allowed(path)

    for function in ("scandir", "listdir"):  # the tests may run as one to whom nothing is refused
        monkeypatch.setattr(os, function, partial(refuse, getattr(os, function)))
    with pytest.raises(FartrackError, match=rf"{tmp_path / name} cannot be read: Permission denied; check"):
        open_benchmark("dtb70", tmp_path, only=["a"])


def test_a_text_without_permission(tmp_path, write_sequence, monkeypatch):
    folder = write_sequence("dtb70", "a")
    read = type(folder).read_text

    def refuse(path, *arguments, **options):
        if path.name == "groundtruth_rect.txt":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *arguments, **options)

    monkeypatch.setattr(type(folder), "read_text", refuse)
    with pytest.raises(FartrackError, match=r"rect\.txt cannot be read: Permission denied; check its permissions"):
        open_benchmark("dtb70", tmp_path, only=["a"])


def test_pictures_without_ground_truth_in_any_folder(tmp_path):
    write_pictures(tmp_path / "a" / "img", numbered(3))
    for root in (tmp_path, tmp_path / "a"):
        with pytest.raises(FartrackError, match=r"a has pictures but no ground truth groundtruth\.txt; add it"):
            open_benchmark("folder", root)


def test_one_name_in_two_folders(tmp_path):
    for parent in "xy":
        write_pictures(tmp_path / parent / "a", numbered(3))
        write_lines(tmp_path / parent / "a" / "groundtruth.txt", boxes(3))
    with pytest.raises(FartrackError, match="holds 2 sequences named a; rename"):
        open_benchmark("folder", tmp_path)


@pytest.mark.parametrize(("content", "said"), [(b"", "is empty"), (b"no video", "is not a video")])
def test_broken_videos(tmp_path, content, said):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(FartrackError, match=r"There is no file .*a\.txt"):
        open_benchmark("folder", tmp_path)
    write_lines(tmp_path / "a.txt", boxes(3))
    with pytest.raises(FartrackError, match=rf"a\.mp4 {said}"):
        open_benchmark("folder", tmp_path)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(FartrackError, match=r"a\.txt does not begin with a box"):
        open_benchmark("folder", tmp_path)


@pytest.mark.parametrize(("content", "said"), [(b"", "is empty"), (JPEG[:60], "is broken"), (None, "There is no file")])
def test_pictures_that_cannot_be_decoded_are_named_when_it_is_their_turn(tmp_path, write_sequence, content, said):
    folder = write_sequence("dtb70", "a")
    [sequence] = open_benchmark("dtb70", tmp_path, only=["a"]).sequences
    second = folder / "img" / "00002.jpg"
    second.unlink() if content is None else second.write_bytes(content)
    frames = sequence.frames()
    next(frames)
    with pytest.raises(FartrackError, match=rf"(?=.*{said}).*00002\.jpg"):
        next(frames)


# --- what the field accepts -------------------------------------------------------------------------------


def mixed_separators(folder):
    truth(folder, (0, "11,9\t20 16"), (1, "12\t9\t20\t16"), (2, "13 , 9, 20 16  "))


def windows_line_ends(folder):
    (folder / "groundtruth.txt").write_bytes("\r\n".join(lines()).encode("utf-8-sig"))


def floats(folder):
    truth(folder, (1, "12.0000,9.0,2e1,16"))


def leftovers(folder):
    (folder / "img" / "._00000001.jpg").write_bytes(b"")
    (folder / "img" / "Thumbs.db").write_bytes(b"")
    (folder / ".DS_Store").write_bytes(b"")
    (folder.parent / "__MACOSX").mkdir()


def no_language(folder):
    (folder / "nlp.txt").unlink()


def linked_pictures(folder):
    shutil.move(folder / "img", folder.parent.parent / "disk")
    (folder / "img").symlink_to(folder.parent.parent / "disk")


def unreadable_picture_name(folder):
    os.rename(folder / "img" / "00000003.jpg", os.fsencode(folder / "img") + b"/\xff00000003.jpg")  # noqa: PTH104


@pytest.mark.parametrize(
    "change",
    [mixed_separators, windows_line_ends, floats, leftovers, no_language, linked_pictures, unreadable_picture_name],
)
def test_what_is_taken_as_it_is(tmp_path, write_sequence, change):
    change(write_sequence("lasot", NAME))
    [sequence] = open_benchmark("lasot", tmp_path, only=[NAME]).sequences
    assert sequence.length == len(list(sequence.frames())) == 3
    np.testing.assert_array_equal(sequence.boxes, [[10, 8, 20, 16], [11, 8, 20, 16], [12, 8, 20, 16]])


@pytest.mark.parametrize("line", ["nan,nan,nan,nan", "NaN NaN NaN NaN", "0,0,0,0", "12,9,-20,16", "12,9,20,nan"])
def test_a_box_without_area_is_an_absent_target(tmp_path, write_sequence, line):
    truth(write_sequence("lasot", NAME), (1, line))
    opened = open_benchmark("lasot", tmp_path, only=[NAME])
    boxes_ = opened.sequences[0].boxes
    assert not (np.isfinite(boxes_[1]).all() and (boxes_[1, 2:] > 0).all())
