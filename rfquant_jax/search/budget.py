"""Budgets a user asks for: bit operations, model size, or both."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from rfquant_jax.bits import Space
from rfquant_jax.errors import ConfigError
from rfquant_jax.search.cost import CostModel

_NUMBER = r"\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|\.\d+"
_RULE = (
    "must be a number of GBitOPs (33.9 or 33.9G), a size (2.3MB), both (33.9G+2.3MB), or a "
    "multiple of a uniform configuration's BitOPs (1.05*w4a4)"
)


@dataclass(frozen=True)
class Budget:
    """A limit on bit operations (in 1e9), on model size (in 2^20 bytes), or on both.

    Attributes:
      text: as the user wrote it, for names and logs.
    """

    text: str
    costs: CostModel
    bitops_g: float | None = None
    size_mb: float | None = None

    def load(self, configuration: np.ndarray) -> float:
        """Cost in units of the budget; of two limits the one that is used up further counts."""
        parts = []
        if self.bitops_g is not None:
            parts.append(self.costs.bitops_g(configuration) / self.bitops_g)
        if self.size_mb is not None:
            parts.append(self.costs.size_mb(configuration) / self.size_mb)
        return max(parts)

    def fits(self, configuration: np.ndarray) -> bool:
        """Whether the configuration is within every limit."""
        # Compared without dividing: a quotient can round down to 1.
        bitops_fit = self.bitops_g is None or self.costs.bitops_g(configuration) <= self.bitops_g
        return bitops_fit and (
            self.size_mb is None or self.costs.size_mb(configuration) <= self.size_mb
        )

    def uniform(self, space: Space) -> list[tuple[str, np.ndarray]]:
        """The uniform configuration with the most bits that fits, with its name; empty if none."""
        for bits in space.candidates:
            configuration = space.uniform(bits, bits)
            if self.fits(configuration):
                return [(f"w{bits}a{bits}", configuration)]
        return []

    @property
    def moves_activations(self) -> bool:
        """Whether activation bit-widths matter to it."""
        return self.bitops_g is not None

    def describe(self, configuration: np.ndarray) -> str:
        """The configuration's cost in the budget's own units."""
        parts = []
        if self.bitops_g is not None:
            parts.append(f"{self.costs.bitops_g(configuration):.6g} GBitOPs")
        if self.size_mb is not None:
            parts.append(f"{self.costs.size_mb(configuration):.6g} MB")
        return " and ".join(parts)


def parse_budget(text: str, costs: CostModel, space: Space) -> Budget:
    """Reads a budget as the user writes it; `_RULE` lists the forms.

    Raises:
      ConfigError: it is none of the forms, or not positive.
    """
    limits: dict[str, float] = {}
    for part in text.replace(" ", "").split("+"):
        kind, value = _parse_part(part, text, costs, space)
        if kind in limits or value <= 0:
            raise ConfigError("search.budgets", text, _RULE)
        limits[kind] = value
    return Budget(text=text, costs=costs, **limits)


def _parse_part(part: str, text: str, costs: CostModel, space: Space) -> tuple[str, float]:
    relative = re.fullmatch(rf"({_NUMBER})\*w(\d+)a(\d+)", part)
    if relative:
        factor, *bits = relative.groups()
        if not {int(b) for b in bits} <= set(space.candidates):
            rule = f"uses bit-widths outside the candidates {space.candidates}"
            raise ConfigError("search.budgets", text, rule)
        return "bitops_g", float(factor) * costs.bitops_g(space.uniform(*map(int, bits)))
    plain = re.fullmatch(rf"({_NUMBER})(G|GBitOPs|MB|)", part)
    if plain is None:
        raise ConfigError("search.budgets", text, _RULE)
    return "size_mb" if plain[2] == "MB" else "bitops_g", float(plain[1])
