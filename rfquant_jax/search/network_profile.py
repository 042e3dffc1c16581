"""The profile of a coupled network: measured divergences, and a surrogate fitted to them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from rfquant_jax.errors import UserError
from rfquant_jax.quant.configuration import Configuration
from rfquant_jax.quant.plan import QuantizationPlan
from rfquant_jax.search.evaluator import CandidateEvaluator
from rfquant_jax.search.profile import Profile
from rfquant_jax.search.profile_search import ProfileSearch, ProfileSettings, measure_profile
from rfquant_jax.search.surrogate import Quality
from rfquant_jax.search.variables import SearchSpace, make_search_space

FEWEST = 10  # configurations that fitting a surrogate requires


class NetworkProfile:
    """Divergences of configurations, and a surrogate that predicts others; made by `profile`.

    The divergence of a configuration is the mean over images of the Kullback-Leibler divergence of
    its class probabilities from those of the largest bit-widths, in nats. It needs no labels.

    Attributes:
      plan: the plan of the network.
      evaluator: measures configurations; None if the profile was read from a file without a
        network.
      record: all measured divergences.
      parts: number of disjoint sets of images on which divergences are measured separately.
      count: number of configurations that are measured before a search.
      seed: seed of their random choice.
    """

    def __init__(
        self,
        plan: QuantizationPlan,
        record: Profile,
        evaluator: CandidateEvaluator | None,
        *,
        parts: int = 1,
        count: int,
        seed: int = 0,
    ):
        self.plan, self.record, self.evaluator = plan, record, evaluator
        self.parts, self.count, self.seed = parts, count, seed

    def __len__(self) -> int:
        """Number of divergences in the profile."""
        return len(self.record)

    @property
    def measured(self) -> bool:
        """Whether the profile has an evaluator, so that further configurations can be measured."""
        return self.evaluator is not None

    @property
    def quality(self) -> Quality:
        """Quality of the surrogate on configurations that it was not fitted on (5-fold): `r2` of
        log(divergence), `rank_correlation`, and the pairs `measured` and `predicted`.
        """
        return self._unrestricted.pooled.quality

    def divergences(self, configurations: Sequence[Configuration]) -> np.ndarray:
        """Divergences of configurations, float64[N], mean over the parts.

        Configurations that are not in the profile are measured and added.

        Raises:
          UserError: one is not a configuration of the network.
          LookupError: one is not in the profile, and there is no evaluator to measure it.
        """
        rows = np.stack([self.plan.configuration(given) for given in configurations])
        return np.mean([self.record.measure(rows, part) for part in range(self.parts)], axis=0)

    def known(self, configuration: Configuration) -> float | None:
        """The divergence of a configuration in the profile; None if it was not measured.

        Raises:
          UserError: not a configuration of the network.
        """
        rows = self.plan.configuration(configuration)
        found = [self.record.known(rows, part) for part in range(self.parts)]
        return None if None in found else float(np.mean(found))

    def predict(self, configurations: Sequence[Configuration]) -> np.ndarray:
        """Divergences predicted by the surrogate, float64[N]; nothing is measured.

        Raises:
          UserError: one is not a configuration of the network.
        """
        rows = [self.plan.configuration(given) for given in configurations]
        pooled = self._unrestricted.pooled
        middle = self.plan.space.candidates[len(self.plan.space.candidates) // 2]
        centre = pooled.number(self.plan.space.uniform(middle, middle))
        return np.exp(pooled.surrogate(centre, width=np.inf).predict(rows))

    @cached_property
    def _unrestricted(self) -> ProfileSearch:
        """The search without limits on bit-widths, whose surrogate covers all configurations."""
        return self.model()

    def model(
        self, search_space: SearchSpace | None = None, settings: ProfileSettings | None = None
    ) -> ProfileSearch:
        """A search with a surrogate fitted to the configurations that are measured in advance.

        Configurations that earlier searches measured are not used for the fit, so that results do
        not depend on earlier searches. They only save evaluations.

        Args:
          search_space: the variables of the search; None: every bit-width that the plan allows.
            With limits, other configurations are measured in advance, unless they are in the
            profile already.
          settings: constants of the search; None: the defaults.

        Raises:
          UserError: there is no evaluator, and the profile holds too few configurations within the
            limits.
        """
        search_space = search_space or make_search_space(self.plan.space)
        chosen = None
        if self.measured:
            design = measure_profile(self.record, search_space, self.parts, self.count, self.seed)
            keys = {configuration.tobytes() for configuration in design}
            chosen = lambda configuration: configuration.tobytes() in keys  # noqa: E731
        else:
            self._check_enough(search_space)
        return ProfileSearch(
            self.record,
            len(self.record),
            self.parts,
            search_space,
            settings or ProfileSettings(),
            self.seed,
            chosen=chosen,
        )

    def _check_enough(self, search_space: SearchSpace) -> None:
        measured, _ = self.record.snapshot(0, len(self.record))
        if sum(map(search_space.holds, measured)) < FEWEST:
            raise UserError(
                f"the profile holds fewer than {FEWEST} configurations within these limits, "
                "pins, groups and equal bits, and has no network to measure others with"
            )
