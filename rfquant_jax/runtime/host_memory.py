"""How a process keeps its memory, where it computes on processors."""

from __future__ import annotations

import ctypes
import importlib.util
import sys

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Lets the process keep memory that it freed, instead of asking the system for it each time.

    XLA on processors allocates the arrays of a program anew in every call. glibc gives blocks of
    32 MB and more back to the system at once, which has to map and clear every page again in the
    next call: writing an array of 39 MB took 13 times as long (2 cores). What a process has used
    once it holds until it ends, with the gaps between blocks of different sizes.

    Two memory pools remain: with a single one a compiler's threads wait for each other, for 20 to
    30 % of its time, and so do those that compute a step of many small operations (ResNet-20).

    Programs of one device then run in the thread that calls them: the main thread's pool holds
    blocks of any size. JAX's own threads got one of the two by chance, and where it was the other,
    which gives back what exceeds 64 MB, a step took a fifth to a quarter longer.

    Call it before JAX is first asked for its devices and starts its threads: those that have memory
    pools of their own keep them. Where an accelerator's plugin is installed, many threads may be
    decoding images, which pools of their own suit better: nothing is done.

    Returns:
      whether it was done; with another C library than glibc nothing is, either.
    """
    if not sys.platform.startswith("linux") or importlib.util.find_spec("jax_plugins"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    options = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _LARGEST_INT, _ARENA_MAX: 2}
    done = [library.mallopt(option, value) for option, value in options.items()]
    import jax  # takes seconds: not before the program listens to signals

    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return all(done)
