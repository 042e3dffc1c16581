"""Tracks skipped updates; aborts training after N in a row."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable

import jax
import numpy as np

from rfquant_jax.errors import RunFailure
from rfquant_jax.quant.lsq import MIN_STEP
from rfquant_jax.quant.space import Space
from rfquant_jax.report.log import RunLog
from rfquant_jax.runtime import devices
from rfquant_jax.train.diagnose import IMAGES, DispatchedStep, Finding
from rfquant_jax.train.state import FAILURES, TrainState

# diagnose(state before the step, the step) -> where it failed
Diagnose = Callable[[TrainState, DispatchedStep], Finding]

_WORDS = dict(
    zip(
        FAILURES,
        (
            "the loss",
            "a gradient",
            "a statistic of a BatchNorm",
            "a parameter or its momentum after the update",
        ),
        strict=True,
    )
)
_ENCODED_LENGTH = 48  # characters of a configuration shown in an error message


class NonFiniteGuard:
    """Reads the report of every training step.

    Reports are read with a delay of two steps, so that the host does not wait for the devices.
    After a bad step they are read at once until a step is good again. So no later step has changed
    the state when the last of `most` bad steps in a row is found, and that step can be diagnosed.

    Args:
      task: name of the task, for messages.
      most: consecutive bad steps that abort training; with 1 or 2 the host waits for every step, or
        for every step before the last.
      remedy: suggestion to the user.
    """

    def __init__(
        self, task: str, most: int, space: Space, log: RunLog, diagnose: Diagnose, remedy: str
    ):
        self._task, self._most, self._remedy = task, most, remedy
        self._space, self._log, self._diagnose = space, log, diagnose
        self._pending: deque[DispatchedStep] = deque()
        self._delay = min(2, most - 1)
        self._in_a_row = self._bad = self._floored = 0

    def add(self, step: DispatchedStep, state: TrainState) -> None:
        """Adds a dispatched step and reads the reports that are due.

        Args:
          state: the newest state.

        Raises:
          RunFailure: the last `most` steps were all bad.
        """
        self._pending.append(step)
        self._read(state, self._delay)

    def drain(self, state: TrainState) -> None:
        """Reads all pending reports; arguments and errors as for `add`."""
        self._read(state, 0)

    def counts(self) -> dict[str, float]:
        """Numbers of bad steps and of step sizes clamped to their floor since the last call.

        Logs the clamped step sizes, because the loss may not show them. Call `drain` first.
        """
        counts = {"bad_steps": self._bad, "floored_step_sizes": self._floored}
        if self._floored:
            self._log.info(
                f"{self._task}: step sizes fell to their lower bound, {MIN_STEP:g}, "
                f"{self._floored} times since the last line; a quantizer with such a step size "
                "outputs zeros: lower `step_size_lr`"
            )
        self._bad = self._floored = 0
        return counts

    def state(self) -> list[int]:
        """The counts as JSON, for a checkpoint.

        Call `drain` first.
        """
        return [self._in_a_row, self._bad, self._floored]

    def restore(self, state: list[int]) -> None:
        """Restores the counts that `state` returned."""
        self._in_a_row, self._bad, self._floored = state

    def _read(self, state: TrainState, delay: int) -> None:
        while len(self._pending) > delay or (self._pending and self._in_a_row):
            step = self._pending.popleft()
            report = jax.device_get(step.report)
            self._floored += int(report.floored)
            if not np.any(report.failed):
                self._in_a_row = 0
                continue
            self._in_a_row += 1
            self._bad += 1
            what = self._describe_failure(step, FAILURES[int(np.argmax(report.failed))])
            if self._in_a_row >= self._most:
                raise RunFailure(self._failure(step, state, what))

    def _describe_failure(self, step: DispatchedStep, failure: str) -> str:
        """Logs a bad step and returns what was not finite."""
        losses = np.stack([m["loss"] for m in devices.fetch(step.metrics)])
        passes = (1 + np.flatnonzero(~np.isfinite(losses).all(axis=1))).tolist()
        what = f"the loss of pass {passes[0]}" if passes else _WORDS[failure]
        self._log.info(
            f"{self._task}: step {step.number}: {what} is not finite; update skipped "
            f"({self._in_a_row} of {self._most} in a row)"
        )
        record = {"event": "bad_step", "not_finite": failure, "passes": passes}
        self._log.event(self._task, step.number, record | {"in_a_row": self._in_a_row})
        return what

    def _failure(self, step: DispatchedStep, state: TrainState, what: str) -> str:
        """Logs the diagnosis and returns the error message."""
        found = self._diagnose(state, step)
        record = found._asdict() | {"event": "failure", "configuration": None}
        if found.configuration is not None and len(self._space):
            record["configuration"] = self._space.to_json(found.configuration)
            named = json.dumps(record["configuration"])
            self._log.info(f"{self._task}: the configuration of pass {found.number + 1}: {named}")
        self._log.event(self._task, step.number, record)
        devices.barrier("failure")  # wait: the first process to exit would abort the others
        remedy = "check the data and `std`" if found.place == IMAGES else None
        return (
            f"{self._task}: step {step.number}: {what} is not finite, and updates were skipped "
            f"for {self._in_a_row} steps in a row (`max_bad_steps`); "
            f"{self._where(step, found)}; checkpoints are unaffected; {remedy or self._remedy}"
        )

    def _where(self, step: DispatchedStep, found: Finding) -> str:
        if found.number is None:
            return "each of its passes and gradients is finite when rerun alone"
        where = f"pass {found.number + 1} of {len(step.metrics)}"
        if len(self._space):
            where += f" (configuration {short(self._space, found.configuration)})"
        if len(step.metrics[0]["loss"]) > 1:
            where += f" on device {found.device}"
        if found.place is None:
            return f"{where} is finite when rerun alone"
        return f"{where}: first non-finite value: {found.place}"


def short(space: Space, configuration: np.ndarray) -> str:
    """A short name of a configuration: w4a4 if uniform, else `Space.encode`, truncated."""
    rows = np.unique(configuration, axis=0)
    if len(rows) == 1:
        return "w{}a{}".format(*rows[0])
    encoded = space.encode(configuration)
    return encoded if len(encoded) <= _ENCODED_LENGTH else f"{encoded[:_ENCODED_LENGTH]}..."
