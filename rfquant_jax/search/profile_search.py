"""Search on a profile: measures the profile, and searches any budget from a snapshot of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from rfquant_jax.search.budget import Budget
from rfquant_jax.search.design import profile_configurations
from rfquant_jax.search.profile import Profile
from rfquant_jax.search.surrogate import Quality
from rfquant_jax.search.trust_region import TrustRegionSearch, TrustRegionSettings
from rfquant_jax.search.variables import SearchSpace


@dataclass(frozen=True)
class ProfileSettings:
    """Settings of a search on a profile.

    Attributes:
      configurations: number of configurations in the profile.
      region: settings of the search for a budget; its evaluations are summed over parts.
    """

    configurations: int = 300
    region: TrustRegionSettings = field(default_factory=TrustRegionSettings)


def measure_profile(
    profile: Profile, search_space: SearchSpace, parts: int, count: int, seed: int
) -> np.ndarray:
    """Measures the configurations of the profile's design on every part, if still missing.

    Returns:
      these configurations, int32[N, L, 2], see `design.profile_configurations`.
    """
    configurations = profile_configurations(search_space, count, seed)
    for part in range(parts):
        profile.measure(configurations, part)
    return configurations


def unmeasured(
    profile: Profile, search_space: SearchSpace, parts: int, count: int, seed: int
) -> int:
    """How many evaluations `measure_profile` will take."""
    configurations = profile_configurations(search_space, count, seed)
    return sum(profile.missing(configurations, part) for part in range(parts))


class ProfileSearch:
    """Searches budgets one after the other, separately on each part of the images.

    Args:
      profile: the profile; measures missing configurations.
      length: length of the snapshot. Later measurements only save evaluations, so that equal
        snapshots give equal results.
      parts: number of parts of the profile.
      search_space: the search space.
      settings: settings of the search.
      seed: seed of all random draws.
      chosen: whether a measured configuration int32[L, 2] is used. None: all in the search space; a
        profile may come from a less restricted search.
    """

    def __init__(
        self,
        profile: Profile,
        length: int,
        parts: int,
        search_space: SearchSpace,
        settings: ProfileSettings,
        seed: int,
        *,
        chosen: Callable[[np.ndarray], bool] | None = None,
    ):
        self._search_space, self._settings, self._seed = search_space, settings, seed
        self._snapshots = [
            _kept(chosen or search_space.holds, *profile.snapshot(part, length))
            for part in range(parts)
        ]
        region = replace(settings.region, evaluations=settings.region.evaluations // parts)
        self._regions = [
            self._region(*snapshot, lambda found, part=part: profile.measure(found, part), region)
            for part, snapshot in enumerate(self._snapshots)
        ]

    def __call__(self, budget: Budget, number: int) -> list[np.ndarray]:
        """The best configuration within a budget on each part.

        Args:
          number: index of the budget, for the random draws.
        """
        return [region.search(budget, number)[0] for region in self._regions]

    @property
    def measured(self) -> int:
        """Number of evaluations on all parts so far, in addition to the snapshot."""
        return sum(region.measured for region in self._regions)

    @property
    def quality(self) -> list[Quality]:
        """Quality of each part's model by cross-validation."""
        return [region.quality for region in self._regions]

    @cached_property
    def pooled(self) -> TrustRegionSearch:
        """The model of all parts together, fitted to configurations measured on every part."""
        configurations, means = self._everywhere
        return self._region(
            np.stack([configurations[key] for key in means]),
            np.asarray(list(means.values())),
            _nothing_to_measure,
            self._settings.region,
        )

    def divergences(self, configurations: Sequence[np.ndarray]) -> np.ndarray:
        """Means over parts, float64[N]; NaN unless measured on every part in the snapshot."""
        _, means = self._everywhere
        return np.asarray([means.get(c.tobytes(), np.nan) for c in configurations])

    @cached_property
    def _everywhere(self) -> tuple[dict[bytes, np.ndarray], dict[bytes, float]]:
        """Configurations measured on every part in the snapshot, and their mean divergences."""
        values: dict[bytes, list[float]] = {}
        configurations = {}
        for found, measured in self._snapshots:
            for configuration, value in zip(found, measured, strict=True):
                configurations[configuration.tobytes()] = configuration
                values.setdefault(configuration.tobytes(), []).append(value)
        parts = len(self._snapshots)
        means = {key: float(np.mean(v)) for key, v in values.items() if len(v) == parts}
        return configurations, means

    def _region(
        self,
        configurations: np.ndarray,
        divergences: np.ndarray,
        measure: Callable[[np.ndarray], np.ndarray],
        settings: TrustRegionSettings,
    ) -> TrustRegionSearch:
        return TrustRegionSearch(
            self._search_space, configurations, divergences, measure, settings, self._seed
        )


def _kept(
    chosen: Callable[[np.ndarray], bool], configurations: np.ndarray, divergences: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    kept = np.asarray([chosen(c) for c in configurations], bool)
    return configurations[kept], divergences[kept]


def _nothing_to_measure(configurations: np.ndarray) -> np.ndarray:
    raise LookupError("the pooled model only answers from what was measured")
