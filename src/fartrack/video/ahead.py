"""Reading ahead: a thread takes the next items of an iterator while the last one is worked on."""

import atexit
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, wait
from typing import Any, TypeVar

T = TypeVar("T")

AHEAD = 2
"""The most items that are held ready."""

PATIENCE = 1.0
"""Seconds that stopping waits for a read to return; a camera or network that hangs is left to itself."""


class ReadAhead(Iterator[T]):
    """The items of a generator, in order, and what it raises, in its place.

    They are read as they are asked for or, from `start()` to `stop()`, by a thread. The two may be called at any time:
    what was read and not taken is given first. One thread at a time may iterate.
    """

    def __init__(self, items: Generator[T, Any, Any], *, newest: bool) -> None:
        """Take over `items`, which nothing else may touch from now on.

        If `newest`, the thread never waits and holds only the newest item, so that those not taken in time are
        dropped. Otherwise it holds up to `AHEAD` of them, and nothing is dropped.
        """
        self._items, self._newest = items, newest
        self._ready: deque[T] = deque(maxlen=1 if newest else None)
        self._end: BaseException | None = None  # to be raised once nothing is ready
        self._wanted = False  # whether a thread should read
        self._reading = False  # whether one does, and alone may touch the items
        self._thread: threading.Thread | None = None
        self._closed = False
        self._change = threading.Condition()

    def start(self) -> None:
        """Read in a thread from now on; if that is so already, nothing changes."""
        with self._change:
            if self._wanted or self._closed:
                return
            self._wanted = True
            # Inside OpenCV, a thread that outlives the interpreter aborts the process.
            atexit.register(self.stop)
            if not self._reading:  # else one that hung when it was stopped goes on
                thread = threading.Thread(target=self._read, name="read ahead", daemon=True)
                thread.start()  # first of all, since it may fail; it waits for the lock
                self._thread, self._reading = thread, True

    def stop(self) -> None:
        """Stop reading ahead, and end the thread; after `PATIENCE` it ends by itself, with the read that hangs."""
        with self._change:
            self._wanted = False
            self._change.notify_all()
            thread = self._thread
        atexit.unregister(self.stop)
        if thread and thread is not threading.current_thread():  # where garbage is collected, which may be anywhere
            thread.join(PATIENCE)

    def close(self) -> None:
        """Stop, and close the items, those that are held too; may be called again."""
        with self._change:
            self._closed = True
            self._ready.clear()
            reading = self._reading
        self.stop()
        if not reading:  # else the thread closes them at its end
            self._items.close()

    def __next__(self) -> T:
        """The next item, or what the generator raised."""
        with self._change:
            while self._reading and not (self._ready or self._end is not None or self._closed):
                self._change.wait(1)  # without a limit, Windows would not notice Ctrl-C
            if self._closed:
                raise StopIteration
            if self._ready:
                self._change.notify_all()
                return self._ready.popleft()
            if self._end is not None:
                end, self._end = self._end, None
                raise end
        return next(self._items)

    def _read(self) -> None:
        """What the thread does."""
        while True:
            with self._change:
                while self._wanted and not self._newest and len(self._ready) >= AHEAD:
                    self._change.wait()
                if not self._wanted:
                    break
            try:
                item = next(self._items)
            except BaseException as end:  # whatever it is, it belongs to who waits
                with self._change:
                    self._end = end
                break
            with self._change:
                if not self._closed:
                    self._ready.append(item)
                self._change.notify_all()
            del item  # a picture may be large
        with self._change:
            self._reading = False
            self._change.notify_all()
            closed = self._closed
        if closed:
            self._items.close()


def interruptible(call: Callable[[], T]) -> T:
    """What `call` returns or raises; in a thread, so that Ctrl-C ends the wait where it hangs inside a library."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:  # whatever it is, it belongs to who waits
            done.set_exception(error)

    threading.Thread(target=run, name="opening", daemon=True).start()
    while not done.done():
        wait([done], 1)  # without a limit, Windows would not notice Ctrl-C
    return done.result()
