"""Convolutions from codes to codes in QDQ form; onnxruntime fuses each into one QLinearConv."""

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

# onnxruntime requantizes this many channels at a time, and the rest one by one.
LANES = 16
MOST_GAINS = 8  # factors of the input's codes to try besides the power of two


@dataclass(frozen=True)
class Split:
    """How the output channels of a layer are computed.

    Attributes:
      rows: channels computed by integer kernels.
      solution: constants of these channels, in order.
      rest: channels computed in float.
    """

    rows: np.ndarray
    solution: Requantization
    rest: np.ndarray


def split(node: Node, data: LayerData, target: Target) -> Split:
    """Solves as many channels as possible, with scaled input codes if necessary."""
    every = np.arange(len(data.scale))
    solution = solve(data, target)
    for gain in _gains(data.input_bits):
        if solution.solved.all():
            break
        larger = solve(data, target, gain=gain)
        solution = max(larger, solution, key=lambda found: int(found.solved.sum()))
    if node.attributes["groups"] > 1:
        return Split(every, solution, every[~solution.solved])
    rest = _hardest(solution)
    rows = np.setdiff1d(every, rest)
    return Split(rows, _of(solution, rows), rest)


def _gains(bits: int) -> list[int]:
    """Factors of the input's codes that uint8 has room for, the power of two first.

    The input's range, shifted to start at zero, ends at 2^bits - 1.
    """
    most, power = 255 // ((1 << bits) - 1), 1 << (8 - bits)
    others = [gain for gain in range(most, max(most // 2, 1), -1) if gain != power]
    return [gain for gain in (power, *others[:MOST_GAINS]) if gain > 1]


def _hardest(solution: Requantization) -> np.ndarray:
    """Channels without a solution, plus others so that the number of integer channels is a multiple
    of the kernels' lanes."""
    channels, unsolved = len(solution.width), int((~solution.solved).sum())
    count = -(-unsolved // LANES) * LANES
    if channels % LANES or count > channels // 2:
        return np.arange(channels if unsolved else 0)
    return np.sort(np.argsort(solution.width, kind="stable")[:count])


def _of(solution: Requantization, rows: np.ndarray) -> Requantization:
    names = ("factor", "bias", "multiplier", "width")
    return replace(solution, **{name: getattr(solution, name)[rows] for name in names})


def integer_layer(
    nodes: Nodes, node: Node, data: LayerData, codes: Codes, part: Split, target: Target, zero: int
) -> Codes:
    """Appends the channels of a convolution that integer kernels compute.

    Args:
      zero: zero point of the result.
    """
    solution, groups = part.solution, node.attributes["groups"]
    if groups == 1:
        kernel, order = solution.kernel(codes.columns(data.kernel[part.rows])), part.rows
        x = codes.name
    else:
        x, order = _grouped(nodes, node, codes, solution)
        rows = np.maximum(order, 0)
        kernel, solution = solution.kernel(data.kernel)[rows], _of(solution, rows)
        groups = groups * len(order) // len(data.kernel)
    if solution.gain > 1:
        x = _larger(nodes, x, codes.zero, solution.gain)
    options = convolution_options(node.attributes | {"groups": groups})
    y = _convolution(
        nodes, x, codes.zero * solution.gain, kernel, solution, order == HOLE, options, zero
    )
    return Codes(clipped(nodes, y, target, zero), zero, len(order), order)


def _larger(nodes: Nodes, x: str, zero: int, gain: int) -> str:
    """Codes multiplied by a factor.

    onnxruntime fuses all three nodes into a table lookup, because of the activation, which changes
    nothing. Its BitShift takes eight times as long.
    """
    steps = [(np.float32(1), np.uint8(zero)), (np.float32(1 / gain), np.uint8(zero * gain))]
    first, second = ([nodes.constant(v) for v in step] for step in steps)
    x = nodes.add("LeakyRelu", [nodes.add("DequantizeLinear", [x, *first])], alpha=1.0)
    return nodes.add("QuantizeLinear", [x, *second])


def _grouped(
    nodes: Nodes, node: Node, codes: Codes, solution: Requantization
) -> tuple[str, np.ndarray]:
    """The input of a grouped convolution, and the channels of its output.

    A depthwise convolution keeps the order and the holes of its input's channels.
    """
    channels = len(solution.width)
    depthwise = node.attributes["groups"] == channels and node.attributes["kernel"][3] == 1
    x, order = codes.name, np.arange(channels)
    if codes.order is not None and depthwise:
        order = codes.order.copy()
    elif codes.order is not None:
        x = nodes.add("Gather", [x, nodes.numbers(codes.places)], axis=1)
    order[(order != HOLE) & ~solution.solved[order]] = HOLE
    return x, order


def _convolution(
    nodes: Nodes, x: str, zero: int, kernel, solution: Requantization, holes, options, out_zero: int
) -> str:
    """DequantizeLinear -> Conv -> QuantizeLinear; holes are zero."""
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
