"""The most memory that a process, or its accelerator, holds while it trains."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class HostPeak:
    """The most that Linux had resident for this process, less what is no array.

    Make it when the libraries are imported and nothing is built yet; `restart` it when everything
    is compiled, so that the compiler's memory does not count.

    Args:
      arrays: tells the bytes of all arrays alive. With it compiled programs do not count, either,
        as they do not on an accelerator; without it all counts that libraries did not take at once.

    Attributes:
      programs: bytes of what was found at the restart beside libraries and arrays.
    """

    def __init__(self, arrays: Callable[[], int] | None = None):
        self._others, self._restarted = _resident("VmRSS"), False
        self._arrays, self.programs = arrays, 0

    def restart(self) -> None:
        """Gives back what is free and counts from here on."""
        with contextlib.suppress(OSError, AttributeError):  # another C library has no such call
            ctypes.CDLL(None).malloc_trim(0)
        if self._arrays:
            others = _resident("VmRSS") - self._arrays()
            self.programs, self._others = self.programs + others - self._others, others
        try:
            _CLEAR.write_text("5")  # resets VmHWM, see proc_pid_clear_refs(5)
            self._restarted = True
        except OSError:
            self._restarted = False

    def bytes(self) -> int | None:
        """The peak since then; None where it cannot be told."""
        return _resident("VmHWM") - self._others if self._restarted else None


def _resident(field: str) -> int:
    if not _STATUS.exists():
        return 0
    [line] = [line for line in _STATUS.read_text().splitlines() if line.startswith(field + ":")]
    return 1024 * int(line.split()[1])
