"""Convolutions from codes to codes: one QLinearConv of onnxruntime each, written with Q and DQ."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rfquant_jax.export.formats.onnx import channels_first, convolution_options
from rfquant_jax.export.formats.onnx_codes import HOLE, Codes, clipped
from rfquant_jax.export.formats.onnx_nodes import Nodes
from rfquant_jax.export.ir.boundaries import Target
from rfquant_jax.export.ir.graph import Node
from rfquant_jax.export.ir.model import LayerData
from rfquant_jax.export.ir.requantize import Requantization, solve

MOST_COPIES = 4  # of a layer's input; more has solved no channel
# onnxruntime requantizes so many channels at a time, and any others one by one.
LANES = 16


@dataclass(frozen=True)
class Part:
    """Output channels of a layer that are computed together.

    Attributes:
      rows: the channels.
      solution: of these channels, in their order.
    """

    rows: np.ndarray
    solution: Requantization


def split(node: Node, data: LayerData, target: Target) -> tuple[list[Part], np.ndarray]:
    """Parts that integer kernels compute, and the channels that none can compute exactly."""
    solution = solve(data, target)
    every = np.arange(len(data.scale))
    if solution.solved.all():
        return [Part(every, solution)], every[:0]
    if node.attributes["groups"] > 1:
        if not solution.solved.any():
            return [], every
        return [Part(every, solution)], every[~solution.solved]
    hard = _hardest(solution)
    again = _with_copies(data, target, hard)
    easy = np.setdiff1d(every, hard)
    parts = [Part(easy, _of(solution, easy))] if len(easy) else []
    if again.solved.any():
        parts.append(Part(hard[again.solved], _of(again, np.flatnonzero(again.solved))))
    return parts, hard[~again.solved]


def _hardest(solution: Requantization) -> np.ndarray:
    """The channels without a solution, and others that fill the lanes of the kernels."""
    channels, unsolved = len(solution.width), int((~solution.solved).sum())
    count = -(-unsolved // LANES) * LANES
    if channels % LANES or count > channels // 2:
        return np.arange(channels)
    return np.sort(np.argsort(solution.width, kind="stable")[:count])


def _with_copies(data: LayerData, target: Target, rows: np.ndarray) -> Requantization:
    """A solution for some channels with the fewest copies of the input that solve most of them."""
    part = replace(data, kernel=data.kernel[rows], scale=data.scale[rows], bias=data.bias[rows])
    found = [solve(part, target, copies=copies) for copies in range(2, MOST_COPIES + 1)]
    return max(found, key=lambda one: (int(one.solved.sum()), -one.copies))


def _of(solution: Requantization, rows: np.ndarray) -> Requantization:
    names = ("factor", "bias", "multiplier", "width")
    return replace(solution, **{name: getattr(solution, name)[rows] for name in names})


def integer_layer(
    nodes: Nodes, node: Node, data: LayerData, codes: Codes, part: Part, target: Target, zero: int
) -> Codes:
    """Appends a part of a convolution.

    Args:
      zero: what stands for code 0 in the result.
    """
    if node.attributes["groups"] == 1:
        kernel = part.solution.kernel(codes.columns(data.kernel[part.rows]))
        x, order, solution = codes.name, part.rows, part.solution
        if solution.copies > 1:
            x = nodes.add("Concat", [x] * solution.copies, axis=1)
        groups = 1
    else:
        x, order = _grouped(nodes, node, codes, part.solution)
        rows = np.maximum(order, 0)
        kernel, solution = part.solution.kernel(data.kernel)[rows], _of(part.solution, rows)
        groups = node.attributes["groups"] * len(order) // len(data.kernel)
    options = convolution_options(node.attributes | {"groups": groups})
    y = _convolution(nodes, x, codes.zero, kernel, solution, order == HOLE, options, zero)
    return Codes(clipped(nodes, y, target, zero), zero, order)


def _grouped(
    nodes: Nodes, node: Node, codes: Codes, solution: Requantization
) -> tuple[str, np.ndarray]:
    """The input of a convolution in groups, and the channels of its output.

    A depthwise convolution keeps the order, and the holes, of its input's channels.
    """
    channels = len(solution.width)
    depthwise = node.attributes["groups"] == channels and node.attributes["kernel"][3] == 1
    x, order = codes.name, np.arange(channels)
    if codes.order is not None and depthwise:
        order = codes.order.copy()
    elif codes.order is not None:
        x = codes.pick(nodes, None)
    order[(order != HOLE) & ~solution.solved[order]] = HOLE
    return x, order


def _convolution(
    nodes: Nodes, x: str, zero: int, kernel, solution: Requantization, holes, options, out_zero: int
) -> str:
    """DequantizeLinear -> Conv -> QuantizeLinear; channels that are holes are all zero."""
    kernel = np.where(holes.reshape(-1, 1, 1, 1), 0, kernel).astype(np.int8)
    bias = np.where(holes, 0, solution.bias).astype(np.int32)
    scale = nodes.constant(np.where(holes, 1, solution.multiplier).astype(np.float32))
    one = nodes.constant(np.float32(1))
    x = nodes.add("DequantizeLinear", [x, one, nodes.constant(np.uint8(zero))])
    operands = []
    for values in (np.ascontiguousarray(channels_first(kernel)), bias):
        zeros = nodes.constant(np.zeros(len(bias), values.dtype))
        operands.append(
            nodes.add("DequantizeLinear", [nodes.constant(values), scale, zeros], axis=0)
        )
    y = nodes.add("Conv", [x, *operands], **options)
    return nodes.add("QuantizeLinear", [y, one, nodes.constant(np.uint8(out_zero))])
