"""The update of a step: one all-reduce, then optimizer, EMA and statistics.

Runs per device. An update with any non-finite value is skipped as a whole.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rfquant_jax.nn.functional import Arrays, FunctionalNetwork, zeros_like
from rfquant_jax.ops.finite import all_finite
from rfquant_jax.quant.layers import StepSize
from rfquant_jax.runtime import devices
from rfquant_jax.runtime.devices import AXIS
from rfquant_jax.train import optimizer
from rfquant_jax.train.state import StepInputs, StepReport, TrainState


class Update:
    """The update of one network as a pure function.

    Args:
      functional: the network.
      settings: settings of the optimizer.
      ema_decay: decay of the moving average of all parameters and statistics.
    """

    def __init__(
        self, functional: FunctionalNetwork, settings: optimizer.OptimizerSettings, ema_decay: float
    ):
        self._optimizer = optimizer.make_optimizer(functional, settings)
        self._steps, self._decay = functional.names_of(StepSize), ema_decay

    def init(self, params: Arrays) -> Any:
        """The initial state of the optimizer."""
        return jax.jit(self._optimizer.init)(params)  # one program instead of one for each shape

    def __call__(
        self,
        state: TrainState,
        stats: Arrays,
        gradients: Arrays,
        losses: list[jax.Array],
        inputs: StepInputs,
        count: jax.Array | int,
    ) -> tuple[TrainState, Arrays, StepReport]:
        """Applies one update.

        Args:
          state: the state before the step, including its statistics.
          stats: the statistics after the last pass, with a leading device axis.
          gradients: sums over this device's passes, with a leading device axis.
          losses: losses of this device's passes, float32[1] each.
          inputs: has the learning rates.
          count: number of micro-batches summed in the gradients.

        Returns:
          the new state, or the old one if the report says that the step failed; zeros of the shapes
          of the gradients; the report, equal on all devices.
        """
        failed = 1.0 - all_finite(losses)
        own = *devices.drop_axis((gradients, stats)), failed
        # On one device pmean would copy every array.
        mean, stats, failed = own if jax.lax.axis_size(AXIS) == 1 else jax.lax.pmean(own, AXIS)
        mean = {name: value / count for name, value in mean.items()}
        new, floored = self._moved(state, stats, mean, inputs)
        finite = (failed == 0, *map(all_finite, (mean, stats, (new.params, new.optimizer))))
        good = _all_of(jnp.stack(finite))
        # Selected, not multiplied: a NaN times zero is a NaN.
        new = jax.tree.map(lambda new, old: jnp.where(good, new, old), new, state)
        report = StepReport(~jnp.stack(finite), jnp.where(good, floored, 0))
        return new, zeros_like(gradients), report

    def _moved(
        self, state: TrainState, stats: Arrays, mean: Arrays, inputs: StepInputs
    ) -> tuple[TrainState, jax.Array]:
        directions, moments = self._optimizer.update(mean, state.optimizer, state.params)
        params, floored = optimizer.descend(
            state.params, directions, self._steps, inputs.lr, inputs.step_size_lr
        )
        new = TrainState(
            params=params,
            stats=devices.add_axis(stats),
            optimizer=moments,
            ema_params=optimizer.move_ema(state.ema_params, params, self._decay),
            ema_stats=optimizer.move_ema(state.ema_stats, stats, self._decay),
        )
        return new, floored


def _all_of(flags: jax.Array) -> jax.Array:
    """Whether all flags are set, computed in a loop, because XLA does not fuse loops.

    XLA fuses a plain reduction, with everything it depends on, into each of the hundreds of selects
    that use it: the program of ResNet-20 grew forty-fold and took a minute to compile.
    """
    return jax.lax.fori_loop(0, flags.size, lambda i, good: good & flags[i], jnp.asarray(True))
