"""Signals that stop the command. Light, since it comes before everything else is imported."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
"""Exit code after Ctrl-C and after a stop by the system."""


def stopping() -> list[int]:
    """The signals that stop the command and let it tidy up, but for those that are to be ignored, as with nohup."""
    known = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    return [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]


def interrupt(_: int, __: FrameType | None) -> NoReturn:
    """Do as Ctrl-C does."""
    raise KeyboardInterrupt


@contextmanager
def stopped_at_once() -> Iterator[None]:
    """While libraries are imported, with nothing open to tidy up, a signal ends the process: they lose exceptions."""
    before = {number: signal.getsignal(number) for number in stopping()}
    for number in before:
        signal.signal(number, lambda *_: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stopped_afterwards() -> Iterator[None]:
    """A signal interrupts only at the end of this context, so that what is done in it is done whole; a second one at
    once."""
    came: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            interrupt(number, frame)

    before = {number: signal.signal(number, handle) for number in stopping()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt
