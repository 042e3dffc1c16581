"""Operations that move or combine whole axes: transposition, selection along an axis, products."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from rfquant_jax.export.ir.shapes import Attributes, Shape, whole_numbers


def transposed_shape(shapes: Sequence[Shape], attributes: Attributes) -> Shape:
    """`axes` has the old position of each new axis; the batch axis stays first."""
    axes = whole_numbers(attributes["axes"], len(shapes[0]), least=1)
    if sorted(axes) != list(range(1, len(shapes[0]) + 1)):
        raise ValueError(f"axes {axes} are not an order of those of {shapes[0]}")
    return tuple(shapes[0][axis - 1] for axis in axes)


def transpose(xp: ModuleType, inputs: Sequence[Any], attributes: Attributes) -> Any:
    return xp.transpose(inputs[0], (0, *attributes["axes"]))


def taken_shape(shapes: Sequence[Shape], attributes: Attributes) -> Shape:
    """The entries `indices` along `axis`."""
    (axis,) = whole_numbers([attributes["axis"]], 1, least=1)
    indices = whole_numbers(attributes["indices"])
    if axis > len(shapes[0]) or not indices or max(indices) >= shapes[0][axis - 1]:
        raise ValueError(f"{len(indices)} indices along axis {axis} do not lie in {shapes[0]}")
    return (*shapes[0][: axis - 1], len(indices), *shapes[0][axis:])


def take(xp: ModuleType, inputs: Sequence[Any], attributes: Attributes) -> Any:
    return xp.take(inputs[0], np.asarray(attributes["indices"]), axis=attributes["axis"])


def product_shape(shapes: Sequence[Shape], _: Attributes) -> Shape:
    """[..., M, K] times [..., K, N]; the axes before are equal or have length 1."""
    first, second = shapes
    if first is None or second is None or len(first) != len(second) or len(first) < 2:
        raise ValueError(f"shapes {list(shapes)} are no matrices of equal rank")
    if first[-1] != second[-2]:
        raise ValueError(f"matrices {first} and {second} cannot be multiplied")
    return (*map(int, np.broadcast_shapes(first[:-2], second[:-2])), first[-2], second[-1])


def matmul(xp: ModuleType, inputs: Sequence[Any], _: Attributes) -> Any:
    return xp.matmul(*inputs)
