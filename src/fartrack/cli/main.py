"""The command ``fartrack``. Whatever a user can fix is one sentence on stderr and exit code 2."""

from __future__ import annotations

import io
import logging
import signal
import sys
from types import FrameType
from typing import NoReturn

from fartrack.errors import FartrackError, redact

INTERRUPTED = 130
"""Exit code after Ctrl-C and after a stop by the system."""

received: list[int] = []
"""Signals that have come to stop the command."""


def main() -> None:
    """Entry point of the command."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # before all that takes time, so that each tidies up as Ctrl-C does
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) is not signal.SIG_IGN:  # as with nohup
            signal.signal(number, stop)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may hold what the terminal's encoding lacks
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort:
        logging.lastResort.setFormatter(logging.Formatter("fartrack: %(message)s"))
    code: object = None
    try:
        # each adds its commands to the application
        import fartrack.cli.evaluate
        import fartrack.cli.track
        import fartrack.cli.train  # noqa: F401
        from fartrack.cli.common import app

        code = app(standalone_mode=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        if received:  # a library that was interrupted may make any error of it
            sys.exit(INTERRUPTED)
        if isinstance(error, FartrackError):
            fail(str(error))
        if isinstance(error, OSError):
            reason = error.strerror or error
            fail(redact(f"{error.filename or 'A file'} cannot be used ({reason}); check it and its permissions."))
        if not hasattr(error, "show"):
            raise
        vars(error)["message"] = redact(getattr(error, "message", ""))  # one of Typer's, about the usage
        error.show()
        code = getattr(error, "exit_code", 2)
    sys.exit(code if isinstance(code, int) else 0)


def stop(number: int, _: FrameType | None) -> NoReturn:
    """The handler of signals that end the command."""
    received.append(number)
    raise KeyboardInterrupt


def fail(sentence: str) -> NoReturn:
    """Say on stderr, in one line, what the user can fix, and end with exit code 2."""
    print("fartrack:", " ".join(sentence.splitlines()), file=sys.stderr)
    sys.exit(2)
