"""Reads the checkpoints of a stage, each part once, and remembers which of them are damaged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rfquant_jax.checkpoint.identity import difference
from rfquant_jax.checkpoint.verify import Damaged, read_about, read_arrays, steps
from rfquant_jax.errors import CheckpointError


class Reader:
    """What is on disk, of which only what is verified is handed out.

    Args:
      directory: of the stage.
      identity: what must agree for a checkpoint to fit this run.

    Attributes:
      steps: that have a checkpoint, the newest first.
      damages: what is wrong with checkpoints that were found to be damaged, by step.
    """

    def __init__(self, directory: Path, identity: Mapping[str, Any]):
        self._directory, self._identity = directory, dict(identity)
        self.steps = steps(directory)
        self.damages: dict[int, str] = {}
        self._abouts: dict[int, dict[str, Any]] = {}
        # What was read to verify it, until it is asked for.
        self._arrays: dict[tuple[int, str], dict[str, np.ndarray]] = {}

    def path(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self._directory / str(step)

    def add(self, step: int, about: dict[str, Any]) -> None:
        """Takes note of a checkpoint that was just saved."""
        self.steps = sorted({*self.steps, step}, reverse=True)
        self._abouts[step] = about

    def about(self, step: int) -> dict[str, Any]:
        """The JSON part of a checkpoint.

        Raises:
          Damaged: it is not what was saved.
          CheckpointError: it does not fit this run; the message names the difference.
        """
        about = self._about(step)
        if found := difference(about.get("identity", {}), self._identity):
            raise CheckpointError(
                f"checkpoint {self.path(step)} does not fit this run: its {found}"
            )
        return about

    def take(self, step: int, item: str) -> dict[str, np.ndarray]:
        """The arrays of an item by name, which the reader does not keep.

        Raises:
          Damaged: they are not what was saved.
        """
        self._read(step, item)
        return self._arrays.pop((step, item))

    def is_intact(self, step: int, *items: str) -> bool:
        """Whether the JSON part and these items are what was saved; if not, it is in `damages`.

        Raises:
          CheckpointError: the JSON part is, but does not fit this run.
        """
        try:
            self.about(step)
            for item in items:
                self._read(step, item)
        except Damaged as damage:
            if self.path(step).is_dir():
                self.damages[step] = str(damage)
            else:  # whoever writes here has deleted it meanwhile, as an older one
                self.steps = [other for other in self.steps if other != step]
            for item in items:
                self._arrays.pop((step, item), None)
            return False
        return True

    def readable(self, among: Iterable[int]) -> list[int]:
        """Of these steps those with an undamaged JSON part, this run's or not."""
        found = []
        for step in among:
            try:
                self._about(step)
            except Damaged:
                continue
            found.append(step)
        return found

    def by_score(self, readable: Iterable[int]) -> list[int]:
        """Those of these steps that have a score, the best first, of equal ones the later."""
        scores = {step: self._about(step).get("score") for step in readable}
        scored = [(score, step) for step, score in scores.items() if score is not None]
        return [step for _, step in sorted(scored, reverse=True)]

    def forget(self, step: int) -> None:
        """Leaves a damaged checkpoint out from now on."""
        self.steps.remove(step)
        del self.damages[step]

    def _about(self, step: int) -> dict[str, Any]:
        if step not in self._abouts:
            self._abouts[step] = read_about(self.path(step))
        return self._abouts[step]

    def _read(self, step: int, item: str) -> None:
        if (step, item) not in self._arrays:
            self._arrays[step, item] = read_arrays(self.path(step), item, self._about(step))
