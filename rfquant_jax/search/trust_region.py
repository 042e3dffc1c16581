"""Integer programming on a fitted surrogate, in trust regions around the best known configuration.

The global optimum of the surrogate is too optimistic: the solver exploits errors of the model. So
every round limits the number of changed variables around the best measured configuration, measures
the solutions, refits the surrogate, and widens or narrows the region. The region must reach its
smallest size before the evaluations run out: there the model is most accurate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import LinearConstraint

from rfquant_jax.quant.space import ACTIVATIONS, WEIGHTS
from rfquant_jax.search.budget import Budget
from rfquant_jax.search.greedy import cheapest
from rfquant_jax.search.ilp import IntegerProgram
from rfquant_jax.search.surrogate import (
    FLOOR,
    Encoding,
    Quality,
    Surrogate,
    Terms,
    cross_validate,
    fit,
    log_divergence,
)
from rfquant_jax.search.variables import SearchSpace

SMALLEST_RADIUS = 2  # changed variables: at a tight budget one can only gain bits if another loses

Measure = Callable[[np.ndarray], np.ndarray]  # int32[N, L, 2] -> divergences float64[N]


@dataclass(frozen=True)
class TrustRegionSettings:
    """Constants of the search.

    Attributes:
      evaluations: configurations measured for a budget, at most.
      proposals: of them in a round.
      patience: rounds at the smallest radius without a better configuration before it ends.
      width: of the surrogate's weights, as a share of the variables, see `surrogate.fit`.
    """

    evaluations: int = 30
    proposals: int = 4
    patience: int = 1
    width: float = 0.3


class TrustRegionSearch:
    """Searches one budget after the other; later budgets reuse all measurements.

    Args:
      search_space: the search space.
      configurations, divergences: the profile, int32[N, L, 2] and float64[N].
      measure: measures divergences on the same images.
      settings: settings of the search.
      seed: seed of the posterior samples.

    Attributes:
      quality: quality of the surrogate on the profile, by cross-validation.
      measured: number of configurations measured in addition to the profile.
    """

    def __init__(
        self,
        search_space: SearchSpace,
        configurations: np.ndarray,
        divergences: np.ndarray,
        measure: Measure,
        settings: TrustRegionSettings,
        seed: int,
    ):
        self._search_space, self._measure, self._settings = search_space, measure, settings
        self._configurations = list(configurations)
        self._divergences = list(divergences)
        self._known = {c.tobytes(): i for i, c in enumerate(self._configurations)}
        self._encoding, self._program = Encoding(search_space), IntegerProgram.of(search_space)
        self._seed, self.measured = seed, 0
        self.quality: Quality = cross_validate(self._encoding, *self._fitted())

    def search(self, budget: Budget, number: int) -> list[np.ndarray]:
        """All measured configurations within a budget, the best first.

        Args:
          number: index of the budget, for the random draws.
        """
        rng = np.random.default_rng([self._seed, number, 2])
        left, stall = self._settings.evaluations, 0
        if not self._within(budget):
            self._learn([cheapest(self._search_space, budget)])
            left -= 1
        radius = len(self._search_space.variables)  # the first round is global
        best = self._within(budget)[0]
        while left > 0 and stall < self._settings.patience:
            radius = min(radius, self._widest(left))
            proposals = self._propose(
                budget, best, radius, min(left, self._settings.proposals), rng
            )
            left -= len(proposals)
            self._learn(proposals)
            leader = self._within(budget)[0]
            if leader != best:
                best, stall, radius = leader, 0, 2 * radius
            else:
                stall += radius <= SMALLEST_RADIUS
                radius = max(SMALLEST_RADIUS, radius // 2)
        return [self._configurations[i] for i in self._within(budget)]

    def _widest(self, left: int) -> int:
        """The largest radius with so many evaluations left.

        From all variables in the first round to the smallest radius in the last one, by equal
        factors, so that successes of wide regions leave evaluations for small ones.
        """
        size, search_space = self._settings.proposals, len(self._search_space.variables)
        rounds, first = (-(-count // size) for count in (left, self._settings.evaluations))
        share = (rounds - 1) / (first - 1) if first > 1 else 1.0
        return round(SMALLEST_RADIUS * (search_space / SMALLEST_RADIUS) ** share)

    def best(self, budget: Budget) -> int | None:
        """Index of the best measured configuration within a budget, if any."""
        within = self._within(budget)
        return within[0] if within else None

    def configuration(self, number: int) -> np.ndarray:
        """A measured configuration, int32[L, 2]."""
        return self._configurations[number]

    def number(self, configuration: np.ndarray) -> int:
        """Number of a measured configuration int32[L, 2]."""
        return self._known[configuration.tobytes()]

    def surrogate(self, centre: int, width: float | None = None) -> Surrogate:
        """The surrogate fitted around a measured configuration."""
        configurations, values = self._fitted()
        share = self._settings.width if width is None else width
        return fit(
            self._encoding,
            configurations,
            values,
            self._configurations[centre],
            float(log_divergence(np.asarray(self._divergences))[centre]),
            strength=self.quality.strength,
            width=share * len(self._search_space.variables),
        )

    def sensitivity(self, base: np.ndarray) -> tuple[dict[int, float], ...]:
        """Predicted growth of log(divergence) if a single variable loses bits.

        Args:
          base: int32[L, 2], a measured configuration, the bits of all other variables.

        Returns:
          for each variable, {bit-width: growth relative to its largest one}; all measurements have
          equal weight.
        """
        model = self.surrogate(self._known[base.tobytes()], width=np.inf)
        found = []
        for variable in self._search_space.variables:
            values = model.predict([variable.assign(base, bits) for bits in variable.allowed])
            found.append(dict(zip(variable.allowed, (values - values[0]).tolist(), strict=True)))
        return tuple(found)

    def solve(
        self, terms: Terms, budget: Budget, centre: np.ndarray | None = None, radius: int = 0
    ) -> np.ndarray | None:
        """The configuration with the least predicted divergence within a budget and a trust region.

        Args:
          terms: terms of the divergence, see `Surrogate.terms`.
          centre, radius: at most `radius` variables may differ from `centre`; None: any.

        Returns:
          int32[L, 2], or None if the solver finds none.
        """
        objective = self._of_choices(terms.variables)
        objective += [terms.pairs[c.weight_bits, c.activation_bits] for c in self._program.choices]
        limits = []
        if centre is not None:
            changed = [
                {bits: float(bits != v.read(centre)) for bits in v.allowed}
                for v in self._search_space.variables
            ]
            limits.append(LinearConstraint(self._of_choices(changed)[None], -np.inf, radius))
        loads = [self._program.loads(limit) for limit in budget.limits]
        # The solver satisfies limits up to a tolerance, but budgets must hold exactly.
        for slack in (1e-9, 1e-6):
            rows = [LinearConstraint(a[None], -np.inf, 1 - slack - start) for start, a in loads]
            found = self._program.solve(objective, [*limits, *rows])
            if found is not None and budget.fits(found):
                return found
        return None

    def _propose(
        self, budget: Budget, best: int, radius: int, count: int, rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Up to `count` distinct configurations that were not measured yet."""
        surrogate = self.surrogate(best)
        centre = self._configurations[best]
        found: dict[bytes, np.ndarray] = {}
        for number in range(2 * count):
            terms = surrogate.sample(rng) if number else surrogate.terms
            solution = self.solve(terms, budget, centre, radius)
            if solution is not None and solution.tobytes() not in self._known:
                found.setdefault(solution.tobytes(), solution)
            if len(found) == count:
                break
        return list(found.values())

    def _learn(self, configurations: Sequence[np.ndarray]) -> None:
        if not len(configurations):
            return
        self.measured += len(configurations)
        for configuration, value in zip(
            configurations, self._measure(np.stack(configurations)), strict=True
        ):
            self._known[configuration.tobytes()] = len(self._configurations)
            self._configurations.append(configuration)
            self._divergences.append(float(value))

    def _within(self, budget: Budget) -> list[int]:
        """Indices of the configurations within a budget, sorted by divergence; NaN last."""
        values = log_divergence(np.asarray(self._divergences))
        failed = ~np.isfinite(self._divergences)
        fitting = [i for i, c in enumerate(self._configurations) if budget.fits(c)]
        return sorted(fitting, key=lambda i: (failed[i], values[i], i))

    def _fitted(self) -> tuple[np.ndarray, np.ndarray]:
        """The configurations used for fitting: all except those with divergence 0, such as the
        largest.

        Their logarithm only reflects `FLOOR` and rounding.
        """
        divergences = np.asarray(self._divergences)
        kept = ~(divergences <= FLOOR)  # also NaN
        return np.stack(self._configurations)[kept], log_divergence(divergences)[kept]

    def _of_choices(self, terms: Sequence[dict[int, float]]) -> np.ndarray:
        """Each variable's term counts once, with its first layer."""
        firsts = {
            (v.layers[0], v.column): of
            for v, of in zip(self._search_space.variables, terms, strict=True)
        }
        return np.asarray(
            [
                firsts.get((c.layer, WEIGHTS), {}).get(c.weight_bits, 0.0)
                + firsts.get((c.layer, ACTIVATIONS), {}).get(c.activation_bits, 0.0)
                for c in self._program.choices
            ]
        )
