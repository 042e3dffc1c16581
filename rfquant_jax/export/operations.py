"""What a node of an integer model may do: one shape rule and one computation for each operation.

The computations take the array module, so that NumPy and JAX run the very same graph. Shapes here
leave out the first axis, which counts the images; axes are counted with it, so that 1 is the first
axis that an operation may touch.

Convolutions, dense layers and affine maps have parameters; see `runtime` for what they compute.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

CONVOLUTION, DENSE, AFFINE, CONSTANT = "convolution", "dense", "affine", "constant"
LAYERS = (CONVOLUTION, DENSE, AFFINE)  # operations with parameters

Shape = tuple[int, ...]
Attributes = Mapping[str, Any]


@dataclass(frozen=True)
class Operation:
    """One kind of node.

    Attributes:
      operands: how many inputs it takes; None: one or more.
      attributes: the names of its attributes, all of them needed.
      shape: (input shapes, attributes) -> output shape; ValueError where they do not fit.
      compute: (array module, inputs, attributes) -> output; None where parameters are needed.
    """

    operands: int | None
    attributes: tuple[str, ...]
    shape: Callable[[Sequence[Shape], Attributes], Shape]
    compute: Callable[[ModuleType, Sequence[Any], Attributes], Any] | None = None


def whole_numbers(value: Any, count: int | None = None, least: int = 0) -> tuple[int, ...]:
    """A list of whole numbers as a tuple.

    Args:
      count: how many there must be; None: any number.

    Raises:
      ValueError: it is anything else, or one is below `least` or beyond 2^31.
    """
    valid = isinstance(value, list | tuple) and all(
        isinstance(v, int) and not isinstance(v, bool) and least <= v < 2**31 for v in value
    )
    if not valid or count not in (None, len(value)):
        raise ValueError(f"{value!r} must be whole numbers of at least {least}")
    return tuple(value)


def pairs(value: Any, count: int) -> tuple[tuple[int, ...], ...]:
    """A list of pairs of whole numbers that are not negative; raises ValueError otherwise."""
    if not isinstance(value, list | tuple) or len(value) != count:
        raise ValueError(f"{value!r} must be {count} pairs of whole numbers")
    return tuple(whole_numbers(pair, 2) for pair in value)


def window_positions(
    shape: Shape, window: Sequence[int], strides: Sequence[int], padding: Sequence[Sequence[int]]
) -> Shape:
    """Rows and columns at which a window fits into a padded image of `shape` (H, W, ...)."""
    free = [
        size + sum(pad) - span for size, span, pad in zip(shape[:2], window, padding, strict=True)
    ]
    if min(free) < 0:
        raise ValueError(f"a window {tuple(window)} does not fit into {shape}")
    return tuple(room // stride + 1 for room, stride in zip(free, strides, strict=True))


def windows(
    xp: ModuleType,
    x: Any,
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[Sequence[int]],
    dilation: Sequence[int] = (1, 1),
    fill: float = 0,
):
    """Yields (row, column) in the window and `x[N, H', W', C]` there, for every place in it."""
    spans = [d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True)]
    rows, columns = window_positions(x.shape[1:], spans, strides, padding)
    if any(map(any, padding)):
        x = xp.pad(x, [(0, 0), *map(tuple, padding), (0, 0)], constant_values=fill)
    for i, j in itertools.product(*map(range, window)):
        top, left = i * dilation[0], j * dilation[1]
        bottom, right = top + (rows - 1) * strides[0] + 1, left + (columns - 1) * strides[1] + 1
        yield (i, j), x[:, top : bottom : strides[0], left : right : strides[1]]


def _elementwise(shapes: Sequence[Shape], _: Attributes) -> Shape:
    """Numbers fit everything; arrays must have as many axes, each as long or of length 1."""
    arrays = [shape for shape in shapes if shape is not None]
    if not arrays or len({len(shape) for shape in arrays}) > 1:
        raise ValueError(f"shapes {arrays} do not go together")
    return tuple(map(int, np.broadcast_shapes(*arrays)))


def _convolution_shape(shapes, attributes) -> Shape:
    (height, width, channels), kernel = _image(shapes[0]), attributes["kernel"]
    kernel = whole_numbers(kernel, 4, least=1)
    (groups,) = whole_numbers([attributes["groups"]], 1, least=1)
    strides = whole_numbers(attributes["strides"], 2, least=1)
    dilation = whole_numbers(attributes["dilation"], 2, least=1)
    if kernel[3] * groups != channels or kernel[0] % groups:
        raise ValueError(f"a kernel {kernel} in {groups} groups does not take {channels} channels")
    spans = [d * (k - 1) + 1 for k, d in zip(kernel[1:3], dilation, strict=True)]
    padding = pairs(attributes["padding"], 2)
    return (*window_positions((height, width), spans, strides, padding), kernel[0])


def _dense_shape(shapes, attributes) -> Shape:
    outputs, inputs = whole_numbers(attributes["kernel"], 2, least=1)
    if not shapes[0] or shapes[0][-1] != inputs:
        raise ValueError(f"a kernel {(outputs, inputs)} does not take {shapes[0]}")
    return (*shapes[0][:-1], outputs)


def _affine_shape(shapes, attributes) -> Shape:
    (channels,) = whole_numbers([attributes["channels"]], 1, least=1)
    if not shapes[0] or shapes[0][-1] != channels:
        raise ValueError(f"{channels} channels do not fit {shapes[0]}")
    return shapes[0]


def _pool_shape(shapes, attributes) -> Shape:
    _image(shapes[0])
    window = whole_numbers(attributes["window"], 2, least=1)
    strides = whole_numbers(attributes["strides"], 2, least=1)
    padding = pairs(attributes["padding"], 2)
    return (*window_positions(shapes[0], window, strides, padding), shapes[0][2])


def _image(shape: Shape) -> Shape:
    if len(shape) != 3:
        raise ValueError(f"takes images [H, W, C], not {shape}")
    return shape


def _reduced_shape(shapes, attributes) -> Shape:
    axes = whole_numbers(attributes["axes"], least=1)
    if len(set(axes)) != len(axes) or max(axes, default=0) > len(shapes[0]):
        raise ValueError(f"axes {axes} are not those of {shapes[0]}")
    return tuple(size for axis, size in enumerate(shapes[0], 1) if axis not in axes)


def _padded_shape(shapes, attributes) -> Shape:
    padding = pairs(attributes["padding"], len(shapes[0]))
    number(attributes["value"])
    return tuple(size + sum(pad) for size, pad in zip(shapes[0], padding, strict=True))


def number(value: Any) -> float:
    """A finite number; raises ValueError otherwise."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain or not abs(value) < float("inf"):
        raise ValueError(f"{value!r} must be a finite number")
    return value


def _sliced_shape(shapes, attributes) -> Shape:
    rank = len(shapes[0])
    starts, limits = (whole_numbers(attributes[n], rank) for n in ("starts", "limits"))
    strides = whole_numbers(attributes["strides"], rank, least=1)
    for start, limit, size in zip(starts, limits, shapes[0], strict=True):
        if not start < limit <= size:
            raise ValueError(f"a slice from {starts} to {limits} does not lie in {shapes[0]}")
    return tuple(-(-(b - a) // s) for a, b, s in zip(starts, limits, strides, strict=True))


def _joined_shape(shapes, attributes) -> Shape:
    (axis,) = whole_numbers([attributes["axis"]], 1, least=1)
    others = {(*shape[: axis - 1], *shape[axis:]) for shape in shapes}
    if len(others) != 1 or any(len(shape) < axis for shape in shapes):
        raise ValueError(f"shapes {list(shapes)} cannot be joined along axis {axis}")
    total = sum(shape[axis - 1] for shape in shapes)
    return (*shapes[0][: axis - 1], total, *shapes[0][axis:])


def _reshaped(shapes, attributes) -> Shape:
    shape = whole_numbers(attributes["shape"], least=1)
    if math.prod(shape) != math.prod(shapes[0]):
        raise ValueError(f"{shapes[0]} cannot become {shape}")
    return shape


def _constant_shape(shapes, attributes) -> Shape:
    return whole_numbers(attributes["shape"], least=1)


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

    return Operation(1, ("window", "strides", "padding"), _pool_shape, compute)


def _slice(xp, inputs, attributes):
    cut = zip(attributes["starts"], attributes["limits"], attributes["strides"], strict=True)
    return inputs[0][(slice(None), *itertools.starmap(slice, cut))]


def _binary(name: str) -> Operation:
    return Operation(2, (), _elementwise, lambda xp, inputs, _: getattr(xp, name)(*inputs))


def _unary(compute: Callable[[ModuleType, Any], Any]) -> Operation:
    return Operation(1, (), _elementwise, lambda xp, inputs, _: compute(xp, inputs[0]))


def _reduction(name: str) -> Operation:
    def compute(xp, inputs, attributes):
        return getattr(xp, name)(inputs[0], axis=tuple(attributes["axes"]))

    return Operation(1, ("axes",), _reduced_shape, compute)


OPERATIONS: dict[str, Operation] = {
    CONVOLUTION: Operation(
        1,
        ("layer", "kernel", "strides", "padding", "dilation", "groups"),
        _convolution_shape,
    ),
    DENSE: Operation(1, ("layer", "kernel"), _dense_shape),
    AFFINE: Operation(1, ("layer", "channels"), _affine_shape),
    CONSTANT: Operation(0, ("shape",), _constant_shape),
    "add": _binary("add"),
    "subtract": _binary("subtract"),
    "multiply": _binary("multiply"),
    "divide": _binary("divide"),
    "maximum": _binary("maximum"),
    "minimum": _binary("minimum"),
    "negate": _unary(lambda xp, x: -x),
    "absolute": _unary(lambda xp, x: xp.abs(x)),
    # By tanh, because exp overflows far below zero.
    "sigmoid": _unary(lambda xp, x: (xp.tanh(x / 2) + 1) / 2),
    "tanh": _unary(lambda xp, x: xp.tanh(x)),
    "sum": _reduction("sum"),
    "max": _reduction("max"),
    "sum_pool": _pool(0.0, "add"),
    "max_pool": _pool(-math.inf, "maximum"),
    "pad": Operation(
        1,
        ("padding", "value"),
        _padded_shape,
        lambda xp, inputs, a: xp.pad(
            inputs[0], [(0, 0), *map(tuple, a["padding"])], constant_values=a["value"]
        ),
    ),
    "slice": Operation(1, ("starts", "limits", "strides"), _sliced_shape, _slice),
    "concatenate": Operation(
        None,
        ("axis",),
        _joined_shape,
        lambda xp, inputs, a: xp.concatenate(inputs, axis=a["axis"]),
    ),
    "reshape": Operation(
        1, ("shape",), _reshaped, lambda xp, inputs, a: inputs[0].reshape(-1, *a["shape"])
    ),
}
