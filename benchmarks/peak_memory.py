"""Peak memory of a process, or of its accelerator, during training."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path

# From glibc's malloc.h.
_MMAP_THRESHOLD, _MMAP_MAX = -3, -4
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def return_what_is_freed() -> None:
    """Makes malloc return blocks of 256 KB and more to the system as soon as they are freed.

    Resident memory then equals used memory. Otherwise it includes fragmentation, which depends on
    the order of calls. Slows down steps.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library has no such call
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_MAX, 65536)
        library.mallopt(_MMAP_THRESHOLD, 256 * 1024)


class HostPeak:
    """Peak resident memory of this process on Linux, without memory that does not hold arrays.

    Create it after importing libraries and before building anything. Call `restart` after
    compilation, to exclude the compiler's memory.

    Args:
      arrays: returns the bytes of all live arrays. If given, compiled programs are excluded, as on
        an accelerator; otherwise everything allocated after the import is counted.
    """

    def __init__(self, arrays: Callable[[], int] | None = None):
        self._others, self._restarted = _resident("VmRSS"), False
        self._arrays = arrays

    def restart(self) -> None:
        """Frees unused memory and restarts the measurement."""
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
        """The peak since `restart`; None if unknown."""
        return _resident("VmHWM") - self._others if self._restarted else None


def _resident(field: str) -> int:
    if not _STATUS.exists():
        return 0
    [line] = [line for line in _STATUS.read_text().splitlines() if line.startswith(field + ":")]
    return 1024 * int(line.split()[1])
