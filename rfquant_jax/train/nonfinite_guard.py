"""Looks after steps whose update was left out, and ends a training that makes no others."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable

import jax
import numpy as np

from rfquant_jax.errors import RunFailure
from rfquant_jax.quant.space import Space
from rfquant_jax.report.log import RunLog
from rfquant_jax.runtime import devices
from rfquant_jax.train.diagnose import IMAGES, Finding
from rfquant_jax.train.state import FAILURES, Taken, TrainState

# diagnose(the state that a step started from, the step) -> where it failed
Diagnose = Callable[[TrainState, Taken], Finding]

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
_ENCODED_LENGTH = 48  # of a configuration that the one line of an error shows


class NonFiniteGuard:
    """Reads the reports of a training's steps.

    A report is read two steps after it was asked for, so that host and devices need not wait for
    each other; after a bad step at once, until one is good. So at the last of `most` bad steps in a
    row no later one has changed the state, and it can be diagnosed.

    Args:
      task: of the run.
      most: bad steps in a row that end the training; with 1 or 2 the host waits for every step, or
        for every step before the last.
      remedy: what the user may change.
    """

    def __init__(
        self, task: str, most: int, space: Space, log: RunLog, diagnose: Diagnose, remedy: str
    ):
        self._task, self._most, self._remedy = task, most, remedy
        self._space, self._log, self._diagnose = space, log, diagnose
        self._pending: deque[Taken] = deque()
        self._delay = min(2, most - 1)
        self._in_a_row = self._bad = self._floored = 0

    def add(self, taken: Taken, state: TrainState) -> None:
        """Notes a step that was started, and reads what is due.

        Args:
          state: the newest.

        Raises:
          RunFailure: the last steps in a row were all bad.
        """
        self._pending.append(taken)
        self._read(state, self._delay)

    def drain(self, state: TrainState) -> None:
        """Reads all reports; arguments and errors as those of `add`."""
        self._read(state, 0)

    def counts(self) -> dict[str, float]:
        """Bad steps and step sizes kept at their floor, one a step and element, since last asked.

        The reports must have been drained.
        """
        counts = {"bad_steps": self._bad, "floored_step_sizes": self._floored}
        self._bad = self._floored = 0
        return counts

    def state(self) -> list[int]:
        """What a run that goes on later needs to count as if it had not ended; JSON.

        The reports must have been drained.
        """
        return [self._in_a_row, self._bad, self._floored]

    def restore(self, state: list[int]) -> None:
        """Goes on counting from what `state` gave."""
        self._in_a_row, self._bad, self._floored = state

    def _read(self, state: TrainState, delay: int) -> None:
        while len(self._pending) > delay or (self._pending and self._in_a_row):
            taken = self._pending.popleft()
            report = jax.device_get(taken.report)
            self._floored += int(report.floored)
            if not np.any(report.failed):
                self._in_a_row = 0
                continue
            self._in_a_row += 1
            self._bad += 1
            what = self._describe_failure(taken, FAILURES[int(np.argmax(report.failed))])
            if self._in_a_row >= self._most:
                raise RunFailure(self._failure(taken, state, what))

    def _describe_failure(self, taken: Taken, failure: str) -> str:
        """Writes of a bad step into the log, and returns what was not finite."""
        losses = np.stack([m["loss"] for m in devices.fetch(taken.metrics)])
        passes = (1 + np.flatnonzero(~np.isfinite(losses).all(axis=1))).tolist()
        what = f"the loss of pass {passes[0]}" if passes else _WORDS[failure]
        self._log.info(
            f"{self._task}: step {taken.number}: {what} is not finite; the update is left out "
            f"({self._in_a_row} of {self._most} in a row)"
        )
        record = {"event": "bad_step", "not_finite": failure, "passes": passes}
        self._log.event(self._task, taken.number, record | {"in_a_row": self._in_a_row})
        return what

    def _failure(self, taken: Taken, state: TrainState, what: str) -> str:
        """Writes all that is known of the end into the log, and returns the line that tells it."""
        found = self._diagnose(state, taken)
        record = found._asdict() | {"event": "failure", "configuration": None}
        if found.configuration is not None and len(self._space):
            record["configuration"] = self._space.to_json(found.configuration)
            named = json.dumps(record["configuration"])
            self._log.info(f"{self._task}: the configuration of pass {found.number + 1}: {named}")
        self._log.event(self._task, taken.number, record)
        devices.barrier("failure")  # who looked faster does not take the others along
        remedy = "look at the data and at config.data.std" if found.place == IMAGES else None
        return (
            f"{self._task}: step {taken.number}: {what} is not finite, and no update was made in "
            f"{self._in_a_row} steps in a row (config.train.max_bad_steps); "
            f"{self._where(taken, found)}; no checkpoint has any of it; {remedy or self._remedy}"
        )

    def _where(self, taken: Taken, found: Finding) -> str:
        if found.number is None:
            return "its passes, repeated one by one, and their gradients are finite"
        where = f"pass {found.number + 1} of {len(taken.metrics)}"
        if len(self._space):
            where += f" (configuration {short(self._space, found.configuration)})"
        if len(taken.metrics[0]["loss"]) > 1:
            where += f" on device {found.device}"
        if found.place is None:
            return f"{where}, repeated alone, is finite everywhere"
        return f"{where}: the first that is not finite is {found.place}"


def short(space: Space, configuration: np.ndarray) -> str:
    """A configuration in a few letters: w4a4 where uniform, else as `Space.encode`, cut short."""
    rows = np.unique(configuration, axis=0)
    if len(rows) == 1:
        return "w{}a{}".format(*rows[0])
    encoded = space.encode(configuration)
    return encoded if len(encoded) <= _ENCODED_LENGTH else f"{encoded[:_ENCODED_LENGTH]}..."
