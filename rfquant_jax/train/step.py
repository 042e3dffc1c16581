"""One training step: a max pass, K random passes, one update (method, section 4).

How the passes are strung together is one switch, because what is fast differs by backend: see
`default_strategy`. All ways compute the same numbers up to the compiler's rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rfquant_jax import bits, parallel
from rfquant_jax.models.pure import Arrays, PureNetwork, zeros_like
from rfquant_jax.parallel import AXIS, REPLICATED, SHARDED, Compiled
from rfquant_jax.quant.calibrate import Preprocess
from rfquant_jax.train.diagnose import Finding, diagnose
from rfquant_jax.train.optimizer import OptimizerSettings
from rfquant_jax.train.passes import CoupledPass, LossWeights
from rfquant_jax.train.state import (
    Carry,
    Masks,
    Rates,
    Reference,
    StepInputs,
    StepReport,
    Taken,
    TrainState,
)
from rfquant_jax.train.update import Update

STRATEGIES = ("loop", "unroll", "scan")


def default_strategy(backend: str) -> str:
    """The way to string the passes together on a backend ("cpu", "gpu", ...).

    On processors a convolution's backward inside a scan misses XLA's fast path, and one program of
    all passes gains little, compiles twice as long as a host loop and keeps more in memory (times:
    benchmarks/train_step.py). On GPUs a scan should keep program and memory small; not measured.
    """
    return "loop" if backend == "cpu" else "scan"


@dataclass(frozen=True)
class StepSettings:
    """Constants of a step.

    Attributes:
      candidates: bit-widths, largest first.
      random_passes: K.
      strategy: one of `STRATEGIES`.
      ema_decay: decay of the moving average of all parameters and statistics.
    """

    candidates: tuple[int, ...]
    random_passes: int
    strategy: str
    ema_decay: float
    loss: LossWeights
    optimizer: OptimizerSettings


class CoupledStep:
    """The compiled training step of one network on one mesh.

    With `random_passes = 0` and a plain network it is an ordinary full-precision step.
    """

    def __init__(
        self, pure: PureNetwork, mesh: Mesh, preprocess: Preprocess, settings: StepSettings
    ):
        self.pure, self.mesh, self.settings = pure, mesh, settings
        self._pass = CoupledPass(pure, preprocess, settings.loss)
        self._step_update = Update(pure, settings.optimizer, settings.ema_decay)
        self._gradients: Arrays | None = None  # zero accumulators, kept from step to step

        rep, shard = REPLICATED, SHARDED
        state = TrainState(rep, shard, rep, rep, rep)
        self._sample = Compiled(self._sample_configurations, mesh, (rep, rep, rep), rep)
        self._stem = Compiled(self._stem_forward, mesh, (rep, shard, shard), shard)
        # The first pass leaves the statistics alone: an update that fails needs them again.
        of_max = (rep, *(shard,) * 5, rep, rep)
        self._max = Compiled(self._max_pass, mesh, of_max, shard, donate=(2,))
        of_random = (rep, *(shard,) * 4, rep, rep)
        self._random = Compiled(self._random_pass, mesh, of_random, shard, donate=(1,))
        of_back = (rep, *(shard,) * 4)
        self._stem_back = Compiled(self._stem_backward, mesh, of_back, shard, donate=(1,))
        of_update, updated = (state, shard, shard, shard, rep, rep), (state, shard, rep)
        self._update = Compiled(self._step_update, mesh, of_update, updated, donate=(0, 2))
        of_whole = (state, shard, shard, rep, rep)
        self._whole = Compiled(self._whole_step, mesh, of_whole, updated, donate=(0,))

    def init(self, params: Arrays) -> TrainState:
        """The state to start from; the EMA starts as a copy."""
        # A step donates every field, so none may share memory with another or with the caller.
        copies = [{n: jnp.array(v, copy=True) for n, v in params.items()} for _ in range(2)]
        stats = [{n: jnp.array(v, copy=True) for n, v in self.pure.stats.items()} for _ in range(2)]
        replicate = partial(parallel.replicate, mesh=self.mesh)
        return TrainState(
            params=replicate(copies[0]),
            stats=parallel.per_device(stats[0], self.mesh),
            optimizer=replicate(self._step_update.init(params)),
            ema_params=replicate(copies[1]),
            ema_stats=replicate(stats[1]),
        )

    def __call__(
        self,
        state: TrainState,
        batches: Sequence[Arrays],
        masks: Masks,
        rates: Rates,
        key: jax.Array,
        teachers: Sequence[jax.Array] | None = None,
    ) -> tuple[TrainState, list[Arrays], StepReport]:
        """One update from one batch, given as one or more micro-batches.

        Args:
          state: donated.
          batches: micro-batches {"image": [N, H, W, C], "label": int32[N]}, split over devices.
          masks: the bit-widths that may be sampled.
          rates: of this epoch.
          key: decides the configurations, the same on all devices, and dropout, different on each.
          teachers: an external teacher's logits for each micro-batch.

        Returns:
          the new state, which is the old one where something was not finite; the metrics of each
          pass in order, {name: float32[devices]}; what became of the update.
        """
        inputs = self.inputs(masks, rates, key)
        self._prepare(batches[0]["image"], inputs)
        references = [teachers and Reference(teachers[i], {}) for i in range(len(batches))]
        if self.settings.strategy == "loop":
            result = self._host_loop(state, batches, references, inputs, rates)
        else:
            result = self._whole(state, tuple(batches), tuple(references), inputs, rates)
        if self.mesh.size > 1 and jax.default_backend() == "cpu":
            # Free-running dispatch over fake processor devices can deadlock in the all-reduce.
            jax.block_until_ready(result)
        return result

    def _prepare(self, images: jax.Array, inputs: StepInputs) -> None:
        """Traces what the passes have in common, before the first step; a single pass has none."""
        if self.settings.random_passes and self._pass.stem is None:
            shape = (images.shape[0] // self.mesh.size, *images.shape[1:])
            _, layers, _ = inputs.configurations.shape
            self._pass.trace_stem(
                jax.ShapeDtypeStruct(shape, images.dtype),
                layers,
                passes=1 + self.settings.random_passes,
            )

    def inputs(self, masks: Masks, rates: Rates, key: jax.Array) -> StepInputs:
        """What the passes of a step with these arguments share."""
        sample_key, dropout_key = jax.random.split(key)
        return StepInputs(
            configurations=self._sample(sample_key, masks.weights, masks.activations),
            smallest=bits.smallest(masks.weights, self.settings.candidates),
            damping=rates.damping,
            key=dropout_key,
        )

    def diagnose(self, state: TrainState, taken: Taken) -> Finding:
        """Where a step failed.

        Args:
          state: what it started from; as a failed step changes nothing, also what it gave.
        """
        inputs = self.inputs(taken.masks, taken.rates, taken.key)
        return diagnose(self._pass, state, taken, inputs)

    @property
    def traces(self) -> dict[str, int]:
        """How often each compiled function was traced."""
        names = ("sample", "stem", "max", "random", "stem_back", "update", "whole")
        return {name: getattr(self, f"_{name}").traces for name in names}

    def _host_loop(self, state, batches, references, inputs, rates):
        gradients, self._gradients = self._gradients, None
        if gradients is None:
            gradients = parallel.per_device(zeros_like(self.pure.params), self.mesh)
        carry, metrics = Carry(state.stats, gradients), []
        for batch, reference in zip(batches, references, strict=True):
            start = self._stem(state.params, carry.stats, batch) if self._pass.stem else None
            shared = start, batch, reference, inputs, np.int32(len(metrics))
            carry, own, measured = self._max(state.params, *carry[:2], *shared)
            metrics.append(self._finished(measured))
            for _ in range(self.settings.random_passes):
                shared = start, batch, own, inputs, np.int32(len(metrics))
                carry, _, measured = self._random(state.params, carry, *shared)
                metrics.append(self._finished(measured))
            if self._pass.stem:
                stats, gradients, slopes = carry
                gradients = self._stem_back(state.params, gradients, stats, slopes, batch)
                carry = Carry(stats, gradients)
        losses, count = [measured["loss"] for measured in metrics], np.float32(len(batches))
        state, self._gradients, report = self._update(state, *carry[:2], losses, rates, count)
        return state, metrics, report

    def _finished(self, measured: Arrays) -> Arrays:
        """What a pass measured, on a processor when it is over.

        A pass that waits for the one before it holds its temporary memory there already. Several
        devices that wait so all enter the update at once; a sum that a lost process breaks off
        then met another one, and Gloo aborted the process.
        """
        alone = self.mesh.size == 1 and jax.default_backend() == "cpu"
        return jax.block_until_ready(measured) if alone else measured

    # What follows runs per device.

    def _sample_configurations(self, key, weight_mask, activation_mask):
        candidates, count = self.settings.candidates, self.settings.random_passes
        return bits.sample_step(key, weight_mask, activation_mask, candidates, count)

    def _stem_forward(self, params, stats, batch):
        """What the passes of a batch start from: None where there is only one."""
        if self._pass.stem is None:
            return None
        start, moved = self._pass.stem.start(params, parallel.drop_axis(stats), batch["image"])
        return parallel.add_axis((start, moved))

    def _stem_backward(self, params, gradients, stats, slopes, batch):
        """The gradients with those of the stem added."""
        if self._pass.stem is None:
            return gradients
        gradients, stats, slopes = parallel.drop_axis((gradients, stats, slopes))
        own = self._pass.stem.backward(params, stats, batch["image"], slopes)
        gradients |= {name: gradients[name] + slope for name, slope in own.items()}
        return parallel.add_axis(gradients)

    def _max_pass(self, params, stats, gradients, start, batch, reference, inputs, number):
        if start is not None:
            start, moved = start
            stats = stats | moved
        carry = Carry(stats, gradients)
        return self._run(params, carry, start, batch, reference, inputs, number, is_max=True)

    def _random_pass(self, params, carry, start, batch, reference, inputs, number):
        rest = (start[0], batch, reference, inputs, number)
        carry, _, metrics = self._run(params, carry, *rest, is_max=False)
        return carry, None, metrics

    def _run(self, params, carry, start, batch, reference, inputs, number, *, is_max):
        inputs = inputs._replace(key=jax.random.fold_in(inputs.key, jax.lax.axis_index(AXIS)))
        carry, start = parallel.drop_axis((carry, start))
        carry, own, metrics = self._pass(
            params, carry, batch, reference, inputs, number, is_max=is_max, start=start
        )
        return parallel.add_axis(carry), own, parallel.add_axis(metrics)

    def _whole_step(self, state, batches, references, inputs, rates):
        gradients = parallel.add_axis(zeros_like(state.params))
        carry, metrics, number = Carry(state.stats, gradients), [], 0
        for batch, reference in zip(batches, references, strict=True):
            start = self._stem_forward(state.params, carry.stats, batch)
            carry, own, measured = self._max_pass(
                state.params, *carry[:2], start, batch, reference, inputs, number
            )
            metrics.append(measured)
            numbers = range(number + 1, number + 1 + self.settings.random_passes)
            number += 1 + self.settings.random_passes

            def run(carry, n, start=start, batch=batch, own=own):
                shared = (start, batch, own, inputs, n)
                carry, _, measured = self._random_pass(state.params, carry, *shared)
                return carry, measured

            if self.settings.strategy == "unroll":
                for n in numbers:
                    carry, measured = run(carry, n)
                    metrics.append(measured)
            elif numbers:
                carry, stacked = jax.lax.scan(run, carry, jnp.asarray(numbers))
                metrics += [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(len(numbers))]
            stats, gradients, slopes = carry
            gradients = self._stem_backward(state.params, gradients, stats, slopes, batch)
            carry = Carry(stats, gradients)
        losses = [measured["loss"] for measured in metrics]
        state, _, report = self._step_update(state, *carry[:2], losses, rates, len(batches))
        return state, metrics, report
