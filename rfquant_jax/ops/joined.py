"""Many arrays as one, so that a reduction over all of them is one kernel on GPU."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def joined(arrays: Sequence[jax.Array]) -> jax.Array:
    """All elements of arrays of one dtype, in order.

    Behind an optimization barrier: of a concatenation, XLA would reduce every operand by itself.
    """
    return jax.lax.optimization_barrier(jnp.concatenate([x.ravel() for x in arrays]))
