"""Convolution across all channels for processors, in the way that is fastest for its shape.

The gradient of a kernel is made by matrix products, see `kernel_gradient`; small images of many
channels take them for everything, and few channels a strip of images, see `batch_strip`.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from rfquant_jax.ops.cpu import batch_strip
from rfquant_jax.ops.cpu.kernel_gradient import kernel_gradient
from rfquant_jax.ops.cpu.window import Pair, padded, shifted, sides_of, spans
from rfquant_jax.ops.ordering import alone

SMALL = 64  # pixels of an image
NARROW = 128  # channels


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def dense(
    x: jax.Array,
    kernel: jax.Array,
    strides: Pair,
    padding: str | tuple[Pair, Pair],
    dilation: Pair,
) -> jax.Array:
    """`x[N, H, W, C]` with `kernel[KH, KW, C, O]` to `y[N, H', W', O]`."""
    if _is_small(x, kernel, strides, padding, dilation):
        return _of_small_images(x, kernel, padding, dilation)
    return _convolved(x, kernel, strides, padding, dilation)


def _convolved(x, kernel, strides, padding, dilation) -> jax.Array:
    if batch_strip.pays(x, kernel, strides, padding, dilation):
        return batch_strip.convolve_strip(x, kernel, strides, padding, dilation)
    return _by_xla(x, kernel, strides, padding, dilation)


def _by_xla(x, kernel, strides, padding, dilation) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=strides,
        padding=padding,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _forward(x, kernel, *options):
    return dense(x, kernel, *options), (x, kernel)


def _backward(*given):
    *options, (x, kernel), g = given
    to_kernel = alone(lambda: kernel_gradient(x, kernel, g, *options), g)
    if _is_small(x, kernel, *options):
        _, padding, dilation = options
        return _to_small_images(x, kernel, g, padding, dilation), to_kernel
    return _input_gradient(x, kernel, g, *options), to_kernel


dense.defvjp(_forward, _backward)


def _is_small(x, kernel, strides, padding, dilation) -> bool:
    """Whether products of matrices are faster for the output and the gradient of the input, too.

    They are for the last layers of a ResNet, by a quarter and a half (8 x 7 x 7 x 512, 2 cores).
    """
    sides = sides_of(x.shape[1:3], kernel.shape[:2], strides, padding, dilation)
    reach = [span - 1 for span in spans(kernel.shape[:2], dilation)]
    centred = all(0 <= low <= r for (low, _), r in zip(sides, reach, strict=True))
    same = all(low + high == r for (low, high), r in zip(sides, reach, strict=True))
    few = x.shape[1] * x.shape[2] <= SMALL and min(kernel.shape[2:]) > NARROW
    return few and centred and same and strides == (1, 1) and x.dtype == jnp.float32


def _input_gradient(x, kernel, g, strides, padding, dilation) -> jax.Array:
    """A convolution with the kernel turned about and the channels exchanged."""
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    around = _turned_sides(x, kernel, padding, dilation)
    if strides == (1, 1) and batch_strip.pays(g, turned, strides, around, dilation):
        return batch_strip.convolve_strip(g, turned, strides, around, dilation)
    to_input = jax.linear_transpose(lambda x: _by_xla(x, kernel, strides, padding, dilation), x)
    return to_input(g)[0]


def _turned_sides(x, kernel, padding, dilation) -> tuple[Pair, Pair]:
    """The padding of the cotangents: seen from the images the window is turned about."""
    reach = [span - 1 for span in spans(kernel.shape[:2], dilation)]
    sides = sides_of(x.shape[1:3], kernel.shape[:2], (1, 1), padding, dilation)
    return tuple((r - low, r - high) for (low, high), r in zip(sides, reach, strict=True))


def _of_small_images(x, kernel, padding, dilation) -> jax.Array:
    """One product, of what each place of the window sees, side by side."""
    window, strides = kernel.shape[:2], (1, 1)
    seen = shifted(padded(x, window, strides, padding, dilation), window, strides, dilation)
    beside = jnp.concatenate([part for _, part in seen], axis=-1)
    y = beside.reshape(-1, beside.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


def _to_small_images(x, kernel, g, padding, dilation) -> jax.Array:
    """The gradient of the input, one product for each place of the window."""
    window, strides = kernel.shape[:2], (1, 1)
    around = _turned_sides(x, kernel, padding, dilation)
    total = jnp.zeros((), x.dtype)
    for (i, j), part in shifted(
        padded(g, window, strides, around, dilation), window, strides, dilation
    ):
        of_place = kernel[window[0] - 1 - i, window[1] - 1 - j]
        rows = part.reshape(-1, g.shape[-1])
        total = total + jax.lax.dot_general(rows, of_place, (((1,), (1,)), ((), ())))
    return total.reshape(x.shape)
