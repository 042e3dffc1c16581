"""Residual additions whose inputs are quantized with one shared step size.

    y = s * (c(x1) + c(x2)),    c(x) = round(clip(x / s, -2^(b-1), 2^(b-1) - 1))

Both inputs lie on one grid, so the sum is an addition of integers. The gradients are those of two
LSQ quantizers, and the gradient of the step size is their sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from rfquant_jax.errors import UserError, listed
from rfquant_jax.nn.features import announce_input
from rfquant_jax.nn.functional import dotted, replace_modules
from rfquant_jax.nn.residual import ResidualAdd
from rfquant_jax.quant import lsq
from rfquant_jax.quant.forward import traced
from rfquant_jax.quant.layers import Bits, Quantizer, quantized_layers


class QuantResidualAdd(nnx.Module):
    """A residual addition that quantizes both inputs; codes are signed.

    Attributes:
      name: its dotted path in the network.
      index: None, because a configuration does not change its bit-width.
      bits: int32[2], like that of a layer; the second entry is the bit-width of the inputs.
      input_quantizer: None: add without quantization.
    """

    def __init__(self, name: str, bits: int, *, scale_gradient: bool):
        self.name, self.index = name, None
        self.bits = Bits(jnp.asarray((lsq.FULL_PRECISION, bits), jnp.int32))
        self.input_quantizer: Quantizer | None = Quantizer(
            (bits,), signed=True, scale_gradient=scale_gradient
        )

    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        announce_input(self, x, y)
        if (quantizer := self.input_quantizer) is None:
            return x + y
        bits = self.bits[...][1]
        step, (lower, upper) = quantizer.step_size(bits), quantizer.bounds(bits)
        return lsq.quantized_sum(x, y, step, lower, upper, quantizer.scale_gradient)


class _Recorded(nnx.Module):
    """A residual addition that reports its calls."""

    def __init__(self, name: str, record: Callable[[str], None]):
        self.name, self.record = name, record

    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        if x.shape != y.shape:
            raise UserError(
                f"residual addition {self.name}: its inputs {x.shape} and {y.shape} must have one "
                "shape to be quantized (`residual_bits`)"
            )
        self.record(self.name)
        return x + y


def residual_additions(network: nnx.Module, input_shape: Sequence[int]) -> tuple[str, ...]:
    """Names of the residual additions of a plain network, in forward order.

    Args:
      network, input_shape: see `layer_table`.

    Raises:
      UserError: there is none, one is called twice, or its inputs differ in shape.
    """
    called: list[str] = []

    def record(network: nnx.Module, images: jax.Array) -> None:
        network.eval()
        found = _paths(network)
        replace_modules(network, {path: _Recorded(dotted(path), called.append) for path in found})
        network(images)

    traced(network, input_shape, record)
    if not called:
        raise UserError(
            "`residual_bits`: the network has no residual addition; one is quantized if it is an "
            "rfquant_jax.ResidualAdd module, called with both inputs"
        )
    if repeated := [name for name in dict.fromkeys(called) if called.count(name) > 1]:
        raise UserError(
            f"residual addition {listed(repeated)} is called more than once: each needs a "
            "ResidualAdd of its own (`residual_bits`)"
        )
    return tuple(called)


def quantize_residuals(
    network: nnx.Module, names: Sequence[str], bits: int, *, scale_gradient: bool
) -> None:
    """Replaces the named residual additions in place by quantized ones."""
    paths = {dotted(path): path for path in _paths(network)}
    made = {
        paths[name]: QuantResidualAdd(name, bits, scale_gradient=scale_gradient) for name in names
    }
    replace_modules(network, made)


def quantized_residuals(network: nnx.Module) -> list[QuantResidualAdd]:
    """The quantized residual additions of a network, in no particular order."""
    return [m for _, m in nnx.iter_modules(network) if isinstance(m, QuantResidualAdd)]


def remove_quantizers(network: nnx.Module) -> None:
    """Makes the layers and residual additions of a coupled network compute without quantization."""
    for layer in quantized_layers(network):
        layer.weight_quantizer = layer.input_quantizer = None
    for addition in quantized_residuals(network):
        addition.input_quantizer = None


def _paths(network: nnx.Module) -> list[tuple]:
    return [path for path, m in nnx.iter_modules(network) if isinstance(m, ResidualAdd)]
