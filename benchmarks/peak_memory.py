"""The most memory that a process, or its accelerator, holds while it trains."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path

# Of glibc's malloc.h.
_MMAP_THRESHOLD, _MMAP_MAX = -3, -4
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def return_what_is_freed() -> None:
    """Gives every block of 256 KB and more back to the system as soon as it is freed, from now on.

    What a process then holds is what it uses. Otherwise it holds free memory, too: gaps into which
    no larger block fits any more, a matter of the order of calls and of luck. It makes steps slow.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library has no such call
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_MAX, 65536)
        library.mallopt(_MMAP_THRESHOLD, 256 * 1024)


class HostPeak:
    """The most that Linux had resident for this process, less what is no array.

    Make it when the libraries are imported and nothing is built yet; `restart` it when everything
    is compiled, so that the compiler's memory does not count.

    Args:
      arrays: tells the bytes of all arrays alive. With it compiled programs do not count, either,
        as they do not on an accelerator; without it all counts that libraries did not take at once.
    """

    def __init__(self, arrays: Callable[[], int] | None = None):
        self._others, self._restarted = _resident("VmRSS"), False
        self._arrays = arrays

    def restart(self) -> None:
        """Gives back what is free and counts from here on."""
        with contextlib.suppress(OSError, AttributeError):  # another C library has no such call
            ctypes.CDLL(None).malloc_trim(0)
        if self._arrays:
            self._others = _resident("VmRSS") - self._arrays()
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
