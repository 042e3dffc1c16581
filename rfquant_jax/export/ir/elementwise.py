"""Functions of one element, comparisons and selection, for NumPy and JAX arrays.

Comparisons give 1 or 0 in the dtype of their inputs, because values of an integer model are
floating-point.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

UNARY = ("negate", "absolute", "exp", "expm1", "log", "log1p", "sqrt", "sign", "tanh")


def unary(xp: ModuleType, name: str, x: Any) -> Any:
    """A function of NumPy's that every array module has."""
    return getattr(xp, {"negate": "negative"}.get(name, name))(x)


def sigmoid(xp: ModuleType, x: Any) -> Any:
    """1 / (1 + exp(-x)), via tanh, because exp overflows for large negative inputs."""
    return (xp.tanh(x / 2) + 1) / 2


def erf(xp: ModuleType, x: Any) -> Any:
    """The error function, which NumPy lacks."""
    if xp is np:
        from scipy import special
    else:
        from jax.scipy import special
    return special.erf(x)


def greater(xp: ModuleType, x: Any, y: Any) -> Any:
    return _as_float(xp, xp.greater(x, y), x, y)


def greater_equal(xp: ModuleType, x: Any, y: Any) -> Any:
    return _as_float(xp, xp.greater_equal(x, y), x, y)


def equal(xp: ModuleType, x: Any, y: Any) -> Any:
    return _as_float(xp, xp.equal(x, y), x, y)


def where(xp: ModuleType, condition: Any, x: Any, y: Any) -> Any:
    """`x` where the condition is not 0, else `y`."""
    return xp.where(condition != 0, *_arrays(xp, x, y, like=condition))


def _arrays(xp: ModuleType, *values: Any, like: Any) -> list[Any]:
    """Numbers as arrays of a dtype, so that they do not widen the result."""
    return [x if hasattr(x, "dtype") else xp.asarray(x, like.dtype) for x in values]


def _as_float(xp: ModuleType, holds: Any, *operands: Any) -> Any:
    dtype = next(x.dtype for x in operands if hasattr(x, "dtype"))
    return xp.asarray(holds, dtype)
