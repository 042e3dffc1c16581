"""The entry point for all convolutions; it selects the implementation.

On CPU, XLA is slow for many shapes, each for another reason; `cpu/` and `depthwise.py` have a
kernel for each case, and its docstring says why it is faster. All compute what `jax.lax` computes,
up to the order of sums (tests/ops/test_convolution.py). `python -m benchmarks.convolutions`
measures them.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rfquant_jax.ops.cpu import batch_strip, switch
from rfquant_jax.ops.cpu.dense import dense
from rfquant_jax.ops.cpu.pointwise import fits, pointwise
from rfquant_jax.ops.depthwise import depthwise
from rfquant_jax.runtime.backend import backend

FEWEST_INT8_CHANNELS = 32  # with fewer, int8 convolutions on CPU are slower than float32


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
      accumulator: dtype of the sums and the result, for operands without gradients.

    Returns:
      `y[N, H', W', O]` in the operands' dtype, or in `accumulator`.
    """
    options = tuple(strides), _static(padding), tuple(dilation)
    if accumulator is None and groups == x.shape[-1] == kernel.shape[-1]:
        strided = backend() != "cpu" and max(strides) > 1
        if strided or switch.is_on("depthwise"):
            return depthwise(x, kernel, *options)
    if groups == 1:
        if fits(kernel, padding) and switch.is_on("pointwise"):
            return pointwise(x, kernel, tuple(strides), accumulator)
        if accumulator is None and switch.is_on(*switch.DENSE):
            return dense(x, kernel, *options)
        if batch_strip.pays(x, kernel, *options):
            return batch_strip.convolve_strip(x, kernel, *options, accumulator)
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


def codes_dtype(kernel: jax.Array, dilation: tuple[int, int]) -> DTypeLike | None:
    """The dtype in which a convolution of integer codes is fastest; None: not on codes.

    On CPU, int8 codes take 0.6 to 0.9 of the time of float32 operands, but 7 times as long with 16
    channels and 1.2 to 2 times in matrix products; there the codes are float32, whose sums are
    exact below 2^24. On GPU, XLA compiles int8 codes to int8 convolutions of cuDNN, and bfloat16
    codes with float32 sums to float32 convolutions (`python -m benchmarks.gpu_compile`). cuDNN does
    not document int8 convolutions with dilation, so these do not use codes there.

    Args:
      kernel: [KH, KW, C, O].
    """
    if backend() != "cpu":
        return jnp.int8 if tuple(dilation) == (1, 1) else None
    height, width, channels, _ = kernel.shape
    return jnp.int8 if height * width > 1 and channels >= FEWEST_INT8_CHANNELS else jnp.float32


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
    del others  # options that the networks here leave at their defaults
    return convolve(
        x,
        kernel,
        strides=tuple(strides),
        padding=padding,
        dilation=tuple(rhs_dilation),
        groups=feature_group_count,
    )


def _static(padding: str | Sequence[tuple[int, int]]) -> str | tuple[tuple[int, int], ...]:
    """The padding in hashable form: custom_vjp functions take it as a static argument."""
    return padding if isinstance(padding, str) else tuple(map(tuple, padding))
