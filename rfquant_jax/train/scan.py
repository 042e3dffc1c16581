"""A step as one program: the max pass, a scan over the random passes, the update."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rfquant_jax.nn.functional import Arrays
from rfquant_jax.runtime.devices import REPLICATED, SHARDED, Compiled, Programs
from rfquant_jax.train.per_device import PerDevice
from rfquant_jax.train.state import StepInputs, StepReport, TrainState
from rfquant_jax.train.update import Update


class Scan:
    """The program of a step.

    Args:
      random_passes: K.
    """

    def __init__(self, per_device: PerDevice, update: Update, mesh: Mesh, random_passes: int):
        self._on_device, self._step_update = per_device, update
        self._random_passes = random_passes
        rep, shard = REPLICATED, SHARDED
        state = TrainState(rep, shard, rep, rep, rep)
        of_whole, updated = (state, shard, shard, rep), (state, shard, rep)
        self._whole = Compiled(self._whole_step, mesh, of_whole, updated, donate=(0,))

    @property
    def traces(self) -> dict[str, int]:
        """Trace count of the compiled function."""
        return {"whole": self._whole.traces}

    def __call__(
        self,
        state: TrainState,
        batches: Sequence[Arrays],
        teachers: Sequence[jax.Array | None],
        inputs: StepInputs,
    ) -> tuple[TrainState, list[Arrays], StepReport]:
        """All micro-batches and the update; see `TrainStep.__call__`."""
        return self._whole(state, tuple(batches), tuple(teachers), inputs)

    def programs(self, state: TrainState, batch: Arrays, inputs: StepInputs) -> Programs:
        """The program of a step with one micro-batch; see `TrainStep.programs`."""
        return {"whole": (self._whole, (state, (batch,), (None,), inputs))}

    def _whole_step(self, state, batches, teachers, inputs):
        packing = self._on_device.network.packing
        params, stats = packing.packed(state.params, state.stats)
        passing, metrics = self._on_device.accumulators(params, stats), []
        for batch, teacher in zip(batches, teachers, strict=True):
            shared = params, batch, teacher, inputs
            passing, measured = self._micro_batch(passing, *shared, len(metrics))
            metrics += measured
        losses = [measured["loss"] for measured in metrics]
        gradients, stats = packing.unpacked(passing.gradients, passing.stats)
        of_update = state, stats, gradients, losses, inputs, len(batches)
        state, _, report = self._step_update(*of_update)
        return state, metrics, report

    def _micro_batch(self, passing, params, batch, teacher, inputs, first):
        """The passes of one micro-batch, the first of which is number `first` of the step."""
        on_device, start = self._on_device, None
        if on_device.network.stem:
            start, moved, zeros = on_device.stem_forward(params, passing.stats, batch)
            passing = passing._replace(stats=passing.stats | moved, cotangents=zeros)
        shared = start, batch, teacher, inputs
        passing, measured = on_device.max_pass(params, passing.stats, passing, *shared, first)
        metrics = [measured]
        # Constants of the scan instead of values that it carries unchanged.
        targets = {"logits": passing.logits, "features": passing.features}
        absent = dict.fromkeys(targets)

        def random_pass(passing, number):
            given = params, passing.stats, passing._replace(**targets), *shared, number
            passing, measured = on_device.random_pass(*given)
            return passing._replace(**absent), measured

        passing = passing._replace(**absent)
        if self._random_passes:
            numbers = first + 1 + jnp.arange(self._random_passes)
            passing, stacked = jax.lax.scan(random_pass, passing, numbers)
            metrics += [
                jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(self._random_passes)
            ]
        if on_device.network.stem:
            of_stem = passing.stats, passing.gradients, passing.cotangents, batch
            gradients = on_device.stem_backward(params, *of_stem)
            passing = passing._replace(gradients=gradients, cotangents=())
        return passing, metrics
