"""Shape rules of an integer model's operations, and validation of node attributes.

Shapes omit the batch axis, but axis numbers include it. Every rule takes (input shapes, attributes)
and raises ValueError if they do not fit. Content of files is validated here before any computation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Shape = tuple[int, ...]
Attributes = Mapping[str, Any]

SMALLEST_FLOAT32 = float(np.finfo(np.float32).tiny)
LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
LARGEST_WINDOW = 2**16  # window positions, each of which takes a pass over the image


def shown(value: Any) -> str:
    """Content of a file, truncated for error messages."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def whole_numbers(value: Any, count: int | None = None, least: int = 0) -> tuple[int, ...]:
    """A list of integers as a tuple.

    Args:
      count: required length; None: any.

    Raises:
      ValueError: any other content, or a value below `least` or beyond 2^31.
    """
    valid = isinstance(value, list | tuple) and all(
        isinstance(v, int) and not isinstance(v, bool) and least <= v < 2**31 for v in value
    )
    if not valid or count not in (None, len(value)):
        raise ValueError(f"{shown(value)} must be whole numbers of at least {least}")
    return tuple(value)


def pairs(value: Any, count: int) -> tuple[tuple[int, ...], ...]:
    """A list of pairs of nonnegative integers; raises ValueError otherwise."""
    if not isinstance(value, list | tuple) or len(value) != count:
        raise ValueError(f"{shown(value)} must be {count} pairs of whole numbers")
    return tuple(whole_numbers(pair, 2) for pair in value)


def window_positions(
    shape: Shape, window: Sequence[int], strides: Sequence[int], padding: Sequence[Sequence[int]]
) -> Shape:
    """Output rows and columns of a window over a padded image of `shape` (H, W, ...)."""
    padded = [size + sum(pad) for size, pad in zip(shape[:2], padding, strict=True)]
    if math.prod([*padded, *shape[2:]]) >= 2**31:
        raise ValueError(f"pads {tuple(shape)} to {tuple(padded)}, which is too large")
    free = [size - span for size, span in zip(padded, window, strict=True)]
    if min(free) < 0:
        raise ValueError(f"a window {tuple(window)} does not fit into {shape}")
    return tuple(room // stride + 1 for room, stride in zip(free, strides, strict=True))


def broadcast_shape(shapes: Sequence[Shape], _: Attributes) -> Shape:
    """Numbers fit everything; arrays must have equal ranks, with equal axes or axes of length 1."""
    arrays = [shape for shape in shapes if shape is not None]
    if not arrays or len({len(shape) for shape in arrays}) > 1:
        raise ValueError(f"shapes {arrays} do not go together")
    return tuple(map(int, np.broadcast_shapes(*arrays)))


def convolution_shape(shapes, attributes) -> Shape:
    (_, _, channels), kernel = image(shapes[0]), attributes["kernel"]
    kernel = whole_numbers(kernel, 4, least=1)
    (groups,) = whole_numbers([attributes["groups"]], 1, least=1)
    strides = whole_numbers(attributes["strides"], 2, least=1)
    dilation = whole_numbers(attributes["dilation"], 2, least=1)
    if kernel[3] * groups != channels or kernel[0] % groups:
        raise ValueError(f"a kernel {kernel} in {groups} groups does not take {channels} channels")
    spans = [d * (k - 1) + 1 for k, d in zip(kernel[1:3], dilation, strict=True)]
    padding = pairs(attributes["padding"], 2)
    _check_window(kernel[1:3])
    return (*window_positions(shapes[0], spans, strides, padding), kernel[0])


def dense_shape(shapes, attributes) -> Shape:
    outputs, inputs = whole_numbers(attributes["kernel"], 2, least=1)
    if not shapes[0] or shapes[0][-1] != inputs:
        raise ValueError(f"a kernel {(outputs, inputs)} does not take {shapes[0]}")
    return (*shapes[0][:-1], outputs)


def affine_shape(shapes, attributes) -> Shape:
    (channels,) = whole_numbers([attributes["channels"]], 1, least=1)
    if not shapes[0] or shapes[0][-1] != channels:
        raise ValueError(f"{channels} channels do not fit {shapes[0]}")
    return shapes[0]


def equal_shape(shapes, _: Attributes) -> Shape:
    """Two arrays of one shape, which is also that of the result."""
    first, second = shapes
    if first is None or first != second:
        raise ValueError(f"shapes {list(shapes)} must be equal")
    return first


def pool_shape(shapes, attributes) -> Shape:
    image(shapes[0])
    window = whole_numbers(attributes["window"], 2, least=1)
    strides = whole_numbers(attributes["strides"], 2, least=1)
    padding = pairs(attributes["padding"], 2)
    _check_window(window)
    return (*window_positions(shapes[0], window, strides, padding), shapes[0][2])


def _check_window(window: Shape) -> None:
    if math.prod(window) > LARGEST_WINDOW:
        raise ValueError(f"a window {window} is too large")


def image(shape: Shape) -> Shape:
    if len(shape) != 3:
        raise ValueError(f"takes images [H, W, C], not {shape}")
    return shape


def reduced_shape(shapes, attributes) -> Shape:
    axes = whole_numbers(attributes["axes"], least=1)
    if len(set(axes)) != len(axes) or max(axes, default=0) > len(shapes[0]):
        raise ValueError(f"axes {axes} are not those of {shapes[0]}")
    return tuple(size for axis, size in enumerate(shapes[0], 1) if axis not in axes)


def padded_shape(shapes, attributes) -> Shape:
    padding = pairs(attributes["padding"], len(shapes[0]))
    number(attributes["value"])
    return tuple(size + sum(pad) for size, pad in zip(shapes[0], padding, strict=True))


def number(value: Any) -> float:
    """A number that is finite in float32; raises ValueError otherwise."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain or not abs(value) <= LARGEST_FLOAT32:
        raise ValueError(f"{shown(value)} must be a finite number, in float32, too")
    return value


def sliced_shape(shapes, attributes) -> Shape:
    rank = len(shapes[0])
    starts, limits = (whole_numbers(attributes[n], rank) for n in ("starts", "limits"))
    strides = whole_numbers(attributes["strides"], rank, least=1)
    for start, limit, size in zip(starts, limits, shapes[0], strict=True):
        if not start < limit <= size:
            raise ValueError(f"a slice from {starts} to {limits} does not lie in {shapes[0]}")
    return tuple(-(-(b - a) // s) for a, b, s in zip(starts, limits, strides, strict=True))


def joined_shape(shapes, attributes) -> Shape:
    (axis,) = whole_numbers([attributes["axis"]], 1, least=1)
    others = {(*shape[: axis - 1], *shape[axis:]) for shape in shapes}
    if len(others) != 1 or any(len(shape) < axis for shape in shapes):
        raise ValueError(f"shapes {list(shapes)} cannot be joined along axis {axis}")
    total = sum(shape[axis - 1] for shape in shapes)
    return (*shapes[0][: axis - 1], total, *shapes[0][axis:])


def reshaped(shapes, attributes) -> Shape:
    shape = whole_numbers(attributes["shape"], least=1)
    if math.prod(shape) != math.prod(shapes[0]):
        raise ValueError(f"{shapes[0]} cannot become {shape}")
    return shape


def constant_shape(shapes, attributes) -> Shape:
    return whole_numbers(attributes["shape"], least=1)
