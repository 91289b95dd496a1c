"""The report shows what was measured, in one page that needs no other file."""

import re
from dataclasses import replace
from datetime import datetime

import cv2
import numpy as np
import pytest

from fartrack.cpu import processor_name
from fartrack.datasets.sequences import Sequence
from fartrack.errors import FartrackError
from fartrack.evaluate.benchmarks import Benchmark
from fartrack.evaluate.metrics import Rules, overlaps
from fartrack.evaluate.runner import Evaluation, Result
from fartrack.version import __version__

pytest.importorskip("matplotlib", reason="the extra 'eval' is not installed")
from fartrack.evaluate.report import _scored, _three_frames, _worst_figures, write_report

FRAMES = 5
RULES = Rules(("ao", "sr50", "normalized_precision"), skip_first=True)
TRUTH = np.array([[8.0 + 4 * index, 10, 24, 24] for index in range(FRAMES)])


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    """Six short sequences of gray pictures; the target moves to the right."""
    found, folder = [], tmp_path_factory.mktemp("sequences")
    for number in range(6):
        paths = [folder / f"s{number}" / f"{index}.png" for index in range(FRAMES)]
        paths[0].parent.mkdir()
        for path in paths:
            path.write_bytes(cv2.imencode(".png", np.full((60, 80, 3), 128, np.uint8))[1].tobytes())
        found.append(Sequence(f"s{number}", tuple(paths), TRUTH, frozenset({"OCC"} if number < 2 else {"a<b"})))
    return found


def evaluate(name, sequences, off, seconds=0.02, rules=RULES):
    """A tracker that is ``off`` so many pixels downwards, on each sequence one more."""
    results = [
        Result(
            s.name,
            s.boxes + np.array([0, off + number, 0, 0]),
            np.ones(FRAMES),
            np.array([0.0] + [seconds] * (FRAMES - 1)),
        )
        for number, s in enumerate(sequences)
    ]
    return Evaluation(name, Benchmark("folder", sequences, rules), results)


@pytest.fixture(scope="module")
def page(sequences, tmp_path_factory):
    """The report of three trackers, of which the second is as good as the first and the third is worse."""
    off = {"ours": 1, "same": 1, "worse": 12}
    folder = tmp_path_factory.mktemp("report") / "out"
    page = write_report([evaluate(name, sequences, pixels) for name, pixels in off.items()], folder)
    assert page == folder / "report.html"
    return page


def text_of(path):
    return re.sub(r"base64,[A-Za-z0-9+/=]*", "", path.read_text())


def test_the_timeline_shows_the_worst_sequences_frame_by_frame(sequences):
    """The lines of the figure are the IoU and the score of the sequences that are the worst, the worst first."""
    evaluation = evaluate("ours", sequences, 1)
    [(_, figure)] = _worst_figures(_scored([evaluation]))
    lines = np.reshape(figure.axes, (3, 4))
    assert [line[0].get_ylabel().split("\n")[0] for line in lines] == ["s5", "s4", "s3"]
    for (*_, one), number in zip(lines, (5, 4, 3), strict=True):
        score, overlap = (line.get_ydata() for line in one.get_lines())
        np.testing.assert_array_equal(score, evaluation.results[number].scores)
        np.testing.assert_allclose(overlap, (24 - 1 - number) / (24 + 1 + number))


def test_the_page_needs_nothing_else_and_holds_every_picture(page):
    pictures = {path.stem for path in page.parent.glob("*.png")}
    assert pictures == {
        *("success", "precision", "normalized_precision", "speed", "attributes"),
        *("worst-1-ours", "worst-2-same", "worst-3-worse"),
    }
    sources = re.findall(r'<img alt="([^"]*)" src="(data:image/png;base64,)', page.read_text())
    assert {name for name, _ in sources} == pictures
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import|<script", text_of(page))
    assert {path.suffix for path in page.parent.iterdir()} == {".png", ".html"}


def test_the_table_has_means_with_intervals_differences_and_speed(page):
    page = text_of(page)
    rows = dict(re.findall(r"<tr><td>(\w+)</td>(.*)</tr>", page))
    # IoU of a square shifted by d of its side 24: (24 - d) / (24 + d)
    expected = np.mean([(24 - d) / (24 + d) for d in range(1, 7)])
    assert f"<td>{expected:.3f} [" in rows["ours"]
    assert "<td>50</td>" in rows["ours"] and "<p>6 sequences, 30 frames." in page
    assert "no difference" not in rows["ours"]
    assert "+0.000 [+0.000,\xa0+0.000], no difference" in rows["same"]
    assert re.search(r"<td>-0\.\d+ \[-0\.\d+,\xa0-0\.\d+\]</td>", rows["worse"])
    assert "One sequence counts once" in page


def test_the_page_says_where_it_is_from(sequences, tmp_path, page):
    made = write_report([evaluate("ours", sequences, 1)], tmp_path, "fartrack eval --data 'a<b'")
    footer = re.search(r"<footer>(.*)</footer>", text_of(made))[1]
    for part in (f"fartrack {__version__}", f"{datetime.now():%Y-%m-%d}", processor_name()[:5], "--data &#x27;a&lt;b"):
        assert part in footer
    assert "6 sequences are few" in text_of(page)


def test_the_worst_sequence_comes_first(page):
    assert re.findall(r"<tr><td>(s\d)</td>", text_of(page)) == ["s5", "s4", "s3", "s2", "s1", "s0"]


def test_a_filmstrip_shows_both_boxes(page):
    image = cv2.imread(str(page.parent / "worst-3-worse.png")).astype(int)
    blue, green, red = np.moveaxis(image, -1, 0)
    assert ((green > 170) & (red < 40)).sum() > 200
    assert ((red > 230) & (green < 60) & (blue < 60)).sum() > 200


def test_the_worst_frame_is_where_the_target_was_lost():
    boxes = TRUTH + np.array([[0, 0, 0, 0], [0, 1, 0, 0], [0, 30, 0, 0], [0, 40, 0, 0], [0, 2, 0, 0]])
    assert _three_frames(overlaps(boxes, TRUTH)) == (0, 2, 4)
    truth = TRUTH.copy()
    truth[2], truth[3] = np.nan, [0, 0, 0, 0]  # absent
    assert _three_frames(overlaps(boxes, truth)) == (0, 4, 4)
    truth[1:] = np.nan
    assert _three_frames(overlaps(boxes, truth)) == (0, 0, 4)


def test_only_what_is_known_is_drawn(tmp_path, sequences):
    plain = [replace(sequence, attributes=frozenset()) for sequence in sequences]
    rules = Rules(("auc",))
    page = write_report([evaluate("ours", plain, 1, seconds=np.nan, rules=rules)], tmp_path / "out")
    assert {path.stem for path in page.parent.glob("*.png")} == {*("success", "precision", "worst-1-ours")}


def test_names_are_no_markup_and_no_paths(tmp_path, sequences):
    page = write_report([evaluate("../a<b> & $c", sequences, 1)], tmp_path / "out")
    assert "../a&lt;b&gt; &amp; $c" in text_of(page) and "<b> &" not in text_of(page)
    assert sorted(path.name for path in page.parent.glob("worst*")) == ["worst-1-.._a_b_c.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_sequences_without_ground_truth_are_named_and_left_out(tmp_path, sequences):
    partly = [replace(s, boxes=TRUTH[:1]) if s.name == "s3" else s for s in sequences]
    results = [Result(s.name, TRUTH, np.ones(FRAMES), np.ones(FRAMES)) for s in sequences]
    evaluation = Evaluation("ours", Benchmark("folder", partly, RULES), results)
    page = text_of(write_report([evaluation], tmp_path / "out"))
    assert "<p>5 sequences, 25 frames." in page and "left out: s3." in page
    hidden = [replace(sequence, boxes=TRUTH[:1]) for sequence in sequences]
    with pytest.raises(FartrackError, match="publishes no ground truth"):
        write_report([Evaluation("ours", Benchmark("got10k-test", hidden, RULES), results)], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_trackers_on_different_sequences_are_not_compared(tmp_path, sequences):
    with pytest.raises(FartrackError, match="not run on the same sequences"):
        write_report([evaluate("a", sequences, 1), evaluate("b", sequences[:3], 1)], tmp_path / "out")


def test_a_picture_that_is_gone_is_named_and_nothing_is_written(tmp_path, sequences):
    gone = replace(sequences[5], source=(*sequences[5].source[:4], tmp_path / "4.png"))
    evaluation = evaluate("ours", [*sequences[:5], gone], 1)
    with pytest.raises(FartrackError, match=r"4\.png"):
        write_report([evaluation], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_sequence_and_many_trackers(tmp_path, sequences):
    page = write_report([evaluate(f"t{index}", sequences[:1], index) for index in range(11)], tmp_path / "out")
    assert len(list(page.parent.glob("worst-*.png"))) == 11
