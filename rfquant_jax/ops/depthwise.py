"""Depthwise convolution as sums of shifted images.

XLA has no fast path for it on CPU: with `conv_general_dilated`, the layers of a MobileNetV2 take 3
to 50 times as long, and 2 to 8 times including gradients (batch 8, 2 cores, JAX 0.10.2;
`python -m benchmarks.convolutions`). On GPU, the gradients of a strided one would be convolutions
of full size over images with zeros between the pixels: forward and backward pass of the first one
of a MobileNetV2 (128 x 112 x 112 x 96, quantized input) move 3.3 GB with convolutions and 1.9 GB
here (compiled for an H100, not run).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from rfquant_jax.ops.ordering import alone
from rfquant_jax.ops.window import Pair, padded, shifted


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def depthwise(
    x: jax.Array,
    kernel: jax.Array,
    strides: Pair,
    padding: str | tuple[Pair, Pair],
    dilation: Pair,
) -> jax.Array:
    """One kernel per channel: `x[N, H, W, C]` with `kernel[KH, KW, 1, C]` to `y[N, H', W', C]`.

    Products are summed in float32, or in float64.
    """
    images = padded(x, kernel.shape[:2], strides, padding, dilation)
    # Isolated: XLA would fuse the quantization of the kernel into the loop over pixels and window
    # positions, and repeat it for each.
    return alone(lambda: _sum_shifted(images, kernel, strides, dilation), x)


def _sum_shifted(x, kernel, strides, dilation) -> jax.Array:
    window, wide = kernel.shape[:2], jnp.promote_types(x.dtype, jnp.float32)
    total = None
    for (i, j), part in shifted(x.astype(wide), window, strides, dilation):
        product = part * kernel[i, j, 0].astype(wide)
        total = product if total is None else total + product
    return total.astype(x.dtype)


def _forward(x, kernel, *options):
    return depthwise(x, kernel, *options), (x, kernel)


def _backward(*given):
    *options, (x, kernel), g = given
    strides, padding, dilation = options

    def run(x):
        images = padded(x, kernel.shape[:2], strides, padding, dilation)
        return _sum_shifted(images, kernel, strides, dilation)

    to_input = jax.linear_transpose(run, x)
    # Isolated: XLA would fuse the producer of g into the loops and repeat it for every window
    # position.
    d_x = alone(lambda: to_input(g)[0], g)
    return d_x, alone(lambda: _kernel_gradient(x, kernel, g, *options), g)


depthwise.defvjp(_forward, _backward)


def _kernel_gradient(x, kernel, g, strides, padding, dilation) -> jax.Array:
    """Sums of g times the shifted image over images and positions, for each window position.

    The products of several images are added before they are written, for all window positions in
    one loop over the rows. So both arrays are read once, not nine times for a 3x3 window, which is
    2 to 3 times as fast.
    """
    window, images = kernel.shape[:2], g.shape[0]
    # All products are summed in float32.
    g = g.astype(jnp.float32)
    x = padded(x.astype(jnp.float32), window, strides, padding, dilation)
    together = max(n for n in range(1, 9) if images % n == 0)
    parts = []
    for _, part in shifted(x, window, strides, dilation):
        pairs = zip(jnp.split(part, together), jnp.split(g, together), strict=True)
        parts.append(functools.reduce(jnp.add, (a * b for a, b in pairs)))
    sums = jnp.sum(jnp.stack(parts, axis=2), axis=(0, 1, 3))
    return sums.reshape(kernel.shape).astype(kernel.dtype)
