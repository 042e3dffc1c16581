"""The operations of integer models: a shape rule and a computation for each.

Computations take the array module, so that NumPy and JAX run the same graph. Shapes here omit the
batch axis, but axis numbers include it, so that 1 is the first axis an operation may change.
Layers (convolutions, dense layers, affine maps, quantized residual additions) have parameters; see
`runtime` for their computation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from rfquant_jax.export.ir import arrangement, elementwise
from rfquant_jax.export.ir.shapes import (
    Attributes,
    Shape,
    affine_shape,
    broadcast_shape,
    constant_shape,
    convolution_shape,
    dense_shape,
    equal_shape,
    joined_shape,
    padded_shape,
    pool_shape,
    reduced_shape,
    reshaped,
    sliced_shape,
)
from rfquant_jax.ops.window import shifted

CONVOLUTION, DENSE, AFFINE, CONSTANT = "convolution", "dense", "affine", "constant"
RESIDUAL = "residual"  # the sum of two inputs with one quantizer
LAYERS = (CONVOLUTION, DENSE, AFFINE, RESIDUAL)  # operations with parameters


@dataclass(frozen=True)
class Operation:
    """One kind of node.

    Attributes:
      operands: number of inputs; None: one or more.
      attributes: names of its attributes, all required.
      shape: (input shapes, attributes) -> output shape; raises ValueError if they do not fit.
      compute: (array module, inputs, attributes) -> output; None for operations with parameters.
    """

    operands: int | None
    attributes: tuple[str, ...]
    shape: Callable[[Sequence[Shape], Attributes], Shape]
    compute: Callable[[ModuleType, Sequence[Any], Attributes], Any] | None = None


def windows(
    xp: ModuleType,
    x: Any,
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[Sequence[int]],
    dilation: Sequence[int] = (1, 1),
    fill: float = 0,
):
    """(row, column) and the shifted `x[N, H', W', C]` of every position of a window, padded."""
    if any(map(any, padding)):
        x = xp.pad(x, [(0, 0), *map(tuple, padding), (0, 0)], constant_values=fill)
    return shifted(x, tuple(window), tuple(strides), tuple(dilation))


def _pool(fill: float, combine: str):
    def compute(xp, inputs, attributes):
        places = windows(
            xp,
            inputs[0],
            attributes["window"],
            attributes["strides"],
            attributes["padding"],
            fill=fill,
        )
        total = None
        for _, part in places:
            total = part if total is None else getattr(xp, combine)(total, part)
        return total

    return Operation(1, ("window", "strides", "padding"), pool_shape, compute)


def _slice(xp, inputs, attributes):
    cut = zip(attributes["starts"], attributes["limits"], attributes["strides"], strict=True)
    return inputs[0][(slice(None), *itertools.starmap(slice, cut))]


def _binary(name: str) -> Operation:
    return Operation(2, (), broadcast_shape, lambda xp, inputs, _: getattr(xp, name)(*inputs))


def _elements(operands: int, compute: Callable) -> Operation:
    """`compute(array module, *inputs)` for each element."""
    return Operation(operands, (), broadcast_shape, lambda xp, inputs, _: compute(xp, *inputs))


def _named(name: str) -> Operation:
    return _elements(1, lambda xp, x: elementwise.unary(xp, name, x))


def _reduction(name: str) -> Operation:
    def compute(xp, inputs, attributes):
        return getattr(xp, name)(inputs[0], axis=tuple(attributes["axes"]))

    return Operation(1, ("axes",), reduced_shape, compute)


OPERATIONS: dict[str, Operation] = {
    CONVOLUTION: Operation(
        1,
        ("layer", "kernel", "strides", "padding", "dilation", "groups"),
        convolution_shape,
    ),
    DENSE: Operation(1, ("layer", "kernel"), dense_shape),
    AFFINE: Operation(1, ("layer", "channels"), affine_shape),
    RESIDUAL: Operation(2, ("layer",), equal_shape),
    CONSTANT: Operation(0, ("shape",), constant_shape),
    "add": _binary("add"),
    "subtract": _binary("subtract"),
    "multiply": _binary("multiply"),
    "divide": _binary("divide"),
    "maximum": _binary("maximum"),
    "minimum": _binary("minimum"),
    **{name: _named(name) for name in elementwise.UNARY},
    "sigmoid": _elements(1, elementwise.sigmoid),
    "erf": _elements(1, elementwise.erf),
    "greater": _elements(2, elementwise.greater),
    "greater_equal": _elements(2, elementwise.greater_equal),
    "equal": _elements(2, elementwise.equal),
    "where": _elements(3, elementwise.where),
    "sum": _reduction("sum"),
    "max": _reduction("max"),
    "sum_pool": _pool(0.0, "add"),
    "max_pool": _pool(-math.inf, "maximum"),
    "pad": Operation(
        1,
        ("padding", "value"),
        padded_shape,
        lambda xp, inputs, a: xp.pad(
            inputs[0], [(0, 0), *map(tuple, a["padding"])], constant_values=a["value"]
        ),
    ),
    "slice": Operation(1, ("starts", "limits", "strides"), sliced_shape, _slice),
    "concatenate": Operation(
        None,
        ("axis",),
        joined_shape,
        lambda xp, inputs, a: xp.concatenate(inputs, axis=a["axis"]),
    ),
    "transpose": Operation(1, ("axes",), arrangement.transposed_shape, arrangement.transpose),
    "take": Operation(1, ("axis", "indices"), arrangement.taken_shape, arrangement.take),
    "matmul": Operation(2, (), arrangement.product_shape, arrangement.matmul),
    "reshape": Operation(
        1, ("shape",), reshaped, lambda xp, inputs, a: inputs[0].reshape(-1, *a["shape"])
    ),
}
