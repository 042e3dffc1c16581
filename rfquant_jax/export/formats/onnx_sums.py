"""Residual additions of codes with a result in floats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rfquant_jax.export.formats.onnx_codes import Codes
from rfquant_jax.export.formats.onnx_nodes import TO_FIRST, Nodes


def float_sum(nodes: Nodes, operands: Sequence[Codes], step: float, output: str) -> None:
    """Appends the sum in floats: an exact sum of integers, times the step size."""
    one, last = nodes.constant(np.float32(1)), operands[0].last
    total = nodes.add("Add", [codes.values(nodes, one) for codes in operands])
    step = nodes.constant(np.float32(step))
    y = nodes.add("Mul", [total, step], None if last else output)
    if last:
        nodes.add("Transpose", [y], output, perm=TO_FIRST)


def rectified_sum(nodes: Nodes, operands: Sequence[Codes], step: float, output: str) -> None:
    """Appends max(sum, 0) in floats; the sum of two 8-bit codes is at most 254."""
    one, zero = nodes.constant(np.float32(1)), nodes.constant(np.uint8(0))
    total = nodes.add("Add", [codes.values(nodes, one) for codes in operands])
    total = nodes.add("QuantizeLinear", [total, one, zero])
    last = operands[0].last
    step = nodes.constant(np.float32(step))
    y = nodes.add("DequantizeLinear", [total, step, zero], None if last else output)
    if last:
        nodes.add("Transpose", [y], output, perm=TO_FIRST)
