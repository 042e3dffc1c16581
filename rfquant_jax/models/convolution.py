"""The one place where a convolution is computed, so that one function can choose how."""

from __future__ import annotations

from collections.abc import Sequence

import jax


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: tuple[int, int],
    padding: str | Sequence[tuple[int, int]],
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> jax.Array:
    """2-D convolution of `x[N, H, W, C]` with `kernel[KH, KW, C / groups, O]`.

    Args:
      padding: "SAME", "VALID", or ((top, bottom), (left, right)) in pixels.

    Returns:
      `y[N, H', W', O]` in the operands' dtype.
    """
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=strides,
        padding=padding,
        rhs_dilation=dilation,
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
