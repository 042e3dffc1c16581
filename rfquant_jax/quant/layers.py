"""Quantized counterparts of `nnx.Conv` and `nnx.Linear`.

Each layer reads its bit-widths from a `Bits` variable, so that one compiled program runs all
configurations. `assign` writes a configuration into a network.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from rfquant_jax.nn.features import announce_input, mark_feature
from rfquant_jax.ops.convolution import codes_dtype, convolve
from rfquant_jax.ops.index_of import index_of
from rfquant_jax.quant import lsq
from rfquant_jax.quant.remat import Operation, on_quantized


class StepSize(nnx.Param):
    """Step sizes of one quantizer, float32[|B|]: one for each candidate bit-width."""


class Bits(nnx.Variable):
    """The (weight, activation) bit-widths a layer runs at, int32[2]."""


def slot(bits: jax.Array, candidates: tuple[int, ...]) -> jax.Array:
    """Index of a traced bit-width, which must be one of `candidates`, int32[]."""
    return index_of(bits, candidates)


def pick(rows: jax.Array, index: jax.Array) -> jax.Array:
    """`rows[index]` for a traced, valid index, without code that wraps negative ones.

    A single row is returned for any index: then it is already the active one, see `train.packing`.
    """
    if rows.shape[0] == 1:
        return rows[0]
    return jax.lax.dynamic_index_in_dim(rows, index, keepdims=False, allow_negative_indices=False)


class Quantizer(nnx.Module):
    """LSQ with a learned step size for each candidate bit-width.

    Attributes:
      signed: whether codes may be negative; static.
    """

    def __init__(self, candidates: tuple[int, ...], *, signed: bool, scale_gradient: bool):
        self.candidates = candidates
        self.signed = signed
        self.scale_gradient = scale_gradient
        self.step = StepSize(jnp.ones(len(candidates), jnp.float32))

    def step_size(self, bits: jax.Array) -> jax.Array:
        """The step size of this bit-width, float32[]."""
        return pick(self.step[...], slot(bits, self.candidates))

    def bounds(self, bits: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Smallest and largest code at this bit-width, float32[]."""
        return lsq.bounds(bits, self.signed)

    @property
    def fits_int8(self) -> bool:
        """Whether the codes of every candidate bit-width fit into int8."""
        return max(self.candidates) <= (8 if self.signed else 7)

    def codes(self, x: jax.Array, bits: jax.Array) -> jax.Array:
        """The codes of x at this bit-width, which must not be `FULL_PRECISION`, float32."""
        return lsq.codes(x, self.step_size(bits), *self.bounds(bits))

    def __call__(self, x: jax.Array, bits: jax.Array) -> jax.Array:
        return self.quantize(x, self.step_size(bits), bits)

    def quantize(self, x: jax.Array, step: jax.Array, bits: jax.Array) -> jax.Array:
        """x quantized to this bit-width with the given step size."""
        y = lsq.quantize(x, step, *self.bounds(bits), self.scale_gradient)
        if max(self.candidates) < lsq.FULL_PRECISION:
            return y
        return jnp.where(bits >= lsq.FULL_PRECISION, x, y)


class QuantizedLayer(nnx.Module):
    """Base class of quantized convolutions and dense layers.

    Attributes:
      name: the layer's dotted path in its network.
      index: the layer's row in a configuration, or None if its bit-widths are fixed.
      dtype: compute dtype, from the plain layer; None: dtype of the input.
      weight_quantizer, input_quantizer: a `Quantizer`, or None if the operand is not quantized.
    """

    def __init__(
        self,
        plain: nnx.Conv | nnx.Linear,
        *,
        name: str,
        index: int | None,
        bits: tuple[int, int],
        weight_quantizer: Quantizer | None,
        input_quantizer: Quantizer | None,
    ):
        self.name = name
        self.index = index
        self.dtype = plain.dtype
        self.kernel = nnx.Param(plain.kernel[...])
        self.bias = None if plain.bias is None else nnx.Param(plain.bias[...])
        self.bits = Bits(jnp.asarray(bits, jnp.int32))
        self.weight_quantizer = weight_quantizer
        self.input_quantizer = input_quantizer

    def received(self, x: jax.Array) -> jax.Array:
        """Casts the input to the compute dtype and announces it to the listener."""
        x = x if self.dtype is None else x.astype(self.dtype)
        announce_input(self, x)
        return x

    def apply(self, operation: Operation, x: jax.Array) -> jax.Array:
        """`operation(x, kernel)` on the quantized input and kernel, in the compute dtype."""
        weight_bits, input_bits = self.bits[...]
        kernel = self.kernel[...]
        x = self.received(x)
        if self.weight_quantizer is not None:
            kernel = self.weight_quantizer(kernel, weight_bits)
        kernel = kernel.astype(x.dtype)
        if self.input_quantizer is None:
            return operation(x, kernel)
        step = self.input_quantizer.step_size(input_bits)
        return on_quantized(self.input_quantizer.quantize, operation)(x, step, input_bits, kernel)

    def finish(self, y: jax.Array) -> jax.Array:
        """Adds the bias and marks the output for layers without Feature and BatchNorm."""
        if self.bias is not None:
            # In float32, because the gradient of the bias is a sum over all positions.
            y = (y + self.bias[...]).astype(y.dtype)
        mark_feature(self.name, y)
        return y


class QuantConv(QuantizedLayer):
    """A 2-D convolution with quantized input and kernel; `x[N, H, W, C] -> y[N, H', W', O]`.

    Attributes:
      codes_dtype: dtype for convolving integer codes, if the codes fit into int8: int8 or a float
        dtype. Sums are exact and have no gradient. None: convolve dequantized values. See
        `evaluate_on_codes`.
    """

    def __init__(self, plain: nnx.Conv, *, strides, padding, dilation, **options):
        super().__init__(plain, **options)
        self.strides, self.padding, self.dilation = strides, padding, dilation
        self.groups = plain.feature_group_count
        self.codes_dtype: DTypeLike | None = None

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.codes_dtype is not None and self._has_int8_codes:
            return self.finish(self._from_codes(x))
        return self.finish(self.apply(self._convolve, x))

    @property
    def _has_int8_codes(self) -> bool:
        quantizers = (self.weight_quantizer, self.input_quantizer)
        return self.groups == 1 and all(q is not None and q.fits_int8 for q in quantizers)

    def _from_codes(self, x: jax.Array) -> jax.Array:
        """The convolution of the codes, multiplied by both step sizes."""
        weight_bits, input_bits = self.bits[...]
        x, kernel = self.received(x), self.kernel[...]
        codes = self.input_quantizer.codes(x, input_bits).astype(self.codes_dtype)
        weights = self.weight_quantizer.codes(kernel, weight_bits).astype(self.codes_dtype)
        whole = jnp.int32 if self.codes_dtype == jnp.int8 else jnp.float32
        sums = self._convolve(codes, weights, accumulator=whole)
        scale = self.input_quantizer.step_size(input_bits)
        scale = scale * self.weight_quantizer.step_size(weight_bits)
        # int8 codes cannot represent NaN, and infinity would become the largest code.
        failed = ~jnp.all(jnp.isfinite(kernel))
        failed |= ~jnp.all(jnp.isfinite(x), axis=(1, 2, 3), keepdims=True)
        y = sums.astype(scale.dtype) * jnp.where(failed, jnp.nan, scale)
        return y.astype(x.dtype)

    def _convolve(self, x: jax.Array, kernel: jax.Array, **options) -> jax.Array:
        return convolve(
            x,
            kernel,
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            **options,
        )


class QuantDense(QuantizedLayer):
    """A dense layer with quantized input and kernel; `x[..., C] -> y[..., O]`."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.finish(self.apply(jnp.matmul, x))


def searched_layers(network: nnx.Module) -> list[QuantizedLayer]:
    """The layers whose bit-widths a configuration sets, in forward order."""
    layers = [
        m
        for _, m in nnx.iter_modules(network)
        if isinstance(m, QuantizedLayer) and m.index is not None
    ]
    return sorted(layers, key=lambda layer: layer.index)


def quantized_layers(network: nnx.Module) -> list[QuantizedLayer]:
    """All quantized layers, including those with fixed bit-widths, in no particular order."""
    return [m for _, m in nnx.iter_modules(network) if isinstance(m, QuantizedLayer)]


def evaluate_on_codes(network: nnx.Module) -> None:
    """Makes the convolutions of a network run on integer codes where that is faster."""
    for layer in quantized_layers(network):
        if isinstance(layer, QuantConv):
            layer.codes_dtype = codes_dtype(layer.kernel[...], layer.dilation)


def assign(network: nnx.Module, configuration: jax.Array) -> None:
    """Sets the bit-widths of the searched layers and their BatchNorms, int32[L, 2]."""
    for _, module in nnx.iter_modules(network):
        # By the variable's type: a module of the user may have an attribute `bits` of its own.
        bits = getattr(module, "bits", None)
        if isinstance(bits, Bits) and module.index is not None:
            bits.set_value(configuration[module.index])
