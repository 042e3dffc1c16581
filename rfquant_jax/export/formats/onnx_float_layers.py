"""Layers from codes to floats: exact accumulators, then scale and bias in float32."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from rfquant_jax.export.formats.onnx import channels_first, convolution_options
from rfquant_jax.export.formats.onnx_codes import Codes
from rfquant_jax.export.formats.onnx_nodes import TO_FIRST, TO_LAST, Nodes
from rfquant_jax.export.ir.graph import Node
from rfquant_jax.export.ir.model import LayerData
from rfquant_jax.export.ir.operations import CONVOLUTION, OPERATIONS
from rfquant_jax.export.ir.shapes import Shape


def float_layer(
    nodes: Nodes,
    node: Node,
    data: LayerData,
    codes: Codes,
    shape: Shape,
    rows: np.ndarray | None = None,
    output: str | None = None,
) -> str:
    """Appends a layer and returns the name of its float32 result.

    Args:
      shape: shape of the layer's input.
      rows: the output channels to compute; None: all.
      output: name of the result.
    """
    part = Part(data, np.arange(len(data.scale)) if rows is None else rows)
    if data.is_integer and is_product(node):
        return _product(nodes, node, part, codes, shape, output)
    return _convolution(nodes, node, part, codes, shape, rows, output)


class Part:
    """Some output channels of a layer: `kernel`, `scale` and `bias` as in `LayerData`, float32."""

    def __init__(self, data: LayerData, rows: np.ndarray):
        self.kernel = data.kernel[rows]
        self.scale = data.scale[rows].astype(np.float32)
        self.bias = data.bias[rows].astype(np.float32)


def is_product(node: Node) -> bool:
    """Whether the layer is one matrix product over the channels of every pixel."""
    if node.op != CONVOLUTION:
        return True
    attributes = node.attributes
    one_pixel = list(attributes["kernel"][1:3]) == [1, 1] and attributes["groups"] == 1
    return one_pixel and not np.any(attributes["padding"])


def _product(nodes: Nodes, node: Node, part: Part, codes: Codes, shape: Shape, output) -> str:
    """MatMulInteger, then scale and bias, which onnxruntime fuses into one kernel.

    The fusion needs the scale as a product of two scales that is not folded at load time. So one is
    made by a DequantizeLinear, which onnxruntime never folds; an Abs follows, because onnxruntime
    would copy the DequantizeLinear for every reader. Written as DequantizeLinear and MatMul, the
    product would be fused without the bias, whose addition takes half as long as the product.
    """
    x, image = codes.name, len(shape) == 3
    if node.op == CONVOLUTION:
        x = _every(nodes, x, node.attributes["strides"])
    if image:
        x = nodes.add("Transpose", [x], perm=TO_LAST)
    kernel = codes.columns(part.kernel.reshape(len(part.kernel), -1)).T
    kernel = nodes.constant(np.ascontiguousarray(kernel))
    y = nodes.add("MatMulInteger", [x, kernel, nodes.constant(np.uint8(codes.zero))])
    y = nodes.add("Cast", [y], to=TensorProto.FLOAT)
    one = nodes.once("DequantizeLinear", [nodes.constant(v) for v in (np.uint8(1), np.float32(1))])
    one = nodes.once("Abs", [one])
    y = nodes.add("Mul", [y, nodes.add("Mul", [one, nodes.constant(part.scale)])])
    y = nodes.add("Add", [y, nodes.constant(part.bias)], None if image else output)
    return nodes.add("Transpose", [y], output, perm=TO_FIRST) if image else y


def _every(nodes: Nodes, x: str, strides) -> str:
    """Strided rows and columns of [N, C, H, W]."""
    if list(strides) == [1, 1]:
        return x
    starts, ends = nodes.numbers([0, 0]), nodes.numbers([2**31 - 1] * 2)
    return nodes.add("Slice", [x, starts, ends, nodes.numbers([2, 3]), nodes.numbers(strides)])


def _convolution(nodes: Nodes, node: Node, part: Part, codes: Codes, shape: Shape, rows, output):
    """A float32 convolution of the codes, exact because all sums are integers."""
    attributes = node.attributes
    size = OPERATIONS[CONVOLUTION].shape([shape], attributes)[:2]
    if attributes["groups"] == 1:
        # With DequantizeLinear instead of Cast, onnxruntime would requantize the kernel.
        x, kernel = codes.floats(nodes), codes.columns(part.kernel)
    else:
        x, kernel, groups = _grouped(nodes, node, part, codes, rows)
        attributes = attributes | {"groups": groups}
    weights = nodes.constant(np.ascontiguousarray(channels_first(kernel)))
    if kernel.dtype != np.float32:
        weights = nodes.add("Cast", [weights], to=TensorProto.FLOAT)  # folded at load time
    y = nodes.add("Conv", [x, weights], **convolution_options(attributes))
    # A scale expanded to every pixel, at load time, keeps onnxruntime from folding it into the
    # kernel, which would round the sums.
    scale = nodes.constant(part.scale.reshape(-1, 1, 1))
    scale = nodes.add("Expand", [scale, nodes.numbers([len(part.scale), *size])])
    y = nodes.add("Mul", [y, scale])
    return nodes.add("Add", [y, nodes.constant(part.bias.reshape(-1, 1, 1))], output)


def _grouped(nodes: Nodes, node: Node, part: Part, codes: Codes, rows):
    """Input, kernel and groups of a grouped convolution; with `rows`, one group per row."""
    kernel, groups = part.kernel, node.attributes["groups"]
    if rows is None:
        return codes.pick(nodes), kernel, groups
    group, width = rows // (node.attributes["kernel"][0] // groups), kernel.shape[-1]
    read = group[:, None] * width + np.arange(width)
    return codes.pick(nodes, read.reshape(-1)), kernel, len(rows)


def unquantized_layer(nodes: Nodes, node: Node, data: LayerData, shape: Shape) -> None:
    """Appends a layer that reads floats; the scale is folded into the kernel at load time."""
    part = Part(data, np.arange(len(data.scale)))
    kernel = channels_first(part.kernel)
    if node.op != CONVOLUTION and len(shape) == 3:
        kernel = kernel[:, :, None, None]
    weights = nodes.constant(np.ascontiguousarray(kernel))
    if kernel.dtype != np.float32:
        weights = nodes.add("Cast", [weights], to=TensorProto.FLOAT)
    scale = part.scale.reshape(-1, *[1] * (kernel.ndim - 1))
    weights, bias = nodes.add("Mul", [weights, nodes.constant(scale)]), nodes.constant(part.bias)
    operands = [node.inputs[0], weights, bias]
    if node.op == CONVOLUTION:
        nodes.add("Conv", operands, node.output, **convolution_options(node.attributes))
    elif len(shape) == 3:
        nodes.add("Conv", operands, node.output)
    elif len(shape) == 1:
        nodes.add("Gemm", operands, node.output, transB=1)
    else:
        y = nodes.add("MatMul", [node.inputs[0], nodes.add("Transpose", [weights], perm=[1, 0])])
        nodes.add("Add", [y, bias], node.output)
