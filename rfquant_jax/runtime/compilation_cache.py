"""Persistent compilation cache; compilation takes most of the time of a short run.

JAX's cache key is a hash of the program, library versions, compiler options, and the type and
features of the CPU or GPU. So programs compiled for another machine are never used. A cached
program is the same machine code and computes the same bits. An unreadable entry is recompiled.
"""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from pathlib import Path

import jax

from rfquant_jax.runtime.files import user_cache
from rfquant_jax.runtime.paths import expanded

# Everything is cached. JAX's default minimum of one second excludes most programs of a search or
# evaluation. The hundred smallest programs of a run take a few seconds together, and half a
# megabyte.
LEAST_SECONDS = 0.0
# JAX's own size limit needs the package `filelock`, and every read then waits for the lock.
MOST_BYTES = 2 * 2**30


def keep_compiled(where: str) -> str:
    """Enables the compilation cache of this process; call it before anything is compiled.

    A cache set by the user, or by an earlier call, is kept.

    Args:
      where: folder; "auto": below the user's cache folder, limited to `MOST_BYTES`; "": no cache.

    Returns:
      the reason if the requested cache cannot be used, else "".
    """
    if not where or jax.config.jax_compilation_cache_dir:
        return ""
    try:
        folder = user_cache("compiled") if where == "auto" else Path(expanded(where))
        # Anyone who can write here can make this user's processes run code.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / f".{os.getpid()}").touch()  # `os.access` does not detect full quotas
        (folder / f".{os.getpid()}").unlink()
        if where == "auto":  # other programs may share another folder
            prune(folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: this user has no home
        return f"compilation cache disabled: {error}"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    # A full disk or a truncated entry only costs time. JAX would print two lines for each of a
    # hundred programs.
    message = "Error (reading|writing) persistent compilation cache entry"
    warnings.filterwarnings("ignore", message, UserWarning)
    return ""


def prune(folder: Path, most: int = MOST_BYTES) -> None:
    """Deletes the oldest entries until the rest takes at most `limit` bytes.

    Entries are ordered by write time, so that unreadable ones are deleted eventually. Other
    processes may write and prune at the same time; if they miss a deleted entry, they recompile.

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
