"""The calibrated score is a chance, comes from the model's own record, and moves no box."""

import json
import shutil

import numpy as np
import pytest

import fartrack
from fartrack import FartrackError, MultiTracker, Tracker
from fartrack.model.calibration import EDGE, Calibration
from fartrack.model.config import ModelConfig
from fartrack.model.vocabulary import BINS, encode
from fartrack.packages import SHIPPED, open_package
from fartrack.tracking.settings import TrackerSettings

RAW = np.linspace(0, 1, 101)


def test_the_odds_are_those_of_the_formula():
    chance, raw = Calibration(0.7, -0.4).apply(RAW), RAW.clip(EDGE, 1 - EDGE)
    np.testing.assert_allclose(chance / (1 - chance), np.exp(-0.4) * (raw / (1 - raw)) ** 0.7, rtol=1e-9)
    np.testing.assert_allclose(Calibration(1, 0).apply(RAW), raw, rtol=1e-9)


@pytest.mark.parametrize("calibration", [Calibration(0.7, -0.4), Calibration(2.5, 1), Calibration(0.01, -100)])
def test_a_chance_rises_with_the_raw_score_and_stays_one(calibration):
    chance = calibration.apply(RAW)
    assert ((chance >= 0) & (chance <= 1)).all()
    assert (np.diff(chance) >= 0).all()
    assert np.isnan(calibration.apply(np.nan))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"slope": 0, "bias": 0}, "slope is 0; it must lie between"),
        ({"slope": -1.0, "bias": 0}, "slope is -1.0"),
        ({"slope": float("nan"), "bias": 0}, "slope is nan"),
        ({"slope": "1", "bias": 0}, "slope is '1'"),
        ({"slope": 1, "bias": 1e9}, "bias is"),
        ({"slope": 1}, "Calibration lacks bias"),
        ({"slope": 1, "bias": 0, "scale": 1}, "'scale' is no field of Calibration"),
        (0.5, "is no FARTrack model"),
    ],
)
def test_what_a_model_says_wrong_is_named(own_model, values, words):
    with pytest.raises(FartrackError, match=words):
        open_package(own_model(values))


# --- what goes out, and what stays inside -----------------------------------------------------------------


@pytest.fixture
def own_model(tmp_path):
    """A function that makes a model package with this score."""

    def make(score):
        folder = shutil.copytree(SHIPPED / "pico", tmp_path / "own")
        record = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps(record | {"score": score}))
        return folder

    return make


class Wavering:
    """An engine that finds the target now here, now there, as surely or unsurely as chance has it."""

    def __init__(self):
        self.config, self.rng, self.templates = ModelConfig(), np.random.default_rng(0), 0

    def begin_templates(self, crops, identities, boxes):
        self.templates += len(crops)
        return np.zeros((len(crops), 1, 1, 49, 2), np.float32), None

    def search(self, crops, trajectory, kv_cache):
        logits = np.zeros((len(crops), 4, BINS), np.float32)
        for row in logits:
            places = encode(self.rng.uniform([0.3, 0.3, 0.55, 0.55], [0.45, 0.45, 0.7, 0.7]))
            row[range(4), places] = self.rng.uniform(2, 12)
        return logits


# With the first every score is under `hold_score`, with the other over `template_score`.
@pytest.mark.parametrize("calibration", [Calibration(0.01, -20), Calibration(0.01, 20)])
def test_a_calibration_moves_no_box_and_changes_no_decision(calibration):
    frame, engines = np.zeros((240, 320, 3), np.uint8), [Wavering(), Wavering()]
    settings = TrackerSettings(interval=3, min_window=0.4)
    trackers = [Tracker(engines[0], settings), Tracker(engines[1], settings, calibration=calibration)]
    for tracker in trackers:
        assert tracker.init(frame, (100, 80, 40, 30)).score == 1
    scores = []
    for _ in range(60):
        plain, calibrated = (tracker.update(frame) for tracker in trackers)
        assert calibrated.box == plain.box
        assert trackers[1].state.score == trackers[0].state.score == plain.score
        assert calibrated.score == calibration.apply(plain.score)
        scores.append(plain.score)
    assert min(scores) < settings.hold_score and max(scores) > settings.confident_score
    assert engines[0].templates == engines[1].templates > 5


def test_a_model_that_says_so_has_calibrated_scores(own_model, demo_clip):
    frames, boxes = demo_clip
    calibration = {"slope": 0.5, "bias": -1.5}
    raw, own = fartrack.load("pico", threads=1), fartrack.load(own_model(calibration), threads=1)
    raw.calibration = None
    many = MultiTracker(own)
    many.add(frames[0], boxes[0])
    assert own.init(frames[0], boxes[0]).score == raw.init(frames[0], boxes[0]).score == 1
    for frame in frames[1:4]:
        expected, found = raw.update(frame), own.update(frame)
        assert found.box == expected.box
        assert found.score == Calibration(**calibration).apply(expected.score) < expected.score - 0.1
        assert many.update(frame)[0].score == pytest.approx(found.score, abs=1e-5)
