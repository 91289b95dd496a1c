"""The log, the curves, the pictures and the best weights of a run are what they say they are."""

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import fartrack.train.monitor as module
from fartrack.errors import FartrackError
from fartrack.files import read_json_lines
from fartrack.train.data.batches import Batch
from fartrack.train.loop import train
from fartrack.train.monitor import BEST, LOG, Monitor, draw_samples, predict
from fartrack.train.state import TrainState, load_checkpoint

GREEN, RED = (0, 200, 0), (40, 40, 230)


def curve(run, name):
    """The points of a curve, as TensorBoard reads it."""
    events = EventAccumulator(str(run))
    events.Reload()
    return [(point.step, pytest.approx(point.value)) for point in events.Scalars(name)]


def test_a_line_averages_the_steps_since_the_one_before(recipe, tmp_path):
    monitor = Monitor(tmp_path, recipe)
    for done in range(1, 26):
        state = SimpleNamespace(step=done, samples=4 * done)
        monitor.count(state, 0.5, {"crops": 4, "loss": done, "iou": done / 100}, last=done == 25)
    monitor.close()
    first, last = read_json_lines(tmp_path / LOG)
    assert [first[name] for name in ("step", "samples", "rate", "loss", "iou")] == [20, 80, 0.5, 10.5, 0.105]
    assert [last[name] for name in ("step", "samples", "rate", "loss", "iou")] == [25, 100, 0.5, 23, 0.23]
    assert first["samples_per_second"] > 0
    assert curve(tmp_path, "loss") == [(20, 10.5), (25, 23)]
    assert curve(tmp_path, "rate") == [(20, 0.5), (25, 0.5)]


def test_a_line_that_was_cut_short_is_passed_over(recipe, tmp_path):
    assert read_json_lines(tmp_path / LOG) == []
    (tmp_path / LOG).write_text('{"step": 20, "val_ao": 0.5}\n{"step": 40, "lo')
    assert read_json_lines(tmp_path / LOG) == [{"step": 20, "val_ao": 0.5}]


def crops(boxes, color=90):
    """A batch of plain search crops of 40 pixels with two to a set, and a template of 20 pixels for each set."""
    count = len(boxes)
    return Batch(
        templates=torch.arange(count // 2, dtype=torch.uint8)[:, None, None, None].expand(-1, 20, 20, 3) + 1,
        identities=torch.zeros(count // 2, dtype=torch.long),
        template_boxes=torch.tensor([0.25, 0.25, 0.75, 0.75]).expand(count // 2, 4),
        index=torch.arange(count // 2)[:, None],
        search=torch.full((count, 40, 40, 3), color, dtype=torch.uint8),
        trajectory=torch.zeros(count, 12, dtype=torch.long),
        boxes=torch.tensor(boxes),
    )


def colored(image, color):
    """The rows and columns of the pixels of a color."""
    return {tuple(place) for place in np.argwhere((image == color).all(-1)).tolist()}


def outline(left, top, right, bottom):
    rows, columns = range(top, bottom + 1), range(left, right + 1)
    return {(r, c) for r in rows for c in columns if r in (top, bottom) or c in (left, right)}


def test_the_boxes_are_drawn_at_their_places():
    boxes = [[0.25, 0.1, 0.5, 0.35], [0.6, 0.6, 0.9, 0.8], [0.1, 0.1, 0.2, 0.2], [0.3, 0.3, 0.4, 0.4]]
    found = np.array([[0.55, 0.5, 0.8, 0.9], [0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.6, 0.6], [0.7, 0.7, 0.8, 0.8]])
    sheet = draw_samples(crops(boxes), found, columns=3)
    assert sheet.shape == (2 * 60, 3 * 40, 3)  # three crops, and one below
    for place, (true, seen) in enumerate(zip(boxes, found, strict=True)):
        top, left = place // 3 * 60, place % 3 * 40
        part = sheet[top + 20 : top + 60, left : left + 40]
        for corners, color in ((true, GREEN), (seen, RED)):
            assert colored(part, color) == outline(*np.round(np.array(corners) * 40).astype(int).tolist())
        assert (sheet[top : top + 20, left : left + 20] == place // 2 + 1).all()  # the template of its set


def test_where_there_is_no_target_no_box_is_to_be_found():
    sheet = draw_samples(
        crops([[float("nan")] * 4, [0.2, 0.2, 0.6, 0.6]]), np.full((2, 4), [0.1, 0.1, 0.5, 0.5]), columns=2
    )
    left, right = sheet[20:60, :40], sheet[20:60, 40:]
    assert not colored(left, GREEN) and colored(right, GREEN)
    assert colored(left, RED) == colored(right, RED) == outline(4, 4, 20, 20)


def test_a_picture_shows_blue_as_blue():
    batch = crops([[0.1, 0.1, 0.2, 0.2]] * 2)
    batch.search[:] = torch.tensor([10, 20, 250], dtype=torch.uint8)  # RGB
    sheet = draw_samples(batch, np.zeros((2, 4)), columns=2)
    assert tuple(sheet[-1, -1]) == (250, 20, 10)


def test_pictures_are_made_now_and_then(synthetic_store, recipe, random_network, tmp_path):
    run, network = tmp_path / "run", random_network(recipe.model).train()
    train(recipe, synthetic_store(), run, workers=0)
    assert cv2.imread(str(run / "samples.png")).shape == (96, 6 * 64, 3)
    search, templates = torch.full((2, 64, 64, 3), 90).byte(), torch.full((1, 32, 32, 3), 90).byte()
    batch = replace(crops([[0.2, 0.2, 0.7, 0.6]] * 2), search=search, templates=templates)
    monitor = Monitor(run, recipe)
    (run / "samples.png").unlink()
    monitor.picture(2, batch, network)
    assert not (run / "samples.png").exists()
    monitor.write({"step": 500, "loss": 1})
    monitor.picture(501, batch, network)
    monitor.close()
    assert network.training
    sheet = cv2.imread(str(run / "samples.png"))
    np.testing.assert_array_equal(sheet, draw_samples(batch, predict(network, batch)))
    assert colored(sheet[32:, :64], GREEN) <= outline(13, 13, 45, 38)
    assert (32 + 13, 13) in colored(sheet, GREEN) or (32 + 13, 13) in colored(sheet, RED)
    events = EventAccumulator(str(run))
    events.Reload()
    assert [image.step for image in events.Images("samples")] == [501]
    assert not list(run.glob("*part*"))


@pytest.fixture
def judge(monkeypatch):
    """A function that sets the AO of the coming validations; what was judged is noted in ``judge.trackers``."""
    scores, trackers = [], []

    def run_sequence(tracker, sequence):
        trackers.append(tracker)
        return sequence

    monkeypatch.setattr(module, "packed_sequences", lambda folder: [SimpleNamespace(boxes=None)])
    monkeypatch.setattr(module, "run_sequence", run_sequence)
    monkeypatch.setattr(module, "measure", lambda *_: {"ao": scores.pop(0)})
    return SimpleNamespace(scores=scores, trackers=trackers)


def test_the_best_weights_are_kept(recipe_of, random_network, tmp_path, judge):
    recipe = recipe_of("sparsify")
    state = TrainState(recipe, torch.device("cpu"))
    state.network = network = random_network(recipe.model)

    def validate(monitor, *steps, last=False):
        for done in steps:
            state.step, state.samples = done, 4 * done
            state.average = {name: torch.full_like(t, done) for name, t in network.state_dict().items()}
            monitor.validate(state, last)
            if judge.trackers:
                assert (judge.trackers[-1].engine.network.vocab == done).all()
                assert judge.trackers[-1].settings.retention == 0.5  # as the run trains for
                judge.trackers.clear()

    def best():
        checkpoint = load_checkpoint(tmp_path / BEST)
        assert set(checkpoint.part("ema")) == set(network.state_dict())
        assert all((tensor == checkpoint.step).all() for tensor in checkpoint.part("ema").values())
        return checkpoint.step

    monitor = Monitor(tmp_path, recipe, tmp_path / "val", val_every=10)
    judge.scores[:] = [0.3, 0.5, 0.4]
    validate(monitor, 9)
    assert not (tmp_path / BEST).exists()
    validate(monitor, 10, 15)
    assert best() == 10
    validate(monitor, 20, 30)
    assert best() == 20
    monitor.close()

    monitor = Monitor(tmp_path, recipe, tmp_path / "val", val_every=10)  # the run goes on
    judge.scores[:] = [0.45, 0.6]
    validate(monitor, 40)
    assert best() == 20
    validate(monitor, 43, last=True)
    assert best() == 43
    monitor.close()
    expected = [(10, 0.3), (20, 0.5), (30, 0.4), (40, 0.45), (43, 0.6)]
    assert [(row["step"], row["val_ao"]) for row in read_json_lines(tmp_path / LOG)] == expected
    assert curve(tmp_path, "val_ao") == expected
    assert not list(tmp_path.glob("*.part"))
    assert next(iter(network.state_dict().values())).unique().numel() > 1  # the network itself is as it was


def test_a_run_is_judged_as_it_goes(synthetic_store, recipe, tmp_path, judge):
    judge.scores[:] = [0.2, 0.4, 0.3, 0.1]
    train(recipe, synthetic_store(), tmp_path / "run", workers=0, val=tmp_path, val_every=2)
    rows = [row for row in read_json_lines(tmp_path / "run" / LOG) if "val_ao" in row]
    assert [(row["step"], row["samples"], row["val_ao"]) for row in rows] == [(2, 8, 0.2), (4, 16, 0.4), (6, 24, 0.3)]
    assert load_checkpoint(tmp_path / "run" / BEST).step == 4


def test_a_folder_without_sequences_is_refused(synthetic_store, recipe, tmp_path):
    (tmp_path / "val").mkdir()
    with pytest.raises(FartrackError, match=r"val holds no \.mp4 sequences"):
        train(recipe, synthetic_store(), tmp_path / "run", workers=0, val=tmp_path / "val")
    assert not (tmp_path / "run").exists()
