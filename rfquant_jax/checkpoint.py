"""Checkpoints of one stage of a run (orbax), with the check that they belong to this network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from rfquant_jax.errors import CheckpointError

FOLDER = "checkpoints"
PRETRAIN, TRAIN = "pretrain", "train"  # stages, each with a folder of its own


class Checkpoints:
    """The newest and the best checkpoint of a stage.

    A checkpoint has three items: `ema` (averaged parameters and statistics, all that search and
    evaluation need), `state` (the rest of what training changes), and `about` (JSON: which network
    it is, and what of the state is not an array).

    Args:
      directory: of the stage; created on the first save.
      identity: what makes a network another one (`network_identity`).
    """

    def __init__(self, directory: Path, identity: Mapping[str, Any]):
        self._directory, self._identity = directory.absolute(), dict(identity)
        best = BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            best_fn=_score,
            preservation_policy=AnyPreservationPolicy([LatestN(1), best]),
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    @property
    def latest(self) -> int | None:
        """The newest checkpoint's step, or None."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """The step with the highest score (of equal ones the later), or None."""
        scored = [(_score(self._manager.metrics(s)), s) for s in self._manager.all_steps()
                  if self._manager.metrics(s)]  # fmt: skip
        return max(scored)[1] if scored else None

    def path(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self._directory / str(step)

    def save(
        self, step: int, *, ema: Any, state: Any, about: Mapping[str, Any], score: float | None
    ) -> None:
        """Starts writing a checkpoint and returns once the arrays are copied.

        Args:
          step: updates done so far; an existing checkpoint of it is left alone.
          ema, state: trees of arrays.
          about: JSON content to get back from `about`.
          score: held-out accuracy, or None where it was not measured.
        """
        if step in self._manager.all_steps():
            return
        # On processors NumPy views share the devices' memory, which the next step overwrites.
        ema, state = jax.tree.map(lambda x: np.array(x, copy=True), (ema, state))
        self._manager.save(
            step,
            args=ocp.args.Composite(
                ema=ocp.args.StandardSave(ema),
                state=ocp.args.StandardSave(state),
                about=ocp.args.JsonSave({"identity": self._identity, **about}),
            ),
            metrics=None if score is None else {"score": score},
        )

    def about(self, step: int) -> dict[str, Any]:
        """The JSON part of a checkpoint.

        Raises:
          CheckpointError: it is of another network; the message names the difference.
        """
        about = self._read(step, about=ocp.args.JsonRestore()).about
        found = about.get("identity", {})
        if difference := _difference(found, self._identity):
            raise CheckpointError(
                f"checkpoint {self.path(step)} is of another network: its {difference}"
            )
        return about

    def restore_ema(self, step: int, template: Any) -> Any:
        """Averaged parameters and statistics, as NumPy arrays shaped like `template`."""
        return self._read(step, ema=ocp.args.StandardRestore(_host(template))).ema

    def restore_state(self, step: int, template: Any) -> Any:
        """The rest of the training state, as NumPy arrays shaped like `template`."""
        return self._read(step, state=ocp.args.StandardRestore(_host(template))).state

    def wait(self) -> None:
        """Returns once everything that was saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        self._manager.close()

    def _read(self, step: int, **items):
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # orbax raises bare ones for damaged files
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(
                f"checkpoint {self.path(step)} cannot be read: {reason}"
            ) from error


def stage_folder(workdir: Path, stage: str) -> Path:
    """Where a run keeps the checkpoints of a stage."""
    return workdir / FOLDER / stage


def _difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """The first difference in words, or nothing."""
    for name in [*expected, *(n for n in found if n not in expected)]:
        old, new = found.get(name), expected.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            if inner := _difference(old, new):
                return f"{name}: {inner}"
        elif old != new:
            return f"{name} is {old!r}, the config's is {new!r}"
    return ""


def _host(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


def _score(metrics: Mapping[str, float]) -> float:
    return metrics["score"]
