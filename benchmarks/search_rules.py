"""The search algorithms compared by `benchmarks.search_algorithms`, with a limit on evaluations.

Each is a function of a run, a measurement function, and the number of evaluations for all budgets
together; it returns one configuration for each budget.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rfquant_jax.config.search_algorithms import search_algorithm
from rfquant_jax.search.greedy import cheapest
from rfquant_jax.search.problem import Problem
from rfquant_jax.search.profile import Profile
from rfquant_jax.search.profile_search import ProfileSearch, ProfileSettings, measure_profile
from rfquant_jax.search.trust_region import TrustRegionSettings
from rfquant_jax.tasks.run import Run

PROFILE_SHARE = 0.6  # fraction of evaluations for the profile; the rest is for the budgets
POPULATION = 12  # population of the evolution; the number of generations uses up the evaluations


def trust_region(run: Run, counted, evaluations: int) -> list[np.ndarray]:
    """A profile, then trust regions."""
    profiled = int(PROFILE_SHARE * evaluations)
    each = (evaluations - profiled) // len(run.budgets)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "profile.jsonl"
        profile = Profile(run.plan.space, path, {}, counted)
        measure_profile(profile, run.search_space, 1, profiled, run.config.seed)
        chosen = ProfileSettings(profiled, TrustRegionSettings(evaluations=each))
        search = ProfileSearch(profile, len(profile), 1, run.search_space, chosen, run.config.seed)
        return [search(budget, number)[0] for number, budget in enumerate(run.budgets)]


def _by_config(**fields) -> Callable[[Run, object, int], list[np.ndarray]]:
    """An algorithm of `config.search`; fields may be functions of evaluations for one budget."""

    def rule(run: Run, counted, evaluations: int) -> list[np.ndarray]:
        config, each = run.config.copy_and_resolve_references(), evaluations // len(run.budgets)
        for name, value in fields.items():
            config.search[name] = value(each) if callable(value) else value
        algorithm = search_algorithm(config, len(run.search_space.space), lambda *_: None)
        found = algorithm(Problem(run.search_space, tuple(run.budgets), counted, config.seed))
        best = [counted.best(budget, run.search_space.space) for budget in run.budgets]
        # A search without remaining evaluations ends blindly, so its measured configurations count
        # too.
        return [_better(run, counted, *pair) for pair in zip(found, best, run.budgets, strict=True)]

    return rule


def _better(run: Run, counted, proposed, measured, budget) -> np.ndarray:
    """The first proposal, unless a better configuration was measured within the budget."""
    first = proposed[0]
    if measured is None:
        return first if budget.fits(first) else cheapest(run.search_space, budget)
    values = [counted.known.get(c.tobytes(), np.inf) for c in (first, measured)]
    return first if values[0] <= values[1] else measured


RULES: dict[str, Callable[[Run, object, int], list[np.ndarray]]] = {
    "trust_region": trust_region,
    "greedy": _by_config(algorithm="greedy"),
    "paper": _by_config(algorithm="paper"),
    "evolution": _by_config(
        algorithm="evolution",
        population=POPULATION,
        keep=4,
        # Parents are already measured: a generation only measures its children.
        generations=lambda each: max(1, each // POPULATION),
    ),
    "random": _by_config(algorithm="random", evaluations=lambda each: each),
}
