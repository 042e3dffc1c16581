"""The finalists of a budget: its proposals, and the uniform configurations within it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from rfquant_jax.search.budget import Budget
from rfquant_jax.search.propose import Proposal
from rfquant_jax.search.search_images import SearchImages
from rfquant_jax.search.selection import Finalist
from rfquant_jax.search.variables import SearchSpace

UNIFORM = "uniform "  # prefix of the names of uniform finalists

# divergences(configurations) -> float64[N], NaN if not measured
Divergences = Callable[[Sequence[np.ndarray]], np.ndarray]


def proposed_finalists(proposals: Sequence[Proposal], images: SearchImages) -> list[Finalist]:
    """Proposals as finalists; duplicates are merged, with the union of their unseen images."""
    found: dict[bytes, Finalist] = {}
    for proposal in proposals:
        key, unseen = proposal.configuration.tobytes(), images.unseen[proposal.part]
        if key in found:
            unseen = unseen | found[key].unseen
        name = found[key].name if key in found else proposal.name
        found[key] = Finalist(name, proposal.configuration, unseen)
    return list(found.values())


def uniform_finalists(
    search_space: SearchSpace,
    budget: Budget,
    images: SearchImages,
    divergences: Divergences | None = None,
) -> list[Finalist]:
    """The largest uniform configuration within a budget and, with a profile, the best pair wXaY."""
    everything = np.ones(len(images.confirming), bool)
    equal = budget.uniform(search_space)
    pair = [] if divergences is None else best_pair(search_space, budget, divergences)
    named = {f"{UNIFORM}{name}": configuration for name, configuration in [*equal, *pair]}
    return [Finalist(name, configuration, everything) for name, configuration in named.items()]


def best_pair(
    search_space: SearchSpace, budget: Budget, divergences: Divergences
) -> list[tuple[str, np.ndarray]]:
    """The uniform pair wXaY within a budget with the least divergence, by name; or empty."""
    pairs = {
        f"w{w}a{a}": search_space.uniform(w, a)
        for w, a in itertools.product(*search_space.space.columns)
    }
    within = {name: c for name, c in pairs.items() if budget.fits(c)}
    if not within:
        return []
    values = divergences(list(within.values()))
    # Several pairs may be the same configuration: use the name with the most bits, or that of a
    # level, so that a uniform configuration does not appear under two names.
    name = list(within)[int(np.argmin(np.where(np.isnan(values), np.inf, values)))]
    levels = [f"w{w}a{a}" for w, a in search_space.levels]
    same = [x for x in levels if x in within and np.array_equal(within[x], within[name])]
    name = (same or [name])[0]
    return [(name, within[name])]
