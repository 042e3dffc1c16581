"""Residual additions of codes for onnxruntime, which fuses them into QLinearAdd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from rfquant_jax.export.formats.onnx_codes import Codes, limited
from rfquant_jax.export.formats.onnx_integer_layers import quantized_convolution
from rfquant_jax.export.formats.onnx_layout import channels_first, channels_last
from rfquant_jax.export.formats.onnx_nodes import Nodes, padded, sliced
from rfquant_jax.export.ir.boundaries import Target
from rfquant_jax.export.ir.graph import Node
from rfquant_jax.export.ir.shapes import Shape


def straight(nodes: Nodes, codes: Codes) -> Codes:
    """The codes with the network's order of channels."""
    if codes.order is None:
        return codes
    places = codes.places
    name = nodes.once("Gather", [codes.name, nodes.numbers(places)], axis=1)
    return replace(codes, name=name, channels=len(places), order=None)


def add_codes(
    nodes: Nodes, operands: Sequence[Codes], multiplier: np.float32, target: Target, zero: int
) -> Codes:
    """Appends `round(multiplier * (a + b))` of two tensors of codes, to be clipped to the target.

    Args:
      zero: zero point of the result.
    """
    step = nodes.constant(multiplier)
    total = nodes.add("Add", [codes.values(nodes, step) for codes in operands])
    one = nodes.constant(np.float32(1))
    y = nodes.add("QuantizeLinear", [total, one, nodes.constant(np.uint8(zero))])
    return limited(replace(operands[0], name=y, zero=zero), target)


def moved(nodes: Nodes, moves: Sequence[Node], codes: Codes, shapes: Mapping[str, Shape]) -> Codes:
    """Appends slices and paddings of codes with channels last; padding adds the zero point."""
    if [node.op for node in moves] == ["slice", "pad"] and codes.last:
        slicing, padding = (node.attributes for node in moves)
        if _is_shortcut(slicing, padding, shapes[moves[0].inputs[0]]):
            return _shortcut(nodes, codes, slicing["strides"][:2], padding["padding"][2])
    for node in moves:
        attributes = node.attributes
        if node.op == "slice":
            parts = [list(attributes[name]) for name in ("starts", "limits", "strides")]
            x = sliced(nodes, codes.name, parts)
        else:
            x = padded(nodes, codes.name, attributes["padding"], np.uint8(codes.zero))
        codes = replace(codes, name=x, channels=shapes[node.output][-1])
    return codes


def _is_shortcut(slicing: Mapping, padding: Mapping, shape: Shape) -> bool:
    """Whether every n-th pixel of a whole image gets more channels."""
    whole = not any(slicing["starts"]) and tuple(slicing["limits"]) == tuple(shape)
    return whole and slicing["strides"][2] == 1 and not np.any(padding["padding"][:2])


def _shortcut(nodes: Nodes, codes: Codes, strides: Sequence[int], more: Sequence[int]) -> Codes:
    """Strided pixels and padded channels in one convolution, which is faster than two copies."""
    before, after = more
    kernel = np.eye(before + codes.channels + after, dtype=np.int8)
    kernel = kernel[:, before : before + codes.channels, None, None]
    options = {"kernel_shape": [1, 1], "strides": list(strides)}
    zeros, ones = np.zeros(len(kernel), np.int32), np.ones(len(kernel), np.float32)
    codes = channels_first(nodes, codes)
    y = quantized_convolution(nodes, codes, kernel, zeros, ones, codes.zero, options)
    return channels_last(nodes, replace(codes, name=y, channels=len(kernel)))
