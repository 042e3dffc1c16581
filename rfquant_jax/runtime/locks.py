"""A lock that allows one run at a time in a folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from rfquant_jax.errors import UserError, one_line
from rfquant_jax.runtime.files import naming

# Errors of file systems without locks.
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_MOST_READ = 4096  # maximum bytes of the holder's description
# Locks of this process by file, with reference counts: several `Run`s of one program may share a
# folder.
_held: dict[tuple[int, int], list] = {}


class WorkdirLock:
    """Keeps other processes from writing to a folder until `release` or process exit.

    The kernel releases the lock when the process ends, so there are no stale locks. The file
    remains and describes the last holder.

    Args:
      path: path of the lock file, in an existing folder.
      log: called with a message if the file system does not support locks.

    Raises:
      UserError: another process holds the lock; names it.
      OSError: the file cannot be written.
    """

    def __init__(self, path: Path, log: Callable[[str], None]):
        file = open(path, "a+b")  # noqa: SIM115 - open for as long as the lock is held
        self._key = _identity(file)
        if self._key in _held:
            file.close()
            _held[self._key][1] += 1
            return
        try:
            _lock(file, path, log)
            _describe_holder(file, path)
        except BaseException:
            file.close()
            raise
        _held[self._key] = [file, 1]

    def release(self) -> None:
        """Releases the lock when all holders in this process have called this."""
        held = _held[self._key]
        held[1] -= 1
        if not held[1]:
            _held.pop(self._key)[0].close()


def _identity(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino


def _lock(file: BinaryIO, path: Path, log: Callable[[str], None]) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"`workdir`={path.parent} is in use by {_holder(file)}; wait for it, stop it, or take "
            "another `workdir`"
        ) from None
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        log(
            f"{path}: this file system does not support locks ({error.strerror}): a "
            "second run can write to the same folder"
        )


def _describe_holder(file: BinaryIO, path: Path) -> None:
    about = {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": one_line(" ".join(sys.argv), 1000),
    }
    with naming(path):
        file.truncate(0)
        file.write(json.dumps(about).encode() + b"\n")
        file.flush()


def _holder(file: BinaryIO) -> str:
    """A description of the holder, from the file."""
    file.seek(0)
    try:
        about = json.loads(file.read(_MOST_READ))
        words = [one_line(about[name], 100) for name in ("process", "host", "since")]
    except (ValueError, RecursionError, LookupError, TypeError):  # it may be writing at this moment
        return "another process"
    return "process {} on host {} since {}".format(*words)
