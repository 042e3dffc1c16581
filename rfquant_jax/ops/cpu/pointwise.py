"""1x1 convolution for CPU, as one matrix product.

XLA's convolution takes up to 2 times as long, its input gradient up to 10 times and its kernel
gradient 2 to 12 times (layers of a MobileNetV2, batch 8, 2 cores, JAX 0.10.2;
`python -m benchmarks.convolutions`).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax.typing import DTypeLike

from rfquant_jax.ops.window import Pair


def fits(kernel: jax.Array, padding: str | Sequence[tuple[int, int]]) -> bool:
    """Whether `pointwise` computes this convolution: a 1x1 window and no padding.

    "SAME" adds no padding to a 1x1 window.
    """
    pads_nothing = isinstance(padding, str) or all(side == (0, 0) for side in map(tuple, padding))
    return kernel.shape[:2] == (1, 1) and pads_nothing


def pointwise(
    x: jax.Array, kernel: jax.Array, strides: Pair, accumulator: DTypeLike | None = None
) -> jax.Array:
    """`x[N, H, W, C]` with `kernel[1, 1, C, O]` to `y[N, H', W', O]`.

    Args:
      accumulator: dtype of the sums and the result; None: that of the operands.
    """
    x = x[:, :: strides[0], :: strides[1]]
    rows = x.reshape(-1, x.shape[-1])
    y = jax.lax.dot(rows, kernel[0, 0], preferred_element_type=accumulator)
    return y.reshape(*x.shape[:-1], y.shape[-1])
