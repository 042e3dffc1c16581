"""The configurations that matter among all that a search visited."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from rfquant_jax.search.record import Visit


def frontier(
    visits: Sequence[Visit], cost: Callable[[np.ndarray], float], points: int
) -> list[Visit]:
    """Visits spread over the range of costs, of each stretch the one with the smallest error.

    Errors come from different batches, so a strict frontier would be one of lucky batches.

    Args:
      cost: of a configuration.
      points: stretches of equal length, on a log scale, that the range of costs is divided into.

    Returns:
      at most `points` visits of different configurations, the cheapest first.
    """
    finite = [visit for visit in visits if np.isfinite(visit.error)]
    if not finite or points < 1:
        return []
    logs = np.log([cost(visit.configuration) for visit in finite])
    width = (logs.max() - logs.min()) / points
    stretches = np.minimum((logs - logs.min()) / width if width > 0 else 0 * logs, points - 1)
    best: dict[int, Visit] = {}
    for visit, stretch in zip(finite, stretches.astype(int), strict=True):
        if stretch not in best or visit.error < best[stretch].error:
            best[stretch] = visit
    return [best[stretch] for stretch in sorted(best)]


def rank_correlations(
    guesses: Sequence[float], truths: Sequence[float], costs: Sequence[float]
) -> tuple[float | None, float | None]:
    """How well guesses rank the truth: Spearman's correlation, and the part of it beside the cost.

    Over a wide range of costs almost any guess ranks well, since cheap configurations are bad ones.
    The partial correlation (of the ranks, given the costs') says what the guess knows beyond that.

    Returns:
      both in [-1, 1]; None where it says nothing: for one value alone, ranks that costs decide, or
      fewer than three points, four for the partial one.
    """

    def correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
        varied = len(set(one)) > 1 and len(set(other)) > 1
        return float(stats.spearmanr(one, other)[0]) if varied and len(one) > 2 else None

    together = correlation(guesses, truths)
    guess_cost, truth_cost = correlation(guesses, costs), correlation(truths, costs)
    if None in (together, guess_cost, truth_cost) or len(costs) < 4:
        return together, None
    left = (1 - guess_cost**2) * (1 - truth_cost**2)
    if left < 1e-9:
        return together, None
    return together, (together - guess_cost * truth_cost) / left**0.5
