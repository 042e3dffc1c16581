"""What XLA compiled, kept from one start to the next: compiling takes most of a short run's time.

JAX keeps a compiled program under a hash of the program itself, the versions of its libraries, the
options of the compiler, and the processor's or GPU's type and features: nothing that was compiled
for another machine is ever found. A program that is loaded is the machine code that was compiled,
and computes the same bits. An entry that cannot be read is compiled anew.
"""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from pathlib import Path

import jax

from rfquant_jax.runtime.files import user_cache

# Everything is kept. JAX's own bound, a second, leaves out most programs of a search or evaluation;
# and the hundred smallest of a run take some seconds together, but half a megabyte.
LEAST_SECONDS = 0.0
# JAX's own bound needs a package, `filelock`, which every reading then waits for.
MOST_BYTES = 2 * 2**30


def keep_compiled(where: str) -> str:
    """Turns the cache of compiled programs on for this process; before anything is compiled.

    A cache that the user gave JAX, or an earlier call chose, stays in its place.

    Args:
      where: its folder; "auto": one below the user's cache folder; empty: none.

    Returns:
      why there is no cache although one was asked for, or nothing.
    """
    if not where or jax.config.jax_compilation_cache_dir:
        return ""
    try:
        folder = user_cache("compiled") if where == "auto" else Path(where).expanduser()
        # Whoever writes here decides what this user's processes execute.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / f".{os.getpid()}").touch()  # `os.access` does not know of full quotas
        (folder / f".{os.getpid()}").unlink()
        prune(folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: this user has no home
        return f"compilation cache disabled: {error}; see config.compilation_cache"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    # A disk that fills up, or an entry cut short by a kill, costs time and nothing else. JAX would
    # say so in two lines for each of a hundred programs.
    message = "Error (reading|writing) persistent compilation cache entry"
    warnings.filterwarnings("ignore", message, UserWarning)
    return ""


def prune(folder: Path, most: int = MOST_BYTES) -> None:
    """Deletes the entries that were written first, until the others take at most so many bytes.

    By the time of writing, not of reading: an entry that cannot be read goes, too, some day. Other
    processes may write and prune at the same time, and read what is deleted here: they compile.

    Raises:
      OSError: the folder cannot be listed.
    """
    entries = []
    for path in folder.glob("*-cache"):
        with suppress(FileNotFoundError):
            found = path.stat()
            entries.append((found.st_mtime_ns, found.st_size, path))
    room = most
    for _, size, path in sorted(entries, reverse=True):
        room -= size
        if room < 0:
            path.unlink(missing_ok=True)
