"""What is shown of a frame is what the tracker saw and answered there."""

from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

import fartrack.demo
from fartrack.errors import FartrackError
from fartrack.video import frames_from_source

pytest.importorskip("matplotlib", reason="the extra 'eval' is not installed")
from fartrack.evaluate.explain import draw_looks, looks

CLIP = str(Path(fartrack.demo.__file__).with_name("clip.mp4"))
BOX = next(fartrack.demo.demo_frames())[1]


@pytest.fixture(scope="module")
def tracker():
    return fartrack.load("pico", threads=1, interval=3, retention=0.75)


@pytest.fixture(scope="module")
def looked(tracker):
    with frames_from_source(CLIP) as source:
        return list(looks(tracker, source, BOX, [4, 2, 5]))


def test_the_tracks_are_those_of_the_tracker(tracker, looked):
    tracks = list(islice(fartrack.track_video(CLIP, BOX, tracker=tracker), 6))
    assert [(look.frame, look.track) for look in looked] == [(frame, tracks[frame]) for frame in (2, 4, 5)]


def test_templates_attention_and_distributions(looked):
    # Frame 5 is that of a check: the first template is sure, and no other is asked.
    assert [[template.frame for template in look.templates] for look in looked] == [[0], [0, 3], [0]]
    kept_tokens = [[37], [37, 49], [37]]  # 75 % of 49, from the frame after the one that scores them
    for look, count in zip(looked, kept_tokens, strict=True):
        assert look.probabilities.shape == (4, 600)
        np.testing.assert_allclose(look.probabilities.sum(-1), 1)
        assert 0 < np.nansum(look.attention) < 1
        kept = np.isfinite(look.attention)
        assert kept.sum(-1).tolist() == count
        assert np.flatnonzero(kept[0]).tolist() == look.templates[0].keep.tolist()
    corners = looked[0].region.window.to_crop([looked[0].track.box])[0]
    likely = -0.5 + (looked[0].probabilities.argmax(-1) + 0.5) / 300
    np.testing.assert_allclose(likely, corners, atol=0.05)


def test_a_line_of_the_picture_for_each_frame(looked):
    axes = draw_looks(looked).axes
    assert len(axes) == 12
    assert axes[0].get_title().startswith("frame 2: tracking, score ")
    shares = [int(text.get_text().split("\n")[1].rstrip("%")) for text in axes[7].texts]
    assert len(shares) == 2 and sum(shares) in (99, 100, 101)


@pytest.mark.parametrize(
    ("frames", "words"), [([0, 3], "must come after .* which is 0"), ([9999], "ends before frame")]
)
def test_frames_that_are_not_there_are_one_sentence(tracker, tmp_path, frames, words):
    for name in ("0.png", "1.png"):
        cv2.imwrite(str(tmp_path / name), np.full((90, 120, 3), 80, np.uint8))
    with frames_from_source(tmp_path) as source, pytest.raises(FartrackError, match=words):
        list(looks(tracker, source, (30, 30, 30, 30), frames))


def test_the_command(command_in, tmp_path):
    run = command_in(tmp_path, "explain", "none")
    box = ",".join(map(str, BOX))
    for name in ("a.png", "a.html"):
        assert run(CLIP, "--box", box, "--frames", "1", "-o", name) == f"saved {name}\n"
    assert cv2.imread("a.png").shape == (340, 1700, 3)
    assert Path("a.html").read_text().count('src="data:image/png;base64,') == 1
    assert "neither .png nor .html" in run(CLIP, "--box", box, "--frames", "1", "-o", "a.txt", code=2)
    assert "--frames is 'x'" in run(CLIP, "--box", box, "--frames", "x", "-o", "a.png", code=2)
    assert "There is no folder" in run(CLIP, "--box", box, "--frames", "1", "-o", "none/a.png", code=2)
