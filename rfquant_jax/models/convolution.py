"""The one place where a convolution is computed, so that one function can choose how."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: tuple[int, int],
    padding: str | Sequence[tuple[int, int]],
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    accumulator: DTypeLike | None = None,
) -> jax.Array:
    """2-D convolution of `x[N, H, W, C]` with `kernel[KH, KW, C / groups, O]`.

    Args:
      padding: "SAME", "VALID", or ((top, bottom), (left, right)) in pixels.
      accumulator: dtype to sum in and to return, for operands that no gradient passes through.

    Returns:
      `y[N, H', W', O]` in the operands' dtype, or in `accumulator`.
    """
    if jax.default_backend() == "cpu":
        if groups == x.shape[-1] == kernel.shape[-1]:
            return _depthwise(x, kernel, strides, padding, dilation)
        if groups == 1 and kernel.shape[:2] == (1, 1) and _pads_nothing(padding):
            return _pointwise(x, kernel, strides, accumulator)
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=strides,
        padding=padding,
        rhs_dilation=dilation,
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=accumulator,
    )


def general_dilated(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    rhs_dilation: Sequence[int],
    feature_group_count: int,
    **others,
) -> jax.Array:
    """`convolve` as `nnx.Conv` calls it, for its argument `conv_general_dilated`."""
    del others  # what the networks here leave at its default
    return convolve(
        x,
        kernel,
        strides=tuple(strides),
        padding=padding,
        dilation=tuple(rhs_dilation),
        groups=feature_group_count,
    )


def _pads_nothing(padding: str | Sequence[tuple[int, int]]) -> bool:
    """Whether a kernel of one pixel needs no padding; "SAME" gives it none."""
    return isinstance(padding, str) or all(side == (0, 0) for side in map(tuple, padding))


def _pointwise(x, kernel, strides, accumulator) -> jax.Array:
    """A kernel of one pixel, as one matrix product.

    On processors XLA's convolution takes up to twice as long, with respect to the input up to 10
    times and to the kernel 2 to 12 times (the layers of a MobileNetV2, batch 8, 2 cores).
    """
    x = x[:, :: strides[0], :: strides[1]]
    rows = x.reshape(-1, x.shape[-1])
    y = jax.lax.dot(rows, kernel[0, 0], preferred_element_type=accumulator)
    return y.reshape(*x.shape[:-1], y.shape[-1])


def _depthwise(x, kernel, strides, padding, dilation) -> jax.Array:
    """One kernel a channel, as a sum of shifted images.

    XLA has no fast path for it on processors: by `conv_general_dilated` the layers of a MobileNetV2
    take 3 to 50 times as long, 2 to 8 times with their gradients (batch 8, 2 cores).
    """
    (height, width), window = x.shape[1:3], kernel.shape[:2]
    spans = [d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True)]
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads((height, width), spans, strides, padding)
    x = jnp.pad(x, [(0, 0), *padding, (0, 0)])
    rows, columns = (
        (size - span) // stride + 1
        for size, span, stride in zip(x.shape[1:3], spans, strides, strict=True)
    )
    total = None
    for i, j in itertools.product(*map(range, window)):
        top, left = i * dilation[0], j * dilation[1]
        bottom, right = top + (rows - 1) * strides[0] + 1, left + (columns - 1) * strides[1] + 1
        part = x[:, top : bottom : strides[0], left : right : strides[1]] * kernel[i, j, 0]
        total = part if total is None else total + part
    return total
