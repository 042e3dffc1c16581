"""Ungrouped convolution for CPU; the algorithm depends on the shape.

Kernel gradients are matrix products, see `kernel_gradient`. Few channels use a strip of images,
see `batch_strip`. Measured with JAX 0.10.2; `python -m benchmarks.convolutions` compares it with
XLA.
"""

from __future__ import annotations

import functools

import jax

from rfquant_jax.ops.cpu import batch_strip, switch
from rfquant_jax.ops.cpu.kernel_gradient import kernel_gradient
from rfquant_jax.ops.ordering import alone
from rfquant_jax.ops.window import Pair, sides_of, spans


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def dense(
    x: jax.Array,
    kernel: jax.Array,
    strides: Pair,
    padding: str | tuple[Pair, Pair],
    dilation: Pair,
) -> jax.Array:
    """`x[N, H, W, C]` with `kernel[KH, KW, C, O]` to `y[N, H', W', O]`."""
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
    return _input_gradient(x, kernel, g, *options), to_kernel


dense.defvjp(_forward, _backward)


def _kernel_gradient(x, kernel, g, *options) -> jax.Array:
    if switch.is_on("kernel_gradient"):
        return alone(lambda: kernel_gradient(x, kernel, g, *options), g)
    return jax.linear_transpose(lambda kernel: _by_xla(x, kernel, *options), kernel)(g)[0]


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
