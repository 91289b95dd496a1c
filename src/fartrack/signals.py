"""Signals that stop a program. Light, since it comes before everything else is imported."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
"""Exit code after Ctrl-C and after a stop by the system."""


def stopping() -> list[int]:
    """The signals that stop a program and let it tidy up, but for those that are to be ignored, as with nohup."""
    known = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    return [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]


def interrupt(_: int, __: FrameType | None) -> NoReturn:
    """Do as Ctrl-C does."""
    raise KeyboardInterrupt


@contextmanager
def handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within it, a signal that stops the program calls ``handler`` instead."""
    in_main = threading.current_thread() is threading.main_thread()  # other threads may not handle signals
    before = {number: signal.signal(number, handler) for number in stopping() if in_main}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def stopped_at_once() -> AbstractContextManager[None]:
    """While libraries are imported, with nothing open to tidy up, a signal ends the process: they lose exceptions."""
    return handled(lambda *_: os._exit(INTERRUPTED))


@contextmanager
def signals_noted() -> Iterator[threading.Event]:
    """Within it, a signal only sets the event, so that what is under way is done whole; a second one interrupts."""
    came = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        if came.is_set():
            interrupt(number, frame)
        came.set()

    with handled(note):
        yield came


@contextmanager
def stopped_afterwards() -> Iterator[None]:
    """A signal interrupts only at the end of this context; a second one at once."""
    with signals_noted() as came:
        yield
    if came.is_set():
        raise KeyboardInterrupt
