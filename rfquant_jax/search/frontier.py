"""The configurations that matter among all that a search visited."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

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
