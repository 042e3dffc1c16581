"""Convolution of a batch as one wide strip of images side by side, for CPU.

XLA distributes a convolution over cores by output columns and channels only. If the kernel is small
or has at most 64 output channels, the columns of one image form a single work item, and one core
does all the work. In a strip, the columns of all images can be distributed. Measured with JAX
0.10.2; `python -m benchmarks.convolutions` compares it with XLA.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.typing import DTypeLike

from rfquant_jax.ops.cpu import switch
from rfquant_jax.ops.ordering import alone
from rfquant_jax.ops.window import Pair, sides_of, spans

FEWEST = 24  # output channels; with fewer, XLA uses another algorithm, on all cores
FEW, SEVERAL = 64, 128  # output channels up to which XLA uses one core: any kernel, small kernels
SMALL = 300_000  # bytes of a small kernel
LONG, MANY = 64, 2**25  # products per output element and in total, above which copies pay off


def pays(x, kernel, strides: Pair, padding, dilation: Pair) -> bool:
    """Whether `convolve_strip` supports this convolution and is faster.

    It takes 0.6 to 0.9 of the time, in float32 and in int8 (layers of a ResNet, 2 cores).
    """
    channels, dtype = kernel.shape[-1], kernel.dtype
    most = SEVERAL if kernel.size * dtype.itemsize <= SMALL else FEW
    products = kernel.size * x.size // (x.shape[-1] * strides[0] * strides[1])
    worth = kernel.size // channels >= LONG and products >= MANY
    known = x.shape[0] > 1 and dtype in (jnp.float32, jnp.int8)
    of_rows, (left, _) = sides_of(x.shape[1:3], kernel.shape[:2], strides, padding, dilation)
    # With negative padding XLA reads out of bounds.
    fits = min(of_rows) >= 0 and 0 <= left < spans(kernel.shape[:2], dilation)[1]
    suits = FEWEST <= channels <= most and worth and known and fits
    return suits and switch.is_on("batch_strip")


def convolve_strip(
    x: jax.Array,
    kernel: jax.Array,
    strides: Pair,
    padding: str | tuple[Pair, Pair],
    dilation: Pair,
    accumulator: DTypeLike | None = None,
) -> jax.Array:
    """`x[N, H, W, C]` with `kernel[KH, KW, C, O]` to `y[N, H', W', O]`, bit for bit XLA's."""
    count, height, width, depth = x.shape
    of_rows, (left, right) = sides_of(x.shape[1:3], kernel.shape[:2], strides, padding, dilation)
    reach = spans(kernel.shape[:2], dilation)[1] - 1
    columns = (width + left + right - reach - 1) // strides[1] + 1
    # The columns of zeros between two images are padding of both.
    apart = width + max(left, right)
    apart += -apart % strides[1]

    def beside() -> jax.Array:
        # Columns and channels are merged, so that each copied row is contiguous.
        rows = x.reshape(count, height, width * depth)
        rows = jnp.pad(rows, [(0, 0), (0, 0), (0, (apart - width) * depth)])
        return _as_written(rows.transpose(1, 0, 2)).reshape(1, height, count * apart, depth)

    y = jax.lax.conv_general_dilated(
        alone(beside, x),
        kernel,
        window_strides=strides,
        padding=(of_rows, (left, reach - left)),
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=accumulator,
    )

    def stacked() -> jax.Array:
        _, high, _, channels = y.shape
        rows = _as_written(y.reshape(high, count, -1))[:, :, : columns * channels]
        return _as_written(rows.transpose(1, 0, 2)).reshape(count, high, columns, channels)

    # Isolated: fused with the copy, the producer of x or the consumer of y would run in the copy's
    # order, which is slow.
    return alone(stacked, y)


def _as_written(x: jax.Array) -> jax.Array:
    """Forces a row-major layout.

    Otherwise XLA chooses the layout that saves the copy here for the neighbouring operations, and
    combining their results with the rest of a network takes 4 times as long.
    """
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))
