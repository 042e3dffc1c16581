"""Residual additions as modules, so that conversion can find and quantize them."""

from __future__ import annotations

import jax
from flax import nnx


class ResidualAdd(nnx.Module):
    """`x + y` of two arrays of one shape.

    With `QuantConfig.residual_bits` = 8, a coupled network quantizes both inputs, see
    `quant.residual`. Otherwise the module stays as it is.

    Example:
      >>> add = rfq.ResidualAdd()  # an attribute of a block: self.add(x, self.conv(x))
      >>> bool((add(images, images) == 2 * images).all())
      True
    """

    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        return x + y
