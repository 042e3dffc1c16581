"""Proposals for each budget, by a search algorithm or from a profile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rfquant_jax.search.budget import Budget
from rfquant_jax.search.problem import Algorithm, Problem
from rfquant_jax.search.profile_search import ProfileSearch


@dataclass(frozen=True)
class Proposal:
    """A configuration proposed for a budget.

    Attributes:
      name: its origin.
      configuration: int32[L, 2].
      part: index of the proposing images, see `search_images.SearchImages`.
    """

    name: str
    configuration: np.ndarray
    part: int = 0


def propose(algorithm: Algorithm, problem: Problem, name: str) -> list[list[Proposal]]:
    """Runs an algorithm that evaluates on new batches.

    Args:
      name: of the algorithm, for the names of the proposals.

    Returns:
      for each budget, configurations within it, the most promising first: its own, then the best of
      smaller budgets that fit this one.
    """
    found = algorithm(problem)
    return [_with_tighter(problem.budgets, found, index, name) for index in range(len(found))]


def _with_tighter(
    budgets: Sequence[Budget], found: list[list[np.ndarray]], index: int, algorithm: str
) -> list[Proposal]:
    budget, proposals = budgets[index], []
    for place, configuration in enumerate(found[index]):
        number = f" #{place + 1}" if place else ""
        proposals.append(Proposal(f"{algorithm} {budget.text}{number}", configuration))
    for tighter in range(index + 1, len(found)):
        if budget.fits(found[tighter][0]):
            name = f"{algorithm} {budgets[tighter].text}"
            proposals.append(Proposal(name, found[tighter][0]))
    return proposals


@dataclass(frozen=True)
class FromProfile:
    """Proposals for a budget from a profile.

    Attributes:
      proposals: one for each part of the images.
      evaluations: number of configurations measured for this budget.
    """

    proposals: list[Proposal]
    evaluations: int


def propose_from_profile(
    search: ProfileSearch, budgets: Sequence[Budget], on_budget: Callable[[], object]
) -> list[FromProfile]:
    """Searches every budget in trust regions, the largest budget first.

    Args:
      on_budget: called after each budget.
    """
    found = []
    for number, budget in enumerate(budgets):
        before = search.measured
        best = search(budget, number)
        named = [Proposal(_name(part, len(best)), c, part) for part, c in enumerate(best)]
        found.append(FromProfile(named, search.measured - before))
        on_budget()
    return found


def _name(part: int, parts: int) -> str:
    return f"trust region, half {'AB'[part]}" if parts > 1 else "trust region"
