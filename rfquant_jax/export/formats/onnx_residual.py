"""Residual additions of codes for onnxruntime, which fuses them into QLinearAdd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from rfquant_jax.export.formats.onnx_codes import Codes, limited
from rfquant_jax.export.formats.onnx_layout import pixels
from rfquant_jax.export.formats.onnx_nodes import TO_FIRST, Nodes, padded, sliced
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
    return limited(nodes, replace(operands[0], name=y, zero=zero, top=None), target)


def moved(nodes: Nodes, node: Node, codes: Codes, shapes: Mapping[str, Shape]) -> Codes:
    """Appends a slice or a padding of flat codes; padding adds the zero point."""
    x, attributes, shape = codes.name, node.attributes, shapes[node.output]
    x = x if codes.shape is None else pixels(nodes, x, codes.shape)
    if node.op == "slice":
        parts = [list(attributes[name]) for name in ("starts", "limits", "strides")]
        x = sliced(nodes, x, parts)
    else:
        x = padded(nodes, x, attributes["padding"], np.uint8(codes.zero))
    if codes.shape is None:
        return replace(codes, name=x, channels=shape[-1])
    return replace(codes, name=x, channels=shape[-1], shape=tuple(shape))


def float_sum(nodes: Nodes, operands: Sequence[Codes], step: float, output: str) -> None:
    """Appends the sum in floats: an exact sum of integers, times the step size."""
    one, shape = nodes.constant(np.float32(1)), operands[0].shape
    total = nodes.add("Add", [codes.values(nodes, one) for codes in operands])
    step = nodes.constant(np.float32(step))
    if shape is None:
        nodes.add("Mul", [total, step], output)
        return
    y = pixels(nodes, nodes.add("Mul", [total, step]), shape)
    nodes.add("Transpose", [y], output, perm=TO_FIRST)
