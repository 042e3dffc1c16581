"""Max pooling whose backward pass is a gather.

The gradient that JAX derives for a max pool is a `select_and_scatter_add`. On GPU, XLA turns it
into four int32 arrays of indices and a scatter with atomic additions, and, if computations must be
deterministic, into a sort of all indices. Here the forward pass keeps the place of each maximum as
int8, and every element of the input gradient reads the few windows that contain the element.
"""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp

from rfquant_jax.ops.window import Pair, shifted


def max_pool(
    x: jax.Array, window: Pair, *, strides: Pair, padding: tuple[Pair, Pair] = ((0, 0), (0, 0))
) -> jax.Array:
    """Maxima of `x[N, H, W, C]` over windows; as `nnx.max_pool`, with another backward pass.

    Of several equal maxima, the first one of the window, by rows, receives the gradient. A NaN in a
    window makes its maximum NaN.

    Args:
      window: height and width, at most 127 pixels in all.
      padding: ((top, bottom), (left, right)) in pixels; padded pixels are never a maximum.

    Returns:
      `y[N, H', W', C]` in the dtype of x.
    """
    return _max_pool(x, tuple(window), tuple(strides), tuple(map(tuple, padding)), x.shape[1:3])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _max_pool(x, window, strides, padding, size):
    del size  # for the backward pass
    extents = (1, *window, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, *extents)


def _forward(x, window, strides, padding, size):
    """The maxima, and the place of each in its window, int8[N, H', W', C]."""
    del size
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=-jnp.inf)
    best, place = None, None
    for number, (_, value) in enumerate(shifted(padded, window, strides, (1, 1))):
        if best is None:
            best, place = value, jnp.zeros(value.shape, jnp.int8)
            continue
        larger = (value > best) | jnp.isnan(value)
        best = jnp.where(larger, value, best)
        place = jnp.where(larger, jnp.int8(number), place)
    return best, place


def _backward(window, strides, padding, size, place, g):
    # In float32 at least, because windows overlap: an element may receive several cotangents.
    wide, total = g.astype(jnp.promote_types(g.dtype, jnp.float32)), 0.0
    zero = jnp.zeros((), wide.dtype)
    for number, offsets in enumerate(itertools.product(*map(range, window))):
        firsts = [offset - before for offset, (before, _) in zip(offsets, padding, strict=True)]
        edges = map(_edges, firsts, g.shape[1:3], strides, size)
        own = jnp.where(place == number, wide, 0)
        total += jax.lax.pad(own, zero, ((0, 0, 0), *edges, (0, 0, 0)))
    return (total.astype(g.dtype),)


def _edges(first: int, count: int, stride: int, size: int) -> tuple[int, int, int]:
    """Padding, for `jax.lax.pad`, of `count` values at first, first + stride, ... of `size`."""
    return first, size - first - ((count - 1) * stride + 1), stride - 1


_max_pool.defvjp(_forward, _backward)
