"""The number of CPU cores that this process may use."""

from __future__ import annotations

import os


def available() -> int:
    """Cores this process may run on, at least 1; macOS cannot restrict them and has no query."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
