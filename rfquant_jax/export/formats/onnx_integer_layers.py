"""Convolutions from codes to codes in QDQ form; onnxruntime fuses each into one QLinearConv."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from rfquant_jax.export.formats.onnx import channels_first as array_first
from rfquant_jax.export.formats.onnx import convolution_options
from rfquant_jax.export.formats.onnx_codes import HOLE, Codes, limited, multiplied
from rfquant_jax.export.formats.onnx_layout import channels_first
from rfquant_jax.export.formats.onnx_nodes import Nodes
from rfquant_jax.export.ir.boundaries import Target
from rfquant_jax.export.ir.graph import Node
from rfquant_jax.export.ir.model import LayerData
from rfquant_jax.export.ir.requantize import Requantization, solve
from rfquant_jax.export.ir.requantize_likely import complete

# onnxruntime requantizes this many channels at a time, and the rest one by one.
LANES = 16
UNLIKELY = 2e-6  # a chance of wrong codes for which no better constants are tried
MOST_GAINS = 8  # factors of the input's codes to try besides the power of two


@dataclass(frozen=True)
class Split:
    """How the output channels of a layer are computed.

    Attributes:
      rows: channels computed by integer kernels.
      solution: constants of these channels, in order.
      rest: channels computed in float.
      chance: the chance that a code of the integer channels is wrong.
    """

    rows: np.ndarray
    solution: Requantization
    rest: np.ndarray
    chance: float = 0.0


def split(node: Node, data: LayerData, target: Target, most: float) -> Split:
    """Finds integer constants for as many channels as possible, with scaled codes if necessary.

    Args:
      most: the largest chance of a wrong code for which no channel is computed in float.
    """
    every, tried = np.arange(len(data.scale)), []
    for gain in (1, *_gains(data.input_bits)):
        tried.append(solve(data, target, gain=gain))
        complete(tried[-1], data, target)
        if tried[-1].wrong.mean() <= min(UNLIKELY, most):
            break
    likely = min(tried, key=lambda found: found.wrong.mean())
    if (chance := float(likely.wrong.mean())) <= most:
        return Split(every, likely, every[:0], chance)
    solution = max(tried, key=lambda found: int(found.solved.sum()))
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
    names = ("factor", "bias", "multiplier", "width", "wrong")
    return replace(solution, **{name: getattr(solution, name)[rows] for name in names})


def integer_layer(
    nodes: Nodes, node: Node, data: LayerData, codes: Codes, part: Split, target: Target, zero: int
) -> tuple[Codes, Codes]:
    """Appends the channels of a convolution that integer kernels compute.

    Args:
      zero: zero point of the result.

    Returns:
      the result, to be clipped to the target, and the codes that the convolution reads.
    """
    solution, groups = part.solution, node.attributes["groups"]
    codes = read = channels_first(nodes, multiplied(nodes, codes, solution.gain))
    if groups == 1:
        kernel, order = solution.kernel(codes.columns(data.kernel[part.rows])), part.rows
    else:
        codes, order = _grouped(nodes, node, codes, len(data.scale), part.rest)
        rows = np.maximum(order, 0)
        kernel, solution = solution.kernel(data.kernel)[rows], _of(solution, rows)
        groups = groups * len(order) // len(data.kernel)
    options, holes = convolution_options(node.attributes | {"groups": groups}), order == HOLE
    kernel = array_first(np.where(holes.reshape(-1, 1, 1, 1), 0, kernel).astype(np.int8))
    bias = np.where(holes, 0, solution.bias).astype(np.int32)
    multiplier = np.where(holes, 1, solution.multiplier).astype(np.float32)
    y = quantized_convolution(nodes, codes, kernel, bias, multiplier, zero, options)
    return limited(Codes(y, zero, len(order), order), target), read


def _grouped(
    nodes: Nodes, node: Node, codes: Codes, channels: int, rest: np.ndarray
) -> tuple[Codes, np.ndarray]:
    """The input of a grouped convolution, and the channels of its output.

    A depthwise convolution keeps the order and the holes of its input's channels.
    """
    depthwise = node.attributes["groups"] == channels and node.attributes["kernel"][3] == 1
    order = np.arange(channels)
    if codes.order is not None and depthwise:
        order = codes.order.copy()
    elif codes.order is not None:
        name = nodes.add("Gather", [codes.name, nodes.numbers(codes.places)], axis=1)
        codes = replace(codes, name=name)
    order[np.isin(order, rest)] = HOLE
    return codes, order


def quantized_convolution(
    nodes: Nodes,
    codes: Codes,
    kernel: np.ndarray,
    bias: np.ndarray,
    multiplier: np.ndarray,
    zero: int,
    options: Mapping,
) -> str:
    """Appends DequantizeLinear, Conv, QuantizeLinear: round((accumulator + bias) * multiplier).

    Args:
      kernel: int8[O, I, KH, KW].
      bias, multiplier: int32[O] and float32[O].
      zero: zero point of the result.
      options: attributes of Conv.
    """
    one, scale = nodes.constant(np.float32(1)), nodes.constant(multiplier)
    operands = [codes.values(nodes, one)]
    zeros = nodes.constant(np.zeros(len(bias), np.int8))
    held = [nodes.constant(values) for values in (np.ascontiguousarray(kernel), bias)]
    operands.append(nodes.add("DequantizeLinear", [held[0], scale, zeros], axis=0))
    operands.append(nodes.add("DequantizeLinear", [held[1], scale], axis=0))
    y = nodes.add("Conv", operands, **options)
    return nodes.add("QuantizeLinear", [y, one, nodes.constant(np.uint8(zero))])
