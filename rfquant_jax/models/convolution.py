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
    if groups == x.shape[-1] == kernel.shape[-1] and jax.default_backend() == "cpu":
        return _depthwise(x, kernel, strides, padding, dilation)
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
