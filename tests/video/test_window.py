"""The windows, driven by synthetic events; skipped where there is no display."""

import subprocess
import sys
import time

import numpy as np
import pytest

from fartrack.errors import FartrackError
from fartrack.video import LiveView, select_box
from fartrack.video import window as window_module

IMAGE = np.full((300, 400, 3), (20, 90, 160), np.uint8)


def has_display():
    try:
        import tkinter

        tkinter.Tk().destroy()
    except Exception:
        return False
    return True


needs_display = pytest.mark.skipif(not has_display(), reason="needs tkinter and a display (xvfb-run will do)")


def drive(monkeypatch, *events):
    """Let the next box window play `events`, pairs of a sequence and its options, instead of waiting."""

    class Driven(window_module._BoxWindow):
        def __init__(self, *args):
            super().__init__(*args)
            self.root.update()
            self.root.after(20, self.play)

        def play(self):
            for target, sequence, options in events:
                {"canvas": self.canvas, "root": self.root}[target].event_generate(sequence, **options)
            self.root.after(20, lambda: self.root.destroy())

    monkeypatch.setattr(window_module, "_BoxWindow", Driven)


def drag(x0, y0, x1, y1):
    return (
        ("canvas", "<ButtonPress-1>", {"x": x0, "y": y0}),
        ("canvas", "<B1-Motion>", {"x": (x0 + x1) // 2, "y": y1}),
        ("canvas", "<B1-Motion>", {"x": x1, "y": y1}),
        ("canvas", "<ButtonRelease-1>", {"x": x1, "y": y1}),
    )


ENTER = ("root", "<Return>", {})


@needs_display
@pytest.mark.parametrize(
    ("line", "box"),
    [
        ((50, 60, 150, 200), (50, 60, 100, 140)),
        ((150, 200, 50, 60), (50, 60, 100, 140)),  # drawn backwards
        ((350, 250, 900, -70), (350, 0, 50, 250)),  # drawn out of the picture
    ],
)
def test_box(monkeypatch, line, box):
    drive(monkeypatch, *drag(*line), ENTER)
    assert select_box(IMAGE) == box


@needs_display
def test_the_last_drag_counts(monkeypatch):
    drive(monkeypatch, *drag(1, 1, 90, 90), *drag(10, 20, 30, 40), ENTER)
    assert select_box(IMAGE) == (10, 20, 20, 20)


@needs_display
def test_large_pictures_are_scaled_to_the_screen(monkeypatch):
    drive(monkeypatch, *drag(100, 100, 200, 300), ENTER)
    x, y, w, h = select_box(np.zeros((4000, 8000, 3), np.uint8))
    assert x == y == w == pytest.approx(h / 2) and x > 200


@needs_display
@pytest.mark.parametrize(
    "events", [(), (ENTER,), (*drag(5, 5, 6, 6), ENTER), (*drag(50, 60, 150, 200), ("root", "<Escape>", {}))]
)
def test_no_box(monkeypatch, events):
    drive(monkeypatch, *events)
    with pytest.raises(FartrackError, match=r"No box was drawn.*--box x,y,w,h\.$"):
        select_box(IMAGE)


@needs_display
@pytest.mark.parametrize("key", ["q", "<Escape>"])
def test_live_view(key):
    view = LiveView()
    assert view.show(IMAGE) and view.show(IMAGE[:100])
    photo = view._window._photo
    assert (photo.width(), photo.height()) == (400, 300) and photo.get(7, 7) == (160, 90, 20)
    view._window.root.event_generate(key)
    assert not view.show(IMAGE) and not view.show(IMAGE)
    view.close()
    view.close()
    assert not view.show(IMAGE)


def press(view, after, *keys):
    """Let the user press keys, one after the other, each a while after the last."""
    root = view._window.root
    for number, key in enumerate(keys, 1):
        root.after(after * number, lambda key=key: root.event_generate(key))


@needs_display
def test_space_pauses_until_it_is_pressed_again():
    view = LiveView()
    assert view.show(IMAGE)
    view._window.root.event_generate("<space>")
    press(view, 150, "<space>")
    begin = time.monotonic()
    assert view.show(IMAGE) and time.monotonic() - begin > 0.1
    view._window.root.event_generate("<space>")
    press(view, 50, "q")
    assert not view.show(IMAGE)  # it can be ended while it is paused
    view.close()


@needs_display
def test_keys_ask_for_a_new_box_and_choose_a_target(monkeypatch):
    view = LiveView()
    assert view.show(IMAGE) and not view.redraw and view.chosen == 1
    view._window.root.event_generate("<Key-3>")
    view._window.root.event_generate("r")
    assert view.show(IMAGE) and view.redraw and view.chosen == 3
    drive(monkeypatch, *drag(50, 60, 150, 200), ENTER)
    assert select_box(IMAGE, "cup") == (50, 60, 100, 140)  # though the other window is still there
    drive(monkeypatch, *drag(50, 60, 150, 200), ("root", "<Escape>", {}))
    with pytest.raises(FartrackError):
        select_box(IMAGE, "cup")
    press(view, 50, "<space>")
    assert view.show(IMAGE) and not view.redraw  # paused, to be gone on with
    view.close()


def test_without_a_display():
    """In a process of its own, where no display can be found."""
    code = (
        "import os; [os.environ.pop(k, None) for k in ('DISPLAY', 'WAYLAND_DISPLAY')]\n"
        "import numpy as np; from fartrack.video import select_box, LiveView\n"
        "from fartrack.errors import FartrackError\n"
        "for show in (select_box, LiveView().show):\n"
        "    try: show(np.zeros((9, 9, 3), np.uint8))\n"
        "    except FartrackError as error: print(error)\n"
    )
    if sys.platform in ("win32", "darwin"):
        pytest.skip("a display is always there on this system")
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    first, second = lines.splitlines()
    assert first.endswith("; pass the box as --box x,y,w,h.") and second.endswith(
        "name an output instead, such as -o out.mp4."
    )


def test_without_tkinter(monkeypatch):
    monkeypatch.setitem(sys.modules, "tkinter", None)
    with pytest.raises(FartrackError, match="no tkinter"):
        select_box(IMAGE)
