"""Writing files whole: beside their place under a temporary name, then renamed. The one place that does so."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
