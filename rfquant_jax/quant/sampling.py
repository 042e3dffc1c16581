"""Which configurations the passes of a training step run (method, sections 4 and 12).

Independent draws give every layer an average configuration: over 30 or more draws the mean
bit-width hardly varies, and cheap configurations stay untrained. `levels` and the smallest pass
train them, with the same number of passes.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

INDEPENDENT, LEVELS = "independent", "levels"

# What is folded into a step's key for each draw; 0 and 1 are the columns of a configuration.
_LEVEL, _SMALLEST = 2, 3


@dataclass(frozen=True)
class Sampling:
    """How random passes get their configurations; constants of a run, as published by default.

    Attributes:
      rule: `independent` draws every bit-width evenly from those allowed. `levels` draws one level
        t for a pass, evenly from [min B - 0.5, max B + 0.5], and then every bit-width b with
        log-probability -(b - t)^2 / (2 * spread^2) among those allowed.
      spread: standard deviation around the level, in bits.
      smallest_pass: probability that the first random pass of a step runs every layer at its
        smallest allowed bit-widths instead.
    """

    rule: str = INDEPENDENT
    spread: float = 0.8
    smallest_pass: float = 0.0


PUBLISHED = Sampling()


def sample_step(
    key: jax.Array,
    weight_mask: jax.Array,
    activation_mask: jax.Array,
    candidates: tuple[int, ...],
    count: int,
    sampling: Sampling = PUBLISHED,
) -> jax.Array:
    """The configurations of one training step, int32[1 + count, L, 2].

    The first has every layer at its largest allowed bit-widths (the max pass). The others are
    drawn; given the level of its pass, each layer's weight and activation bits are independent.

    Args:
      key: of the step.
      weight_mask: bool[L, |B|], traced; at least one bit-width is allowed in each row.
      activation_mask: the same for activations.
      candidates: B, largest first.
      count: random passes.
    """
    masks = jnp.stack([weight_mask, activation_mask])
    bits = jnp.asarray(candidates, jnp.int32)
    likely = _log_probabilities(key, bits, count, sampling)
    columns = []
    for column, mask in enumerate(masks):
        keys = jax.random.split(jax.random.fold_in(key, column), count)
        drawn = [
            jax.random.categorical(k, jnp.where(mask, likely[i], -jnp.inf))
            for i, k in enumerate(keys)
        ]
        columns.append(jnp.stack([jnp.argmax(mask, axis=-1), *drawn]))
    configurations = bits[jnp.stack(columns, axis=-1)]
    if not count or not sampling.smallest_pass:
        return configurations
    # A recipe may say 1 for 1.0.
    probability = float(sampling.smallest_pass)
    chosen = jax.random.bernoulli(jax.random.fold_in(key, _SMALLEST), probability)
    smallest = bits[::-1][jnp.argmax(masks[..., ::-1], axis=-1).T]
    return configurations.at[1].set(jnp.where(chosen, smallest, configurations[1]))


def _log_probabilities(
    key: jax.Array, bits: jax.Array, count: int, sampling: Sampling
) -> jax.Array:
    """Of the bit-widths in each random pass, up to a constant, float32[count, |B|]."""
    if sampling.rule == INDEPENDENT:
        return jnp.zeros((count, len(bits)))
    share = jax.random.uniform(jax.random.fold_in(key, _LEVEL), (count, 1))
    level = bits[-1] - 0.5 + share * (bits[0] - bits[-1] + 1)
    return -(((bits - level) / sampling.spread) ** 2) / 2
