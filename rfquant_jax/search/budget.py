"""Budgets on bit operations, model size, latency, or several of them."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rfquant_jax.errors import ArgumentError
from rfquant_jax.quant.cost import CostKind
from rfquant_jax.quant.space import Space


class Uniform(Protocol):
    """Anything with uniform configurations."""

    @property
    def levels(self) -> list[tuple[int, int]]: ...

    def uniform(self, weight_bits: int, activation_bits: int) -> np.ndarray: ...


_NUMBER = r"\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|\.\d+"
_RULE = (
    "must be a number of GBitOPs (33.9 or 33.9G), a size (2.3MB, or 60KB of 1,024 bytes), with "
    "`latency_table` a latency (5ms), several of different kinds (33.9G+2.3MB), a multiple of "
    "what a uniform configuration costs (1.05*w4a4 in BitOPs, 0.9*w4a4:MB), or a share of what 8 "
    "bits everywhere cost (50% of the BitOPs, 50%:MB)"
)
_ALL_EIGHT = (8, 8)  # what shares refer to, whatever the candidates
_SHARED_UNITS = ("G", "MB")  # a latency table need not have 8 bits
# Additional units: (unit of the cost, conversion factor).
_OTHER_UNITS = {"GBitOPs": ("G", 1.0), "KB": ("MB", 1 / 1024)}


@dataclass(frozen=True)
class Limit:
    """An upper limit on one kind of cost."""

    kind: CostKind
    value: float


@dataclass(frozen=True)
class Part:
    """One parsed limit.

    Attributes:
      number: in `unit`s, or as a multiple of a uniform configuration's cost.
      unit: unit of a kind of cost.
      bits: weight and activation bit-width of the uniform configuration, or None.
      is_share: the uniform configuration is 8 bits everywhere, which need not be candidates.
    """

    number: float
    unit: str
    bits: tuple[int, int] | None
    is_share: bool = False


@dataclass(frozen=True)
class Budget:
    """Limits that a configuration must satisfy together.

    Attributes:
      text: as the user wrote it, for names and logs.
      limits: one or more, of different kinds.
    """

    text: str
    limits: tuple[Limit, ...]

    def load(self, configuration: np.ndarray) -> float:
        """Cost as a fraction of the budget; the largest fraction over all limits."""
        return max(limit.kind.cost(configuration) / limit.value for limit in self.limits)

    def fits(self, configuration: np.ndarray) -> bool:
        """Whether the configuration is within every limit."""
        # Compared without division: a quotient could round down to 1.
        return all(limit.kind.cost(configuration) <= limit.value for limit in self.limits)

    def uniform(self, space: Uniform) -> list[tuple[str, np.ndarray]]:
        """The largest uniform configuration within the budget, with its name; empty if none fits.

        Args:
          space: a network's `Space`, or a `SearchSpace`, whose restrictions then apply.
        """
        for weights, activations in space.levels:
            configuration = space.uniform(weights, activations)
            if self.fits(configuration):
                return [(f"w{weights}a{activations}", configuration)]
        return []

    @property
    def moves_activations(self) -> bool:
        """Whether the budget depends on activation bit-widths."""
        return any(limit.kind.moves_activations for limit in self.limits)

    def describe(self, configuration: np.ndarray) -> str:
        """The configuration's cost in the units of the budget, as text."""
        costs = [(limit.kind.cost(configuration), limit.kind.describe) for limit in self.limits]
        return " and ".join(f"{cost:.6g} {unit}" for cost, unit in costs)

    def as_dict(self) -> dict[str, float | None]:
        """The limits by name in results: budget_g, budget_mb, ..."""
        found = {f"budget_{limit.kind.unit.lower()}": limit.value for limit in self.limits}
        return {"budget_g": None, "budget_mb": None} | found


def parse_budget(text: str, kinds: Mapping[str, CostKind], space: Space) -> Budget:
    """Parses a budget; `_RULE` lists the forms.

    Args:
      kinds: kinds of cost by unit; "G" is the default.

    Raises:
      ArgumentError: the text is malformed, a limit is not positive, or its kind of cost is
        unavailable.
    """
    limits = [_limit(part, text, kinds, space) for part in check_budget(text, kinds)]
    return Budget(text, tuple(limits))


def check_budget(text: str, units: Collection[str]) -> list[Part]:
    """Parses the limits of a budget without a network.

    Args:
      units: units of the available kinds of cost.

    Raises:
      ArgumentError: the text is malformed, a limit is not positive, its kind of cost is
        unavailable, or two limits are of the same kind.
    """
    written = text.replace(" ", "").split("+")
    parts = [_parse_part(part, text, units) for part in written]
    found = [part.unit for part in parts]
    same = [part for part, unit in zip(written, found, strict=True) if found.count(unit) > 1]
    if same:
        rule = f"has several limits of one kind ({' and '.join(same)}); only one can hold"
        raise ArgumentError("budgets", text, rule)
    return parts


def _parse_part(part: str, text: str, units: Collection[str]) -> Part:
    relative = re.fullmatch(rf"({_NUMBER})\*w(\d+)a(\d+)(?::(\w+))?", part)
    share = re.fullmatch(rf"({_NUMBER})%(?::(\w+))?", part)
    plain = re.fullmatch(rf"({_NUMBER})(\w*)", part)
    match = relative or share or plain
    if match is None:
        raise ArgumentError("budgets", text, _RULE)
    written = match[match.re.groups] or "G"  # the unit is the last group
    unit, scale = _OTHER_UNITS.get(written, (written, 1.0))
    if relative:
        found = Part(float(match[1]), unit, (int(match[2]), int(match[3])))
    elif share:
        found = Part(float(match[1]) / 100, unit, _ALL_EIGHT, is_share=True)
    else:
        found = Part(float(match[1]) * scale, unit, None)
    known = [u for u in units if u in _SHARED_UNITS] if share else units
    if unit not in known or not 0 < found.number < math.inf:
        raise ArgumentError("budgets", text, _RULE)
    return found


def _limit(part: Part, text: str, kinds: Mapping[str, CostKind], space: Space) -> Limit:
    kind = kinds[part.unit]
    if part.bits is None:
        return Limit(kind, part.number)
    if part.is_share:
        reference = np.full((len(space), 2), part.bits, np.int32)
    elif all(bits in column for bits, column in zip(part.bits, space.columns, strict=True)):
        reference = space.uniform(*part.bits)
    else:
        known = " and ".join(map(str, dict.fromkeys(space.columns)))
        rule = f"uses bit-widths outside the candidates {known}"
        raise ArgumentError("budgets", text, rule)
    value = part.number * kind.cost(reference)
    if not 0 < value < math.inf:
        raise ArgumentError("budgets", text, _RULE)
    return Limit(kind, value)
