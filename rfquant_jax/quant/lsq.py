"""Learned step size quantization (LSQ; Esser et al., ICLR 2020): equations and gradients.

    v = x / s,    q(x) = s * round(clip(v, Qn, Qp)),    round half to even

    dL/dx = g * inside,                         inside = (Qn <= v <= Qp)
    dL/ds = sum(g * where(inside, round(v) - v, clip(v, Qn, Qp)))
          = sum(g * where(inside, q - x, q)) / s

The bit-width is data: it enters through the bounds. v and the codes are float32 for any dtype of x
(bfloat16 divided by float32 is float32), because values near a rounding boundary would get
different codes in bfloat16.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rfquant_jax.ops.sums import row_sums

FULL_PRECISION = 32  # bit-widths of at least this value mean "not quantized"
MIN_STEP = 1e-8  # lower bound of all step sizes


def bounds(bits: jax.Array | int, signed: bool) -> tuple[jax.Array, jax.Array]:
    """Smallest and largest code, float32[]: (-2^(b-1), 2^(b-1) - 1) signed, (0, 2^b - 1) unsigned.

    Args:
      bits: int32[], traced or not, at least 1 (2 if `signed`, to be useful).
    """
    # Integer shifts are exact; a compiled exp2 may not be. The result for widths from 31 on is
    # never used, but it must not overflow.
    levels = jnp.left_shift(1, jnp.minimum(jnp.asarray(bits, jnp.int32), 30)).astype(jnp.float32)
    if signed:
        return -levels / 2, levels / 2 - 1
    return jnp.zeros_like(levels), levels - 1


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def quantize(
    x: jax.Array,
    step: jax.Array,
    lower: jax.Array,
    upper: jax.Array,
    scale_gradient: bool = False,
) -> jax.Array:
    """Rounds `x` to the nearest multiple of `step` between `lower * step` and `upper * step`.

    Args:
      x: float32 or bfloat16 of any shape.
      step: float32[], positive.
      lower, upper: float32[], the smallest and largest code, see `bounds`.
      scale_gradient: multiplies the step's gradient by 1 / sqrt(x.size * upper), where x.size is
        the per-device size.

    Returns:
      Values of x's shape and dtype on the quantizer's grid.
    """
    return (step * codes(x, step, lower, upper)).astype(x.dtype)


def codes(x: jax.Array, step: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """The integers that `quantize` multiplies by the step, float32 of x's shape."""
    return jnp.round(jnp.clip(x / step, lower, upper))


def _quantize_forward(x, step, lower, upper, scale_gradient):
    # Residuals that neighbouring operations keep anyway: the previous one keeps x, the next one may
    # keep q(x). So they cost no extra memory.
    return (step * codes(x, step, lower, upper)).astype(x.dtype), (x, step, lower, upper)


def _quantize_backward(scale_gradient, residuals, g):
    # Does not use v = x / s: XLA would save the division as a residual, one more copy of every
    # activation.
    x, step, lower, upper = residuals
    quantized = step * codes(x, step, lower, upper)
    inside = (x >= lower * step) & (x <= upper * step)
    d_step = jnp.sum(row_sums(g * jnp.where(inside, quantized - x, quantized))) / step
    if scale_gradient:
        d_step = d_step * jax.lax.rsqrt(x.size * upper)
    return jnp.where(inside, g, 0), d_step, jnp.zeros_like(lower), jnp.zeros_like(upper)


quantize.defvjp(_quantize_forward, _quantize_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def quantized_sum(
    x: jax.Array,
    y: jax.Array,
    step: jax.Array,
    lower: jax.Array,
    upper: jax.Array,
    scale_gradient: bool = False,
) -> jax.Array:
    """`quantize(x) + quantize(y)` with one step size, computed as `step * (codes + codes)`.

    The sum of the codes is exact, so that the result has a single rounding, as in integer models.
    Gradients are those of the two quantizers. Arguments as for `quantize`.
    """
    total = codes(x, step, lower, upper) + codes(y, step, lower, upper)
    return (step * total).astype(x.dtype)


def _sum_forward(x, y, step, lower, upper, scale_gradient):
    total = quantized_sum(x, y, step, lower, upper, scale_gradient)
    return total, (x, y, step, lower, upper)


def _sum_backward(scale_gradient, residuals, g):
    x, y, *others = residuals
    d_x, of_x, d_lower, d_upper = _quantize_backward(scale_gradient, (x, *others), g)
    d_y, of_y, _, _ = _quantize_backward(scale_gradient, (y, *others), g)
    return d_x, d_y, of_x + of_y, d_lower, d_upper


quantized_sum.defvjp(_sum_forward, _sum_backward)


def weight_step_sizes(weights: np.ndarray, candidates: Sequence[int]) -> np.ndarray:
    """Initial step sizes of a weight quantizer: max(|mu - 3 sigma|, |mu + 3 sigma|) / 2^(b-1).

    Args:
      weights: float32 of any shape; `sigma` is their unbiased deviation, 0 for a single one. If
        all are zero, three deviations of their usual initialization, 1 / sqrt(fan-in), replace the
        reach: with a step near zero, the gradients of weights that leave zero would be clipped.

    Returns:
      float32[|B|], one for each bit-width of `candidates`.
    """
    mean = np.mean(weights, dtype=np.float64)
    deviation = np.std(weights, dtype=np.float64, ddof=1) if np.size(weights) > 1 else 0.0
    reach = max(abs(mean - 3 * deviation), abs(mean + 3 * deviation))
    if not np.any(weights):
        reach = 3 / math.sqrt(math.prod(np.shape(weights)[:-1]))
    return np.asarray([max(reach / 2.0 ** (b - 1), MIN_STEP) for b in candidates], np.float32)


def activation_step_size(x: jax.Array, upper: jax.Array) -> jax.Array:
    """Initial step size of an activation quantizer: 2 * mean(|x|) / sqrt(Qp), float32[]."""
    return 2 * jnp.mean(jnp.abs(x.astype(jnp.float32))) / jnp.sqrt(upper)
