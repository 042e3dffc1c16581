"""Convolution of a batch's images side by side, as one wide image, for processors.

XLA shares a convolution out to the cores by columns and channels of its output alone. Where the
kernel is small, or has up to 64 channels, the columns of one image are one share: one core works.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.typing import DTypeLike

from rfquant_jax.ops.cpu.window import Pair, sides_of, spans
from rfquant_jax.ops.ordering import alone

FEWEST = 24  # channels of the output; XLA convolves fewer in another way, on all cores
FEW, SEVERAL = 64, 128  # up to them there is one share: of any kernel, of a small one
SMALL = 300_000  # bytes
LONG, MANY = 64, 2**25  # products for one number of the output, and in all, that outweigh copies


def pays(x, kernel, strides: Pair, padding, dilation: Pair) -> bool:
    """Whether `convolve_strip` can do it and takes less time.

    It takes 0.6 to 0.9 of the time, of float32 and of int8 (the layers of a ResNet, 2 cores).
    """
    channels, dtype = kernel.shape[-1], kernel.dtype
    most = SEVERAL if kernel.size * dtype.itemsize <= SMALL else FEW
    products = kernel.size * x.size // (x.shape[-1] * strides[0] * strides[1])
    worth = kernel.size // channels >= LONG and products >= MANY
    known = x.shape[0] > 1 and dtype in (jnp.float32, jnp.int8)
    of_rows, (left, _) = sides_of(x.shape[1:3], kernel.shape[:2], strides, padding, dilation)
    # With negative padding XLA reads what lies before the array.
    fits = min(of_rows) >= 0 and 0 <= left < spans(kernel.shape[:2], dilation)[1]
    return FEWEST <= channels <= most and worth and known and fits


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
    # Columns of zeros between two images serve both of them as padding.
    apart = width + max(left, right)
    apart += -apart % strides[1]

    def beside() -> jax.Array:
        # By rows of all columns and channels: longer pieces to copy.
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

    # By themselves: what makes the images, or reads the result, is slow in the order of the copy.
    return alone(stacked, y)


def _as_written(x: jax.Array) -> jax.Array:
    """In memory in the order of its dimensions.

    Else XLA lays out what comes before or after in the order that saves the copy here, and what
    joins that with the rest of a network takes 4 times as long.
    """
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))
