"""The kernel gradient of a convolution as matrix products, for CPU.

XLA computes it as a convolution whose window is the whole image, on copies of both operands with
images innermost. This takes 1.1 to 2.2 times as long as matrix products of the operands in their
own layout (layers of a ResNet, 2 cores, JAX 0.10.2; 0.9 times in one layer, 8 x 7 x 7 x 512;
`python -m benchmarks.convolutions`).
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from rfquant_jax.ops.window import Pair, shifted, sides_of


def kernel_gradient(
    x: jax.Array,
    kernel: jax.Array,
    g: jax.Array,
    strides: Pair,
    padding: str | tuple[Pair, Pair],
    dilation: Pair,
) -> jax.Array:
    """Sums of g times the shifted image over images and positions, for each window position.

    Maps `x[N, H, W, C]` and `g[N, H', W', O]` to [KH, KW, C, O]. Each row of the window is one
    matrix product over all its columns: one operand is concatenated with shifted copies of itself.
    Without a stride over columns, that operand is g, and all rows share the concatenation.
    """
    window = kernel.shape[:2]
    sides = sides_of(x.shape[1:3], window, strides, padding, dilation)
    by_row = _shifting_cotangents if strides[1] == 1 else _shifting_images
    return jnp.stack(list(by_row(x, g, window, strides, sides, dilation))).astype(kernel.dtype)


def _shifting_cotangents(x, g, window, strides, sides, dilation) -> Iterator[jax.Array]:
    (rows, columns), (of_rows, (left, _)) = window, sides
    width, reach = x.shape[2], dilation[1] * (columns - 1)
    # Column j of the window pairs column u of an image with column u + left - j * dilation of g.
    before, behind = max(reach - left, 0), max(width + left - g.shape[2], 0)
    wide = jnp.pad(g, [(0, 0), (0, 0), (before, behind), (0, 0)])
    starts = [before + left - j * dilation[1] for j in range(columns)]
    beside = jnp.concatenate([wide[:, :, start : start + width] for start in starts], axis=-1)
    x = jnp.pad(x, [(0, 0), of_rows, (0, 0), (0, 0)])
    for _, part in shifted(x, (rows, 1), strides, dilation):
        product = _product(part, beside).reshape(x.shape[-1], columns, g.shape[-1])
        yield product.transpose(1, 0, 2)


def _shifting_images(x, g, window, strides, sides, dilation) -> Iterator[jax.Array]:
    rows, columns = window
    x = jnp.pad(x, [(0, 0), *sides, (0, 0)])
    parts = [part for _, part in shifted(x, window, strides, dilation)]
    for row in range(rows):
        beside = jnp.concatenate(parts[row * columns : (row + 1) * columns], axis=-1)
        yield _product(beside, g).reshape(columns, x.shape[-1], g.shape[-1])


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Contracts all but the last dimensions, float32[channels of a, channels of b]."""
    a, b = (v.reshape(-1, v.shape[-1]) for v in (a, b))
    over_rows = ((0,), (0,)), ((), ())
    return jax.lax.dot_general(a, b, over_rows, preferred_element_type=jnp.float32)
