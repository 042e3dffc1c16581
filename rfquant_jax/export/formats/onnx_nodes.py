"""ONNX nodes for the operations between the layers of an integer model.

Images are [N, C, H, W], as ONNX's convolutions require; everything else is as in the graph.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from rfquant_jax.export.ir.graph import Node
from rfquant_jax.export.ir.shapes import Shape

_IMAGE_AXES = {1: 2, 2: 3, 3: 1}  # from [N, H, W, C] to [N, C, H, W]
TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]  # position of the channel axis

_PLAIN = {
    "add": "Add",
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "Div",
    "maximum": "Max",
    "minimum": "Min",
    "negate": "Neg",
    "absolute": "Abs",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "sign": "Sign",
    "erf": "Erf",
}
_COMPARISONS = {"greater": "Greater", "greater_equal": "GreaterOrEqual", "equal": "Equal"}


# Operators that compute a layer, and values of attributes that need not be stored.
_MAIN = ("Conv", "MatMul", "MatMulInteger", "Gemm")
_DEFAULTS = {"strides": [1, 1], "dilations": [1, 1], "pads": [0] * 4, "group": 1}


class Nodes:
    """Collects the nodes and initializers of an ONNX graph.

    Attributes:
      opset: the version of ONNX's operators.
      brief: for small files: names are short, only the main node of a layer has the layer's name,
        and attributes with their default value are left out.
      scope: prefix of the names of new nodes.
      constants: constant arrays of the integer model's graph by name, stored when used.
    """

    def __init__(self, opset: int, *, brief: bool = False):
        self.opset, self.brief, self.scope = opset, brief, ""
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self._known: dict[tuple, str] = {}
        self._made: dict[tuple, str] = {}

    def add(self, op: str, inputs: Sequence[str], output: str | None = None, **attributes) -> str:
        """Appends a node, mostly named after its output, and returns the output's name."""
        number = len(self.nodes)
        output = output or (f"n{number}" if self.brief else f"{self.scope}{op}_{number}")
        names = [self.constant(self.constants[n]) if n in self.constants else n for n in inputs]
        name = output
        if self.brief:
            name = f"{self.scope}{number}" if self.scope and op in _MAIN else output
            attributes = {k: v for k, v in attributes.items() if _DEFAULTS.get(k) != _plain(v)}
        self.nodes.append(helper.make_node(op, names, [output], name=name, **attributes))
        return output

    def once(self, op: str, inputs: Sequence[str], **attributes) -> str:
        """Appends a node unless there is an equal one from this method; returns its output."""
        key = (op, *inputs, *(f"{name}={value}" for name, value in attributes.items()))
        if key not in self._made:
            self._made[key] = self.add(op, inputs, **attributes)
        return self._made[key]

    def constant(self, values: np.ndarray, name: str = "") -> str:
        """Stores an array, deduplicated, and returns its name."""
        values = np.asarray(values)
        key = (values.tobytes(), values.shape, values.dtype.name)
        if key not in self._known:
            kind = "c" if self.brief else "constant_"
            self._known[key] = name or f"{kind}{len(self.initializers)}"
            self.initializers.append(numpy_helper.from_array(values, self._known[key]))
        return self._known[key]

    def numbers(self, values: Sequence[int]) -> str:
        """Stores a list of integers."""
        return self.constant(np.asarray(list(values), np.int64))


def _plain(value):
    return list(value) if isinstance(value, list | tuple) else value


def emit(nodes: Nodes, node: Node, shapes: Sequence[Shape]) -> None:
    """Appends the nodes of one operation without parameters.

    Args:
      shapes: shapes of its inputs in the integer model's graph; () for a number.
    """
    if node.op in _PLAIN:
        _elementwise(nodes, node)
    else:
        _OTHERS[node.op](nodes, node, shapes)


def _elementwise(nodes: Nodes, node: Node) -> None:
    numbers = [i for i, name in enumerate(node.inputs) if not isinstance(name, str)]
    if numbers and node.op in ("maximum", "minimum"):
        (place,) = numbers
        _clip(nodes, node, node.inputs[1 - place], node.inputs[place])
        return
    nodes.add(_PLAIN[node.op], _operands(nodes, node), node.output)


def _operands(nodes: Nodes, node: Node) -> list[str]:
    return [
        name if isinstance(name, str) else nodes.constant(np.asarray(name, np.float32))
        for name in node.inputs
    ]


def _compare(nodes: Nodes, node: Node, shapes: Sequence[Shape]) -> None:
    """1 or 0 in float32, as in the graph; ONNX compares to booleans."""
    holds = nodes.add(_COMPARISONS[node.op], _operands(nodes, node))
    nodes.add("Cast", [holds], node.output, to=onnx.TensorProto.FLOAT)


def _where(nodes: Nodes, node: Node, shapes: Sequence[Shape]) -> None:
    condition, *cases = _operands(nodes, node)
    holds = nodes.add("Cast", [condition], to=onnx.TensorProto.BOOL)
    nodes.add("Where", [holds, *cases], node.output)


def _around_one(nodes: Nodes, node: Node, shapes: Sequence[Shape]) -> None:
    """exp(x) - 1 or log(1 + x); ONNX has no operator that is more exact near 0."""
    x, one = node.inputs[0], nodes.constant(np.asarray(1, np.float32))
    if node.op == "expm1":
        nodes.add("Sub", [nodes.add("Exp", [x]), one], node.output)
    else:
        nodes.add("Log", [nodes.add("Add", [x, one])], node.output)


def _clip(nodes: Nodes, node: Node, x: str, bound: float) -> None:
    if node.op == "maximum" and bound == 0:
        nodes.add("Relu", [x], node.output)
        return
    limit = nodes.constant(np.asarray(bound, np.float32))
    nodes.add("Clip", [x, limit] if node.op == "maximum" else [x, "", limit], node.output)


def _reduce(nodes: Nodes, node: Node, shapes: Sequence[Shape]) -> None:
    x, axes = node.inputs[0], list(node.attributes["axes"])
    if len(shapes[0]) == 3:
        if sorted(axes) == [1, 2]:
            axes = [2, 3]
        else:
            x = nodes.add("Transpose", [x], perm=TO_LAST)
    makes_image = len(shapes[0]) - len(axes) == 3
    output = None if makes_image else node.output
    if not axes:
        x = nodes.add("Identity", [x], output)
    elif node.op == "max" and nodes.opset < 18:  # from which on the axes are an input, as for sums
        x = nodes.add("ReduceMax", [x], output, axes=axes, keepdims=0)
    else:
        kind = "ReduceSum" if node.op == "sum" else "ReduceMax"
        x = nodes.add(kind, [x, nodes.numbers(axes)], output, keepdims=0)
    if makes_image:
        nodes.add("Transpose", [x], node.output, perm=TO_FIRST)


def _pool(nodes: Nodes, node: Node, shapes: Sequence[Shape]) -> None:
    (top, bottom), (left, right) = node.attributes["padding"]
    window = node.attributes["window"]
    options = {
        "kernel_shape": window,
        "strides": node.attributes["strides"],
        "pads": [top, left, bottom, right],
    }
    if node.op == "max_pool":
        nodes.add("MaxPool", [node.inputs[0]], node.output, **options)
        return
    mean = nodes.add("AveragePool", [node.inputs[0]], count_include_pad=1, **options)
    count = nodes.constant(np.asarray(math.prod(window), np.float32))
    nodes.add("Mul", [mean, count], node.output)


def _pad(nodes: Nodes, node: Node, shapes: Sequence[Shape]) -> None:
    padding = _in_onnx_order(node.attributes["padding"])
    value = np.asarray(node.attributes["value"], np.float32)
    padded(nodes, node.inputs[0], padding, value, node.output)


def padded(
    nodes: Nodes, x: str, padding: Sequence, value: np.ndarray, output: str | None = None
) -> str:
    """Appends a padding by (before, after) for every axis but the first."""
    low, high = ([0, *(pair[side] for pair in padding)] for side in (0, 1))
    return nodes.add("Pad", [x, nodes.numbers(low + high), nodes.constant(value)], output)


def _slice(nodes: Nodes, node: Node, shapes: Sequence[Shape]) -> None:
    parts = [_in_onnx_order(node.attributes[name]) for name in ("starts", "limits", "strides")]
    sliced(nodes, node.inputs[0], parts, node.output)


def sliced(nodes: Nodes, x: str, parts: Sequence[Sequence], output: str | None = None) -> str:
    """Appends a slice with starts, limits and strides for every axis but the first."""
    axes = nodes.numbers(range(1, len(parts[0]) + 1))
    starts, limits, strides = (nodes.numbers(part) for part in parts)
    return nodes.add("Slice", [x, starts, limits, axes, strides], output)


def _in_onnx_order(by_axis: Sequence) -> list:
    """Per-axis values without the first axis, reordered to [C, H, W] for images."""
    by_axis = list(by_axis)
    return [by_axis[2], *by_axis[:2]] if len(by_axis) == 3 else by_axis


def _transpose(nodes: Nodes, node: Node, shapes: Sequence[Shape]) -> None:
    order = [0, *node.attributes["axes"]]
    if len(shapes[0]) == 3:  # to channels last, in this order, to channels first
        order = [TO_LAST[order[axis]] for axis in TO_FIRST]
    nodes.add("Transpose", [node.inputs[0]], node.output, perm=order)


def _take(nodes: Nodes, node: Node, shapes: Sequence[Shape]) -> None:
    indices = nodes.numbers(node.attributes["indices"])
    nodes.add("Gather", [node.inputs[0], indices], node.output, axis=_axis(node, shapes))


def _matmul(nodes: Nodes, node: Node, shapes: Sequence[Shape]) -> None:
    if len(shapes[0]) != 3:
        nodes.add("MatMul", list(node.inputs), node.output)
        return
    matrices = [nodes.add("Transpose", [x], perm=TO_LAST) for x in node.inputs]
    nodes.add("Transpose", [nodes.add("MatMul", matrices)], node.output, perm=TO_FIRST)


def _concatenate(nodes: Nodes, node: Node, shapes: Sequence[Shape]) -> None:
    nodes.add("Concat", list(node.inputs), node.output, axis=_axis(node, shapes))


def _axis(node: Node, shapes: Sequence[Shape]) -> int:
    """The attribute `axis` in ONNX's layout."""
    axis = node.attributes["axis"]
    return _IMAGE_AXES[axis] if len(shapes[0]) == 3 else axis


def _reshape(nodes: Nodes, node: Node, shapes: Sequence[Shape]) -> None:
    x, shape = node.inputs[0], list(node.attributes["shape"])
    if len(shapes[0]) == 3:
        x = nodes.add("Transpose", [x], perm=TO_LAST)
    if len(shape) != 3:
        nodes.add("Reshape", [x, nodes.numbers([-1, *shape])], node.output)
        return
    x = nodes.add("Reshape", [x, nodes.numbers([-1, *shape])])
    nodes.add("Transpose", [x], node.output, perm=TO_FIRST)


_OTHERS: Mapping = {
    "sum": _reduce,
    "max": _reduce,
    "sum_pool": _pool,
    "max_pool": _pool,
    "pad": _pad,
    "slice": _slice,
    "concatenate": _concatenate,
    "reshape": _reshape,
    "transpose": _transpose,
    "take": _take,
    "matmul": _matmul,
    "where": _where,
    "expm1": _around_one,
    "log1p": _around_one,
    **dict.fromkeys(_COMPARISONS, _compare),
}
