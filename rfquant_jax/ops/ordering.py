"""Values that wait for others: what a backward pass makes again instead of keeping it.

A compiler that finds the same expression in the forward and in the backward pass computes it once
and keeps the result; and it computes early what can be computed early. XLA's optimization barriers
(and with them `jax.checkpoint`) prevent that on accelerators, but on processors they are gone
before it looks.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp


def after(value: jax.Array, event: jax.Array) -> jax.Array:
    """The same numbers, bit for bit, but not before `event` is known.

    Args:
      value: of any shape and float type; best a small array that the later computation begins with.
      event: of any float type and shape, with at least one element.
    """
    return value * _one(event).astype(value.dtype)


def alone(make: Callable[[], jax.Array], event: jax.Array) -> jax.Array:
    """`make()`, on processors not before `event` and merged with nothing before or behind it.

    XLA merges a chain of operations into one loop, also where that repeats the chain for each of
    several readers, or in an order that suits the last of them alone. It leaves a branch be.

    Args:
      make: a function of what it has closed over, differentiated by nobody.
      event: as for `after`, or of an integer type.
    """
    if jax.default_backend() != "cpu":
        return make()
    return _made_where(_one(event) > 0, make)


def unless_skipped(wanted: jax.Array, make: Callable[[], jax.Array]) -> jax.Array:
    """`make()` where `wanted`, a bool[], holds, else zeros; on processors without making it."""
    if jax.default_backend() != "cpu":
        # A branch would wait there for the host to learn which one to take.
        return jnp.where(wanted, make(), 0)
    return _made_where(wanted, make)


def replaced(wanted: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """`new` where `wanted`, a bool[], holds, else `old`; on processors without copying the old one.

    If that is donated for the result, it stays where it is.
    """
    if jax.default_backend() != "cpu":
        return jnp.where(wanted, new, old)
    return jax.lax.cond(wanted, lambda new, old: new, lambda new, old: old, new, old)


def _made_where(wanted: jax.Array, make: Callable[[], jax.Array]) -> jax.Array:
    """A branch that makes it, else zeros."""
    made = jax.eval_shape(make)
    return jax.lax.cond(wanted, make, lambda: jnp.zeros(made.shape, made.dtype))


def _one(event: jax.Array) -> jax.Array:
    """1, whatever the event is, NaN included, which no compiler pass finds out; an integer[]."""
    first = event[(0,) * event.ndim]
    if not jnp.issubdtype(event.dtype, jnp.integer):
        first = jax.lax.bitcast_convert_type(first, f"uint{8 * event.dtype.itemsize}")
    return (first | 1) & 1
