"""Tuning of glibc's allocator for computation on CPU."""

from __future__ import annotations

import ctypes
import importlib.util
import sys

# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Makes the process keep freed memory instead of returning it to the system.

    On CPU, XLA allocates the arrays of a program in every call. glibc returns blocks of 32 MB and
    more to the system at once, which must map and clear every page again in the next call: writing
    an array of 39 MB took 13 times as long (2 cores). With this setting, a process holds its peak
    memory until it ends, including fragmentation.

    Two arenas remain: with a single one, compiler threads wait for each other for 20 to 30 % of the
    time, and so do the threads of a step with many small operations (ResNet-20). Programs of one
    device are run in the calling thread, because only the main arena keeps blocks of any size.
    JAX's own threads got one of the two arenas by chance; with the other one, which returns memory
    above 64 MB, a step took 20 to 25 % longer.

    Call this before JAX initialises its devices and starts threads, because existing threads keep
    their arenas. It does nothing if an accelerator plugin is installed, because many threads may
    then decode images and need their own arenas.

    Returns:
      whether the setting was applied; False with C libraries other than glibc.
    """
    if not sys.platform.startswith("linux") or importlib.util.find_spec("jax_plugins"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    options = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _LARGEST_INT, _ARENA_MAX: 2}
    done = [library.mallopt(option, value) for option, value in options.items()]
    import jax  # takes seconds: imported after signal handlers are installed

    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return all(done)
