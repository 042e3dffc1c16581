"""Locates the first non-finite value of a failed step by rerunning its passes one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rfquant_jax.nn.functional import Arrays, dotted, replace_modules, zeros_like
from rfquant_jax.ops.finite import all_finite
from rfquant_jax.quant.batch_norm import SwitchableBatchNorm
from rfquant_jax.quant.layers import QuantizedLayer
from rfquant_jax.quant.residual import QuantResidualAdd
from rfquant_jax.runtime import devices
from rfquant_jax.train.passes import configuration_of, max_pass, random_pass
from rfquant_jax.train.state import PassState, StepInputs, StepReport, TrainState
from rfquant_jax.train.training_network import TrainingNetwork

IMAGES = "the images"
_LAYERS = (
    QuantizedLayer | QuantResidualAdd | SwitchableBatchNorm | nnx.Conv | nnx.Linear | nnx.BatchNorm
)

# record(place, values): called with the array at each place, such as "the kernel of conv1"
Record = Callable[[str, jax.Array], None]


class DispatchedStep(NamedTuple):
    """A step: enough to rerun its passes while the state is unchanged.

    Attributes:
      number: index of the step, counted from 1.
      parts, inputs, teachers: arguments of the step.
      metrics, report: results of the step.
    """

    number: int
    parts: Sequence[Arrays]
    inputs: StepInputs
    teachers: Sequence[jax.Array] | None
    metrics: list[Arrays]
    report: StepReport


class Finding(NamedTuple):
    """Result of a diagnosis.

    Attributes:
      number: index of the failing pass, counted from 0 over all micro-batches; None if no single
        pass failed.
      device: index of the device whose shard of the batch failed.
      configuration: int32[L, 2], that pass's configuration; None if no single pass failed.
      place: the first non-finite array, such as "the kernel of conv1"; None if the rerun was
        finite.
    """

    number: int | None
    device: int
    configuration: np.ndarray | None
    place: str | None


def diagnose(network: TrainingNetwork, state: TrainState, step: DispatchedStep) -> Finding:
    """Reruns the passes of a failed step on a single device until one fails again.

    Only passes with a non-finite loss are rerun; all passes if every loss was finite.

    Args:
      network: the network that the step trains.
      state: the state before the step, which is also the state after a failed step.
      step: the failed step.
    """
    repeat = _Repeater(network, state, step)
    losses = np.stack([of_pass["loss"] for of_pass in devices.fetch(step.metrics)])
    failed = ~np.isfinite(losses)
    suspects = np.argwhere(failed if failed.any() else np.ones_like(failed)).tolist()
    for number, device in suspects:
        if place := repeat(number, device):
            return Finding(number, device, repeat.configuration(number), place)
    if not failed.any():
        return Finding(None, 0, None, None)
    number, device = suspects[0]
    return Finding(number, device, repeat.configuration(number), None)


class _Repeater:
    """Reruns single passes of a step on one device; see `diagnose` for the arguments."""

    def __init__(self, network: TrainingNetwork, state: TrainState, step: DispatchedStep):
        self._network, self._step = network, step
        # Via the host: arrays sharded over a mesh cannot be mixed with single-device arrays.
        shared = jax.device_get(step.inputs._replace(key=()))
        self._inputs = shared._replace(key=step.inputs.key)
        self._params = jax.device_get(state.params)
        self._stats = devices.first_copy(state.stats)
        self._devices = len(step.metrics[0]["loss"])
        self._every = len(shared.configurations)
        self._places: list[str] = []
        self._observe = jax.jit(self._finite_places)
        self._max_pass = jax.jit(partial(max_pass, network))
        self._random_pass = jax.jit(partial(random_pass, network))

    def configuration(self, number: int) -> np.ndarray:
        """The configuration of a pass, int32[L, 2]."""
        return configuration_of(self._inputs, number)

    def __call__(self, number: int, device: int) -> str | None:
        """The first non-finite place of a pass: forward pass, then loss terms, then gradients.

        Args:
          number: index of the pass.
          device: index of the device whose shard of the batch is used.
        """
        micro, of_micro = divmod(number, self._every)
        batch = {n: self._part(v, device) for n, v in self._step.parts[micro].items()}
        inputs = self._inputs._replace(key=jax.random.fold_in(self._inputs.key, device))
        flags = self._observe(self._params, self._stats, batch["image"], inputs, number)
        if place := _first_false(zip(self._places, flags, strict=True)):
            return place
        teacher = None
        if self._step.teachers is not None:
            teacher = self._part(self._step.teachers[micro], device)
            if not np.all(np.isfinite(teacher)):
                return "the logits of the external teacher"
        state = PassState(self._stats, zeros_like(self._params))
        first = number - of_micro
        after, terms = self._max_pass(self._params, state, batch, inputs, first, teacher=teacher)
        if of_micro:
            state = state._replace(logits=after.logits, features=after.features)
            after, terms = self._random_pass(self._params, state, batch, inputs, number)
        named = {f"the loss term {n}": bool(np.isfinite(v)) for n, v in terms.items()}
        return _first_false(named.items()) or self._last_gradient(after.gradients)

    def _part(self, values: jax.Array, device: int) -> np.ndarray:
        """One device's shard of a sharded array."""
        return np.split(devices.fetch(values), self._devices)[device]

    def _last_gradient(self, gradients: Arrays) -> str | None:
        """The last parameter in forward order with a non-finite gradient.

        The backward pass runs from the output to the input, so it reaches this one first.
        """
        order = {place.rpartition(" of ")[2]: i for i, place in enumerate(self._places)}
        failed = [n for n, g in gradients.items() if not np.all(np.isfinite(g))]

        def depth(name: str) -> int:
            parts = name.split(".")
            return max(order.get(".".join(parts[:i]), -1) for i in range(len(parts) + 1))

        return f"the gradient of {max(failed, key=depth)}" if failed else None

    def _finite_places(self, params, stats, images, inputs, number):
        """Whether the values at each place of the forward pass are finite, in forward order."""
        self._places, flags = [], []

        def record(place, values):
            self._places.append(place)
            flags.append(all_finite(values))

        key = jax.random.fold_in(inputs.key, number)
        configuration = configuration_of(inputs, number)
        network = self._network.module(params, stats, configuration, key)
        layers = [(p, m) for p, m in nnx.iter_modules(network) if isinstance(m, _LAYERS)]
        replace_modules(network, {p: _Recorded(m, dotted(p), record) for p, m in layers})
        images = self._network.preprocess(images)
        record(IMAGES, images)
        record("the logits", network(images))
        return jnp.stack(flags)


class _Recorded(nnx.Module):
    """Wraps a layer and records its input, its operands and its output."""

    def __init__(self, inner: nnx.Module, name: str, record: Record):
        self.inner, self.name, self.record = inner, name, record

    def __call__(self, x: jax.Array, *args, **options) -> jax.Array:
        self.record(f"the input of {self.name}", x)
        for what, values in _operands(self.inner):
            self.record(f"the {what} of {self.name}", values)
        y = self.inner(x, *args, **options)
        self.record(f"the output of {self.name}", y)
        # A variance can overflow while the output stays finite: dividing by infinity gives zeros.
        if isinstance(self.inner, nnx.BatchNorm | SwitchableBatchNorm):
            for what in ("mean", "var"):
                self.record(f"the running {what} of {self.name}", getattr(self.inner, what)[...])
        return y


def _operands(layer: nnx.Module) -> Iterator[tuple[str, jax.Array]]:
    """The operands that a layer uses at its current bit-widths."""
    bank = layer.bank() if isinstance(layer, SwitchableBatchNorm) else ...
    for name in ("kernel", "bias", "scale"):
        if getattr(layer, name, None) is not None:
            yield name, getattr(layer, name)[...][bank]
    if isinstance(layer, QuantizedLayer):
        quantizers = layer.weight_quantizer, layer.input_quantizer
        for what, quantizer, bits in zip(
            ("weights", "input"), quantizers, layer.bits[...], strict=True
        ):
            if quantizer is not None:
                yield f"step size of the {what}", quantizer.step_size(bits)
    if isinstance(layer, QuantResidualAdd):
        yield "step size", layer.input_quantizer.step_size(layer.bits[...][1])


def _first_false(named) -> str | None:
    return next((name for name, finite in named if not finite), None)
