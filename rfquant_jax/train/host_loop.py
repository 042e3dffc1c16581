"""A step as a loop on the host: every pass is a call of one compiled program.

On processors this is faster than one program with all passes, see `devices.prefer_host_loop`.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from rfquant_jax.nn.functional import Arrays
from rfquant_jax.runtime import devices
from rfquant_jax.runtime.devices import REPLICATED, SHARDED, Compiled, Programs
from rfquant_jax.train.passes import COUPLING
from rfquant_jax.train.per_device import PerDevice
from rfquant_jax.train.state import StepInputs, StepReport, TrainState
from rfquant_jax.train.update import Update


class HostLoop:
    """The programs of a step, and the loop that calls them.

    Args:
      random_passes: K.
    """

    def __init__(self, per_device: PerDevice, update: Update, mesh: Mesh, random_passes: int):
        self._network, self._mesh, self._passes = per_device.network, mesh, 1 + random_passes
        rep, shard = REPLICATED, SHARDED
        state = TrainState(rep, shard, rep, rep, rep)
        self._buffers = Compiled(per_device.buffers, mesh, rep, shard)
        self._stem = Compiled(per_device.stem_forward, mesh, (rep, shard, shard), shard)
        one = per_device.either_pass if random_passes else per_device.max_pass
        of_pass = (rep, *(shard,) * 5, rep, rep)
        self._one_pass = Compiled(one, mesh, of_pass, shard, donate=(2,))
        of_back = (rep, *(shard,) * 4)
        self._stem_back = Compiled(per_device.stem_backward, mesh, of_back, shard, donate=(2,))
        of_update, updated = (state, shard, shard, shard, rep, rep), (state, shard, rep)
        self._update = Compiled(update, mesh, of_update, updated, donate=(0, 2))

    @property
    def traces(self) -> dict[str, int]:
        """Trace count of each compiled function."""
        names = ("buffers", "stem", "one_pass", "stem_back", "update")
        return {name: getattr(self, f"_{name}").traces for name in names}

    def __call__(
        self,
        state: TrainState,
        batches: Sequence[Arrays],
        teachers: Sequence[jax.Array | None],
        inputs: StepInputs,
    ) -> tuple[TrainState, list[Arrays], StepReport]:
        """All micro-batches and the update; see `TrainStep.__call__`."""
        state, buffers = state._replace(buffers=None), state.buffers
        passing = (buffers or self._buffers(state.params))._replace(stats=state.stats)
        metrics = []
        for batch, teacher in zip(batches, teachers, strict=True):
            passing, measured = self._micro_batch(
                state.params, passing, batch, teacher, inputs, len(metrics)
            )
            metrics += measured
        losses, count = [measured["loss"] for measured in metrics], np.float32(len(batches))
        of_update = state, passing.stats, passing.gradients, losses, inputs, count
        state, zeroed, report = self._update(*of_update)
        buffers = passing._replace(stats={}, gradients=zeroed, cotangents=())
        return state._replace(buffers=buffers), metrics, report

    def programs(self, state: TrainState, batch: Arrays, inputs: StepInputs) -> Programs:
        """Every program of a step with one micro-batch; see `TrainStep.programs`."""
        params, passes = state.params, self._passes
        state = state._replace(buffers=None)
        passing = jax.eval_shape(self._buffers.jitted, params)._replace(stats=state.stats)
        found, start = {"buffers": (self._buffers, (params,))}, None
        if self._network.stem:
            found["stem"] = self._stem, (params, passing.stats, batch)
            start, moved, zeros = jax.eval_shape(self._stem.jitted, *found["stem"][1])
            passing = passing._replace(stats=passing.stats | moved, cotangents=zeros)
        of_pass = params, passing.stats, passing._replace(stats={}), start, batch, None, inputs
        found["one_pass"] = self._one_pass, (*of_pass, np.int32(0))
        passing, measured = jax.eval_shape(self._one_pass.jitted, *found["one_pass"][1])
        if self._network.stem:
            of_stem = passing.stats, passing.gradients, passing.cotangents, batch
            found["stem_back"] = self._stem_back, (params, *of_stem)
        of_update = passing.stats, passing.gradients, [measured["loss"]] * passes, inputs
        found["update"] = self._update, (state, *of_update, np.float32(1))
        return found

    def _micro_batch(self, params, passing, batch, teacher, inputs, first):
        """The passes of one micro-batch, the first of which is number `first` of the step."""
        start, metrics = None, []
        if self._network.stem:
            start, moved, zeros = self._stem(params, passing.stats, batch)
            passing = passing._replace(stats=passing.stats | moved, cotangents=zeros)
        for number in range(first, first + self._passes):
            stats, donated = passing.stats, passing._replace(stats={})
            shared = start, batch, teacher, inputs, np.int32(number)
            passing, measured = self._one_pass(params, stats, donated, *shared)
            measured = _without_absent(measured, number == first, teacher is not None)
            metrics.append(devices.settle_pass(measured, self._mesh))
        if not self._network.stem:
            # No pass reads the targets of a step with a single pass.
            return passing._replace(logits=None, features=None), metrics
        of_stem = passing.stats, passing.gradients, passing.cotangents, batch
        passing = passing._replace(gradients=self._stem_back(params, *of_stem), cotangents=())
        return passing, metrics


def _without_absent(measured: Arrays, is_max: bool, has_teacher: bool) -> Arrays:
    """The metrics of a pass without the loss terms that it lacks, which are computed as zeros."""
    absent = COUPLING if is_max else ()
    if is_max and not has_teacher:
        absent += ("distillation",)
    return {name: value for name, value in measured.items() if name not in absent}
