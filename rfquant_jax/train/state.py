"""Arguments and results of a training step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from rfquant_jax.nn.functional import Arrays


class TrainState(NamedTuple):
    """The state that a training step updates.

    Attributes:
      params, ema_params, ema_stats: replicated.
      stats: BatchNorm statistics with a leading device axis; equal on all devices between steps.
      optimizer: the state of the optimizer, replicated.
    """

    params: Arrays
    stats: Arrays
    optimizer: object
    ema_params: Arrays
    ema_stats: Arrays


class Carry(NamedTuple):
    """The state carried from pass to pass; with a leading device axis between compiled functions.

    Attributes:
      stats: BatchNorm statistics.
      gradients: gradient accumulators.
      start: summed gradients with respect to the activations that all passes of a batch start from,
        see `stem.Start`; empty before the first pass.
    """

    stats: Arrays
    gradients: Arrays
    start: tuple[jax.Array, ...] = ()


class DistillationTargets(NamedTuple):
    """Targets of distillation.

    Attributes:
      logits: float32[N, classes], from the max pass; for the max pass itself, from an external
        teacher.
      features: by layer name, of the max pass, in the compute dtype; empty if unused.
    """

    logits: jax.Array
    features: Arrays


class StepInputs(NamedTuple):
    """Inputs of all passes of a step; replicated arrays, so that no change of them recompiles.

    Attributes:
      configurations: int32[1 + K, L, 2], the max pass first.
      smallest: int32[L], the smallest weight bit-widths allowed now.
      damping: float32[], eta.
      key: for dropout.
    """

    configurations: jax.Array
    smallest: jax.Array | np.ndarray
    damping: np.float32
    key: jax.Array


class PassInfo(NamedTuple):
    """Which pass of a step runs; replicated arrays, because one compiled program runs every pass.

    Attributes:
      number: int32[], index of the pass within the step.
      is_max: bool[], whether it is a max pass.
      taught: bool[], whether the distillation targets are valid.
    """

    number: jax.Array | np.int32
    is_max: jax.Array | np.bool_
    taught: jax.Array | np.bool_


class Rates(NamedTuple):
    """Learning rates and damping weight of an update."""

    learning: np.float32
    step_size: np.float32
    damping: np.float32


# Checks of a step, in the order of `StepReport.failed`.
FAILURES = ("loss", "gradients", "statistics", "update")


class StepReport(NamedTuple):
    """Outcome of a step's update; replicated.

    Attributes:
      failed: bool[4], which of `FAILURES` were not finite: the losses, the mean gradients, the new
        BatchNorm statistics, the new parameters with the optimizer state. If any is set, the update
        was skipped and the state is unchanged.
      floored: int32[], number of step-size elements clamped to `lsq.MIN_STEP`.
      configurations: int32[1 + K, L, 2], the configurations of the passes, the max pass first.
    """

    failed: jax.Array | np.ndarray
    floored: jax.Array | np.ndarray
    configurations: jax.Array | np.ndarray | None = None


class Masks(NamedTuple):
    """Candidate masks, bool[L, |B|]: the bit-widths that may be sampled now."""

    weights: np.ndarray
    activations: np.ndarray


class Taken(NamedTuple):
    """A dispatched step: enough to rerun its passes while the state is unchanged.

    Attributes:
      number: index of the step, counted from 1.
      parts, masks, rates, key, teachers: arguments of the step.
      metrics, report: results of the step.
    """

    number: int
    parts: Sequence[Arrays]
    masks: Masks
    rates: Rates
    key: jax.Array
    teachers: Sequence[jax.Array] | None
    metrics: list[Arrays]
    report: StepReport
