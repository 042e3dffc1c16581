"""The search algorithms by name (`search.algorithm`), with their settings from the config.

`ALGORITHMS` is the one place that turns a name into an algorithm. `trust_region` is not in it: it
searches the profile instead of new batches, see `search/profile_search.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from ml_collections import ConfigDict

from rfquant_jax.config import search_bits
from rfquant_jax.errors import ConfigError
from rfquant_jax.search.greedy import GreedySettings, Move
from rfquant_jax.search.problem import Algorithm, greedy_search
from rfquant_jax.search.sampling import EvolutionSettings, evolution, random_search

ON_PROFILE = "trust_region"
NOTES = (
    "trust_region solves integer programs on a model fitted to a profile of the network\n"
    "paper is the published greedy search, except for three things: it makes an up move from the "
    "smallest bit-width (the published program chooses it and stays where it is), it enters no "
    "state twice, and weights move until activations alone can reach the budget"
)

OnMove = Callable[[Move, np.ndarray], None]
# build(config, number of searched layers, callback of moves) -> the algorithm
Builder = Callable[[ConfigDict, int, OnMove], Algorithm]


def search_algorithm(config: ConfigDict, layers: int, on_move: OnMove) -> Algorithm:
    """The algorithm that `config.search.algorithm` names.

    Args:
      layers: number of searched layers.
      on_move: called by greedy searches after every move, with the new configuration.

    Raises:
      ConfigError: no algorithm of this name evaluates on new batches.
    """
    name = config.search.algorithm
    if name not in ALGORITHMS:
        rule = f"does not search on new batches; {', '.join(ALGORITHMS)} do"
        raise ConfigError("search.algorithm", name, rule)
    return ALGORITHMS[name](config, layers, on_move)


def greedy_settings(config: ConfigDict, layers: int) -> GreedySettings:
    """Settings of the greedy search; "paper" normalizes as published.

    `NOTES` has how "paper" differs from the published program. The limit on iterations also
    applies; without it, the search can run for very long.
    """
    search = config.search
    paper = search.algorithm == "paper"
    return GreedySettings(
        alpha=search.alpha,
        start_bits=search_bits.start(config),
        normalize="max" if paper else search.normalize,
        max_iterations=search.max_iterations_per_layer * layers,
        joint=search.joint and not paper,
    )


def _greedy(config: ConfigDict, layers: int, on_move: OnMove) -> Algorithm:
    return partial(greedy_search, settings=greedy_settings(config, layers), on_move=on_move)


def _evolution(config: ConfigDict, layers: int, on_move: OnMove) -> Algorithm:
    search = config.search
    settings = EvolutionSettings(
        population=search.population,
        generations=search.generations,
        parents=search.keep,
        mutations=search.population // 2,
        crossovers=search.population // 2,
        probability=search.mutation_probability,
        least=search.min_load,
    )
    return partial(evolution, settings=settings, scoring=greedy_settings(config, layers))


def _random(config: ConfigDict, layers: int, on_move: OnMove) -> Algorithm:
    search = config.search
    chosen = {"evaluations": search.evaluations, "keep": search.keep, "least": search.min_load}
    return partial(random_search, **chosen)


ALGORITHMS: Mapping[str, Builder] = {
    "greedy": _greedy,
    "paper": _greedy,  # `greedy_settings` has what differs
    "evolution": _evolution,
    "random": _random,
}
