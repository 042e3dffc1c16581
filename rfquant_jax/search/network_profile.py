"""The profile of a coupled network: divergences of configurations, and a model of all others."""

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

FEWEST = 10  # configurations that a model from a file is fitted to


class NetworkProfile:
    """How far configurations diverge from the largest bit-widths; `profile` makes it.

    A divergence is the mean Kullback-Leibler divergence, in nats, of a configuration's class
    probabilities from those of the largest bit-widths on the same images. It needs no labels.

    Attributes:
      plan: of the network.
      evaluator: measures configurations; None where the profile came from a file alone.
      record: every divergence that was measured.
      parts: disjoint sets of images that were measured apart.
      count: configurations that its design has.
      seed: of the draws.
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
        """Divergences in the profile."""
        return len(self.record)

    @property
    def measured(self) -> bool:
        """Whether further configurations can be measured."""
        return self.evaluator is not None

    @property
    def quality(self) -> Quality:
        """How well the model predicts configurations that it was not fitted to (5-fold): `r2` of
        log(divergence), `rank_correlation`, and the pairs `measured` and `predicted`."""
        return self._unrestricted.pooled.quality

    def divergences(self, configurations: Sequence[Configuration]) -> np.ndarray:
        """Measured divergences, float64[N], a mean over the parts.

        Raises:
          UserError: it is not a configuration of the network.
          LookupError: one was not measured, and there is no network to measure it with.
        """
        rows = np.stack([self.plan.configuration(given) for given in configurations])
        return np.mean([self.record.measure(rows, part) for part in range(self.parts)], axis=0)

    def known(self, configuration: Configuration) -> float | None:
        """The measured divergence of a configuration; None if it was not measured.

        Raises:
          UserError: it is not a configuration of the network.
        """
        rows = self.plan.configuration(configuration)
        found = [self.record.known(rows, part) for part in range(self.parts)]
        return None if None in found else float(np.mean(found))

    def predict(self, configurations: Sequence[Configuration]) -> np.ndarray:
        """Divergences by the model fitted to the profile, float64[N]; nothing is evaluated.

        Raises:
          UserError: it is not a configuration of the network.
        """
        rows = [self.plan.configuration(given) for given in configurations]
        pooled = self._unrestricted.pooled
        middle = self.plan.space.candidates[len(self.plan.space.candidates) // 2]
        centre = pooled.number(self.plan.space.uniform(middle, middle))
        return np.exp(pooled.surrogate(centre, width=np.inf).predict(rows))

    @cached_property
    def _unrestricted(self) -> ProfileSearch:
        """The model of all configurations."""
        return self.model()

    def model(
        self, search_space: SearchSpace | None = None, settings: ProfileSettings | None = None
    ) -> ProfileSearch:
        """A search on the profile's design: what searches measured besides only saves evaluations.

        Args:
          search_space: what may change; None: every bit-width that the plan allows. Restricted ones
            have a design of their own, which is measured where the profile lacks it.
          settings: constants; None: the published ones.

        Raises:
          UserError: too little was measured within the restrictions, and there is no network to
            measure with.
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
                "pins and groups, and has no network to measure others with"
            )
