"""Writes the checkpoints of a stage atomically, in the background."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from rfquant_jax.checkpoint.verify import ABOUT, EMA, STATE
from rfquant_jax.errors import RunFailure, one_line
from rfquant_jax.runtime.late_callbacks import restore_late_callbacks, silence_late_callbacks


class Writer:
    """An orbax manager used for writing only.

    The manager is created at the first save. Until then nothing is written, and folders may be
    renamed.

    Args:
      directory: folder of the stage; created.
      is_kept: selects the steps to keep, from steps in ascending order.
    """

    def __init__(self, directory: Path, is_kept: Callable[[Sequence[int]], list[bool]]):
        self._directory, self._is_kept = directory, is_kept
        self._manager: ocp.CheckpointManager | None = None
        self._step = -1  # step being written
        self._failed = False

    def save(self, step: int, arrays: Mapping[str, Mapping[str, Any]], about: Mapping) -> None:
        """Starts writing a checkpoint, after the previous one is on disk.

        Args:
          arrays: arrays of EMA and STATE by name; must not be modified afterwards.
          about: JSON content.

        Raises:
          RunFailure: this checkpoint or the previous one cannot be written.
        """
        self.wait()
        self._step = step
        items = {item: ocp.args.PyTreeSave(named) for item, named in arrays.items()}
        with self._writing():
            if self._manager is None:
                self._manager = self._open()
            # Forced, because orbax does not save steps below an earlier one.
            items |= {ABOUT: ocp.args.JsonSave(dict(about))}
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def _open(self) -> ocp.CheckpointManager:
        silence_late_callbacks()
        registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
        for item in (EMA, STATE):
            # Uncompressed: weights hardly compress, and file sizes then match the declared shapes.
            handler = ocp.PyTreeCheckpointHandler(use_compression=False)
            registry.add(item, ocp.args.PyTreeSave, handler)
        registry.add(ABOUT, ocp.args.JsonSave, ocp.JsonCheckpointHandler())
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Preservation(self._is_kept),
            create=True,
            lightweight_initialize=True,  # does not read existing checkpoints
            # Otherwise a thread waits ten minutes for a folder that cannot be created.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        return ocp.CheckpointManager(self._directory, options=options, handler_registry=registry)

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
          RunFailure: a checkpoint cannot be written.
        """
        if self._manager is not None:
            with self._writing():
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and releases the folder.

        Raises:
          RunFailure: a checkpoint cannot be written.
        """
        manager, self._manager = self._manager, None
        if manager is not None:
            with self._writing():
                manager.close()
            if not self._failed:
                restore_late_callbacks()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # orbax re-raises exceptions of its threads and libraries
            self._failed = True
            raise RunFailure(
                f"checkpoint of step {self._step} could not be written to {self._directory}: "
                f"{_reason(error)}; earlier ones are intact"
            ) from error


def _reason(error: Exception) -> str:
    """The file system's message if it occurs in a long error text, else the start of the text."""
    text = str(error)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO):
        if os.strerror(number) in text:
            return os.strerror(number)
    return one_line((text.splitlines() or [""])[0] or type(error).__name__)


class _Preservation:
    """An orbax preservation policy."""

    def __init__(self, is_kept: Callable[[Sequence[int]], list[bool]]):
        self._is_kept = is_kept

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        return self._is_kept([info.step for info in checkpoints])
