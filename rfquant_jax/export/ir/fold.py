"""Conversion of a coupled network at one configuration to an integer model.

A layer of the network computes, with weight and input steps s_w and s_a, codes q and the layer's
bias b, and its BatchNorm (mean m, variance v, scale g, shift h)

    y = s_w * s_a * sum(q_w * q_a) + b
    z = (y - m) / sqrt(v + epsilon) * g + h

which is `scale * sum(q_w * q_a) + bias` for each channel, with f = g / sqrt(v + epsilon):

    scale = s_w * s_a * f,        bias = (b - m) * f + h

A quantized residual addition with step s computes s * (q_1 + q_2): scale = s and bias = 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from flax import nnx

from rfquant_jax.export.ir.model import IntegerModel, LayerData
from rfquant_jax.export.trace.capture import Captured, Normalization, capture
from rfquant_jax.quant.batch_norm import SwitchableBatchNorm
from rfquant_jax.quant.layers import QuantizedLayer, Quantizer
from rfquant_jax.quant.lsq import FULL_PRECISION
from rfquant_jax.quant.residual import QuantResidualAdd


def fold(
    network: nnx.Module, input_shape: Sequence[int], about: Mapping[str, object] | None = None
) -> IntegerModel:
    """The integer model of a coupled network, with scales and biases in float64.

    Args:
      network: in evaluation mode, its configuration assigned and its statistics recalibrated.
      input_shape: (H, W, C) of the images.
      about: stored in the model.

    Raises:
      UserError: an integer model cannot express the network.
    """
    found = capture(network, input_shape)
    layers = {name: _layer(found, name, module) for name, module in found.modules.items()}
    model = IntegerModel(found.graph, layers, dict(found.constants), dict(about or {}))
    model.check()
    return model


def _layer(found: Captured, name: str, module: nnx.Module) -> LayerData:
    if isinstance(module, Normalization):
        factor, shift = affine(module)
        return LayerData(FULL_PRECISION, FULL_PRECISION, True, 1.0, None, factor, shift)
    if isinstance(module, QuantResidualAdd):
        bits, step, signed = _input(module)
        return LayerData(FULL_PRECISION, bits, signed, step, None, np.array([step]), np.zeros(1))
    weight_bits, weight_step, kernel = weight_codes(module)
    input_bits, input_step, signed = _input(module)
    factor, shift, spread = np.ones(len(kernel)), np.zeros(len(kernel)), None
    if (norm := found.norms.get(name)) is not None:
        factor, shift = affine(norm)
        spread = _spread(norm, factor, shift)
    if module.bias is not None:
        shift = shift + factor * _float64(module.bias)
    scale = weight_step * input_step * factor
    return LayerData(weight_bits, input_bits, signed, input_step, kernel, scale, shift, spread)


def _spread(norm: Normalization, factor: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Mean and standard deviation of a BatchNorm's outputs, float64[2, C]."""
    mean, variance = _moments(norm)
    return np.stack([mean * factor + shift, np.sqrt(variance) * np.abs(factor)])


def weight_codes(module: QuantizedLayer) -> tuple[int, float, np.ndarray]:
    """Bits, step size and codes int8[O, ...] of a layer's kernel; float32 if not quantized."""
    kernel = np.asarray(module.kernel[...])
    kernel = np.moveaxis(kernel, -1, 0)
    bits = int(module.bits[...][0])
    step = _step(module.weight_quantizer, bits)
    if step is None:
        return FULL_PRECISION, 1.0, np.ascontiguousarray(kernel)
    half = 1 << (bits - 1)
    # In float32, to round like the evaluation.
    codes = np.rint(np.clip(kernel / step, -half, half - 1))
    return bits, float(step), np.ascontiguousarray(codes.astype(np.int8))


def _input(module: QuantizedLayer | QuantResidualAdd) -> tuple[int, float, bool]:
    bits = int(module.bits[...][1])
    step = _step(module.input_quantizer, bits)
    if step is None:
        return FULL_PRECISION, 1.0, True
    return bits, float(step), bool(module.input_quantizer.signed)


def _step(quantizer: Quantizer | None, bits: int) -> np.float32 | None:
    """The active step size, or None if the operand is not quantized."""
    if quantizer is None or bits >= FULL_PRECISION:
        return None
    return np.float32(quantizer.step_size(bits))


def affine(norm: Normalization) -> tuple[np.ndarray, np.ndarray]:
    """Per-channel factor and shift of a BatchNorm in evaluation mode, float64[C]."""
    bank = norm.bank() if isinstance(norm, SwitchableBatchNorm) else ()
    mean, variance = _moments(norm)
    factor = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale is not None:
        factor = factor * _float64(norm.scale, bank)
    shift = -mean * factor
    if norm.bias is not None:
        shift = shift + _float64(norm.bias, bank)
    return factor, shift


def _moments(norm: Normalization) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of a BatchNorm's inputs, float64[C] each."""
    bank = norm.bank() if isinstance(norm, SwitchableBatchNorm) else ()
    return _float64(norm.mean, bank), _float64(norm.var, bank)


def _float64(held: nnx.Variable, index: tuple = ()) -> np.ndarray:
    return np.asarray(held[...][index], np.float64)
