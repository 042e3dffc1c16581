"""Sampling of the configurations of a training step (method, sections 4 and 12).

With independent draws, the mean bit-width over 30 or more layers hardly varies between passes, and
cheap configurations stay untrained. `levels` and the smallest pass train them with the same number
of passes.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from rfquant_jax.runtime.setting import FRACTION, POSITIVE, documented, one_of, setting

RULES = INDEPENDENT, LEVELS = "independent", "levels"

# Values folded into a step's key for each draw; 0 and 1 are the columns of a configuration.
_LEVEL, _SMALLEST = 2, 3


@documented
@dataclass(frozen=True)
class Sampling:
    """Settings of the sampling of random passes; the defaults are the published method.

    "levels" draws one level t per pass, uniformly from [min B - 0.5, max B + 0.5], and then every
    allowed bit-width b with log-probability -(b - t)^2 / (2 * spread^2), up to normalization.
    """

    rule: str = setting(
        INDEPENDENT,
        'how random configurations are drawn. "independent": every bit-width uniformly; "levels": '
        "bit-widths around one level for all layers of a pass",
        one_of(RULES),
    )
    spread: float = setting(
        0.8, 'standard deviation of the bits around the level, for "levels"', POSITIVE
    )
    smallest_pass: float = setting(
        0.0,
        "probability that one random pass of a step runs the smallest bit-widths",
        FRACTION,
    )


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

    The first is the max pass: every layer at its largest allowed bit-widths. The others are
    sampled; given the level of a pass, the bits of different layers and columns are independent.

    Args:
      key: key of the step.
      weight_mask: bool[L, |B|], traced; each row allows at least one bit-width.
      activation_mask: the same for activations.
      candidates: B, largest first.
      count: number of random passes.
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
    # A caller may pass 1 instead of 1.0.
    probability = float(sampling.smallest_pass)
    chosen = jax.random.bernoulli(jax.random.fold_in(key, _SMALLEST), probability)
    smallest = bits[::-1][jnp.argmax(masks[..., ::-1], axis=-1).T]
    return configurations.at[1].set(jnp.where(chosen, smallest, configurations[1]))


def _log_probabilities(
    key: jax.Array, bits: jax.Array, count: int, sampling: Sampling
) -> jax.Array:
    """Unnormalized log-probabilities of the bit-widths in each random pass, float32[count, |B|]."""
    if sampling.rule == INDEPENDENT:
        return jnp.zeros((count, len(bits)))
    share = jax.random.uniform(jax.random.fold_in(key, _LEVEL), (count, 1))
    level = bits[-1] - 0.5 + share * (bits[0] - bits[-1] + 1)
    return -(((bits - level) / sampling.spread) ** 2) / 2
