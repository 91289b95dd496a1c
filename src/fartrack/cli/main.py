"""The command ``fartrack``. Whatever a user can mend is one sentence on stderr and exit code 2."""

from __future__ import annotations

import io
import signal
import sys
from typing import NoReturn

import fartrack.cli.evaluate
import fartrack.cli.track
import fartrack.cli.train  # noqa: F401  (each adds its commands to the application)
from fartrack.cli.common import app
from fartrack.errors import FartrackError


def main() -> None:
    """Entry point of the command."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stop tidies up as Ctrl-C does
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may hold what the terminal's encoding lacks
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except FartrackError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or 'A file'} cannot be used ({error.strerror or error}); check it and its permissions.")


def fail(sentence: str) -> NoReturn:
    """Say on stderr, in one line, what the user can mend, and end with exit code 2."""
    print("fartrack:", " ".join(sentence.splitlines()), file=sys.stderr)
    sys.exit(2)
