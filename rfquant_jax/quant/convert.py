"""Converts a plain network of convolutions and BatchNorms into a coupled one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from flax import nnx

from rfquant_jax.errors import UserError
from rfquant_jax.nn.batch_norm import BatchNorm
from rfquant_jax.nn.features import Feature
from rfquant_jax.nn.functional import dotted, module_at, replace_modules
from rfquant_jax.nn.mode import following_mode
from rfquant_jax.quant import lsq
from rfquant_jax.quant.batch_norm import SwitchableBatchNorm
from rfquant_jax.quant.layer_table import Layer, layer_table
from rfquant_jax.quant.layers import (
    QuantConv,
    QuantDense,
    Quantizer,
    quantized_layers,
)
from rfquant_jax.quant.rules import Rules, apply_rule, at_least

CANDIDATES = (6, 5, 4, 3, 2)


def plan(
    network: nnx.Module,
    input_shape: Sequence[int],
    *,
    candidates: tuple[int, ...] = CANDIDATES,
    activation_candidates: tuple[int, ...] = (),
    depthwise_min_bits: int = 3,
    fixed_bits: int = 8,
    rules: Rules = (),
) -> tuple[Layer, ...]:
    """The layers of a plain network with the bit-widths that each is searched over.

    Fixed at `fixed_bits` are the first convolution (the first layer, if there is no convolution),
    which reads the image, and the last dense layer, the classifier. All other layers are searched,
    depthwise convolutions with at least `depthwise_min_bits`.

    Args:
      network, input_shape: see `layer_table`.
      candidates: bit-widths, largest first; `lsq.FULL_PRECISION` means not quantized.
      activation_candidates: those of input activations; empty: `candidates`.
      rules: (pattern, bit-widths) pairs for searched layers; the last match wins. The pattern is a
        shell pattern over layer names. Several bit-widths restrict the candidates; a single one
        fixes the layer's weights and activations. The full name of the classifier selects it, too.

    Returns:
      The layers in forward order, with `candidates`, `fixed_bits` and `quantize_input` set.

    Raises:
      UserError: a rule matches no searched layer, names a bit-width outside `candidates` or below
        `depthwise_min_bits` of a depthwise layer; or no layer is left to search.
    """
    layers = layer_table(network, input_shape).layers
    return with_candidates(
        network,
        layers,
        candidates=candidates,
        activation_candidates=activation_candidates,
        depthwise_min_bits=depthwise_min_bits,
        fixed_bits=fixed_bits,
        rules=rules,
    )


def with_candidates(
    network: nnx.Module,
    layers: Sequence[Layer],
    *,
    candidates: tuple[int, ...],
    activation_candidates: tuple[int, ...],
    depthwise_min_bits: int,
    fixed_bits: int,
    rules: Rules,
) -> tuple[Layer, ...]:
    """The layers of `layer_table` with their bit-widths; arguments and errors as for `plan`."""
    convolutions = [layer.name for layer in layers if layer.is_convolution]
    dense = [layer.name for layer in layers if not layer.is_convolution]
    first, classifier = (convolutions or dense)[:1], dense[-1:]
    decided = []
    for layer in layers:
        if layer.is_convolution:
            _padding(module_at(network, layer.path), layer.name)  # refuses unknown ones
        if layer.name in first + classifier:
            fixed = (fixed_bits, fixed_bits)
            layer = replace(layer, fixed_bits=fixed, quantize_input=layer.name not in first)
        else:
            given = {"candidates": candidates, "activation_candidates": activation_candidates}
            layer = replace(layer, **given)
        decided.append(layer)
    columns = candidates, activation_candidates
    for pattern, bits in rules:
        decided = apply_rule(decided, pattern, tuple(bits), columns, classifier)
    decided = [at_least(layer, depthwise_min_bits) for layer in decided]
    if not any(layer.candidates for layer in decided):
        raise UserError(
            "no layer is left to search: apart from the first convolution and the classifier, the "
            "bits of every layer are fixed (`rules`)"
        )
    return tuple(decided)


def quantize(
    network: nnx.Module,
    layers: Sequence[Layer],
    *,
    candidates: tuple[int, ...] = CANDIDATES,
    activation_candidates: tuple[int, ...] = (),
    scale_gradient: bool = False,
    initialise_steps: bool = True,
) -> nnx.Module:
    """A coupled copy of a plain network, with quantized layers and switchable BatchNorms.

    Weight step sizes are initialised from the weights. Activation step sizes need data, see
    `rfquant_jax.quant.calibrate`. The initial bit-widths are the largest ones.

    Args:
      network: the plain network; not modified.
      layers: result of `plan`.
      candidates, activation_candidates: those given to `plan`; one step size and one row or column
        of BatchNorm banks for each.
      initialise_steps: False: weight step sizes are 1, for traces of abstract weights.

    Raises:
      UserError: a Feature names an unknown layer, or a convolution has an unsupported padding.
    """
    coupled = following_mode(nnx.clone(network))
    _check_features(coupled, layers)
    searched = [layer.name for layer in layers if layer.candidates]
    switchable = {
        layer.batch_norm: (layer, searched.index(layer.name))
        for layer in layers
        if layer.candidates and layer.batch_norm is not None
    }
    columns = candidates, activation_candidates or candidates
    replaced: dict[tuple, nnx.Module] = {}
    for path, module in nnx.iter_modules(coupled):
        if isinstance(module, nnx.BatchNorm):
            replaced[path] = _batch_norm(module, switchable.get(path), columns)
    for layer in layers:
        index = searched.index(layer.name) if layer.candidates else None
        plain = module_at(coupled, layer.path)
        made = _quantized(plain, layer, index, columns, scale_gradient)
        if initialise_steps and made.weight_quantizer is not None:
            slots = made.weight_quantizer.candidates
            steps = lsq.weight_step_sizes(np.asarray(plain.kernel[...]), slots)
            made.weight_quantizer.step.set_value(jnp.asarray(steps))
        replaced[layer.path] = made
    replace_modules(coupled, replaced)
    return coupled


def layers_without_feature(network: nnx.Module, layers: Sequence[Layer]) -> list[str]:
    """Names of searched layers without a Feature; their BatchNorm output is used as the feature."""
    marked = {m.layer for _, m in nnx.iter_modules(network) if isinstance(m, Feature)}
    return [layer.name for layer in layers if layer.candidates and layer.name not in marked]


def set_signed(network: nnx.Module, signed: Sequence[str]) -> None:
    """Makes the input quantizers of exactly the named layers signed."""
    for layer in quantized_layers(network):
        if layer.input_quantizer is not None:
            layer.input_quantizer.signed = layer.name in signed


def signed_layers(network: nnx.Module) -> list[str]:
    """Names of the layers with signed input quantizers, sorted."""
    quantizers = {layer.name: layer.input_quantizer for layer in quantized_layers(network)}
    return sorted(name for name, q in quantizers.items() if q is not None and q.signed)


def _check_features(network: nnx.Module, layers: Sequence[Layer]) -> None:
    names = {layer.name for layer in layers}
    for path, module in nnx.iter_modules(network):
        if isinstance(module, Feature) and module.layer not in names:
            raise UserError(
                f"Feature {dotted(path)} marks layer {module.layer!r}, which does not exist"
            )


def _batch_norm(plain: nnx.BatchNorm, owner: tuple[Layer, int] | None, columns):
    if owner is None:
        return BatchNorm.like(plain)
    layer, index = owner
    weights, activations = columns
    return SwitchableBatchNorm(
        plain,
        layer=layer.name,
        index=index,
        candidates=weights,
        activation_candidates=activations,
        bits=_largest(layer),
    )


def _largest(layer: Layer) -> tuple[int, int]:
    """The largest bit-widths of a searched layer."""
    weights, activations = layer.columns
    return weights[0], activations[0]


def _quantized(plain, layer: Layer, index: int | None, columns, scale_gradient: bool):
    if layer.candidates:
        bits, (weight_slots, input_slots) = _largest(layer), columns
    else:
        bits = layer.fixed_bits
        weight_slots, input_slots = bits[:1], bits[1:] if layer.quantize_input else None
    common = {
        "name": layer.name,
        "index": index,
        "bits": bits,
        "weight_quantizer": _quantizer(weight_slots, signed=True, scale_gradient=scale_gradient),
        "input_quantizer": _quantizer(input_slots, signed=False, scale_gradient=scale_gradient),
    }
    if isinstance(plain, nnx.Linear):
        return QuantDense(plain, **common)
    strides, dilation = _pair(plain.strides), _pair(plain.kernel_dilation)
    padding = _padding(plain, layer.name)
    return QuantConv(plain, strides=strides, padding=padding, dilation=dilation, **common)


def _quantizer(slots: tuple[int, ...] | None, *, signed: bool, scale_gradient: bool):
    if slots is None or min(slots) >= lsq.FULL_PRECISION:
        return None
    return Quantizer(slots, signed=signed, scale_gradient=scale_gradient)


def _pair(value) -> tuple[int, int]:
    if value is None:
        return (1, 1)
    return (value, value) if isinstance(value, int) else tuple(value)


def _padding(plain: nnx.Conv, name: str):
    padding = plain.padding
    if isinstance(padding, str):
        if padding in ("SAME", "VALID"):
            return padding
        raise UserError(f"layer {name}: padding {padding!r} is not supported; SAME or VALID are")
    if isinstance(padding, int):
        return ((padding, padding), (padding, padding))
    return tuple(_pair(side) for side in padding)
