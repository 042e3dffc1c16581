"""Reads the checkpoints of a stage, each item once, and records which are damaged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rfquant_jax.checkpoint.identity import difference
from rfquant_jax.checkpoint.verify import Damaged, read_about, read_arrays, steps
from rfquant_jax.errors import CheckpointError


class Reader:
    """The checkpoints on disk; only verified content is returned.

    Args:
      directory: folder of the stage.
      identity: what a checkpoint must match to fit this run.

    Attributes:
      steps: steps with a checkpoint, newest first.
      damages: descriptions of damage found so far, by step.
    """

    def __init__(self, directory: Path, identity: Mapping[str, Any]):
        self._directory, self._identity = directory, dict(identity)
        self.steps = steps(directory)
        self.damages: dict[int, str] = {}
        self._abouts: dict[int, dict[str, Any]] = {}
        # Arrays read for verification, kept until they are requested.
        self._arrays: dict[tuple[int, str], dict[str, np.ndarray]] = {}

    def path(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self._directory / str(step)

    def add(self, step: int, about: dict[str, Any]) -> None:
        """Registers a checkpoint that was just saved."""
        self.steps = sorted({*self.steps, step}, reverse=True)
        self._abouts[step] = about

    def about(self, step: int) -> dict[str, Any]:
        """The JSON part of a checkpoint.

        Raises:
          Damaged: the content is not what was saved.
          CheckpointError: it does not fit this run; the message names the difference.
        """
        about = self._about(step)
        if found := difference(about.get("identity", {}), self._identity):
            raise CheckpointError(
                f"checkpoint {self.path(step)} does not fit this run: its {found}"
            )
        return about

    def unchecked(self, step: int) -> dict[str, Any]:
        """The JSON part of a checkpoint, whatever it belongs to.

        Raises:
          Damaged: it is not what was saved.
        """
        return self._about(step)

    def take(self, step: int, item: str) -> dict[str, np.ndarray]:
        """The arrays of an item by name; not cached.

        Raises:
          Damaged: the arrays are not what was saved.
        """
        self._read(step, item)
        return self._arrays.pop((step, item))

    def is_intact(self, step: int, *items: str) -> bool:
        """Whether the JSON part and these items are undamaged; otherwise the step is in `damages`.

        Raises:
          CheckpointError: the JSON part is undamaged but does not fit this run.
        """
        try:
            self.about(step)
            for item in items:
                self._read(step, item)
        except Damaged as damage:
            if self.path(step).is_dir():
                self.damages[step] = str(damage)
            else:  # deleted meanwhile by the writing process
                self.steps = [other for other in self.steps if other != step]
            for item in items:
                self._arrays.pop((step, item), None)
            return False
        return True

    def readable(self, among: Iterable[int]) -> list[int]:
        """The steps with an undamaged JSON part, whether or not they fit this run."""
        found = []
        for step in among:
            try:
                self._about(step)
            except Damaged:
                continue
            found.append(step)
        return found

    def by_score(self, readable: Iterable[int]) -> list[int]:
        """The steps with a score, best first; ties: later first."""
        scores = {step: self._about(step).get("score") for step in readable}
        scored = [(score, step) for step, score in scores.items() if score is not None]
        return [step for _, step in sorted(scored, reverse=True)]

    def forget(self, step: int) -> None:
        """Excludes a damaged checkpoint."""
        self.steps.remove(step)
        del self.damages[step]

    def _about(self, step: int) -> dict[str, Any]:
        if step not in self._abouts:
            self._abouts[step] = read_about(self.path(step))
        return self._abouts[step]

    def _read(self, step: int, item: str) -> None:
        if (step, item) not in self._arrays:
            self._arrays[step, item] = read_arrays(self.path(step), item, self._about(step))
