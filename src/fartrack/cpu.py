"""What the system tells of the processor."""

from __future__ import annotations

import platform
from contextlib import suppress
from pathlib import Path


def cpuinfo(key: str) -> str | None:
    """What ``/proc/cpuinfo`` says first under a key, such as ``model name`` or ``flags``; None if it says nothing."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return None


def processor_name() -> str:
    """The name of the processor, as far as the system tells it."""
    return cpuinfo("model name") or platform.processor() or platform.machine()
