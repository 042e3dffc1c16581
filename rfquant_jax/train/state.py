"""State, inputs and result of a training step."""

from __future__ import annotations

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
      buffers: memory that the host loop hands from step to step; not part of a checkpoint. Its
        gradients are zeros, its logits and features are overwritten unread. None: allocated by the
        next step, if it needs any.
    """

    params: Arrays
    stats: Arrays
    optimizer: object
    ema_params: Arrays
    ema_stats: Arrays
    buffers: PassState | None = None


class PassState(NamedTuple):
    """The state carried from pass to pass; with a leading device axis outside of passes.

    Attributes:
      stats: BatchNorm statistics.
      gradients: gradient accumulators, summed over the passes.
      cotangents: of the activations that all passes of a batch start from (`stem.Start.learned`),
        summed over the passes, float32; empty without a stem.
      logits: of the max pass, float32[N, classes]; the distillation targets of random passes.
      features: of the max pass by layer name, in the compute dtype; empty if unused.
    """

    stats: Arrays
    gradients: Arrays
    cotangents: tuple[jax.Array, ...] = ()
    logits: jax.Array | None = None
    features: Arrays | None = None


class StepInputs(NamedTuple):
    """Inputs of a step besides its images; replicated arrays, so no change of them recompiles.

    Attributes:
      configurations: int32[1 + K, L, 2], the max pass first.
      smallest: int32[L, 2], the smallest bit-widths allowed now.
      lr: learning rate of all parameters except step sizes, float32[].
      step_size_lr: learning rate of step sizes, float32[].
      damping: weight of oscillation damping, eta, float32[].
      key: for dropout.
    """

    configurations: jax.Array
    smallest: jax.Array | np.ndarray
    lr: np.float32
    step_size_lr: np.float32
    damping: np.float32
    key: jax.Array


# Checks of a step, in the order of `StepReport.failed`.
FAILURES = ("loss", "gradients", "statistics", "update")


class StepReport(NamedTuple):
    """Outcome of a step's update; replicated.

    Attributes:
      failed: bool[4], which of `FAILURES` were not finite: the losses, the mean gradients, the new
        BatchNorm statistics, the new parameters with the optimizer state. If any is set, the update
        was skipped and the state is unchanged.
      floored: int32[], number of step-size elements clamped to `lsq.MIN_STEP`.
    """

    failed: jax.Array | np.ndarray
    floored: jax.Array | np.ndarray
