"""Residual additions of codes for onnxruntime, which fuses them into QLinearAdd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rfquant_jax.export.formats.onnx_codes import Codes, clipped
from rfquant_jax.export.formats.onnx_nodes import Nodes, emit_moved
from rfquant_jax.export.ir.boundaries import Target
from rfquant_jax.export.ir.graph import Node
from rfquant_jax.export.ir.shapes import Shape


def straight(nodes: Nodes, codes: Codes) -> Codes:
    """The codes with the network's order of channels."""
    if codes.order is None:
        return codes
    places = codes.places
    name = nodes.add("Gather", [codes.name, nodes.numbers(places)], axis=1)
    return Codes(name, codes.zero, len(places))


def add_codes(
    nodes: Nodes, operands: Sequence[Codes], multiplier: np.float32, target: Target, zero: int
) -> Codes:
    """Appends `clip(round(multiplier * (a + b)))` of two tensors of codes.

    Args:
      zero: zero point of the result.
    """
    step = nodes.constant(multiplier)
    total = nodes.add("Add", [codes.values(nodes, step) for codes in operands])
    one = nodes.constant(np.float32(1))
    y = nodes.add("QuantizeLinear", [total, one, nodes.constant(np.uint8(zero))])
    return Codes(clipped(nodes, y, target, zero), zero, operands[0].channels)


def moved(nodes: Nodes, node: Node, codes: Codes, shapes: Mapping[str, Shape]) -> Codes:
    """Appends a slice or a padding of codes; padding adds the zero point."""
    name = emit_moved(nodes, node, codes.name, shapes[node.inputs[0]], np.uint8(codes.zero))
    return Codes(name, codes.zero, shapes[node.output][-1])


def float_sum(nodes: Nodes, operands: Sequence[Codes], step: float, output: str) -> None:
    """Appends the sum in floats: an exact sum of integers, times the step size."""
    one = nodes.constant(np.float32(1))
    total = nodes.add("Add", [codes.values(nodes, one) for codes in operands])
    nodes.add("Mul", [total, nodes.constant(np.float32(step))], output)
