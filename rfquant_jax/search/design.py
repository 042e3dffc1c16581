"""The design of a profile: configurations of all costs, with every variable at every bit-width."""

from __future__ import annotations

import itertools

import numpy as np

from rfquant_jax.quant.space import ACTIVATIONS, WEIGHTS
from rfquant_jax.search.variables import SearchSpace

SPREADS = (0.4, 0.8, 1.6)  # standard deviations of the bits around a level
SINGLE_MOVES = 0.2  # share of the profile, at most


def profile_configurations(search_space: SearchSpace, count: int, seed: int) -> np.ndarray:
    """Distinct configurations to measure, int32[N, L, 2], with N about `count`.

    These are the largest configuration, all uniform pairs wXaY, single moves from the middle
    uniform one, and random ones. Random ones draw bit-widths around random levels with small and
    large spread; in half of them, weights and activations have the same level.

    Args:
      count: total number of configurations; all uniform pairs are included in any case.
      seed: seed of the random draws.
    """
    rng = np.random.default_rng([seed, 1])
    candidates = search_space.candidates
    found: dict[bytes, np.ndarray] = {}

    def add(configuration: np.ndarray) -> None:
        found.setdefault(configuration.tobytes(), configuration)

    add(search_space.uniform(candidates[0], candidates[0]))
    for pair in itertools.product(*search_space.space.columns):
        add(search_space.uniform(*pair))
    moves = _single_moves(search_space)
    for place in rng.permutation(len(moves))[: int(SINGLE_MOVES * count)]:
        add(moves[place])
    for _ in range(20 * count):  # in a small space, draws repeat
        if len(found) >= count:
            break
        add(drawn_around(search_space, rng))
    return np.stack(list(found.values()))


def drawn_around(search_space: SearchSpace, rng: np.random.Generator) -> np.ndarray:
    """A random configuration around a common level, or around separate weight and activation
    levels.

    Returns:
      int32[L, 2]; each variable takes the allowed bit-width nearest to a normal draw.
    """
    low, high = min(search_space.candidates), max(search_space.candidates)
    levels = rng.uniform(low - 0.5, high + 0.5, 2)
    if rng.random() < 0.5:
        levels[:] = levels[0]
    level = {WEIGHTS: levels[0], ACTIVATIONS: levels[1]}
    spread = SPREADS[rng.integers(len(SPREADS))]
    return search_space.set(
        lambda variable: _nearest(variable.allowed, rng.normal(level[variable.column], spread))
    )


def _nearest(allowed: tuple[int, ...], value: float) -> int:
    return min(allowed, key=lambda bits: abs(bits - value))


def _single_moves(search_space: SearchSpace) -> list[np.ndarray]:
    """The middle uniform configuration with one variable at each of its other bit-widths."""
    middle = search_space.candidates[len(search_space.candidates) // 2]
    base = search_space.uniform(middle, middle)
    return [
        variable.assign(base, bits)
        for variable in search_space.variables
        for bits in variable.allowed
        if bits != variable.read(base)
    ]
