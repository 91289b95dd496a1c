"""The command ``fartrack``. Whatever a user can fix is one sentence on stderr and exit code 2."""

import io
import logging
import signal
import sys
from typing import NoReturn

from fartrack.errors import FartrackError, redact
from fartrack.signals import INTERRUPTED, interrupt, stopped_at_once, stopping


def main() -> None:
    """Entry point of the command."""
    with stopped_at_once():
        # each adds its commands to the application
        import fartrack.cli.archive
        import fartrack.cli.evaluate
        import fartrack.cli.track
        import fartrack.cli.train
        import fartrack.cli.web  # noqa: F401
        from fartrack.cli.common import app
    try:
        for number in stopping():
            signal.signal(number, interrupt)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a file's name may hold what the terminal's encoding lacks
                stream.reconfigure(errors="backslashreplace")
        if logging.lastResort:
            logging.lastResort.setFormatter(logging.Formatter("fartrack: %(message)s"))
        code = app(standalone_mode=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except FartrackError as error:
        fail(str(error))
    except MemoryError:
        fail("There is not enough memory; close other programs, or give a smaller video.")
    except OSError as error:
        fail(f"{error.filename or 'A file'} cannot be used ({error.strerror or error}); check it and its permissions.")
    except Exception as error:
        if not hasattr(error, "show"):
            raise
        vars(error)["message"] = redact(getattr(error, "message", ""))  # one of Typer's, about the usage
        error.show()
        code = getattr(error, "exit_code", 2)
    finally:
        for number in stopping():  # nothing is left to tidy up
            signal.signal(number, signal.SIG_DFL)
    sys.exit(code if isinstance(code, int) else 0)


def fail(sentence: str) -> NoReturn:
    """Say on stderr, in one line, what the user can fix, and end with exit code 2."""
    # At once, for processes of one training run may fail together.
    sys.stderr.write(f"fartrack: {' '.join(redact(sentence).splitlines())}\n")
    sys.exit(2)
