"""The curve of accuracy over cost, solved on the surrogate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rfquant_jax.search.budget import Budget, CostKind, Limit
from rfquant_jax.search.greedy import cheapest
from rfquant_jax.search.trust_region import TrustRegionSearch
from rfquant_jax.search.variables import SearchSpace

POINTS = 30  # number of budgets on the curve
REGION = 0.3  # fraction of variables that may differ from the best measured configuration


@dataclass(frozen=True)
class Point:
    """One point of the curve.

    Attributes:
      budget: the budget of this point.
      configuration: int32[L, 2].
      predicted: divergence predicted by the surrogate.
    """

    budget: Budget
    configuration: np.ndarray
    predicted: float


def curve(model: TrustRegionSearch, search_space: SearchSpace, kind: CostKind) -> list[Point]:
    """Configurations for budgets from the smallest to the largest cost, the cheapest first.

    Budgets are spaced evenly on a log scale. Repeated configurations are dropped.

    Args:
      model: solved for each budget around the best measured configuration within that budget.
      kind: kind of cost.
    """
    largest = search_space.uniform(search_space.candidates[0], search_space.candidates[0])
    anything = Budget("cheapest", (Limit(kind, 1.0),))
    low, high = kind.cost(cheapest(search_space, anything)), kind.cost(largest)
    costs = np.exp(np.linspace(np.log(low), np.log(high), POINTS))
    costs[0], costs[-1] = low, high  # exact, despite rounding of the logarithm
    points: dict[bytes, Point] = {}
    for cost in costs:
        budget = Budget(f"{cost:.4g}{kind.unit}", (Limit(kind, float(cost)),))
        point = solved(model, search_space, budget)
        points.setdefault(point.configuration.tobytes(), point)
    return list(points.values())


def solved(model: TrustRegionSearch, search_space: SearchSpace, budget: Budget) -> Point:
    """What the model proposes for one budget, near the best measured configuration within it."""
    known = model.best(budget)
    if known is None:
        only = cheapest(search_space, budget)
        return Point(budget, only, float(np.exp(model.surrogate(0).predict([only])[0])))
    surrogate = model.surrogate(known)
    centre = model.configuration(known)
    top = search_space.candidates[0]
    if np.array_equal(centre, search_space.uniform(top, top)):
        # The divergence of the largest configuration is 0, where a model of logarithms is
        # undefined.
        return Point(budget, centre, float(np.exp(surrogate.value)))
    radius = max(2, round(REGION * len(search_space.variables)))
    found = model.solve(surrogate.terms, budget, centre, radius)
    configuration = centre if found is None else found
    return Point(budget, configuration, float(np.exp(surrogate.predict([configuration])[0])))


def spread(count: int, chosen: int) -> list[int]:
    """Indices of `chosen` of `count` points, spaced evenly, including both ends."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(chosen, count))})
