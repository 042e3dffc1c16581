"""Costs of configurations: bit operations and model size.

BitOPs are MACs x weight bits x activation bits, summed over layers. The size is that of kernels.
Fixed layers count with their fixed bit-widths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rfquant_jax.quant.layer_table import Layer
from rfquant_jax.quant.space import ACTIVATIONS, WEIGHTS, Space

GIGA = 1e9
MEGABYTE_BITS = 8 * 2**20

# cost(configuration int32[L, 2]) -> a number that a budget limits
Cost = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class CostKind:
    """A kind of cost that a budget can limit.

    Attributes:
      unit: suffix of a number in a budget, such as "MB".
      describe: name of the unit in messages.
      cost: the cost of a configuration, in this unit.
      moves_activations: whether it depends on activation bit-widths.
      monotone: whether fewer bits never cost more.
    """

    unit: str
    describe: str
    cost: Cost
    moves_activations: bool = True
    monotone: bool = False


@dataclass(frozen=True)
class CostModel:
    """Costs of all configurations of a network.

    Attributes:
      macs: int64[L], multiply-accumulates per image of each searched layer.
      weights: int64[L], kernel elements of each searched layer.
      fixed_bitops: bit operations of all other layers.
      fixed_size_bits: bits of the kernels of all other layers.
    """

    macs: np.ndarray
    weights: np.ndarray
    fixed_bitops: int
    fixed_size_bits: int

    @classmethod
    def of(cls, layers: Sequence[Layer]) -> CostModel:
        """The cost model of a network with these layers."""
        searched = [layer for layer in layers if layer.candidates]
        fixed = [layer for layer in layers if not layer.candidates]
        return cls(
            macs=np.asarray([layer.macs for layer in searched], np.int64),
            weights=np.asarray([layer.weights for layer in searched], np.int64),
            fixed_bitops=sum(np.prod(x.fixed_bits, dtype=np.int64) * x.macs for x in fixed),
            fixed_size_bits=sum(x.fixed_bits[WEIGHTS] * x.weights for x in fixed),
        )

    def bitops_g(self, configuration: np.ndarray) -> float:
        """BitOPs of one image, in units of 1e9: sum over layers of w_bits * a_bits * MACs."""
        bits = np.asarray(configuration, np.int64)
        searched = np.sum(bits[:, WEIGHTS] * bits[:, ACTIVATIONS] * self.macs)
        return float((searched + self.fixed_bitops) / GIGA)

    def size_mb(self, configuration: np.ndarray) -> float:
        """Size of the kernels in units of 2^20 bytes: sum over layers of w_bits * elements."""
        bits = np.asarray(configuration, np.int64)[:, WEIGHTS]
        return float((np.sum(bits * self.weights) + self.fixed_size_bits) / MEGABYTE_BITS)

    def of_one(self, configuration: np.ndarray) -> dict[str, float]:
        """Both costs, by their names in result files."""
        return {"bitops_g": self.bitops_g(configuration), "size_mb": self.size_mb(configuration)}

    def kinds(self) -> dict[str, CostKind]:
        """The kinds of cost that every network has, by unit."""
        return {
            "G": CostKind("G", "GBitOPs", self.bitops_g, monotone=True),
            "MB": CostKind("MB", "MB", self.size_mb, moves_activations=False, monotone=True),
        }

    def table(self, space: Space) -> list[dict]:
        """The costs of the uniform configurations, see `Space.levels`."""
        return [
            {"configuration": f"w{w}a{a}"} | self.of_one(space.uniform(w, a))
            for w, a in space.levels
        ]
