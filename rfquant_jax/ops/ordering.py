"""Data dependencies that control when XLA computes a value, for rematerialization on CPU.

XLA merges equal expressions of the forward and backward pass and keeps the result in memory, and it
may schedule a computation as early as its inputs allow. Optimization barriers, which
`jax.checkpoint` uses, prevent this on accelerators. On CPU, XLA removes the barriers before it
merges common expressions, so that a real data dependency is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rfquant_jax.runtime.backend import backend


def after(value: jax.Array, event: jax.Array) -> jax.Array:
    """`value`, bit for bit, with a data dependency on `event`.

    Args:
      value: of any shape and float dtype; preferably a small array that the delayed computation
        starts from.
      event: of any float dtype and shape, with at least one element.
    """
    return value * _one(event).astype(value.dtype)


def apart(value: jax.Array, event: jax.Array) -> jax.Array:
    """`value`, bit for bit, of which XLA computes again what it has from the original.

    On CPU, this takes a dependency on `event`, see `after`. On GPU, a barrier is enough, and a
    dependency would cost a kernel.
    """
    return after(value, event) if backend() == "cpu" else again(value)


def again(value: Any) -> Any:
    """A tree of arrays; on GPU, XLA computes from them again what it has from the original."""
    return value if backend() == "cpu" else jax.lax.optimization_barrier(value)


def alone(make: Callable[[], jax.Array], event: jax.Array) -> jax.Array:
    """`make()`; on CPU, computed after `event` and not fused with operations around it.

    XLA fuses a chain of operations into one loop, even if that repeats the chain for each of
    several consumers, or iterates in an order that suits only the last one. XLA does not fuse
    across `lax.cond`.

    Args:
      make: a function without arguments; it must not be differentiated.
      event: as for `after`; may also be of an integer dtype.
    """
    if backend() != "cpu":
        return make()
    return _made_where(_one(event) > 0, make)


def unless_skipped(wanted: jax.Array, make: Callable[[], jax.Array]) -> jax.Array:
    """`make()` if `wanted` (bool[]), else zeros; on CPU, `make` then does not run."""
    if backend() != "cpu":
        # On GPU, a conditional would wait for the host to read the predicate.
        return jnp.where(wanted, make(), 0)
    return _made_where(wanted, make)


def replaced(wanted: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """`new` if `wanted` (bool[]), else `old`; on CPU, without copying `old`.

    If the buffer of `old` is donated for the result, it is reused in place.
    """
    if backend() != "cpu":
        return jnp.where(wanted, new, old)
    return jax.lax.cond(wanted, lambda new, old: new, lambda new, old: old, new, old)


def _made_where(wanted: jax.Array, make: Callable[[], jax.Array]) -> jax.Array:
    """A conditional that runs `make` or returns zeros."""
    made = jax.eval_shape(make)
    return jax.lax.cond(wanted, make, lambda: jnp.zeros(made.shape, made.dtype))


def _one(event: jax.Array) -> jax.Array:
    """1 for any event, including NaN, as an integer[] that XLA cannot fold."""
    first = event[(0,) * event.ndim]
    if not jnp.issubdtype(event.dtype, jnp.integer):
        first = jax.lax.bitcast_convert_type(first, f"uint{8 * event.dtype.itemsize}")
    return (first | 1) & 1
