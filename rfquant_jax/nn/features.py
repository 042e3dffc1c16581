"""Hooks for values inside a network: features of layers and inputs of quantizers.

Plain networks do not depend on quantization. They only mark the feature of each convolution, which
information distortion mitigation compares, with an identity module. Without an active recorder,
marking has no effect and no cost.

`nnx.Module.sow` is not used: it stores values in the module, so that each call outside of
`nnx.capture` adds state, the graph definition changes, and a compiled function that takes the
module is traced again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax
import jax.numpy as jnp
from flax import nnx

_features: ContextVar[dict[str, jax.Array] | None] = ContextVar("features", default=None)
_input_listener: ContextVar[Callable | None] = ContextVar("input_listener", default=None)


class Feature(nnx.Module):
    """Identity that marks its input as the feature of the layer named `layer`."""

    def __init__(self, layer: str):
        self.layer = layer

    def __call__(self, x: jax.Array) -> jax.Array:
        mark_feature(self.layer, x)
        return x


def mark_feature(layer: str, x: jax.Array) -> None:
    """Records `x` if a recorder is active; a later mark of the same layer replaces it."""
    recorded = _features.get()
    if recorded is not None:
        recorded[layer] = x


@contextmanager
def recording_features() -> Iterator[dict[str, jax.Array]]:
    """Collects the features of networks called inside the `with` block, by layer name."""
    recorded: dict[str, jax.Array] = {}
    token = _features.set(recorded)
    try:
        yield recorded
    finally:
        _features.reset(token)


def announce_input(layer: nnx.Module, *inputs: jax.Array) -> None:
    """Calls the active listener, if any, with a quantized layer and its unquantized input.

    Several inputs, which share a quantizer, are stacked behind the axis of the images.
    """
    listener = _input_listener.get()
    if listener is not None:
        listener(layer, inputs[0] if len(inputs) == 1 else jnp.stack(inputs, axis=1))


@contextmanager
def listening_to_inputs(listener: Callable[[nnx.Module, jax.Array], None]) -> Iterator[None]:
    """Calls `listener(layer, x)` for every quantized layer, in forward order, before it quantizes.

    The listener may change the layer's step size; the layer reads it afterwards.
    """
    token = _input_listener.set(listener)
    try:
        yield
    finally:
        _input_listener.reset(token)
