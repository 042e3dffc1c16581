"""Geometry of a convolution's window: padding, extent, and the shifted images it reads."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

Pair = tuple[int, int]


def padded(x: jax.Array, window: Pair, strides: Pair, padding, dilation: Pair) -> jax.Array:
    """Images padded with zeros as the convolution pads them.

    Args:
      x: [N, H, W, C].
      window: height and width of the kernel.
      padding: "SAME", "VALID", or ((top, bottom), (left, right)) in pixels.
    """
    sides = sides_of(x.shape[1:3], window, strides, padding, dilation)
    return jnp.pad(x, [(0, 0), *sides, (0, 0)])


def sides_of(size: Pair, window: Pair, strides: Pair, padding, dilation: Pair):
    """The padding ((top, bottom), (left, right)) for images of a given size, in pixels."""
    if isinstance(padding, str):
        return jax.lax.padtype_to_pads(size, spans(window, dilation), strides, padding)
    return padding


def spans(window: Pair, dilation: Pair) -> list[int]:
    """Height and width in pixels of a dilated window."""
    return [d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True)]


def shifted(
    x: jax.Array, window: Pair, strides: Pair, dilation: Pair
) -> Iterator[tuple[Pair, jax.Array]]:
    """The pixels that each window position reads, one array of the output's size per position.

    Slices only, so that `x` may also be a NumPy array.
    """
    rows, columns = (
        (size - span) // stride + 1
        for size, span, stride in zip(x.shape[1:3], spans(window, dilation), strides, strict=True)
    )
    for i, j in itertools.product(*map(range, window)):
        top, left = i * dilation[0], j * dilation[1]
        bottom, right = top + (rows - 1) * strides[0] + 1, left + (columns - 1) * strides[1] + 1
        yield (i, j), x[:, top : bottom : strides[0], left : right : strides[1]]
