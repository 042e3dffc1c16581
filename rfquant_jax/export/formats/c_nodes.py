"""C loops for the operations between the layers of an integer model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rfquant_jax.export.formats.c_text import number
from rfquant_jax.export.ir.graph import Node
from rfquant_jax.export.ir.shapes import Shape

_MATH = ("tanh", "exp", "expm1", "log", "log1p", "sqrt", "erf")  # of math.h, in float
_BINARY = {
    "add": "{0} + {1}",
    "subtract": "{0} - {1}",
    "multiply": "{0} * {1}",
    "divide": "{0} / {1}",
    "maximum": "({0} > {1} ? {0} : {1})",
    "minimum": "({0} < {1} ? {0} : {1})",
    "greater": "({0} > {1} ? 1.0f : 0.0f)",
    "greater_equal": "({0} >= {1} ? 1.0f : 0.0f)",
    "equal": "({0} == {1} ? 1.0f : 0.0f)",
}
_SELECTION = {"where": "({0} != 0.0f ? {1} : {2})"}
_UNARY = {
    "negate": "-{0}",
    "absolute": "({0} < 0.0f ? -{0} : {0})",
    "sigmoid": "(tanhf({0} / 2.0f) + 1.0f) / 2.0f",
    "sign": "({0} > 0.0f ? 1.0f : ({0} < 0.0f ? -1.0f : {0}))",
    **{name: f"{name}f({{0}})" for name in _MATH},
}
_ELEMENTWISE = _BINARY | _UNARY | _SELECTION
_COMBINE = {"sum": "t = t + {0};", "max": "if ({0} > t) t = {0};"}


def emit(node: Node, shapes: Sequence[Shape | None], shape: Shape, names: Sequence[str]) -> str:
    """The loops of one operation without parameters.

    Args:
      shapes: shapes of the inputs; None for a number.
      shape: shape of the result.
      names: C expressions of the inputs, followed by that of the result.
    """
    if node.op in _ELEMENTWISE:
        return _elementwise(node, shapes, shape, names)
    if node.op in ("concatenate", "matmul"):
        make = _concatenate if node.op == "concatenate" else _matmul
        return make(node, shapes, shape, names)
    return _OTHERS[node.op](node, shapes[0], shape, names)


def emit_codes(node: Node, of: Shape, shape: Shape, names: Sequence[str]) -> str:
    """The loops of a slice or a padding of codes; arguments as for `emit`."""
    return (
        _slice(node, of, shape, names) if node.op == "slice" else _pad(node, of, shape, names, str)
    )


def uses_math(source: str) -> bool:
    """Whether C source calls a function of math.h."""
    return any(f"{name}f(" in source for name in _MATH)


def affine(shape: Shape, names: Sequence[str], numbers: Sequence[str]) -> str:
    """The loops of a separate BatchNorm; `numbers` are the arrays of its scale and bias."""
    at, channel = place(shape, indices(shape)), f"i{len(shape) - 1}"
    product = f"const float product = {names[0]}[{at}] * {numbers[0]}[{channel}];"
    return loops(shape, f"{product} {names[1]}[{at}] = product + {numbers[1]}[{channel}];")


def loops(shape: Shape, body: str, start: int = 0) -> str:
    """Nested loops over i0, i1, ..., one for each axis, around statements."""
    heads = [
        f"for (int32_t i{axis} = 0; i{axis} < {size}; i{axis}++)"
        for axis, size in enumerate(shape, start)
    ]
    return "\n  ".join([*heads, f"{{ {body} }}"])


def place(shape: Shape, indices: Sequence[str]) -> str:
    """The offset of an element; axes of length 1 are repeated."""
    steps = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    terms = [
        f"({index}) * {step}" if step != 1 else f"({index})"
        for index, step, size in zip(indices, steps, shape, strict=True)
        if size != 1
    ]
    return " + ".join(terms) or "0"


def indices(shape: Shape, start: int = 0) -> list[str]:
    return [f"i{axis}" for axis in range(start, start + len(shape))]


def _elementwise(node, shapes, shape, names) -> str:
    operands = [
        number(x) if of is None else f"{name}[{place(of, indices(shape))}]"
        for x, of, name in zip(node.inputs, shapes, names[:-1], strict=True)
    ]
    formula = _ELEMENTWISE[node.op].format(*operands)
    return loops(shape, f"{names[-1]}[{place(shape, indices(shape))}] = {formula};")


def _reduce(node, of, shape, names) -> str:
    axes = [axis - 1 for axis in node.attributes["axes"]]
    kept, inner = iter(indices(shape)), iter(indices(axes, len(shape)))
    index = [next(inner) if axis in axes else next(kept) for axis in range(len(of))]
    return _fold(node.op, [of[axis] for axis in sorted(axes)], of, index, shape, names)


def _fold(op: str, sizes, of, index, shape, names, guard: str = "") -> str:
    """A reduction over elements; a maximum starts with the first element."""
    start = "0.0f" if op == "sum" else "-3.402823466e+38f"
    step = guard + _COMBINE[op].format(f"{names[0]}[{place(of, index)}]")
    around = loops(sizes, step, len(shape))
    target = f"{names[1]}[{place(shape, indices(shape))}]"
    return loops(shape, f"float t = {start};\n  {around}\n  {target} = t;")


def _pool(node, of, shape, names) -> str:
    strides, padding = node.attributes["strides"], node.attributes["padding"]
    rank = len(shape)
    index = [f"i{axis} * {strides[axis]} + i{rank + axis} - {padding[axis][0]}" for axis in (0, 1)]
    inside = " && ".join(
        f"({one}) >= 0 && ({one}) < {size}" for one, size in zip(index, of, strict=False)
    )
    op = node.op.removesuffix("_pool")
    return _fold(op, node.attributes["window"], of, [*index, "i2"], shape, names, f"if ({inside}) ")


def _pad(node, of, shape, names, text=number) -> str:
    index = [f"i{axis} - {low}" for axis, (low, _) in enumerate(node.attributes["padding"])]
    inside = " && ".join(
        f"({one}) >= 0 && ({one}) < {size}"
        for one, size, pad in zip(index, of, node.attributes["padding"], strict=True)
        if any(pad)
    )
    value = f"{names[0]}[{place(of, index)}]"
    if inside:
        value = f"({inside}) ? {value} : {text(node.attributes['value'])}"
    return loops(shape, f"{names[1]}[{place(shape, indices(shape))}] = {value};")


def _slice(node, of, shape, names) -> str:
    starts, strides = node.attributes["starts"], node.attributes["strides"]
    index = [f"i{a} * {by} + {at}" for a, (at, by) in enumerate(zip(starts, strides, strict=True))]
    value = f"{names[0]}[{place(of, index)}]"
    return loops(shape, f"{names[1]}[{place(shape, indices(shape))}] = {value};")


def _transpose(node, of, shape, names) -> str:
    index = [""] * len(of)
    for new, old in enumerate(node.attributes["axes"]):
        index[old - 1] = f"i{new}"
    value = f"{names[0]}[{place(of, index)}]"
    return loops(shape, f"{names[1]}[{place(shape, indices(shape))}] = {value};")


def _take(node, of, shape, names) -> str:
    axis, entries = node.attributes["axis"] - 1, node.attributes["indices"]
    if of[axis] == 1:  # a repeated entry, whose index is always 0
        value = f"{names[0]}[{place(of, indices(shape))}]"
        return loops(shape, f"{names[1]}[{place(shape, indices(shape))}] = {value};")
    table = f"static const int32_t at[] = {{{', '.join(map(str, entries))}}};"
    index = indices(shape)
    index[axis] = f"at[{index[axis]}]"
    value = f"{names[0]}[{place(of, index)}]"
    target = f"{names[1]}[{place(shape, indices(shape))}]"
    return f"{{ {table}\n  {loops(shape, f'{target} = {value};')} }}"


def _matmul(node: Node, shapes: Sequence[Shape], shape: Shape, names: Sequence[str]) -> str:
    """Sums over the inner axis i<rank>, one for each element of the result."""
    *around, row, column = indices(shape)
    inner = f"i{len(shape)}"
    first = f"{names[0]}[{place(shapes[0], [*around, row, inner])}]"
    second = f"{names[1]}[{place(shapes[1], [*around, inner, column])}]"
    total = loops(shapes[0][-1:], f"t = t + {first} * {second};", len(shape))
    target = f"{names[2]}[{place(shape, indices(shape))}]"
    return loops(shape, f"float t = 0.0f;\n  {total}\n  {target} = t;")


def _reshape(node, of, shape, names) -> str:
    return loops((int(np.prod(shape)),), f"{names[1]}[i0] = {names[0]}[i0];")


def _concatenate(node: Node, shapes: Sequence[Shape], shape: Shape, names: Sequence[str]) -> str:
    axis, parts = node.attributes["axis"] - 1, []
    starts = itertools.accumulate((of[axis] for of in shapes), initial=0)
    for of, name, start in zip(shapes, names[:-1], starts, strict=False):
        index = indices(of)
        target = [*index[:axis], f"{index[axis]} + {start}", *index[axis + 1 :]]
        copy = f"{names[-1]}[{place(shape, target)}] = {name}[{place(of, index)}];"
        parts.append(loops(of, copy))
    return "\n  ".join(parts)


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
