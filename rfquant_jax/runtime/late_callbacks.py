"""Suppresses what tensorstore prints after a failed read or write of orbax."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any


@cache
def silence_late_callbacks() -> None:
    """Suppresses tracebacks after a failure, once in a process.

    orbax stops at the first array that cannot be read or written. Tensorstore then reports all
    other arrays to an event loop that is already closed, and prints a traceback for each, until the
    process ends. The hook stays for that reason; it passes everything else on.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook
