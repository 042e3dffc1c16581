"""Convolution across all channels for processors: the gradient of its kernel as matrix products.

XLA computes that gradient there as a convolution whose window is the whole image, from copies of
both operands with the images innermost. It takes 1.1 to 2.2 times as long as products of the
operands as they lie (the layers of a ResNet, 2 cores; of one, 8 x 7 x 7 x 512, 0.9 times).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from rfquant_jax.models.late import alone
from rfquant_jax.models.window import Pair, padded, shifted, sides_of, spans

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
    to_kernel = alone(lambda: _kernel_gradient(x, kernel, g, *options), g)
    if _is_small(x, kernel, *options):
        _, padding, dilation = options
        return _to_small_images(x, kernel, g, padding, dilation), to_kernel
    to_input = jax.linear_transpose(lambda x: _by_xla(x, kernel, *options), x)
    return to_input(g)[0], to_kernel


dense.defvjp(_forward, _backward)


def _is_small(x, kernel, strides, padding, dilation) -> bool:
    """Whether products of matrices are faster for the output and the gradient of the input, too.

    They are for the last layers of a ResNet, by a quarter and a half (8 x 7 x 7 x 512, 2 cores).
    XLA's convolutions make good use of the cores there only with large images; with few channels
    they take one core less, which something else may have.
    """
    sides = sides_of(x.shape[1:3], kernel.shape[:2], strides, padding, dilation)
    reach = [span - 1 for span in spans(kernel.shape[:2], dilation)]
    centred = all(0 <= low <= r for (low, _), r in zip(sides, reach, strict=True))
    same = all(low + high == r for (low, high), r in zip(sides, reach, strict=True))
    few = x.shape[1] * x.shape[2] <= SMALL and min(kernel.shape[2:]) > NARROW
    return few and centred and same and strides == (1, 1) and x.dtype == jnp.float32


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
    reach = [span - 1 for span in spans(window, dilation)]
    sides = sides_of(x.shape[1:3], window, strides, padding, dilation)
    # Seen from the images the window is turned about, and so is the padding.
    around = tuple((r - low, r - high) for (low, high), r in zip(sides, reach, strict=True))
    total = jnp.zeros((), x.dtype)
    for (i, j), part in shifted(
        padded(g, window, strides, around, dilation), window, strides, dilation
    ):
        of_place = kernel[window[0] - 1 - i, window[1] - 1 - j]
        rows = part.reshape(-1, g.shape[-1])
        total = total + jax.lax.dot_general(rows, of_place, (((1,), (1,)), ((), ())))
    return total.reshape(x.shape)


def _kernel_gradient(x, kernel, g, strides, padding, dilation) -> jax.Array:
    """The sum over images and places of g times the image shifted, for each place of the window.

    One product for each row of the window takes all of its columns together: one of both operands
    is put beside itself, shifted. If no columns of the image are skipped that can be g, and the
    rows share it.
    """
    window = kernel.shape[:2]
    sides = sides_of(x.shape[1:3], window, strides, padding, dilation)
    by_row = _shifting_slopes if strides[1] == 1 else _shifting_images
    return jnp.stack(list(by_row(x, g, window, strides, sides, dilation))).astype(kernel.dtype)


def _shifting_slopes(x, g, window, strides, sides, dilation) -> Iterator[jax.Array]:
    (rows, columns), (of_rows, (left, _)) = window, sides
    width, reach = x.shape[2], dilation[1] * (columns - 1)
    # Column u of an image meets column u + left - j * dilation of g in column j of the window.
    before, behind = max(reach - left, 0), max(width + left - g.shape[2], 0)
    wide = jnp.pad(g, [(0, 0), (0, 0), (before, behind), (0, 0)])
    starts = [before + left - j * dilation[1] for j in range(columns)]
    beside = jnp.concatenate([wide[:, :, start : start + width] for start in starts], axis=-1)
    x = jnp.pad(x, [(0, 0), of_rows, (0, 0), (0, 0)])
    for _, part in shifted(x, (rows, 1), strides, dilation):
        product = _product(part, beside).reshape(x.shape[-1], columns, g.shape[-1])
        yield product.transpose(1, 0, 2)


def _shifting_images(x, g, window, strides, sides, dilation) -> Iterator[jax.Array]:
    rows, columns = window
    x = jnp.pad(x, [(0, 0), *sides, (0, 0)])
    parts = [part for _, part in shifted(x, window, strides, dilation)]
    for row in range(rows):
        beside = jnp.concatenate(parts[row * columns : (row + 1) * columns], axis=-1)
        yield _product(beside, g).reshape(columns, x.shape[-1], g.shape[-1])


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Sums over all but the last dimensions, float32[channels of a, channels of b]."""
    a, b = (v.reshape(-1, v.shape[-1]) for v in (a, b))
    over_rows = ((0,), (0,)), ((), ())
    return jax.lax.dot_general(a, b, over_rows, preferred_element_type=jnp.float32)
