"""Settings given as text are those of the model with changes on top, or one sentence that names the field."""

from dataclasses import asdict

import cv2
import pytest

from fartrack.errors import FartrackError
from fartrack.tracking.settings import TrackerSettings, parse_settings


def test_changes_are_on_top_of_the_models_own():
    own = {"interval": 10, "min_window": 0.85}
    assert parse_settings(own) == TrackerSettings(**own)
    changed = parse_settings(own, ["interval=40", " agreement = 1e-1 ", "min_window=1"])
    assert changed == TrackerSettings(interval=40, agreement=0.1, min_window=1)
    assert own == {"interval": 10, "min_window": 0.85}


def test_a_preset_is_a_change_like_others():
    own, presets = {"interval": 10, "hold_score": 0.3}, {"fast": {"interval": 20, "min_window": 0.5}}
    expected = TrackerSettings(interval=20, hold_score=0.3, min_window=0.7)
    assert parse_settings(own, ["interval=1", "preset=fast", "min_window=0.7"], presets) == expected
    assert parse_settings(own, ["preset=paper"]).retention == 0.75


def test_every_field_can_be_written_and_read():
    settings = TrackerSettings(templates=2, retention=0.5)
    text = [f"{name}={str(value).lower()}" for name, value in asdict(settings).items()]
    assert parse_settings({}, text) == settings


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("interval", "'interval' is not KEY=VALUE; give one such as interval=40"),
        ("interval=", "interval is ''; it must be a whole number"),
        ("interval=2.5", "interval is 2.5; it must be a whole number"),
        ("interval=true", "interval is True; it must be a whole number"),
        ("retention=nan", "retention is nan; it must lie between"),
        ("min_template=0.2", "min_template is 0.2; it must lie between 0.3 and 1"),
        ("retention=7", "retention is 7; it must lie between 0.01 and 1"),
        ("preset=slow", "There is no preset 'slow'; those are paper"),
        ("speed=7", "'speed' is no field of TrackerSettings; those are templates"),
    ],
)
def test_what_is_wrong_names_the_field(change, told):
    with pytest.raises(FartrackError, match=told):
        parse_settings({}, [change])


def test_track_and_demo_take_settings(tmp_path, command_in, demo_clip):
    for number, image in enumerate(demo_clip[0][:3]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    box = ",".join(map(str, demo_clip[1][0]))
    track = command_in(tmp_path, "track", "no_module")
    assert "saved a.txt" in track(".", "--box", box, "--txt", "a.txt", "--set", "hold_score=0", "--set", "interval=7")
    assert track(".", "--box", box, "--txt", "b.txt", "--set", "interval=0", code=2).startswith(
        "fartrack: interval is 0; it must lie between"
    )
    demo = command_in(tmp_path, "demo", "no_module")
    assert demo("--set", "speed=7", code=2).startswith("fartrack: 'speed' is no field of TrackerSettings")
    assert not (tmp_path / "b.txt").exists()
