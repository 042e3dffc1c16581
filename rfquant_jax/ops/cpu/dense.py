"""Ungrouped convolution for CPU; the algorithm depends on the shape.

Kernel gradients are matrix products, see `kernel_gradient`. Small images with many channels use
matrix products for everything. Few channels use a strip of images, see `batch_strip`. Measured
with JAX 0.10.2; `python -m benchmarks.convolutions` compares it with XLA.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from rfquant_jax.ops.cpu import batch_strip, switch
from rfquant_jax.ops.cpu.kernel_gradient import kernel_gradient
from rfquant_jax.ops.cpu.window import Pair, padded, shifted, sides_of, spans
from rfquant_jax.ops.ordering import alone

SMALL = 64  # maximum number of pixels of a small image
NARROW = 128  # channels; small images with more use matrix products


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
    to_kernel = _kernel_gradient(x, kernel, g, *options)
    if _is_small(x, kernel, *options):
        _, padding, dilation = options
        return _to_small_images(x, kernel, g, padding, dilation), to_kernel
    return _input_gradient(x, kernel, g, *options), to_kernel


dense.defvjp(_forward, _backward)


def _kernel_gradient(x, kernel, g, *options) -> jax.Array:
    if switch.is_on("kernel_gradient"):
        return alone(lambda: kernel_gradient(x, kernel, g, *options), g)
    return jax.linear_transpose(lambda kernel: _by_xla(x, kernel, *options), kernel)(g)[0]


def _is_small(x, kernel, strides, padding, dilation) -> bool:
    """Whether matrix products are faster for the output and the input gradient as well.

    They are in the last layers of a ResNet, by a quarter and a half (8 x 7 x 7 x 512, 2 cores).
    """
    sides = sides_of(x.shape[1:3], kernel.shape[:2], strides, padding, dilation)
    reach = [span - 1 for span in spans(kernel.shape[:2], dilation)]
    centred = all(0 <= low <= r for (low, _), r in zip(sides, reach, strict=True))
    same = all(low + high == r for (low, high), r in zip(sides, reach, strict=True))
    few = x.shape[1] * x.shape[2] <= SMALL and min(kernel.shape[2:]) > NARROW
    suits = few and centred and same and strides == (1, 1) and x.dtype == jnp.float32
    return suits and switch.is_on("small_images")


def _input_gradient(x, kernel, g, strides, padding, dilation) -> jax.Array:
    """The input gradient: a convolution with the rotated, transposed kernel."""
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    around = _turned_sides(x, kernel, padding, dilation)
    if strides == (1, 1) and batch_strip.pays(g, turned, strides, around, dilation):
        return batch_strip.convolve_strip(g, turned, strides, around, dilation)
    to_input = jax.linear_transpose(lambda x: _by_xla(x, kernel, strides, padding, dilation), x)
    return to_input(g)[0]


def _turned_sides(x, kernel, padding, dilation) -> tuple[Pair, Pair]:
    """The padding of the cotangents in the convolution with the rotated kernel."""
    reach = [span - 1 for span in spans(kernel.shape[:2], dilation)]
    sides = sides_of(x.shape[1:3], kernel.shape[:2], (1, 1), padding, dilation)
    return tuple((r - low, r - high) for (low, high), r in zip(sides, reach, strict=True))


def _of_small_images(x, kernel, padding, dilation) -> jax.Array:
    """The output as one matrix product over concatenated window positions (im2col)."""
    window, strides = kernel.shape[:2], (1, 1)
    seen = shifted(padded(x, window, strides, padding, dilation), window, strides, dilation)
    beside = jnp.concatenate([part for _, part in seen], axis=-1)
    y = beside.reshape(-1, beside.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


def _to_small_images(x, kernel, g, padding, dilation) -> jax.Array:
    """The input gradient, as one matrix product for each window position."""
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
