"""Sums that share kernels on GPU.

XLA splits a long sum into two kernels: sums of parts, and the sum of those. The second kernel is
tiny, but takes as long to start as any other. XLA fuses sums over one array into one kernel if they
have the same parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from rfquant_jax.ops.ordering import again
from rfquant_jax.runtime.backend import backend

LONG = 2**14  # elements; up to these, XLA sums in one kernel


def sums(arrays: Sequence[jax.Array], axes: tuple[int, ...]) -> tuple[jax.Array, ...]:
    """`jnp.sum(x, axes)` of several arrays of one shape; on GPU a single reduction."""
    if backend() == "cpu":
        return tuple(jnp.sum(x, axes) for x in arrays)
    return _reduced(tuple(arrays), axes)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _reduced(arrays: tuple[jax.Array, ...], axes: tuple[int, ...]) -> tuple[jax.Array, ...]:
    zeros = tuple(jnp.zeros((), x.dtype) for x in arrays)
    return tuple(jax.lax.reduce(arrays, zeros, _added, axes))


@_reduced.defjvp
def _reduced_jvp(axes, primals, tangents):
    return _reduced(*primals, axes), tuple(jnp.sum(x, axes) for x in tangents[0])


def row_sums(x: jax.Array) -> jax.Array:
    """Terms that add up to the sum of `x`: on GPU one for each row of a batch of images.

    Returns:
      For long `x[N, H, W, C]`: `jnp.sum(x, (2, 3))`, to which XLA does not apply a sum that
      follows. Otherwise the sum.
    """
    axes = row_axes(x)
    return again(jnp.sum(x, axes)) if len(axes) < x.ndim else jnp.sum(x)


def row_axes(x: jax.Array) -> tuple[int, ...]:
    """The axes that `row_sums` sums over."""
    is_long = backend() != "cpu" and x.size > LONG
    return tuple(range(max(1, x.ndim - 2) if is_long else 0, x.ndim))


def total(parts: Iterable[jax.Array]) -> jax.Array:
    """The sum of all elements of float32 arrays of any shape, float32[]; on GPU a single one."""
    if backend() == "cpu":
        return sum(map(jnp.sum, parts), jnp.zeros(()))
    return jnp.sum(jnp.concatenate([jnp.zeros(1), *(part.reshape(-1) for part in parts)]))


def _added(first: Sequence[jax.Array], second: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    return tuple(a + b for a, b in zip(first, second, strict=True))
