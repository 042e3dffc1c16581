"""Batch normalization with PyTorch's conventions, which the published results use.

Normalization uses the biased batch variance, the running variance is unbiased (divided by n - 1),
and `running = momentum * running + (1 - momentum) * batch`. `flax.nnx.BatchNorm` averages the
biased variance, hence this subclass. Statistics are float32 and per device.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from rfquant_jax.ops.ordering import apart
from rfquant_jax.ops.sums import sums
from rfquant_jax.runtime.backend import backend


def batch_moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of each channel, float32[C], of `x[..., C]`."""
    axes = tuple(range(x.ndim - 1))
    x = x.astype(jnp.float32)
    if backend() == "cpu":
        mean = jnp.mean(x, axes)
        return mean, jnp.mean(jnp.square(x - mean), axes)
    # Both in one reading, as E[(x - c)^2] - (E[x] - c)^2. c is a value of the channel, usually one
    # deviation or so from the mean, so that little cancels; not one at an edge, which sees padding.
    centre = jax.lax.stop_gradient(x[tuple(size // 2 for size in x.shape[:-1])])
    x = x - centre
    mean, square = (of / math.prod(x.shape[:-1]) for of in sums((x, jnp.square(x)), axes))
    variance = square - jnp.square(mean)
    return centre + mean, jnp.maximum(variance, 0)


def normalize(
    x: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    epsilon: float,
) -> jax.Array:
    """`(x - mean) / sqrt(variance + epsilon) * scale + bias` over the last axis, in x's dtype."""
    factor = jax.lax.rsqrt(variance + epsilon)
    if scale is not None:
        factor = factor * scale
    y = (x - mean) * factor
    if bias is not None:
        y = y + bias
    return y.astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize_batch(
    x: jax.Array, scale: jax.Array | None, bias: jax.Array | None, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`normalize` with the batch statistics of `x[..., C]`.

    The backward pass (Ioffe & Szegedy, ICML 2015, section 3) needs only x and its statistics:

        dL/dx = factor * (g - mean(g) - x' * mean(g * x')),    x' = (x - mean) / deviation

    Returns:
      y[..., C] in x's dtype, and the mean and biased variance of each channel, float32[C], without
      gradients.
    """
    mean, variance = batch_moments(x)
    return normalize(x, mean, variance, scale, bias, epsilon), mean, variance


def _normalize_batch_forward(x, scale, bias, epsilon):
    y, mean, variance = normalize_batch(x, scale, bias, epsilon)
    return (y, mean, variance), (x, mean, variance, scale, bias)


def _normalize_batch_backward(epsilon, residuals, cotangents):
    x, mean, variance, scale, bias = residuals
    g, axes = cotangents[0].astype(jnp.float32), tuple(range(x.ndim - 1))
    root = jax.lax.rsqrt(variance + epsilon)
    # Recomputed: otherwise XLA would keep x - mean of the forward pass for this.
    centred = (x.astype(jnp.float32) - apart(mean, cotangents[0])) * root
    d_bias, d_scale = sums((g, g * centred), axes)
    count = math.prod(x.shape[:-1])
    factor = root if scale is None else root * scale
    d_x = factor * (g - d_bias / count - centred * (d_scale / count))
    d_scale, d_bias = (d if p is not None else None for d, p in ((d_scale, scale), (d_bias, bias)))
    return d_x.astype(x.dtype), d_scale, d_bias


normalize_batch.defvjp(_normalize_batch_forward, _normalize_batch_backward)


def move_average(running: jax.Array, batch: jax.Array, momentum: float) -> jax.Array:
    """The running statistic after another batch."""
    return momentum * running + (1.0 - momentum) * batch


def unbiased(variance: jax.Array, x: jax.Array) -> jax.Array:
    """The unbiased variance of `x[..., C]` from the biased one (zero if n = 1)."""
    count = math.prod(x.shape[:-1])
    return variance * (count / max(count - 1, 1))


class BatchNorm(nnx.BatchNorm):
    """`nnx.BatchNorm` over the last axis with an unbiased running variance, momentum 0.9.

    Attributes:
      converted: whether it belongs to a coupled network. Its mode is then that of the attribute
        `use_running_average`, also if a call gives another one: recalibration sets the attribute
        for BatchNorms alone, in a network that is in evaluation mode.
    """

    converted = False

    def __init__(self, num_features: int, *, momentum: float = 0.9, rngs: nnx.Rngs, **options):
        super().__init__(num_features, momentum=momentum, rngs=rngs, **options)

    @classmethod
    def like(cls, plain: nnx.BatchNorm) -> BatchNorm:
        """A copy of `plain` for a coupled network: options, parameters and running statistics."""
        copy = cls(
            plain.num_features,
            momentum=plain.momentum,
            epsilon=plain.epsilon,
            use_bias=plain.bias is not None,
            use_scale=plain.scale is not None,
            rngs=nnx.Rngs(0),
        )
        copy.converted = True
        for name in ("scale", "bias", "mean", "var"):
            if getattr(plain, name) is not None:
                getattr(copy, name).set_value(getattr(plain, name)[...])
        return copy

    def __call__(self, x: jax.Array, use_running_average: bool | None = None) -> jax.Array:
        """Normalizes `x[..., C]`; with batch statistics, also updates the running ones."""
        running = use_running_average
        if running is None or self.converted:
            running = self.use_running_average
        scale = None if self.scale is None else self.scale[...]
        bias = None if self.bias is None else self.bias[...]
        if running:
            return normalize(x, self.mean[...], self.var[...], scale, bias, self.epsilon)
        y, mean, variance = normalize_batch(x, scale, bias, self.epsilon)
        self.mean.set_value(move_average(self.mean[...], mean, self.momentum))
        self.var.set_value(move_average(self.var[...], unbiased(variance, x), self.momentum))
        return y
