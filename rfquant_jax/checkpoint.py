"""Checkpoints of one stage of a run (orbax), with the check that they belong to this network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
      directory: of the stage.
      identity: what must agree for a checkpoint to fit this run, see `Run.checkpoints`.
      write: whether to save, too; creates the folder and removes what a killed run left half
        written there. Without it nothing on disk is touched.

    Raises:
      CheckpointError: a score that is there cannot be read.
    """

    def __init__(self, directory: Path, identity: Mapping[str, Any], *, write: bool = False):
        self._directory, self._identity = directory.absolute(), dict(identity)
        if write:
            # orbax would do this in a thread that outlives `close`.
            for unfinished in self._directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(unfinished)
        best = BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            best_fn=_score,
            preservation_policy=AnyPreservationPolicy([LatestN(1), best]),
            create=write,
        )
        with _reading(f"checkpoints in {self._directory}"):
            self._manager = ocp.CheckpointManager(self._directory, options=options)

    @property
    def latest(self) -> int | None:
        """The newest checkpoint's step, or None."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """The step with the highest score (of equal ones the later), or None."""
        scored = [
            (_score(metrics), step)
            for step in self._manager.all_steps()
            if (metrics := self._metrics(step))
        ]
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
          CheckpointError: it does not fit this run; the message names the difference.
        """
        about = self._read(step, about=ocp.args.JsonRestore()).about
        found = about.get("identity", {})
        if difference := _difference(found, self._identity):
            raise CheckpointError(
                f"checkpoint {self.path(step)} does not fit this run: its {difference}"
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

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _read(self, step: int, **items):
        with _reading(f"checkpoint {self.path(step)}"):
            return self._manager.restore(step, args=ocp.args.Composite(**items))

    def _metrics(self, step: int):
        with _reading(f"checkpoint {self.path(step)}"):
            return self._manager.metrics(step)


@contextmanager
def _reading(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # orbax raises bare ones for damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{what} cannot be read: {reason}") from error


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
        elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new) > 3:
            # One entry tells as much as a thousand class names.
            for place, (was, wanted) in enumerate(zip(old, new, strict=True)):
                if was != wanted:
                    return f"{name}[{place}] is {was!r}, the config's is {wanted!r}"
        elif old != new:
            return f"{name} is {old!r}, the config's is {new!r}"
    return ""


def _host(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


def _score(metrics: Mapping[str, float]) -> float:
    return metrics["score"]
