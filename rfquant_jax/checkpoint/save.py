"""Writes the checkpoints of a stage: in the background, each appearing on disk in one go."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from rfquant_jax.checkpoint.verify import ABOUT, EMA, STATE
from rfquant_jax.errors import RunFailure, one_line


class Writer:
    """An orbax manager that is only told about checkpoints, never asked.

    It is made at the first checkpoint that is saved: until then nothing is written, and folders
    may still be renamed.

    Args:
      directory: of the stage; created.
      is_kept: tells of steps, the oldest first, which of them stay.
    """

    def __init__(self, directory: Path, is_kept: Callable[[Sequence[int]], list[bool]]):
        self._directory, self._is_kept = directory, is_kept
        self._manager: ocp.CheckpointManager | None = None
        self._step = -1  # the one that is being written

    def save(self, step: int, arrays: Mapping[str, Mapping[str, Any]], about: Mapping) -> None:
        """Starts writing a checkpoint, once the one before is on disk.

        Args:
          arrays: of EMA and of STATE, by name; not changed any more.
          about: JSON content.

        Raises:
          RunFailure: this one or the one before cannot be written.
        """
        self.wait()
        self._step = step
        items = {item: ocp.args.PyTreeSave(named) for item, named in arrays.items()}
        with self._writing():
            if self._manager is None:
                self._manager = self._open()
            # By force: orbax would not save below a step that it saved before.
            items |= {ABOUT: ocp.args.JsonSave(dict(about))}
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def _open(self) -> ocp.CheckpointManager:
        _silence_late_callbacks()
        registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
        for item in (EMA, STATE):
            # Weights hardly compress, and as they are their files are as large as they claim.
            handler = ocp.PyTreeCheckpointHandler(use_compression=False)
            registry.add(item, ocp.args.PyTreeSave, handler)
        registry.add(ABOUT, ocp.args.JsonSave, ocp.JsonCheckpointHandler())
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Preservation(self._is_kept),
            create=True,
            lightweight_initialize=True,  # reads no file of the checkpoints that are there
            # A thread would wait for ten minutes for a folder that cannot be made.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        return ocp.CheckpointManager(self._directory, options=options, handler_registry=registry)

    def wait(self) -> None:
        """Returns once everything that was saved is on disk.

        Raises:
          RunFailure: it cannot be written.
        """
        if self._manager is not None:
            with self._writing():
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets go of the folder.

        Raises:
          RunFailure: what was saved cannot be written.
        """
        manager, self._manager = self._manager, None
        if manager is not None:
            with self._writing():
                manager.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # orbax passes on what its threads and libraries raise
            raise RunFailure(
                f"checkpoint of step {self._step} could not be written to {self._directory}: "
                f"{_reason(error)}; earlier ones are intact"
            ) from error


def _reason(error: Exception) -> str:
    """What the file system said, if it stands anywhere in an error's pages, or else their start."""
    text = str(error)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO):
        if os.strerror(number) in text:
            return os.strerror(number)
    return one_line((text.splitlines() or [""])[0] or type(error).__name__)


def _silence_late_callbacks() -> None:
    """Keeps what comes after a failed write from the terminal.

    orbax gives up at the first array that cannot be written. The library beneath it tells of all
    the others to an event loop that is closed by then, and each time prints a traceback.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook


class _Preservation:
    """What orbax calls a preservation policy."""

    def __init__(self, is_kept: Callable[[Sequence[int]], list[bool]]):
        self._is_kept = is_kept

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        return self._is_kept([info.step for info in checkpoints])
