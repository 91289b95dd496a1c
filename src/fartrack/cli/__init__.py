"""The command line."""

from fartrack.cli.main import main

__all__ = ["main"]
