"""The two windows, in Tk of the standard library: draw the first box, and watch the tracking live."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import cv2
import numpy as np

from fartrack.errors import FartrackError
from fartrack.geometry import Image

if TYPE_CHECKING:
    import tkinter

    Event = tkinter.Event[tkinter.Misc]

SCREEN_SHARE = 0.85
"""The part of the screen's width and height that a picture may fill."""

SMALLEST = 2.0
"""Least width and height of a drawn box, in image pixels: a click alone is no box."""


class _Window:
    """A Tk window with one picture, scaled down, never up, to fit the screen."""

    def __init__(self, title: str, image: Image, *, otherwise: str) -> None:
        """Open it in the size of `image`; `otherwise` tells what to do where there is no window."""
        try:
            import tkinter

            self.root = tkinter.Tk()
        except ImportError as error:
            raise FartrackError(f"This Python has no tkinter for a window; {otherwise}.") from error
        except tkinter.TclError as error:
            raise FartrackError(f"There is no display for a window; {otherwise}.") from error
        self.tk = tkinter
        self.root.title(title)
        self.root.resizable(False, False)
        height, width = image.shape[:2]
        room = min(self.root.winfo_screenwidth() / width, self.root.winfo_screenheight() / height)
        self.scale = min(1.0, SCREEN_SHARE * room)
        self.size = (max(round(width * self.scale), 1), max(round(height * self.scale), 1))
        self.canvas = tkinter.Canvas(self.root, width=self.size[0], height=self.size[1], highlightthickness=0)
        self.canvas.pack()
        self._item = self.canvas.create_image(0, 0, anchor="nw")
        self.put(image)
        self.root.focus_force()

    def bind(self, action: Callable[[], None], *keys: str) -> None:
        """Let any of the keys do something."""
        for key in keys:
            self.root.bind(key, lambda event: action())

    def put(self, image: Image) -> None:
        """Show a picture, scaled to the window."""
        if image.shape[1::-1] != self.size:
            image = np.asarray(cv2.resize(image, self.size, interpolation=cv2.INTER_AREA), np.uint8)
        data = b"P6 %d %d 255\n" % self.size + image[:, :, ::-1].tobytes()
        # kept, because Tk itself holds no reference to it
        self._photo = self.tk.PhotoImage(master=self.root, data=data, format="PPM")
        self.canvas.itemconfigure(self._item, image=self._photo)


def select_box(image: Image, title: str = "FARTrack") -> tuple[float, float, float, float]:
    """Let the user draw a box on `image` (uint8 BGR) and return it as x, y, w, h in image pixels; `FartrackError` if it
    was cancelled, or there is no display or no tkinter."""
    window = _BoxWindow(title, image)
    window.root.protocol("WM_DELETE_WINDOW", window.leave)
    window.root.mainloop()
    if not window.accepted:
        raise FartrackError("No box was drawn; draw one and press Enter, or pass it as --box x,y,w,h.")
    return window.box


class _BoxWindow(_Window):
    def __init__(self, title: str, image: Image) -> None:
        super().__init__(title, image, otherwise="pass the box as --box x,y,w,h")
        self.accepted = False
        self.box = (0.0, 0.0, 0.0, 0.0)
        self._limits = (float(image.shape[1]), float(image.shape[0]))
        self._lines = [
            self.canvas.create_rectangle(0, 0, 0, 0, outline=color, width=width, state="hidden")
            for color, width in (("#181818", 4), ("#3ccd58", 2))
        ]
        bar = self.tk.Frame(self.root, padx=8, pady=6)
        bar.pack(fill="x")
        self._hint = self.tk.Label(bar, text="Drag a box around the object.")
        self._hint.pack(side="left")
        self._button = self.tk.Button(bar, text="Track (Enter)", command=self._accept, state="disabled")
        self._button.pack(side="right")
        self.tk.Button(bar, text="Cancel (Esc)", command=self.leave).pack(side="right")
        self.canvas.configure(cursor="crosshair")
        self.canvas.bind("<ButtonPress-1>", self._press)
        self.canvas.bind("<B1-Motion>", self._drag)
        self.bind(self._accept, "<Return>", "<KP_Enter>")
        self.bind(self.leave, "<Escape>")

    def _point(self, event: Event) -> list[float]:
        """The x, y of the mouse in image pixels."""
        places = zip((event.x, event.y), self._limits, strict=True)
        return [min(max(at / self.scale, 0.0), limit) for at, limit in places]

    def _press(self, event: Event) -> None:
        self._from = self._point(event)
        self._drag(event)

    def _drag(self, event: Event) -> None:
        corners = zip(self._from, self._point(event), strict=True)
        (left, right), (top, bottom) = (sorted(pair) for pair in corners)
        self.box = left, top, right - left, bottom - top
        x, y, w, h = (round(v) for v in self.box)
        self._hint.configure(text=f"x {x}, y {y}, w {w}, h {h}")
        self._button.configure(state="normal" if min(self.box[2:]) >= SMALLEST else "disabled")
        for line in self._lines:
            self.canvas.coords(line, *(v * self.scale for v in (left, top, right, bottom)))
            self.canvas.itemconfigure(line, state="normal")

    def _accept(self) -> None:
        if min(self.box[2:]) >= SMALLEST:
            self.accepted = True
            self.leave()

    def leave(self) -> None:
        """Close the window; what waits for it goes on, even if another window is open."""
        self.root.quit()
        self.root.destroy()


class LiveView:
    """A window that shows pictures as they come; q, Esc or closing it ends the show, space pauses it.

    After `show`, `redraw` tells whether the user asks, by r, for a new box on the picture, and `chosen` is the number
    from 1 to 9 that was pressed last.
    """

    def __init__(self, title: str = "FARTrack") -> None:
        """Take the title; the window opens with the first picture and in its size."""
        self._title = title
        self._window: _Window | None = None
        self._ended = self._paused = self._asked = False
        self.redraw, self.chosen = False, 1

    def show(self, image: Image) -> bool:
        """Show `image` (uint8 BGR), wait while it is paused, and return whether to go on: False once the user has ended
        the show. `FartrackError`, with the first picture, if there is no display or no tkinter."""
        if self._ended:
            return False
        if not self._window:
            self._window = _Window(self._title, image, otherwise="name an output instead, such as -o out.mp4")
            self._window.bind(self._end, "q", "Q", "<Escape>")
            self._window.bind(self._pause, "<space>")
            self._window.bind(self._ask, "r", "R")
            for number in range(1, 10):
                self._window.bind(partial(setattr, self, "chosen", number), f"<Key-{number}>")
            self._window.root.protocol("WM_DELETE_WINDOW", self._end)
        else:
            self._window.put(image)
        if self.redraw:
            self._window.root.focus_force()  # back from the window in which the box was drawn
        self._window.root.update()
        while self._paused and not (self._ended or self._asked):
            time.sleep(0.02)
            self._window.root.update()
        self.redraw, self._asked = self._asked, False
        return not self._ended

    def _pause(self) -> None:
        self._paused = not self._paused

    def _ask(self) -> None:
        self._asked = self._paused = True

    def _end(self) -> None:
        self._ended = True

    def close(self) -> None:
        """Close the window; may be called again."""
        self._ended = True
        if self._window is not None:
            self._window.root.destroy()
            self._window = None
