import av
import numpy as np
import pytest

from fartrack.errors import FartrackError
from fartrack.evaluate.runner import run_sequence
from fartrack.evaluate.sequences import packed_sequences, read_boxes


@pytest.mark.parametrize("text", ["1,2,3,4\n5,6,7,8\n", "1\t2\t3\t4\n5 6 7 8", "1, 2, 3, 4\r\n5 , 6,7,8\n\n"])
def test_separators(tmp_path, text):
    path = tmp_path / "a.txt"
    path.write_text(text)
    assert read_boxes(path).tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_nan_is_an_absent_target(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("1,2,3,4\nnan,nan,nan,nan\n")
    assert np.isnan(read_boxes(path)[1]).all()


@pytest.mark.parametrize("line", ["1,2,3", "1,2,3,x", "", "1,2,3,4,5"])
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "a.txt"
    path.write_text(f"1,2,3,4\n{line}\n1,2,3,4\n")
    with pytest.raises(FartrackError, match="line 2"):
        read_boxes(path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FartrackError, match=r"holds no \.mp4"):
        packed_sequences(tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(FartrackError, match="ground truth"):
        packed_sequences(tmp_path)


class Still:
    """A tracker that never moves."""

    def init(self, frame, box):
        self.box = tuple(box)

    def update(self, frame):
        return type("Track", (), {"box": self.box, "score": 0.5})()


def test_a_run_has_a_box_a_frame(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", 25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="bgr24")))
        container.mux(stream.encode())
    (tmp_path / "a.txt").write_text("4,4,8,8\n" * 3 + "4,4,8,4\n" * 2)
    [sequence] = packed_sequences(tmp_path)
    result = run_sequence(Still(), sequence)
    assert result.boxes.shape == (5, 4)
    np.testing.assert_allclose(result.ious, [1, 1, 0.5, 0.5])
    assert result.scores.tolist() == [1, 0.5, 0.5, 0.5, 0.5]
