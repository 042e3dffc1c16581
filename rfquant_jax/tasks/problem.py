"""What a search chooses from and must respect: latencies, the search space, the budgets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from rfquant_jax.config import checks, search_bits
from rfquant_jax.quant.plan import QuantizationPlan
from rfquant_jax.search.budget import Budget, CostKind, parse_budget
from rfquant_jax.search.greedy import check_reachable
from rfquant_jax.search.latency import LatencyTable, read_latencies
from rfquant_jax.search.variables import SearchSpace, make_search_space, without_frozen


@dataclass(frozen=True)
class SearchProblem:
    """The problem that the budgets of a config state.

    Attributes:
      plan: the quantization plan of the network.
      search_space: the search space.
      budgets: largest first.
      latencies: the user's latency table, if any.
    """

    plan: QuantizationPlan
    search_space: SearchSpace
    budgets: tuple[Budget, ...]
    latencies: LatencyTable | None = None

    def costs_of(self, configuration: np.ndarray) -> dict[str, float]:
        """All available kinds of cost by unit."""
        return costs_of(self.plan, self.latencies, configuration)

    def without_frozen(self, masks: np.ndarray) -> SearchProblem:
        """The problem without frozen bit-widths.

        Args:
          masks: bool[2, L, |B|], see `networks.Trained`.
        """
        return replace(self, search_space=without_frozen(self.search_space, masks))


def costs_of(
    plan: QuantizationPlan, latencies: LatencyTable | None, configuration: np.ndarray
) -> dict[str, float]:
    """All available kinds of cost of a configuration int32[L, 2] by unit."""
    costs = plan.cost_model.of_one(configuration)
    if latencies is not None:
        costs["latency_ms"] = latencies(configuration)
    return costs


def latency_table(config: ConfigDict, plan: QuantizationPlan) -> LatencyTable | None:
    """The user's latency table, if any.

    Raises:
      UserError: the file cannot be read or does not fit the network.
    """
    path = config.search.latency_table
    if not path:
        return None
    fixed = [layer.name for layer in plan.layers if not layer.candidates]
    return read_latencies(Path(path), plan.space, fixed)


def search_space(config: ConfigDict, plan: QuantizationPlan) -> SearchSpace:
    """The search space.

    Raises:
      ConfigError: a pin, a group or equal bits do not fit the network.
    """
    smallest, largest = search_bits.limits(config)
    return make_search_space(
        plan.space,
        min_bits=smallest,
        max_bits=largest,
        pins=config.search.pins,
        groups=config.search.groups,
        same_bits=config.search.same_bits,
    )


def parsed_budgets(
    config: ConfigDict, plan: QuantizationPlan, latencies: LatencyTable | None, space: SearchSpace
) -> list[Budget]:
    """The budgets to search for, largest first, all reachable in the search space.

    Raises:
      UserError: a budget is malformed or cannot be reached.
    """
    kinds = plan.cost_model.kinds()
    if latencies is not None:
        kinds["ms"] = CostKind("ms", "ms", latencies)
    parsed = [parse_budget(text, kinds, plan.space) for text in checks.budgets(config)]
    check_reachable(space, parsed)
    return sorted(parsed, key=lambda budget: budget.load(plan.space.largest))
