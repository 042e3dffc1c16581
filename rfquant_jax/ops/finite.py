"""Whether all numbers are finite."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rfquant_jax.runtime.backend import backend

# In one kernel: XLA gives a kernel about 100 operands, and each array here may be computed from
# four others.
_TOGETHER = 20


def all_finite(tree: Any) -> jax.Array:
    """Whether every element of a tree is finite, bool[]."""
    finite = [jnp.isfinite(x) for x in jax.tree.leaves(tree)]
    if backend() == "cpu" or not finite:
        return jnp.all(jnp.stack([jnp.asarray(True), *map(jnp.all, finite)]))
    # On GPU, a kernel or two for each array would take longer than reading it.
    parts = (finite[k : k + _TOGETHER] for k in range(0, len(finite), _TOGETHER))
    return jnp.all(_joined([_joined(part) for part in parts]))


def _joined(arrays: list[jax.Array]) -> jax.Array:
    """All elements of arrays, in order.

    Behind an optimization barrier: of a concatenation, XLA would reduce every operand by itself.
    """
    return jax.lax.optimization_barrier(jnp.concatenate([x.ravel() for x in arrays]))
