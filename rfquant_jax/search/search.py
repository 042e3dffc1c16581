"""Searches configurations for budgets on a profile."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rfquant_jax.errors import ArgumentError
from rfquant_jax.quant.cost import CostKind
from rfquant_jax.quant.plan import QuantizationPlan
from rfquant_jax.search.budget import Budget, parse_budget
from rfquant_jax.search.frontier import solved
from rfquant_jax.search.greedy import check_reachable
from rfquant_jax.search.latency import LatencyTable, read_latencies
from rfquant_jax.search.network_profile import NetworkProfile
from rfquant_jax.search.profile_search import ProfileSearch, ProfileSettings
from rfquant_jax.search.trust_region import TrustRegionSettings
from rfquant_jax.search.variables import SearchSpace, make_search_space


@dataclass(frozen=True, eq=False)
class Found:
    """The result of a search for one budget; public functions accept it as a configuration.

    Attributes:
      budget: the budget as it was given.
      configuration: int32[L, 2], weight and activation bit-widths of the layers in forward order.
      layers: the same as {layer name: (weight bits, activation bits)}.
      costs: {"bitops_g", "size_mb"}, and "latency_ms" if a latency table was given.
      predicted: divergence predicted by the surrogate, in nats.
      divergence: measured divergence in nats; None if it was not measured.
    """

    budget: str
    configuration: np.ndarray
    layers: dict[str, tuple[int, int]]
    costs: dict[str, float]
    predicted: float
    divergence: float | None

    @property
    def measured(self) -> bool:
        """Whether the divergence was measured, not only predicted."""
        return self.divergence is not None


def search(
    profile: NetworkProfile,
    budgets: str | Sequence[str],
    *,
    evaluations: int = 60,
    min_bits: int = 0,
    max_bits: int = 32,
    pins: Sequence[tuple[str, Sequence[int]]] = (),
    groups: Sequence[Sequence[str]] = (),
    same_bits: Sequence[str] = (),
    latency_table: str | os.PathLike[str] | None = None,
) -> list[Found]:
    """Finds the configuration with the smallest divergence within each budget.

    A surrogate fitted to the profile is minimised by integer programming, in trust regions around
    the best measured configuration. No result exceeds its budget. The same profile and arguments
    give the same results, independent of the order of the budgets.

    Args:
      profile: from `rfquant_jax.profile`. If it has no evaluator, only the surrogate is used.
      budgets: one budget or several: GBitOPs ("33.9G"), size of the kernels ("2.3MB", "60KB"),
        latency ("5ms"), several limits at once ("30G+2MB"), or a multiple of the cost of a uniform
        configuration ("0.8*w4a4", "0.9*w4a4:MB").
      evaluations: maximum number of configurations to measure for each budget; 0: only the
        surrogate is used.
      min_bits: smallest bit-width of all layers.
      max_bits: largest bit-width of all layers.
      pins: (layer pattern, (weight bits, activation bits)) pairs: layers with fixed bit-widths.
      groups: ("weights", "activations" or "both", layer pattern, ...): layers with equal bits.
      same_bits: patterns of layers whose weights and input activations have equal bits.
      latency_table: JSON or CSV file with layer, w_bits, a_bits and milliseconds, required for
        latency budgets.

    Returns:
      a result for each budget, in the order of `budgets`.

    Raises:
      ArgumentError: a budget is malformed, or a pattern matches no layer.
      UserError: no configuration is within a budget; the message names the possible costs.

    Source: this project; RFQuant (Tang et al., CVPR 2024) searches greedily.

    Example:
      >>> found = rfq.search(profile, ["0.8*w4a4", "200KB"], evaluations=8)
      >>> [result.budget for result in found]
      ['0.8*w4a4', '200KB']
      >>> found[0].costs["bitops_g"] <= 0.8 * plan.costs("w4a4")["bitops_g"]
      True
      >>> found[1].layers  # 200 KB are more than the largest bit-widths need
      {'conv': (6, 6), 'last': (6, 6)}
    """
    if evaluations < 0:
        raise ArgumentError("evaluations", evaluations, "must not be negative")
    plan = profile.plan
    asked = [budgets] if isinstance(budgets, str) else list(budgets)
    search_space = make_search_space(
        plan.space,
        min_bits=min_bits,
        max_bits=max_bits,
        pins=pins,
        groups=groups,
        same_bits=same_bits,
    )
    kinds, latencies = plan.cost_model.kinds(), _latencies(plan, latency_table)
    if latencies is not None:
        kinds["ms"] = CostKind("ms", "ms", latencies)
    parsed = {text: parse_budget(text, kinds, plan.space) for text in asked}
    if not parsed:
        raise ArgumentError("budgets", budgets, "names no budget")
    check_reachable(search_space, list(parsed.values()))
    evaluations = evaluations if profile.measured else 0
    region = TrustRegionSettings(evaluations=evaluations)
    model = profile.model(search_space, ProfileSettings(region=region))
    # The largest budget first: the configurations measured for it are reused for the next ones.
    order = sorted(parsed.values(), key=lambda b: (b.load(plan.space.largest), b.text))
    found = {
        budget.text: _best(profile, model, search_space, budget, number, evaluations)
        for number, budget in enumerate(order)
    }
    return [_result(profile, model, text, found[text], latencies) for text in asked]


def _latencies(plan: QuantizationPlan, path: str | os.PathLike[str] | None) -> LatencyTable | None:
    if path is None:
        return None
    fixed = [layer.name for layer in plan.layers if not layer.candidates]
    return read_latencies(Path(path), plan.space, fixed)


def _best(
    profile: NetworkProfile,
    model: ProfileSearch,
    search_space: SearchSpace,
    budget: Budget,
    number: int,
    evaluations: int,
) -> np.ndarray:
    """The best measured configuration; without evaluations, the best one by the surrogate."""
    if not evaluations:
        return solved(model.pooled, search_space, budget).configuration
    proposed = model(budget, number)
    values = [float(profile.divergences([c])[0]) for c in proposed]
    return proposed[int(np.argmin(np.where(np.isnan(values), np.inf, values)))]


def _result(
    profile: NetworkProfile,
    model: ProfileSearch,
    text: str,
    configuration: np.ndarray,
    latencies: LatencyTable | None,
) -> Found:
    plan = profile.plan
    costs = plan.costs(configuration)
    if latencies is not None:
        costs["latency_ms"] = latencies(configuration)
    layers = plan.space.to_json(configuration)
    return Found(
        budget=text,
        configuration=configuration,
        layers={name: (w, a) for name, (w, a) in layers.items()},
        costs=costs,
        predicted=float(profile.predict([configuration])[0]),
        divergence=profile.known(configuration),
    )
