"""The learned step size quantizer (Esser et al., ICLR 2020): its equations and its gradients.

    v = x / s,    q(x) = s * round(clip(v, Qn, Qp)),    round half to even

    dL/dx = g * inside,                         inside = (Qn <= v <= Qp)
    dL/ds = sum(g * where(inside, round(v) - v, clip(v, Qn, Qp)))
          = sum(g * where(inside, q - x, q)) / s

The bit-width is traced: it enters through the bounds, as data. v and its codes are float32 whatever
the type of x (a bfloat16 number divided by a float32 one is one): in bfloat16 they would round
to other codes near the middle between two.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

FULL_PRECISION = 32  # a bit-width from here on means: not quantized
MIN_STEP = 1e-8  # no step size ever falls below this


def bounds(bits: jax.Array | int, signed: bool) -> tuple[jax.Array, jax.Array]:
    """Smallest and largest code, float32[]: (-2^(b-1), 2^(b-1) - 1) signed, (0, 2^b - 1) unsigned.

    Args:
      bits: int32[], traced or not, at least 1 (`signed` needs 2 to be useful).
    """
    # Integer shifts are exact, a compiled exp2 need not be. Widths from 31 on only ever appear
    # where the result is thrown away, and must not overflow.
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
      scale_gradient: multiplies the step's gradient by 1 / sqrt(x.size * upper); x.size is that of
        the tensor one device sees.

    Returns:
      Values of x's shape and dtype on the quantizer's grid.
    """
    return (step * codes(x, step, lower, upper)).astype(x.dtype)


def codes(x: jax.Array, step: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """The whole numbers that `quantize` multiplies by the step, float32 of x's shape."""
    return jnp.round(jnp.clip(x / step, lower, upper))


def _quantize_forward(x, step, lower, upper, scale_gradient):
    # x is there already where the operation before kept it, and q(x) where the one behind does.
    return (step * codes(x, step, lower, upper)).astype(x.dtype), (x, step, lower, upper)


def _quantize_backward(scale_gradient, residuals, g):
    # Without v: a division is dear enough for compilers to keep its result from the forward pass
    # rather than divide again, which would be one more copy of every activation.
    x, step, lower, upper = residuals
    quantized = step * codes(x, step, lower, upper)
    inside = (x >= lower * step) & (x <= upper * step)
    d_step = jnp.sum(g * jnp.where(inside, quantized - x, quantized)) / step
    if scale_gradient:
        d_step = d_step * jax.lax.rsqrt(x.size * upper)
    return jnp.where(inside, g, 0), d_step, jnp.zeros_like(lower), jnp.zeros_like(upper)


quantize.defvjp(_quantize_forward, _quantize_backward)


def weight_step_sizes(weights: np.ndarray, candidates: Sequence[int]) -> np.ndarray:
    """Initial steps of a weight quantizer: max(|mu - 3 sigma|, |mu + 3 sigma|) / 2^(b-1).

    Args:
      weights: float32 of any shape with at least two elements; `sigma` is their unbiased deviation.

    Returns:
      float32[|B|], one for each bit-width of `candidates`.
    """
    mean, deviation = np.mean(weights, dtype=np.float64), np.std(weights, dtype=np.float64, ddof=1)
    reach = max(abs(mean - 3 * deviation), abs(mean + 3 * deviation))
    return np.asarray([max(reach / 2.0 ** (b - 1), MIN_STEP) for b in candidates], np.float32)


def activation_step_size(x: jax.Array, upper: jax.Array) -> jax.Array:
    """Initial step of an activation quantizer, float32[]: 2 * mean(|x|) / sqrt(Qp)."""
    return 2 * jnp.mean(jnp.abs(x.astype(jnp.float32))) / jnp.sqrt(upper)
