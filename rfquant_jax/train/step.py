"""One training step: a max pass, K random passes, one update.

The coupled training step of RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543). Read `TrainStep`
from `__call__`: passes -> gradients -> update -> EMA. There are three strategies with the same
result up to rounding: a host loop that calls one compiled pass (`_host_loop`), and one program with
all passes, unrolled or in a scan (`_whole_step`). See `default_strategy` for which one is faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rfquant_jax.nn.functional import Arrays, FunctionalNetwork, zeros_like
from rfquant_jax.quant.calibrate import Preprocess
from rfquant_jax.quant.sampling import PUBLISHED, Sampling, sample_step
from rfquant_jax.quant.space import largest_bits, smallest_bits
from rfquant_jax.runtime import devices
from rfquant_jax.runtime.devices import AXIS, REPLICATED, SHARDED, Compiled
from rfquant_jax.train.diagnose import Finding, diagnose
from rfquant_jax.train.optimizer import OptimizerSettings
from rfquant_jax.train.passes import COUPLING, CoupledPass, LossWeights
from rfquant_jax.train.state import (
    Carry,
    DistillationTargets,
    Masks,
    PassInfo,
    Rates,
    StepInputs,
    StepReport,
    Taken,
    TrainState,
)
from rfquant_jax.train.update import Update

STRATEGIES = ("loop", "unroll", "scan")


def default_strategy() -> str:
    """The default strategy for running passes on this backend."""
    return "loop" if devices.prefer_host_loop() else "scan"


@dataclass(frozen=True)
class StepSettings:
    """Constants of a step.

    Attributes:
      candidates: bit-widths, largest first.
      random_passes: K, number of random passes per micro-batch; 0: full-precision training.
      strategy: one of `STRATEGIES`.
      ema_decay: decay per step of the average of all parameters and statistics.
      loss: weights of the loss terms.
      optimizer: constants of the update.
      sampling: how the configurations of the random passes are drawn.
    """

    candidates: tuple[int, ...]
    random_passes: int
    strategy: str
    ema_decay: float
    loss: LossWeights
    optimizer: OptimizerSettings
    sampling: Sampling = PUBLISHED


class TrainStep:
    """The compiled training step of one network on one mesh.

    With `random_passes = 0` and a plain network it is an ordinary full-precision step.
    """

    def __init__(
        self,
        functional: FunctionalNetwork,
        mesh: Mesh,
        preprocess: Preprocess,
        settings: StepSettings,
    ):
        self.functional, self.mesh, self.settings = functional, mesh, settings
        self._pass = CoupledPass(functional, preprocess, settings.loss)
        self._step_update = Update(functional, settings.optimizer, settings.ema_decay)
        # Zeroed gradient accumulators and the targets of the last max pass. A step donates these
        # buffers to its passes and gets buffers of the same shape back, which the next step reuses.
        self._gradients: Arrays | None = None
        self._targets: DistillationTargets | None = None

        # Placement of arguments: `rep` is equal on all devices, `shard` has a leading device axis.
        rep, shard = REPLICATED, SHARDED
        state = TrainState(rep, shard, rep, rep, rep)
        self._sample = Compiled(self._sample_configurations, mesh, (rep, rep, rep), rep)
        self._stem = Compiled(self._stem_forward, mesh, (rep, shard, shard), shard)
        # Max and random passes share one program, because compiling a pass takes most of the
        # compile time. `PassInfo` tells it which pass to run. Statistics are not donated, because a
        # skipped update returns the old ones.
        of_pass = (rep, *(shard,) * 5, rep, rep)
        self._one_pass = Compiled(self._run, mesh, of_pass, shard, donate=(2,))
        self._blank = Compiled(self._blank_targets, mesh, (), shard)
        of_back = (rep, *(shard,) * 4)
        self._stem_back = Compiled(self._stem_backward, mesh, of_back, shard, donate=(2,))
        of_update, updated = (state, shard, shard, shard, rep, rep), (state, shard, rep)
        self._update = Compiled(self._step_update, mesh, of_update, updated, donate=(0, 2))
        of_whole = (state, shard, shard, rep, rep)
        self._whole = Compiled(self._whole_step, mesh, of_whole, updated, donate=(0,))

    def init(self, params: Arrays, stats: Arrays | None = None) -> TrainState:
        """The initial state; the EMA starts as a copy of the parameters and statistics.

        Args:
          params: initial parameters.
          stats: initial BatchNorm statistics; None: those of the network.
        """
        start = self.functional.stats if stats is None else stats
        # A step donates every field, so no field may share memory with another or with the caller.
        copies = [devices.copied(dict(params)) for _ in range(2)]
        replicate = partial(devices.replicate, mesh=self.mesh)
        return TrainState(
            params=replicate(copies[0]),
            stats=devices.per_device(start, self.mesh),
            optimizer=replicate(self._step_update.init(params)),
            ema_params=replicate(copies[1]),
            ema_stats=replicate(devices.copied(dict(start))),
        )

    def __call__(
        self,
        state: TrainState,
        batches: Sequence[Arrays],
        masks: Masks,
        rates: Rates,
        key: jax.Array,
        teachers: Sequence[jax.Array] | None = None,
        configurations: np.ndarray | None = None,
    ) -> tuple[TrainState, list[Arrays], StepReport]:
        """Runs one update on a batch, given as one or more micro-batches.

        Args:
          state: donated.
          batches: micro-batches {"image": [N, H, W, C], "label": int32[N]}, sharded over devices.
          masks: the bit-widths that may be sampled.
          rates: learning rates and damping weight of this update.
          key: for sampling configurations (equal on all devices) and dropout (different on each).
          teachers: logits of an external teacher for each micro-batch, float32[N, classes].
          configurations: configurations of the random passes, int32[K, L, 2]; None: drawn with the
            key.

        Returns:
          the new state, or the old one if a value was not finite; the metrics of each pass in
          order, {name: float32[devices]}; the report of the update.
        """
        inputs = self.inputs(masks, rates, key, configurations)
        self._prepare(batches[0]["image"], inputs)
        batch_targets = [
            teachers and DistillationTargets(teachers[i], {}) for i in range(len(batches))
        ]
        if self.settings.strategy == "loop":
            state, metrics, report = self._host_loop(state, batches, batch_targets, inputs, rates)
        else:
            given = state, tuple(batches), tuple(batch_targets), inputs, rates
            state, metrics, report = self._whole(*given)
        result = state, metrics, report._replace(configurations=inputs.configurations)
        return devices.settle_step(result, self.mesh)

    def _prepare(self, images: jax.Array, inputs: StepInputs) -> None:
        """Before the first step, finds the part of the network that all passes share (the stem).

        Passes differ in bit-widths only, so layers before the first searched one compute the same
        in all of them. With a single pass there is nothing to share.
        """
        if self.settings.random_passes and self._pass.stem is None:
            shape = (images.shape[0] // self.mesh.size, *images.shape[1:])
            _, layers, _ = inputs.configurations.shape
            self._pass.trace_stem(
                jax.ShapeDtypeStruct(shape, images.dtype),
                layers,
                passes=1 + self.settings.random_passes,
            )

    def inputs(
        self,
        masks: Masks,
        rates: Rates,
        key: jax.Array,
        configurations: np.ndarray | None = None,
    ) -> StepInputs:
        """The inputs that all passes of a step with these arguments share."""
        sample_key, dropout_key = jax.random.split(key)
        if configurations is None:
            configurations = self._sample(sample_key, masks.weights, masks.activations)
        else:
            configurations = devices.replicate(self._with_max(configurations, masks), self.mesh)
        return StepInputs(
            configurations=configurations,
            smallest=smallest_bits(masks.weights, self.settings.candidates),
            damping=rates.damping,
            key=dropout_key,
        )

    def _with_max(self, configurations: np.ndarray, masks: Masks) -> np.ndarray:
        """The configuration of the max pass, followed by the given ones, int32[1 + K, L, 2]."""
        columns = [largest_bits(mask, self.settings.candidates) for mask in masks]
        return np.concatenate([np.stack(columns, axis=-1)[None], configurations]).astype(np.int32)

    def diagnose(self, state: TrainState, taken: Taken) -> Finding:
        """Locates the first non-finite value of a failed step.

        Args:
          state: the state before the step, which is also the state after a failed step.
          taken: the arguments and results of the step.
        """
        # The recorded configurations: drawing them from the key again would miss explicit ones.
        random = np.asarray(taken.report.configurations)[1:]
        inputs = self.inputs(taken.masks, taken.rates, taken.key, random)
        return diagnose(self._pass, state, taken, inputs)

    @property
    def traces(self) -> dict[str, int]:
        """Trace count of each compiled function."""
        names = ("sample", "stem", "blank", "one_pass", "stem_back", "update", "whole")
        return {name: getattr(self, f"_{name}").traces for name in names}

    def _host_loop(self, state, batches, batch_targets, inputs, rates):
        """All micro-batches and the update; every pass is a call of one compiled program."""
        gradients, self._gradients = self._gradients, None
        if gradients is None:
            # By shape: `np.zeros_like` would copy every parameter to the host.
            zeros = {n: np.zeros(x.shape, x.dtype) for n, x in self.functional.params.items()}
            gradients = devices.per_device(zeros, self.mesh)
        carry, start, metrics = Carry(state.stats, gradients), None, []
        for batch, targets in zip(batches, batch_targets, strict=True):
            if self._pass.stem:
                start, moved, sums = self._stem(state.params, carry.stats, batch)
                carry = Carry(carry.stats | moved, carry.gradients, sums)
            shared = start, batch, targets, inputs, len(metrics)
            carry, measured = self._passes(state.params, carry, *shared)
            metrics += measured
            if self._pass.stem:
                gradients = self._stem_back(state.params, *carry, batch)
                carry = Carry(carry.stats, gradients)
        losses, count = [measured["loss"] for measured in metrics], np.float32(len(batches))
        state, self._gradients, report = self._update(state, *carry[:2], losses, rates, count)
        return state, metrics, report

    def _passes(self, params, carry, start, batch, teacher, inputs, first):
        """Runs the passes of one micro-batch.

        Args:
          teacher: targets of the max pass from an external teacher, or None.
          first: index in the step of the max pass of this micro-batch.
        """
        # The program of a pass takes features of the max pass. The max pass itself overwrites them
        # without reading them, so it gets any buffers of the right shape: those of the previous
        # micro-batch, or zeros.
        targets, self._targets = self._targets, None
        if self._pass.stem is None:
            targets = DistillationTargets(None, {})
        elif targets is None:
            targets = self._blank()
        (logits, features), metrics = targets, []
        if teacher is not None:
            logits = teacher.logits
        for number in range(first, first + 1 + self.settings.random_passes):
            is_max = number == first
            taught = not is_max or teacher is not None
            info = PassInfo(np.int32(number), np.bool_(is_max), np.bool_(taught))
            donated = (*carry[1:], features)
            shared = start, batch, logits, inputs, info
            carry, (own, features), measured = self._one_pass(params, carry.stats, donated, *shared)
            metrics.append(devices.settle_pass(_with_meaning(measured, info), self.mesh))
            logits = own if is_max else logits
        if self._pass.stem:
            self._targets = DistillationTargets(logits, features)
        return carry, metrics

    # The functions below run per device, inside shard_map. `devices.drop_axis` removes the leading
    # device axis of sharded arguments, `devices.add_axis` adds it to results.

    def _sample_configurations(self, key, weight_mask, activation_mask):
        constants = self.settings
        shared = constants.candidates, constants.random_passes, constants.sampling
        return sample_step(key, weight_mask, activation_mask, *shared)

    def _stem_forward(self, params, stats, batch):
        """The stem's activations and updated statistics, and zeros to add its cotangents to."""
        start, moved = self._pass.stem.start(params, devices.drop_axis(stats), batch["image"])
        sums = tuple(jnp.zeros(value.shape, jnp.float32) for value in start.learned)
        return devices.add_axis((start, moved, sums))

    def _stem_backward(self, params, stats, gradients, cotangents, batch):
        """Adds the stem's gradients, from cotangents summed over the passes of a micro-batch."""
        stats, gradients, cotangents = devices.drop_axis((stats, gradients, cotangents))
        own = self._pass.stem.backward(params, stats, batch["image"], cotangents)
        gradients |= {name: gradients[name] + gradient for name, gradient in own.items()}
        return devices.add_axis(gradients)

    def _blank_targets(self):
        """Zeros in the shapes of the targets, for the first step."""
        return DistillationTargets(*self._pass.stem.zeros())

    def _run(self, params, stats, donated, start, batch, logits, inputs, info):
        """One pass of the host loop or of the whole step.

        Args:
          donated: the gradient accumulators of the carry, then the features of the max pass.
          logits: logits to distil from; None: there are none.
        """
        *sums, features = donated
        targets = None if logits is None else DistillationTargets(logits, features)
        if self._pass.stem is None:
            # Without a stem the step is a single max pass. As Python constants, the flags remove
            # the terms of random passes when the program is traced.
            info = info._replace(is_max=True, taught=True)
        inputs = inputs._replace(key=jax.random.fold_in(inputs.key, jax.lax.axis_index(AXIS)))
        carry, start = devices.drop_axis((Carry(stats, *sums), start))
        kind = {"is_max": info.is_max, "taught": info.taught}
        shared = batch, targets, inputs, info.number
        carry, own, metrics = self._pass(params, carry, *shared, start=start, **kind)
        return devices.add_axis(carry), own, devices.add_axis(metrics)

    def _whole_step(self, state, batches, batch_targets, inputs, rates):
        """All micro-batches and the update in one program."""
        gradients = devices.add_axis(zeros_like(state.params))
        carry, start, metrics = Carry(state.stats, gradients), None, []
        for batch, targets in zip(batches, batch_targets, strict=True):
            if self._pass.stem:
                start, moved, sums = self._stem_forward(state.params, carry.stats, batch)
                carry = Carry(carry.stats | moved, carry.gradients, sums)
            first = len(metrics)

            def run(carry, number, targets, is_max=False, start=start, batch=batch):
                logits, features = targets or (None, {})
                shared = start, batch, logits, inputs, PassInfo(number, is_max, True)
                return self._run(state.params, carry.stats, (*carry[1:], features), *shared)

            carry, own, measured = run(carry, first, targets, is_max=True)
            metrics.append(measured)
            numbers = range(first + 1, first + 1 + self.settings.random_passes)
            if self.settings.strategy == "unroll":
                for number in numbers:
                    carry, _, measured = run(carry, number, own)
                    metrics.append(measured)
            elif numbers:

                def scanned(carry, number, run=run, own=own):
                    carry, _, measured = run(carry, number, own)
                    return carry, measured

                carry, stacked = jax.lax.scan(scanned, carry, jnp.asarray(numbers))
                metrics += [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(len(numbers))]
            if self._pass.stem:
                gradients = self._stem_backward(state.params, *carry, batch)
                carry = Carry(carry.stats, gradients)
        losses = [measured["loss"] for measured in metrics]
        state, _, report = self._step_update(state, *carry[:2], losses, rates, len(batches))
        return state, metrics, report


def _with_meaning(measured: Arrays, info: PassInfo) -> Arrays:
    """The metrics of a pass without the loss terms that it does not have (computed as zeros)."""
    without = () if info.taught else ("distillation",)
    without += COUPLING if info.is_max else ()
    return {name: value for name, value in measured.items() if name not in without}
