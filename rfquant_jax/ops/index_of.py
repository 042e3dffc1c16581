"""The place of a traced number among constants."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rfquant_jax.runtime.backend import backend


def index_of(value: jax.Array, constants: Sequence[int]) -> jax.Array:
    """Index of a number, int32[], which must be one of `constants`, int32[].

    On GPU, an `argmax` would be a kernel of its own; XLA fuses selections with what reads them.
    """
    if backend() == "cpu":
        return jnp.argmax(jnp.asarray(constants) == value)
    found = jnp.zeros((), jnp.int32)
    for index, constant in enumerate(constants[1:], start=1):
        found = jnp.where(value == constant, index, found)
    return found
