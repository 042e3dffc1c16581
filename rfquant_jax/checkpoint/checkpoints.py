"""Checkpoints of one stage of a run; only verified content is returned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rfquant_jax.checkpoint.identity import difference
from rfquant_jax.checkpoint.restore import Reader
from rfquant_jax.checkpoint.save import Writer
from rfquant_jax.checkpoint.verify import (
    DIGEST,
    EMA,
    STATE,
    Damaged,
    remove_unfinished,
    sealed,
    set_aside,
)
from rfquant_jax.errors import CheckpointError
from rfquant_jax.runtime.devices import gather, in_all_processes
from rfquant_jax.runtime.digest import named_leaves, signature, with_leaves

FOLDER = "checkpoints"
PRETRAIN, TRAIN = "pretrain", "train"  # stages, each with its own folder


class Checkpoints:
    """The newest checkpoints of a stage and the best one.

    A checkpoint has three items: `ema` (averaged parameters and statistics, sufficient for search
    and evaluation), `state` (the rest of the training state), and `about` (JSON: identity of the
    network, score, non-array state, and checksums).

    A checkpoint with a wrong checksum is skipped with a message. It is never deleted: a reader
    leaves it in place, a writer renames its folder.

    Args:
      directory: folder of the stage.
      identity: what a checkpoint must match to fit this run, see `Run.checkpoints`.
      write: whether to also save; removes incomplete checkpoints of a killed run.
      keep: number of newest checkpoints to keep, besides the best.
      log: called with one line for every damaged checkpoint.
    """

    def __init__(
        self,
        directory: Path,
        identity: Mapping[str, Any],
        *,
        write: bool = False,
        keep: int = 2,
        log: Callable[[str], object] = print,
    ):
        self._directory, self._identity = directory.absolute(), dict(identity)
        self._keep, self._log = keep, log
        if write:
            remove_unfinished(self._directory)
        self._writer = Writer(self._directory, self._kept) if write else None
        self._reader = Reader(self._directory, identity)

    @property
    def latest(self) -> int | None:
        """The newest step with a completely undamaged checkpoint; None if there are no checkpoints.

        Raises:
          CheckpointError: all are damaged, or the newest readable one does not fit this run.
        """
        self.wait()
        for step in self._reader.steps:
            if self._reader.is_intact(step, EMA, STATE):
                self._agree(step)
                self._pass_over(f"resuming from step {step}")
                return step
        self._agree(None)
        if self._reader.damages:
            raise self._none_left("")
        return None

    @property
    def best(self) -> int | None:
        """The step with the highest score and an undamaged `ema`; ties go to the later step.

        None if no checkpoint has a score.

        Raises:
          CheckpointError: all are damaged, or the newest readable one does not fit this run.
        """
        self.wait()
        readable = [step for step in self._reader.steps if self._reader.is_intact(step)]
        scored = self._reader.by_score(readable)
        for step in scored:
            if self._reader.is_intact(step, EMA):
                self._agree(step)
                self._pass_over(f"using step {step}")
                return step
        self._agree(None)
        if self._reader.damages and (scored or not readable):
            raise self._none_left("evaluated " if readable else "")
        return None

    def path(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self._directory / str(step)

    def save(
        self, step: int, *, ema: Any, state: Any, about: Mapping[str, Any], score: float | None
    ) -> None:
        """Starts writing a checkpoint in the background; returns after the arrays are copied.

        Args:
          step: number of updates so far; an existing checkpoint of this step is kept.
          ema, state: trees of arrays.
          about: JSON content, returned by `about`.
          score: held-out accuracy, or None if not measured.

        Raises:
          RunFailure: this checkpoint, or the one before, cannot be written.
        """
        if step in self._reader.steps:
            return
        arrays = {EMA: _host_copies(ema), STATE: _host_copies(state)}
        content = sealed({"identity": self._identity, "score": score, **about}, arrays)
        self._reader.add(step, content)
        shared = {item: in_all_processes(named) for item, named in arrays.items()}
        self._writer.save(step, shared, content)

    def about(self, step: int) -> dict[str, Any]:
        """The JSON part of a checkpoint.

        Raises:
          CheckpointError: the checkpoint is damaged or does not fit this run; names the difference.
        """
        with self._undamaged(step):
            return deepcopy(self._reader.about(step))

    def digest(self, step: int) -> str:
        """SHA-256 (hexadecimal) of the names, dtypes, shapes and bytes of a checkpoint's `ema`."""
        with self._undamaged(step):
            return self._reader.about(step)["items"][EMA][DIGEST]

    def restore_ema(self, step: int, template: Any) -> Any:
        """Averaged parameters and statistics, as NumPy arrays in a tree like `template`.

        Raises:
          CheckpointError: they are damaged, or their shapes or dtypes differ from the template's.
        """
        return self._restore(step, EMA, template)

    def restore_state(self, step: int, template: Any) -> Any:
        """The rest of the training state, as NumPy arrays in a tree like `template`.

        Raises:
          CheckpointError: it is damaged, or its shapes or dtypes differ from the template's.
        """
        return self._restore(step, STATE, template)

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
          RunFailure: a checkpoint cannot be written.
        """
        if self._writer is not None:
            self._writer.wait()

    def close(self) -> None:
        """Waits, and releases the folder.

        Raises:
          RunFailure: a checkpoint cannot be written.
        """
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _restore(self, step: int, item: str, template: Any) -> Any:
        expected = signature(named_leaves(template))
        with self._undamaged(step):
            found = self._reader.about(step)["items"][item]["arrays"]
            if differing := difference(found, expected):
                raise CheckpointError(
                    f"checkpoint {self.path(step)} does not fit this run: its {differing}"
                )
            return with_leaves(template, self._reader.take(step, item))

    @contextmanager
    def _undamaged(self, step: int) -> Iterator[None]:
        try:
            yield
        except Damaged as damage:
            raise CheckpointError(f"checkpoint {self.path(step)} is damaged ({damage})") from damage

    def _agree(self, step: int | None) -> None:
        """Checks that all processes found the same checkpoints, before any folder is renamed."""
        found = gather(np.asarray([-1 if step is None else step], np.int32))
        if len(set(found.tolist())) > 1:
            raise CheckpointError(
                f"{self._directory}: the processes of this run find different checkpoints: "
                f"steps {', '.join(map(str, found))} (-1: none); do they share this folder?"
            )

    def _pass_over(self, consequence: str) -> None:
        """Logs damaged checkpoints and, when writing, renames their folders."""
        for step, damage in sorted(self._reader.damages.items(), reverse=True):
            said = f"checkpoint {self.path(step)} is damaged ({damage}): {consequence}"
            if self._writer is not None:
                said += f"; renamed to {set_aside(self.path(step)).name}"
            self._log(said)
            self._reader.forget(step)

    def _none_left(self, kind: str) -> CheckpointError:
        newest, damage = max(self._reader.damages.items())
        return CheckpointError(
            f"{self._directory}: every {kind}checkpoint in it is damaged, that of step {newest}: "
            f"{damage}; move the folder away to train from scratch"
        )

    def _kept(self, among: Sequence[int]) -> list[bool]:
        """The steps to keep; checkpoints with unreadable scores are always kept."""
        readable = self._reader.readable(among)
        kept = {*sorted(readable)[-self._keep :], *self._reader.by_score(readable)[:1]}
        return [step in kept or step not in readable for step in among]


def stage_folder(workdir: Path, stage: str) -> Path:
    """The folder of a stage's checkpoints in a run."""
    return workdir / FOLDER / stage


def _host_copies(tree: Any) -> dict[str, np.ndarray]:
    """Every array by name, copied to this process's memory."""
    # On CPU, NumPy arrays may be views of device memory, which later steps reuse: copy them.
    named = named_leaves(jax.device_get(tree))
    return {name: np.array(leaf, copy=True) for name, leaf in named.items()}
