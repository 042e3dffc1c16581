"""Places in a network that others may listen to: a layer's feature, a quantizer's input.

A plain network knows nothing of quantization. It only marks, with an identity module, what it
passes on after a convolution (method: the "feature" that information distortion mitigation
compares). While nobody listens, marking costs nothing and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax
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
    """Hands `x` to the recorder, if there is one; a later mark of the same layer replaces it."""
    recorded = _features.get()
    if recorded is not None:
        recorded[layer] = x


@contextmanager
def recording_features() -> Iterator[dict[str, jax.Array]]:
    """Collects, by layer name, the features of the network called inside the `with` block."""
    recorded: dict[str, jax.Array] = {}
    token = _features.set(recorded)
    try:
        yield recorded
    finally:
        _features.reset(token)


def announce_input(layer: nnx.Module, x: jax.Array) -> None:
    """Shows a quantized layer and its unquantized input to the listener, if there is one."""
    listener = _input_listener.get()
    if listener is not None:
        listener(layer, x)


@contextmanager
def listening_to_inputs(listener: Callable[[nnx.Module, jax.Array], None]) -> Iterator[None]:
    """Calls `listener(layer, x)` for every quantized layer, in forward order, before it quantizes.

    The listener may change the layer's step size: the layer reads it afterwards.
    """
    token = _input_listener.set(listener)
    try:
        yield
    finally:
        _input_listener.reset(token)
