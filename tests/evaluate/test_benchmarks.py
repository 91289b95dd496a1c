"""Each benchmark's published layout, in miniature: its splits, its quirks, and that all of it is there."""

import json
import pickle
import shutil
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
import pytest

from fartrack.errors import FartrackError
from fartrack.evaluate.benchmarks import BENCHMARKS, open_benchmark
from fartrack.evaluate.metrics import measure
from miniature import JPEG, boxes, numbered, vatic, write_lines, write_pictures

SOME = {
    "got10k-val": ["GOT-10k_Val_000001", "GOT-10k_Val_000002"],
    "got10k-test": ["GOT-10k_Test_000001", "GOT-10k_Test_000002"],
    "lasot": ["airplane-1", "zebra-17"],
    "lasot-ext": ["atv-1", "wingsuit-10"],
    "trackingnet-test": ["0-6LB4FqxoE_0", "_-x.y_1"],
    "nfs30": ["basketball_1", "Gymnastics"],
    "nfs240": ["basketball_1", "Gymnastics"],
    "uav123": ["bike1", "wakeboard10"],
    "otb100": ["Basketball", "Woman"],
    "tnl2k": ["advSamp_Baseball_game_002-Done", "test_001"],
    "vasttrack": ["Aardwolf-1", "Air Hockey-12"],
    "dtb70": ["Animal1", "Yacht4"],
}


def toolkit_datasets():
    """The folder where the GOT-10k toolkit keeps its tables; the toolkit itself need not be importable."""
    spec = find_spec("got10k")
    if spec is None:
        pytest.skip("the GOT-10k toolkit is not installed")
    return Path(spec.submodule_search_locations[0]) / "datasets"


def places(sequence):
    """Of each picture of a sequence, its number and the one that its box tells (None without a box)."""
    lines = [None if np.isnan(box).any() else int(box[0] - 10) for box in sequence.boxes]
    return [int(path.stem) for path in sequence.source], lines


def test_every_benchmark_has_a_miniature():
    assert set(SOME) == set(BENCHMARKS) - {"folder"}


@pytest.mark.parametrize("benchmark", SOME)
def test_the_published_layout(tmp_path, write_sequence, benchmark):
    for name in SOME[benchmark]:
        write_sequence(benchmark, name)
    opened = open_benchmark(benchmark, tmp_path, only=SOME[benchmark])
    assert opened.name == benchmark and opened.rules == BENCHMARKS[benchmark].rules
    assert sorted(s.name for s in opened.sequences) == sorted(SOME[benchmark])
    for sequence in opened.sequences:
        first = 0 if benchmark == "trackingnet-test" else 1
        given = benchmark in ("got10k-test", "trackingnet-test")
        assert places(sequence) == ([first, first + 1, first + 2], [0] if given else [0, 1, 2])
        np.testing.assert_array_equal(sequence.boxes[0], [10, 8, 20, 16])  # whatever the origin of the files
        assert sequence.length == 3 and sequence.size == (64, 48) and len(list(sequence.frames())) == 3
        found = measure(np.tile(sequence.boxes[0], (3, 1)), sequence.boxes, sequence.size, opened.rules)
        assert tuple(found) == (() if given else opened.rules.measures)
        assert pickle.loads(pickle.dumps(sequence)).source == sequence.source


@pytest.mark.parametrize("benchmark", sorted(set(SOME) - {"vasttrack", "uav123", "otb100"}))
def test_all_sequences_are_expected(tmp_path, write_sequence, benchmark):
    """Half a download is noticed, and the whole is taken without naming any."""
    published = BENCHMARKS[benchmark]
    names = published.names or [f"some-{index}" for index in range(published.count)]
    assert len(names) == published.count
    for name in names[: len(names) // 2]:
        write_sequence(benchmark, name, frames=1)
    for path in tmp_path.glob("*/list.txt"):
        path.unlink()
    with pytest.raises(FartrackError, match=rf"{len(names) // 2} of {len(names)} sequences can be used"):
        open_benchmark(benchmark, tmp_path)
    for name in names[len(names) // 2 :]:
        write_sequence(benchmark, name, frames=1)
    for path in tmp_path.glob("*/list.txt"):
        path.unlink()
    assert len(open_benchmark(benchmark, tmp_path).sequences) == len(names)


def test_got10k_list_says_what_is_expected_and_the_root_may_be_the_split(tmp_path, write_sequence):
    for name in ("b", "a"):
        write_sequence("got10k-val", name)
    write_sequence("got10k-test", "c")
    for root in (tmp_path, tmp_path / "val"):
        assert [s.name for s in open_benchmark("got10k-val", root).sequences] == ["b", "a"]
    assert [s.name for s in open_benchmark("got10k-test", tmp_path).sequences] == ["c"]
    shutil.rmtree(tmp_path / "val" / "a")
    with pytest.raises(FartrackError, match=r"1 of 2 sequences can be used: the sequence a is missing"):
        open_benchmark("got10k-val", tmp_path)


def test_got10k_leaves_out_what_is_covered(tmp_path, write_sequence):
    folder = write_sequence("got10k-val", "a", frames=4)
    write_lines(folder / "cover.label", [0, 8, 0, 1])  # the first is given
    write_lines(folder / "absence.label", [0, 1, 1, 0])  # the toolkit does not look at it
    [sequence] = open_benchmark("got10k-val", tmp_path).sequences
    assert places(sequence)[1] == [0, 1, None, 3]


def test_lasot_knows_its_test_set():
    splits = json.loads((toolkit_datasets() / "lasot.json").read_text())
    assert sorted(BENCHMARKS["lasot"].names) == sorted(splits["test"])


def test_lasot_list_in_the_folder_comes_first_and_categories_may_be_left_out(tmp_path, write_sequence):
    for name in ("airplane-1", "airplane-2", "thing-7"):
        shutil.move(write_sequence("lasot", name, root=tmp_path / "whole"), tmp_path / "flat" / name)
    shutil.rmtree(tmp_path / "whole")
    write_lines(tmp_path / "flat" / "testing_set.txt", ["thing-7", "airplane-1"])
    assert [s.name for s in open_benchmark("lasot", tmp_path / "flat").sequences] == ["thing-7", "airplane-1"]


def test_lasot_counts_from_one_and_has_absent_frames(tmp_path, write_sequence):
    folder = write_sequence("lasot", "airplane-1", frames=4)
    (folder / "full_occlusion.txt").write_text("1,1,0,0")
    (folder / "out_of_view.txt").write_text("0,0,1,0")
    [sequence] = open_benchmark("lasot", tmp_path, only=["airplane-1"]).sequences
    assert places(sequence)[1] == [0, None, None, 3] and sequence.origin == 1
    truth, boxes_ = sequence.boxes, np.nan_to_num(sequence.boxes, nan=5)
    assert measure(boxes_, truth, None, BENCHMARKS["lasot"].rules)["precision"] == 0.5


@pytest.mark.parametrize("lines", [24, 23, 25, 3, 4, 2])
def test_nfs30_takes_every_eighth_line_of_the_240(tmp_path, write_sequence, lines):
    write_sequence("nfs30", "a", frames=3, lines=lines)
    [sequence] = open_benchmark("nfs30", tmp_path, only=["a"]).sequences
    step = 8 if lines > 20 else 1
    assert places(sequence)[1] == [0, step, 2 * step][: sequence.length]
    assert sequence.length == (2 if lines == 2 else 3) == len(sequence.boxes)


def test_nfs_texts_have_labels_with_spaces_and_corners(tmp_path, write_sequence):
    folder = write_sequence("nfs240", "a")
    write_lines(folder / "240" / "a.txt", [line.replace('"thing"', '"a red thing"') for line in vatic(3)])
    [sequence] = open_benchmark("nfs240", tmp_path, only=["a"]).sequences
    np.testing.assert_array_equal(sequence.boxes[2], [12, 8, 20, 16])


@pytest.mark.parametrize("name", ["nfs30", "nfs240"])
def test_nfs_counts_absent_frames_as_missed(tmp_path, write_sequence, name):
    """A frame without a box is no hit, at any threshold of either curve; it still counts in the length."""
    folder = write_sequence(name, "a", frames=4)
    path = folder / name.removeprefix("nfs") / "a.txt"
    lines = path.read_text().splitlines()
    write_lines(path, [*lines[:2], '0 0 0 0 0 2 1 0 0 "thing"', lines[3]])
    [sequence] = open_benchmark(name, tmp_path, only=["a"]).sequences
    found = measure(np.nan_to_num(sequence.boxes), sequence.boxes, None, BENCHMARKS[name].rules)
    assert found == {"auc": pytest.approx(0.75 * 20 / 21), "precision": 0.75}


def test_uav123_has_the_sequences_and_ranges_of_the_toolkit():
    table = json.loads((toolkit_datasets() / "uav123.json").read_text())["UAV123"]
    assert sorted(BENCHMARKS["uav123"].names) == sorted(table)
    ranges = {part.name: (folder, part) for folder, parts in BENCHMARKS["uav123"].parts.items() for part in parts}
    assert set(ranges) == {name for name, entry in table.items() if entry["folder_name"] != name}
    for name, (folder, part) in ranges.items():
        entry = table[name]
        assert (folder, part.first, part.last) == (entry["folder_name"], entry["start_frame"], entry["end_frame"])


def test_uav123_sequences_share_folders(tmp_path, write_sequence):
    spans = {"bird1_1": (1, 253), "bird1_2": (775, 1477), "bird1_3": (1573, 2437)}
    write_pictures(tmp_path / "data_seq" / "UAV123" / "bird1", numbered(2437, 6))
    for name, (first, last) in spans.items():
        write_lines(tmp_path / "anno" / "UAV123" / f"{name}.txt", boxes(last - first + 1))
    opened = open_benchmark("uav123", tmp_path, only=spans).sequences
    assert [s.name for s in opened] == list(spans)
    for sequence in opened:
        first, last = spans[sequence.name]
        assert places(sequence) == (list(range(first, last + 1)), list(range(last - first + 1)))
    write_lines(tmp_path / "anno" / "UAV123" / "bird1_2.txt", boxes(700))
    with pytest.raises(FartrackError, match="700 lines for 703 pictures"):
        open_benchmark("uav123", tmp_path, only=spans)


def test_uav123_lines_without_numbers_and_attributes(tmp_path, write_sequence):
    write_sequence("uav123", "bike1")
    write_lines(tmp_path / "anno" / "UAV123" / "bike1.txt", ["10,8,20,16", "NaN,NaN,NaN,NaN", "12,8,20,16"])
    write_lines(tmp_path / "anno" / "UAV123" / "att" / "bike1.txt", ["1,0,0,0,0,0,0,0,0,0,0,1"])
    [sequence] = open_benchmark("uav123", tmp_path, only=["bike1"]).sequences
    assert places(sequence)[1] == [0, None, 2]
    assert sequence.attributes == {"SV", "SOB"}


def test_otb_has_a_hundred_sequences_in_98_folders(tmp_path, write_sequence):
    ranges = {"David": (300, 770), "Diving": (1, 215), "Football1": (1, 74), "Freeman3": (1, 460), "Freeman4": (1, 283)}
    longest = {"David": 770, "Diving": 231, "Football1": 81, "Freeman3": 474, "Freeman4": 297}
    begins = {"BlurCar1": 247, "BlurCar3": 3, "BlurCar4": 18}
    separators = [",", "\t", " "]
    for index, name in enumerate(sorted({name.split("-")[0] for name in BENCHMARKS["otb100"].names})):
        first, last = ranges.get(name, (1, 3))
        two = name in ("Jogging", "Skating2")
        truth = "groundtruth_rect.1.txt" if two else "groundtruth_rect.txt"
        if name == "Human4":
            write_lines(tmp_path / name / "groundtruth_rect.1.txt", [])
            truth = "groundtruth_rect.2.txt"
        separator = separators[index % 3]
        write_sequence("otb100", name, frames=last - first + 1, pictures=1, truth=truth, separator=separator)
        (tmp_path / name / "img" / "0001.jpg").unlink()
        for picture in numbered(longest.get(name, 3), 4, begins.get(name, 1)):
            (tmp_path / name / "img" / picture).touch()
        if two:
            write_lines(tmp_path / name / "groundtruth_rect.2.txt", boxes(3, origin=2))
    write_lines(tmp_path / "Woman" / "attrs.txt", ["IV, SV, OCC"])
    write_lines(tmp_path / "anno" / "att" / "Boy.txt", ["1\t0\t0\t0\t0\t0\t0\t0\t0\t0\t1"])
    assert len([folder for folder in tmp_path.iterdir() if (folder / "img").is_dir()]) == 98
    opened = {s.name: s for s in open_benchmark("otb100", tmp_path).sequences}
    assert len(opened) == 100
    for name, (first, last) in ranges.items():
        assert places(opened[name])[0] == list(range(first, last + 1))
    assert places(opened["BlurCar1"]) == ([247, 248, 249], [0, 1, 2])
    assert opened["Jogging-1"].source == opened["Jogging-2"].source
    assert opened["Jogging-1"].boxes[0, 0] == 10 and opened["Jogging-2"].boxes[0, 0] == 11
    assert opened["Woman"].attributes == {"IV", "SV", "OCC"} and opened["Boy"].attributes == {"IV", "LR"}
    assert opened["Woman"].origin == 1


def test_labels_of_absence_that_go_on_too_long_are_cut_as_by_the_toolkit_of_vasttrack(tmp_path, write_sequence):
    folder = write_sequence("vasttrack", "Air Hockey-1")
    write_lines(folder / "absence.txt", [0, 1, 0, 1, 1])
    [sequence] = open_benchmark("vasttrack", tmp_path, only=["Air Hockey-1"]).sequences
    assert places(sequence)[1] == [0, None, 2]


def test_frames_of_trackingnet_are_in_the_order_of_their_numbers(tmp_path, write_sequence):
    write_sequence("trackingnet-test", "v", frames=12)
    [sequence] = open_benchmark("trackingnet-test", tmp_path, only=["v"]).sequences
    assert places(sequence)[0] == list(range(12)) and sequence.length == 12 and len(sequence.boxes) == 1


# --- any folder -------------------------------------------------------------------------------------------


def write_video(path, frames=3, lines=None):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="bgr24")))
        container.mux(stream.encode())
    write_lines(path.with_suffix(".txt"), boxes(frames if lines is None else lines))


def test_a_folder_of_videos(tmp_path):
    for name in "ba":
        write_video(tmp_path / f"{name}.mp4")
    opened = open_benchmark("folder", tmp_path)
    assert [s.name for s in opened.sequences] == ["a", "b"]
    assert [(s.length, s.size, s.boxes.shape) for s in opened.sequences] == [(3, (64, 48), (3, 4))] * 2
    assert opened.rules.measures[0] == "ao" and opened.rules.skip_first
    assert [s.name for s in open_benchmark("folder", tmp_path, only=["b"]).sequences] == ["b"]
    for only in (["c"], ["a", "c"]):
        with pytest.raises(FartrackError, match=r"no sequence c; it has 2 others, such as a\."):
            open_benchmark("folder", tmp_path, only=only)


@pytest.mark.parametrize("lines", [2, 4])
def test_a_video_has_a_line_a_frame(tmp_path, lines):
    write_video(tmp_path / "a.mp4", 3, lines)
    with pytest.raises(FartrackError, match=rf"{lines} lines for 3 frames"):
        open_benchmark("folder", tmp_path)


@pytest.mark.parametrize("where", [".", "frames", "img", "imgs"])
def test_a_folder_of_folders_of_pictures(tmp_path, where):
    for name in "ab":
        write_pictures(tmp_path / "data" / name / where, numbered(3, 1, 9))
        write_lines(tmp_path / "data" / name / "groundtruth.txt", boxes(3))
    for root in (tmp_path / "data", tmp_path):
        opened = open_benchmark("folder", root)
        assert [s.name for s in opened.sequences] == ["a", "b"]
        assert places(opened.sequences[0]) == ([9, 10, 11], [0, 1, 2])
    assert [s.name for s in open_benchmark("folder", tmp_path / "data" / "b").sequences] == ["b"]
    assert [s.name for s in open_benchmark("folder", tmp_path, only=["b"]).sequences] == ["b"]
    for root, only in ((tmp_path / "data", ["c"]), (tmp_path, ["a", "c"])):
        with pytest.raises(FartrackError, match=r"no sequence c; it has 2 others, such as a\."):
            open_benchmark("folder", root, only=only)


@pytest.mark.parametrize("benchmark", ["got10k-val", "lasot", "vasttrack"])
def test_a_folder_of_sequences_in_a_published_layout(tmp_path, write_sequence, benchmark):
    write_sequence(benchmark, SOME[benchmark][0])
    [sequence] = open_benchmark("folder", tmp_path).sequences
    np.testing.assert_array_equal(sequence.boxes[0], [10, 8, 20, 16])


def test_unknown_benchmarks_name_those_that_exist(tmp_path):
    with pytest.raises(FartrackError, match=r"no benchmark 'lasott'; give one of got10k-val, .*, folder"):
        open_benchmark("lasott", tmp_path)


def test_nothing_is_decoded_before_it_is_run(tmp_path, write_sequence):
    folder = write_sequence("dtb70", "a")
    (folder / "img" / "00002.jpg").write_bytes(JPEG[:50])
    [sequence] = open_benchmark("dtb70", tmp_path, only=["a"]).sequences
    frames = sequence.frames()
    assert next(frames).shape == (48, 64, 3)
    with pytest.raises(FartrackError, match=r"00002\.jpg is broken"):
        next(frames)
