"""The functions that a step compiles, as they run on each device inside `shard_map`.

`devices.drop_axis` removes the leading device axis of sharded arguments, `devices.add_axis` adds it
to results.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from rfquant_jax.nn.functional import Arrays, zeros_like
from rfquant_jax.runtime import devices
from rfquant_jax.runtime.devices import AXIS
from rfquant_jax.train.passes import either_pass, max_pass, random_pass
from rfquant_jax.train.state import PassState
from rfquant_jax.train.stem import Start
from rfquant_jax.train.training_network import TrainingNetwork


class PerDevice:
    """Passes of a network with leading device axes, and what surrounds them.

    The passes are `max_pass`, `random_pass` and `either_pass` of `passes.py`, all called as
    `one(params, stats, state, start, batch, teacher, inputs, number) -> (state, metrics)`. The
    statistics are an argument of their own and the given state has none, so that a program can
    donate the state: a skipped update returns the old statistics.
    """

    def __init__(self, network: TrainingNetwork):
        self.network = network
        self.max_pass = partial(self._pass, max_pass)
        self.random_pass = partial(self._pass, random_pass)
        self.either_pass = partial(self._pass, either_pass)

    def _pass(self, one, params, stats, state, start, batch, teacher, inputs, number):
        key = jax.random.fold_in(inputs.key, jax.lax.axis_index(AXIS))
        options = {} if one is random_pass else {"teacher": teacher}
        state, start = devices.drop_axis((state._replace(stats=stats), start))
        given = params, state, batch, inputs._replace(key=key), number
        return devices.add_axis(one(self.network, *given, start=start, **options))

    def stem_forward(
        self, params: Arrays, stats: Arrays, batch: Arrays
    ) -> tuple[Start, Arrays, tuple[jax.Array, ...]]:
        """The stem's activations and updated statistics, and zeros to add its cotangents to."""
        stem = self.network.stem
        start, moved = stem.start(params, devices.drop_axis(stats), batch["image"])
        zeros = tuple(jnp.zeros(value.shape, jnp.float32) for value in start.learned)
        return devices.add_axis((start, moved, zeros))

    def stem_backward(self, params: Arrays, stats, gradients, cotangents, batch: Arrays) -> Arrays:
        """Adds the stem's gradients, from cotangents summed over the passes of a micro-batch."""
        stats, gradients, cotangents = devices.drop_axis((stats, gradients, cotangents))
        own = self.network.stem.backward(params, stats, batch["image"], cotangents)
        gradients |= {name: gradients[name] + gradient for name, gradient in own.items()}
        return devices.add_axis(gradients)

    def accumulators(self, params: Arrays, stats: Arrays) -> PassState:
        """The state before the first pass of a step, with statistics that have a device axis."""
        return PassState(stats, devices.add_axis(zeros_like(params)))

    def buffers(self, params: Arrays) -> PassState:
        """Zeroed accumulators and, with a stem, zeros in the shapes of logits and features."""
        logits, features = self.network.stem.zeros() if self.network.stem else (None, None)
        targets = devices.add_axis((logits, features))
        return self.accumulators(params, {})._replace(logits=targets[0], features=targets[1])
