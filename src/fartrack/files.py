"""Writing files whole: beside their place under a temporary name, then renamed. The one place that does so. And
reading what was written of a file that grows."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fartrack.errors import FartrackError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of ``path``, which takes its place at the end; after an error nothing is left.

    It may become a file, or a folder where there is nothing yet. What was at ``path`` before stays until then.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # hidden, and this process's own
    try:
        yield part
        part.replace(path)
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a text (UTF-8) or bytes, or nothing of it."""
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def check_folder(path: Path) -> None:
    """Check that a file to be written has a folder; FartrackError if not."""
    if not path.parent.is_dir():
        raise FartrackError(f"There is no folder {path.parent} for {path.name}; make it first.")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of JSON that were written whole, which one cut short by a full disk is not; none without a file."""
    rows = []
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        with suppress(ValueError):
            rows.append(json.loads(line))
    return rows
