"""Translation of `dot_general` into matrix products of an integer model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from rfquant_jax.export.trace.values import Value, permuted

if TYPE_CHECKING:
    from rfquant_jax.export.trace.translate import Translator


@dataclass(frozen=True)
class _Axes:
    """The axes of one operand of a product, as positions in the traced array.

    Attributes:
      batch: axes that both operands share, in the order of the result.
      contracted: axes that are summed over, in the same order in both operands.
      free: the others, in order.
    """

    batch: tuple[int, ...]
    contracted: tuple[int, ...]
    free: tuple[int, ...]

    @classmethod
    def of(cls, rank: int, batch: Sequence[int], contracted: Sequence[int]) -> _Axes:
        taken = {*batch, *contracted}
        free = tuple(axis for axis in range(rank) if axis not in taken)
        return cls(tuple(batch), tuple(contracted), free)


def product(translator: Translator, params: Mapping, x, y) -> Value | None:
    """The result of `dot_general`; None if the integer model cannot express it.

    At least one operand is a `Value`; the other may be a constant array.
    """
    (contracted_x, contracted_y), (batch_x, batch_y) = params["dimension_numbers"]
    of_x = _Axes.of(len(x.shape), batch_x, contracted_x)
    of_y = _Axes.of(len(y.shape), batch_y, contracted_y)
    if isinstance(y, np.ndarray):
        return _with_constant(translator, x, of_x, y, of_y, constant_first=False)
    if isinstance(x, np.ndarray):
        return _with_constant(translator, y, of_y, x, of_x, constant_first=True)
    return _of_values(translator, x, of_x, y, of_y)


def _with_constant(translator, x, of_x, w, of_w, *, constant_first: bool) -> Value | None:
    images = x.stored.index(0)  # the traced axis of the images
    if of_w.batch or images in of_x.contracted:
        return None
    others = tuple(axis for axis in of_x.free if axis != images)
    rows, inner = (_sizes(x, axes) for axes in (others, of_x.contracted))
    matrix = translator.arranged(x, (images, *others, *of_x.contracted), [prod(rows), prod(inner)])
    weights = w.transpose(*of_w.contracted, *of_w.free).reshape(1, prod(inner), -1)
    outputs = [w.shape[axis] for axis in of_w.free]
    shape = [translator.count, prod(rows), prod(outputs)]
    found = translator.add("matmul", [matrix, translator.held(weights)], shape)
    found = translator.reshaped(found, [translator.count, *rows, *outputs])
    # Stored as images, other free axes, outputs; traced as the free axes of both, in their order.
    place = {images: 0} | {axis: 1 + i for i, axis in enumerate(others)}
    of_value = [place[axis] for axis in of_x.free]
    of_constant = [1 + len(others) + i for i in range(len(outputs))]
    order = of_constant + of_value if constant_first else of_value + of_constant
    return permuted(found, order)


def _of_values(translator, x, of_x, y, of_y) -> Value | None:
    images = x.stored.index(0)
    if images not in of_x.batch or y.stored.index(0) != of_y.batch[of_x.batch.index(images)]:
        return None
    shared = [i for i, axis in enumerate(of_x.batch) if axis != images]
    sizes = _sizes(x, [of_x.batch[i] for i in shared])
    rows, inner = _sizes(x, of_x.free), _sizes(x, of_x.contracted)
    columns = _sizes(y, of_y.free)
    around = [prod(sizes)] if shared else []
    first = (images, *(of_x.batch[i] for i in shared), *of_x.free, *of_x.contracted)
    left = translator.arranged(x, first, [*around, prod(rows), prod(inner)])
    images_y = y.stored.index(0)
    second = (images_y, *(of_y.batch[i] for i in shared), *of_y.contracted, *of_y.free)
    right = translator.arranged(y, second, [*around, prod(inner), prod(columns)])
    shape = [translator.count, *around, prod(rows), prod(columns)]
    found = translator.add("matmul", [left, right], shape)
    found = translator.reshaped(found, [translator.count, *sizes, *rows, *columns])
    place = {of_x.batch.index(images): 0} | {i: 1 + k for k, i in enumerate(shared)}
    of_batch = [place[i] for i in range(len(of_x.batch))]
    rest = range(1 + len(shared), 1 + len(shared) + len(rows) + len(columns))
    return permuted(found, [*of_batch, *rest])


def _sizes(x, axes: Sequence[int]) -> list[int]:
    return [x.shape[axis] for axis in axes]
