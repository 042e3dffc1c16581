"""Terms of the coupled loss on weights; `passes.py` weights them and adds them up.

Step sizes and quantizer bounds receive no gradient. A weight exactly at a bound does.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rfquant_jax.quant import lsq


def clip_weights(kernel: jax.Array, step: jax.Array, bits: jax.Array) -> jax.Array:
    """`clip(w, s * Qn, s * Qp)`; its gradient is 1 on the bounds themselves, 0 beyond them."""
    lower, upper = (bound * step for bound in lsq.bounds(bits, signed=True))
    inside = (kernel >= lower) & (kernel <= upper)
    return jnp.where(inside, kernel, jax.lax.stop_gradient(jnp.clip(kernel, lower, upper)))


def oscillation(
    kernel: jax.Array, step: jax.Array, bits: jax.Array, smallest: jax.Array
) -> jax.Array:
    """The oscillation damping (Nagel et al., ICML 2022) of each output channel, float32[O].

    Their sum over a layer is its QE. Squared distance of each clipped weight to its quantized
    value, averaged over the other axes. Above the smallest allowed bit-width `m`, only weights
    whose code lies on the coarser grid of `m` bits contribute; all others contribute zero.

    Args:
      kernel: float32[..., O].
      step: float32[], the step size at `bits`.
      bits, smallest: int32[], the layer's weight bit-width and the smallest it may take now.
    """
    step = jax.lax.stop_gradient(step)
    clipped = clip_weights(kernel, step, bits)
    code = jax.lax.stop_gradient(jnp.round(jnp.clip(kernel / step, *lsq.bounds(bits, signed=True))))
    coarse = code / jnp.left_shift(1, bits - smallest).astype(code.dtype)
    lower, upper = lsq.bounds(smallest, signed=True)
    takes_part = (coarse == jnp.round(coarse)) & (coarse >= lower) & (coarse <= upper)
    error = jnp.where(takes_part, jnp.square(clipped - code * step), 0.0)
    damping = jnp.mean(error, axis=tuple(range(kernel.ndim - 1)))
    return jnp.where(bits < lsq.FULL_PRECISION, damping, 0.0)


def region(kernel: jax.Array, step: jax.Array, bits: jax.Array) -> jax.Array:
    """R of one layer, float32[]: half the squared clipped weights if it runs at 2 bits, else 0."""
    clipped = clip_weights(kernel, jax.lax.stop_gradient(step), bits)
    return jnp.where(bits == 2, 0.5 * jnp.sum(jnp.square(clipped)), 0.0)
