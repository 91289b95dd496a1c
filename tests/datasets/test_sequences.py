import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fartrack.datasets.layouts import numbered_pictures, read_boxes
from fartrack.datasets.sequences import Sequence, packed_sequences
from fartrack.errors import FartrackError
from miniature import JPEG


@pytest.mark.parametrize(
    "text", ["1,2,3,4\n5,6,7,8\n", "1\t2\t3\t4\n5 6 7 8", "1, 2, 3, 4\r\n5 , 6,7,8\n\n", "\ufeff1,2\t3 4\n5,6,7,8"]
)
def test_separators(tmp_path, text):
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    assert read_boxes(path).tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


@given(st.lists(st.tuples(*[st.floats(-1e6, 1e6)] * 4), max_size=5), st.sampled_from([",", "\t", " ", ", ", " ,\t"]))
def test_what_is_written_is_read(tmp_path_factory, rows, separator):
    path = tmp_path_factory.mktemp("boxes") / "a.txt"
    path.write_text("\n".join(separator.join(map(repr, row)) for row in rows))
    np.testing.assert_array_equal(read_boxes(path), np.array(rows).reshape(-1, 4))


def test_nan_is_an_absent_target(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("1,2,3,4\nnan,NaN,nan,nan\n")
    assert np.isnan(read_boxes(path)[1]).all()


@pytest.mark.parametrize("line", ["1,2,3", "1,2,3,x", "", "1,2,3,4,5", "1,2,inf,4", "1;2;3;4"])
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "a.txt"
    path.write_text(f"1,2,3,4\n{line}\n1,2,3,4\n")
    with pytest.raises(FartrackError, match="line 2"):
        read_boxes(path)


def test_lines_of_vatic(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text('0 10 20 30 50 1 0 0 0 "a bird"\n')
    assert read_boxes(path, vatic=True).tolist() == [[10, 20, 20, 30]]
    path.write_text("0 10 20\n")
    with pytest.raises(FartrackError, match="line 1: '0 10 20' is not a line id,x0"):
        read_boxes(path, vatic=True)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FartrackError, match=r"holds no \.mp4"):
        packed_sequences(tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(FartrackError, match=r"no file .*a\.txt"):
        packed_sequences(tmp_path)


def test_pictures_are_in_the_order_of_their_numbers(tmp_path):
    for name in ("img10.jpg", "img9.JPG", "b.png", "a.png", "._img1.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(JPEG)
    (tmp_path / "img11.jpg").mkdir()
    found = [(number, path.name) for number, path in numbered_pictures(tmp_path)]
    assert found == [(-1, "a.png"), (-1, "b.png"), (9, "img9.JPG"), (10, "img10.jpg")]


def test_a_sequence_of_pictures(tmp_path):
    paths = []
    for index in range(3):
        paths.append(tmp_path / f"{index}.jpg")
        paths[-1].write_bytes(JPEG)
    sequence = Sequence("a", tuple(paths), np.ones((1, 4)))
    assert sequence.length == 3 and sequence.size == (64, 48)
    assert [frame.shape for frame in sequence.frames()] == [(48, 64, 3)] * 3


def test_a_part_of_a_sequence(tmp_path):
    """From a frame on, of pictures and of a video, it is the same frames and boxes; its results have another name."""
    boxes = np.tile([4.0, 4, 8, 8], (4, 1))
    boxes[2] = np.nan
    paths = tuple(tmp_path / f"{index}.png" for index in range(4))
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", 25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index, path in enumerate(paths):
            image = np.full((48, 64, 3), 60 * index, np.uint8)
            cv2.imwrite(str(path), image)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode())
    for source in (paths, tmp_path / "clip.mp4"):
        whole = Sequence("a", source, boxes)
        assert whole.since(0) is whole and whole.video == "a"
        part = whole.since(1)
        assert (part.name, part.video, part.skipped, part.length) == ("a@1", "a", 1, 3)
        np.testing.assert_array_equal(part.boxes, boxes[1:])
        assert [round(frame.mean() / 60) for frame in part.frames()] == [1, 2, 3]
        assert whole.since(2) is None, "no target on its first frame"
        assert whole.since(3) is None, "nothing to find after it"
        assert whole.since(9) is None
