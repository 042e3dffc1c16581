"""LiteRT operators: convolutions of any geometry, and operations between layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rfquant_jax.export.formats.tflite_graph import FlatGraph
from rfquant_jax.export.ir.graph import Node
from rfquant_jax.export.ir.shapes import Shape
from rfquant_jax.export.trace.values import UnsupportedNetwork

_BINARY = {
    "add": ("ADD", "AddOptions"),
    "subtract": ("SUB", "SubOptions"),
    "multiply": ("MUL", "MulOptions"),
    "divide": ("DIV", "DivOptions"),
    "maximum": ("MAXIMUM", "MaximumMinimumOptions"),
    "minimum": ("MINIMUM", "MaximumMinimumOptions"),
}
_UNARY = {
    "negate": ("NEG", "NegOptions"),
    "absolute": ("ABS", "AbsOptions"),
    "sigmoid": ("LOGISTIC", None),
    "tanh": ("TANH", None),
    "exp": ("EXP", "ExpOptions"),
    "log": ("LOG", None),
    "sqrt": ("SQRT", None),
    "sign": ("SIGN", "SignOptions"),
}
_COMPARISONS = {
    "greater": ("GREATER", "GreaterOptions"),
    "greater_equal": ("GREATER_EQUAL", "GreaterEqualOptions"),
    "equal": ("EQUAL", "EqualOptions"),
}
_ABSENT = ("erf",)  # LiteRT has no operator for it


def kernel_of(node: Node, kernel: np.ndarray) -> tuple[np.ndarray, int]:
    """The kernel [O, KH, KW, I / groups] in LiteRT's layout, and the axis of its outputs."""
    if not _depthwise(node):
        return kernel, 0
    return np.ascontiguousarray(np.moveaxis(kernel, 0, -1)[..., 0, :])[None], 3


def _depthwise(node: Node) -> bool:
    return node.attributes["kernel"][3] == 1 and node.attributes["groups"] > 1


def convolution(
    flat: FlatGraph,
    node: Node,
    operands: Sequence[int],
    shape: Shape,
    output: int,
    activation: str = "NONE",
    quantized: tuple | None = None,
) -> int:
    """Appends a convolution.

    Args:
      operands: input, kernel, bias.
      shape: shape of the input.
      quantized: scale and zero point of an input of codes.
    """
    attributes, x = node.attributes, operands[0]
    same = _is_same(attributes, shape)
    if not same and np.any(attributes["padding"]):
        x = _padded(flat, x, shape, attributes["padding"], quantized)
    (sh, sw), (dh, dw) = attributes["strides"], attributes["dilation"]
    options = {"strideH": sh, "strideW": sw, "dilationHFactor": dh, "dilationWFactor": dw}
    options |= {"padding": flat.padding(same)}
    options |= {"fusedActivationFunction": flat.activation(activation)}
    inputs = [x, *operands[1:]]
    if not _depthwise(node):
        return flat.add("CONV_2D", inputs, output, kind="Conv2DOptions", **options)
    options["depthMultiplier"] = attributes["kernel"][0] // attributes["groups"]
    return flat.add("DEPTHWISE_CONV_2D", inputs, output, kind="DepthwiseConv2DOptions", **options)


def _is_same(attributes: Mapping, shape: Shape) -> bool:
    """Whether this padding equals LiteRT's SAME."""
    for axis in (0, 1):
        span = attributes["dilation"][axis] * (attributes["kernel"][1 + axis] - 1) + 1
        stride, size = attributes["strides"][axis], shape[axis]
        total = max((-(-size // stride) - 1) * stride + span - size, 0)
        if tuple(attributes["padding"][axis]) != (total // 2, total - total // 2):
            return False
    return True


def _padded(flat: FlatGraph, x: int, shape: Shape, padding, quantized) -> int:
    """Pads an image with zeros, or with the zero point for codes."""
    (top, bottom), (left, right) = padding
    larger = [shape[0] + top + bottom, shape[1] + left + right, shape[2]]
    kind = () if quantized is None else ("int8", *quantized)
    y = flat.value(larger, *kind)
    pads = flat.constant(np.asarray([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32))
    return flat.add("PAD", [x, pads], y, kind="PadOptions")


def emit(flat: FlatGraph, node: Node, shapes: Mapping[str, Shape], values: dict[str, int]) -> None:
    """Appends one operation without parameters and registers its result.

    Raises:
      UnsupportedNetwork: LiteRT has no such operator.
    """
    if node.op in _ABSENT:
        raise UnsupportedNetwork(
            f"LiteRT has no operator for {node.op}; leave out the format tflite"
        )
    inputs = [
        values[x] if isinstance(x, str) else flat.constant(np.float32([x])) for x in node.inputs
    ]
    y = values[node.output] = flat.value(shapes[node.output])
    if node.op in _BINARY or node.op in _UNARY:
        op, kind = (_BINARY | _UNARY)[node.op]
        options = {} if kind is None else {"kind": kind}
        if op in ("ADD", "SUB", "MUL", "DIV"):
            options["fusedActivationFunction"] = flat.activation("NONE")
        flat.add(op, inputs, y, **options)
    elif node.op in _SEVERAL:
        _SEVERAL[node.op](flat, node, inputs, shapes, y)
    elif node.op == "concatenate":
        options = {"axis": node.attributes["axis"], "fusedActivationFunction": 0}
        flat.add("CONCATENATION", inputs, y, kind="ConcatenationOptions", **options)
    else:
        _OTHERS[node.op](flat, node, inputs[0], shapes[node.inputs[0]], y)


def _compare(flat: FlatGraph, node: Node, inputs, shapes: Mapping[str, Shape], y: int) -> None:
    """1 or 0 in float32, as in the graph; LiteRT compares to booleans."""
    op, kind = _COMPARISONS[node.op]
    holds = flat.value(shapes[node.output], "bool")
    flat.add(op, inputs, holds, kind=kind)
    flat.add("CAST", [holds], y, kind="CastOptions")


def _where(flat: FlatGraph, node: Node, inputs, shapes: Mapping[str, Shape], y: int) -> None:
    holds = flat.value(shapes[node.inputs[0]], "bool")
    flat.add("CAST", inputs[:1], holds, kind="CastOptions")
    flat.add("SELECT_V2", [holds, *inputs[1:]], y, kind="SelectV2Options")


def _around_one(flat: FlatGraph, node: Node, inputs, shapes: Mapping[str, Shape], y: int) -> None:
    """exp(x) - 1 or log(1 + x); LiteRT has no operator that is more exact near 0."""
    one, middle = flat.constant(np.float32([1])), flat.value(shapes[node.output])
    if node.op == "expm1":
        flat.add("EXP", inputs, middle, kind="ExpOptions")
        flat.add("SUB", [middle, one], y, kind="SubOptions", fusedActivationFunction=0)
    else:
        flat.add("ADD", [*inputs, one], middle, kind="AddOptions", fusedActivationFunction=0)
        flat.add("LOG", [middle], y)


def _matmul(flat: FlatGraph, node: Node, inputs, shapes: Mapping[str, Shape], y: int) -> None:
    flat.add("BATCH_MATMUL", inputs, y, kind="BatchMatMulOptions")


_SEVERAL: Mapping[str, Callable] = {
    "where": _where,
    "matmul": _matmul,
    "expm1": _around_one,
    "log1p": _around_one,
    **dict.fromkeys(_COMPARISONS, _compare),
}


def _transpose(flat: FlatGraph, node: Node, x: int, shape: Shape, y: int) -> None:
    order = flat.numbers([0, *node.attributes["axes"]])
    flat.add("TRANSPOSE", [x, order], y, kind="TransposeOptions")


def _take(flat: FlatGraph, node: Node, x: int, shape: Shape, y: int) -> None:
    indices = flat.numbers(node.attributes["indices"])
    flat.add("GATHER", [x, indices], y, kind="GatherOptions", axis=node.attributes["axis"])


def _reduce(flat: FlatGraph, node: Node, x: int, shape: Shape, y: int) -> None:
    op = "SUM" if node.op == "sum" else "REDUCE_MAX"
    axes = flat.numbers(sorted(node.attributes["axes"]))
    flat.add(op, [x, axes], y, kind="ReducerOptions", keepDims=False)


def _pool(flat: FlatGraph, node: Node, x: int, shape: Shape, y: int) -> None:
    """The mean over an explicitly padded image, because LiteRT's means ignore padding."""
    padding, (height, width) = node.attributes["padding"], node.attributes["window"]
    (sh, sw), out = node.attributes["strides"], y
    if np.any(padding):
        value = 0.0 if node.op == "sum_pool" else -np.finfo(np.float32).max
        x = _pad_with(flat, x, shape, [*padding, [0, 0]], value)
    options = {"padding": flat.padding(False), "strideH": sh, "strideW": sw}
    options |= {"filterHeight": height, "filterWidth": width, "fusedActivationFunction": 0}
    if node.op == "max_pool":
        flat.add("MAX_POOL_2D", [x], y, kind="Pool2DOptions", **options)
        return
    rows = [
        (s + sum(p) - w) // t + 1
        for s, p, w, t in zip(shape[:2], padding, (height, width), (sh, sw), strict=True)
    ]
    out = flat.value([*rows, shape[2]])
    flat.add("AVERAGE_POOL_2D", [x], out, kind="Pool2DOptions", **options)
    count = flat.constant(np.float32([math.prod((height, width))]))
    flat.add("MUL", [out, count], y, kind="MulOptions", fusedActivationFunction=0)


def _pad(flat: FlatGraph, node: Node, x: int, shape: Shape, y: int) -> None:
    padding, value = node.attributes["padding"], node.attributes["value"]
    _pad_with(flat, x, shape, padding, value, y)


def _pad_with(flat, x, shape, padding, value, y=None) -> int:
    if y is None:
        y = flat.value([size + sum(p) for size, p in zip(shape, padding, strict=True)])
    pads = flat.constant(np.asarray([[0, 0], *padding], np.int32))
    held = flat.constant(np.float32([value]))
    return flat.add("PADV2", [x, pads, held], y, kind="PadV2Options")


def _slice(flat: FlatGraph, node: Node, x: int, shape: Shape, y: int) -> None:
    parts = [[0, *node.attributes["starts"]], [0, *node.attributes["limits"]]]
    parts.append([1, *node.attributes["strides"]])
    inputs = [x, *(flat.numbers(part) for part in parts)]
    # Bit 0: take the whole batch axis.
    options = {"beginMask": 1, "endMask": 1}
    flat.add("STRIDED_SLICE", inputs, y, kind="StridedSliceOptions", **options)


def _reshape(flat: FlatGraph, node: Node, x: int, shape: Shape, y: int) -> None:
    target = [-1, *node.attributes["shape"]]
    flat.add(
        "RESHAPE", [x, flat.numbers(target)], y, kind="ReshapeOptions", newShape=np.int32(target)
    )


_OTHERS: Mapping[str, Callable] = {
    "sum": _reduce,
    "max": _reduce,
    "sum_pool": _pool,
    "max_pool": _pool,
    "pad": _pad,
    "slice": _slice,
    "reshape": _reshape,
    "transpose": _transpose,
    "take": _take,
}
