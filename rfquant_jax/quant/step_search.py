"""Step sizes of least squared error, for a network whose weights are not trained further.

    E(s) = sum((q(x) - x)^2),    q(x) = s * round(clip(x / s, Qn, Qp))

E has many local minima, because values cross rounding boundaries. The search evaluates a geometric
grid over nine octaves, then a finer grid around the best step, and then applies a few iterations of

    s = sum(x * c) / sum(c^2),    c = round(clip(x / s, Qn, Qp)),

the least-squares solution for fixed codes, which never increases E.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rfquant_jax.quant import lsq

PER_OCTAVE = 8  # steps of the first grid
OCTAVES = 9  # from twice the step that clips nothing down to 1/256 of it
FINE = 257  # steps of the second grid; at 8 bits E changes within about 0.2 % of a step
POLISH = 4  # least squares solutions
ROW = 1024  # values per partial sum


def line_search(x: jax.Array, lower: jax.Array, upper: jax.Array, fine: int = FINE) -> jax.Array:
    """The step size of least squared error.

    Args:
      x: float32 or bfloat16 of any shape.
      lower, upper: float32[], the smallest and largest code; one is not zero.
      fine: steps of the second grid.

    Returns:
      float32[], at least `lsq.MIN_STEP`; exactly that if x is zero everywhere.
    """
    rows = _rows(x)
    largest = jnp.maximum(_ratio(jnp.max(rows), upper), _ratio(jnp.min(rows), lower))
    coarse = jnp.exp2(1 - jnp.arange(OCTAVES * PER_OCTAVE + 1) / PER_OCTAVE)
    step = _best_of(rows, largest * coarse, lower, upper)
    step = _best_of(rows, step * jnp.exp2(jnp.linspace(-1, 1, fine) / PER_OCTAVE), lower, upper)
    for _ in range(POLISH):
        step = _least_squares(rows, step, lower, upper)
    return jnp.maximum(step, lsq.MIN_STEP)


def squared_errors(x: jax.Array, steps: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """E of each of `steps`, float32[S]; other arguments as for `line_search`."""
    return _errors(_rows(x), steps, lower, upper)


def weight_steps(weights: np.ndarray, candidates: Sequence[int]) -> np.ndarray:
    """Step sizes of least squared error of a weight quantizer.

    Args:
      weights: float32 of any shape.

    Returns:
      float32[|B|], one for each bit-width of `candidates`; 1 where it means "not quantized".
    """
    # Zeros have no error. Padding to a few sizes limits the number of compilations.
    padded = np.zeros(max(ROW, 2 ** math.ceil(math.log2(weights.size))), np.float32)
    padded[: weights.size] = np.ravel(weights)
    bits = np.asarray(candidates, np.int32)
    steps = np.asarray(_search_signed(padded, bits))
    return np.where(bits < lsq.FULL_PRECISION, steps, np.float32(1))


@jax.jit
def _search_signed(values: jax.Array, bits: jax.Array) -> jax.Array:
    return jax.lax.map(lambda b: line_search(values, *lsq.bounds(b, signed=True)), bits)


def fine_grid(found: np.ndarray) -> np.ndarray:
    """A geometric grid around the best steps of parts of the data, float32[FINE]."""
    margin = 0.5 / PER_OCTAVE
    ends = np.log2([np.min(found), np.max(found)]) + [-margin, margin]
    return np.exp2(np.linspace(*ends, FINE)).astype(np.float32)


def _ratio(value: jax.Array, code: jax.Array) -> jax.Array:
    """The step at which this value has this code; 0 for code 0."""
    return jnp.where(code == 0, 0.0, jnp.maximum(value / jnp.where(code == 0, 1.0, code), 0.0))


def _best_of(rows: jax.Array, steps: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    steps = jnp.maximum(steps, lsq.MIN_STEP)
    return steps[jnp.argmin(_errors(rows, steps, lower, upper))]


def _errors(rows: jax.Array, steps: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    def error(step):
        return _total(jnp.square(step * lsq.codes(rows, step, lower, upper) - rows))

    return jax.lax.map(error, steps)


def _least_squares(
    rows: jax.Array, step: jax.Array, lower: jax.Array, upper: jax.Array
) -> jax.Array:
    codes = lsq.codes(rows, step, lower, upper)
    product, squares = _total(codes * rows), _total(codes * codes)
    return jnp.where(squares > 0, product / jnp.maximum(squares, 1), step)


def _rows(x: jax.Array) -> jax.Array:
    """All values as float32[N, ROW], padded with zeros, whose error is zero."""
    flat = x.astype(jnp.float32).reshape(-1)
    return jnp.pad(flat, (0, -flat.size % ROW)).reshape(-1, ROW)


def _total(rows: jax.Array) -> jax.Array:
    """Sum of float32[N, ROW] in two stages, to limit rounding errors."""
    # Without the barrier XLA would merge both stages into one long sum.
    return jnp.sum(jax.lax.optimization_barrier(jnp.sum(rows, axis=1)))
