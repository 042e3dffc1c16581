"""JAX primitives that an integer model composes of its operations.

Each function takes (translator, parameters, operands) and returns the result, or None if it cannot
be expressed. Truth values are 1 and 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rfquant_jax.export.trace.values import Value

if TYPE_CHECKING:
    from rfquant_jax.export.trace.translate import Translator


def _compare(op: str, *, swapped: bool = False) -> Callable:
    def translate(translator: Translator, _: Mapping, operands: Sequence) -> Value:
        inputs = [translator.operand(x) for x in operands]
        return translator.elementwise(op, *(inputs[::-1] if swapped else inputs))

    return translate


def _not_equal(translator, params, operands):
    return translator.elementwise("subtract", 1.0, _compare("equal")(translator, params, operands))


def _logical(op: str) -> Callable:
    """`and` as a product, `or` as a maximum; bitwise operations on integers are refused."""

    def translate(translator, _, operands):
        inputs = [translator.operand(x) for x in operands]
        return translator.elementwise(op, *inputs)

    return translate


def _not(translator, _, operands):
    return translator.elementwise("subtract", 1.0, operands[0])


def _select(translator, _, operands):
    which, *cases = operands
    if len(cases) != 2:
        return None
    condition, no, yes = (translator.operand(x) for x in (which, *cases))
    if isinstance(condition, float):
        chosen = yes if condition else no
        return None if isinstance(chosen, float) else chosen
    return translator.elementwise("where", condition, yes, no)


def _integer_power(translator, params, operands):
    (x,), exponent = operands, params["y"]
    if exponent == 0:
        return None
    found = x
    for _ in range(abs(exponent) - 1):
        found = translator.elementwise("multiply", found, x)
    return found if exponent > 0 else translator.elementwise("divide", 1.0, found)


def _power(translator, _, operands):
    x, exponent = operands
    whole = isinstance(exponent, np.ndarray) and exponent.size == 1
    value = float(exponent.reshape(())) if whole else 0.0
    if value == 0.5:
        return translator.elementwise("sqrt", x)
    if not value.is_integer() or not 0 < abs(value) <= 8:
        return None
    return _integer_power(translator, {"y": int(value)}, [x])


def _square(translator, _, operands):
    return translator.elementwise("multiply", operands[0], operands[0])


def _rsqrt(translator, _, operands):
    return translator.elementwise("divide", 1.0, translator.elementwise("sqrt", operands[0]))


def _erfc(translator, _, operands):
    return translator.elementwise("subtract", 1.0, translator.elementwise("erf", operands[0]))


def _clamp(translator, _, operands):
    low, x, high = (translator.operand(value) for value in operands)
    return translator.elementwise("minimum", translator.elementwise("maximum", x, low), high)


COMPOSED: dict[str, Callable] = {
    "gt": _compare("greater"),
    "ge": _compare("greater_equal"),
    "lt": _compare("greater", swapped=True),
    "le": _compare("greater_equal", swapped=True),
    "eq": _compare("equal"),
    "ne": _not_equal,
    "and": _logical("multiply"),
    "or": _logical("maximum"),
    "not": _not,
    "select_n": _select,
    "integer_pow": _integer_power,
    "pow": _power,
    "square": _square,
    "rsqrt": _rsqrt,
    "erfc": _erfc,
    "clamp": _clamp,
}
