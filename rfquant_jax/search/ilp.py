"""Integer linear program over configurations."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from rfquant_jax.quant.space import ACTIVATIONS, WEIGHTS
from rfquant_jax.runtime.native_output import silenced
from rfquant_jax.search.budget import Limit
from rfquant_jax.search.ties import Place
from rfquant_jax.search.variables import SearchSpace, SearchVariable

NODES = 100_000  # limit on nodes, not on time: results do not depend on the load of the machine


@dataclass(frozen=True)
class Choice:
    """A binary variable: whether a layer runs at these bit-widths."""

    layer: int
    weight_bits: int
    activation_bits: int


@dataclass(frozen=True)
class IntegerProgram:
    """All choices of a search, with the constraints that make a selection a configuration."""

    search_space: SearchSpace
    choices: tuple[Choice, ...]

    @classmethod
    def of(cls, search_space: SearchSpace) -> IntegerProgram:
        variable_of = {place: v for v in search_space.variables for place in v.places}
        choices = []
        for layer in range(len(search_space.space)):
            weights, activations = variable_of[layer, WEIGHTS], variable_of[layer, ACTIVATIONS]
            pairs = itertools.product(weights.allowed, activations.allowed)
            # One variable for both: equal bits.
            choices += [
                Choice(layer, w, a) for w, a in pairs if weights is not activations or w == a
            ]
        return cls(search_space, tuple(choices))

    def loads(self, limit: Limit) -> tuple[float, np.ndarray]:
        """Cost of the lowest bit-widths, and the increase by each choice, as fractions of the
        limit.

        Assumes that costs are sums over layers.
        """
        base = self.search_space.lowest
        start = limit.kind.cost(base)
        added = []
        for choice in self.choices:
            changed = np.array(base)
            changed[choice.layer] = choice.weight_bits, choice.activation_bits
            added.append((limit.kind.cost(changed) - start) / limit.value)
        return start / limit.value, np.asarray(added)

    def solve(
        self, objective: np.ndarray, limits: Sequence[LinearConstraint] = ()
    ) -> np.ndarray | None:
        """The configuration int32[L, 2] that minimizes the objective, or None if infeasible.

        Args:
          objective: coefficients of the choices, followed by those of extra continuous variables >=
            0.
          limits: constraints over the same variables.
        """
        further = len(objective) - len(self.choices)
        integral = np.r_[np.ones(len(self.choices)), np.zeros(further)]
        with silenced():  # HiGHS prints some warnings regardless of its options
            found = milp(
                objective,
                integrality=integral,
                bounds=Bounds(0, np.where(integral, 1, np.inf)),
                constraints=[self._one_each(further), *self._ties(further), *limits],
                options={"node_limit": NODES, "mip_rel_gap": 0.0},
            )
        if found.x is None:
            return None
        configuration = np.zeros((len(self.search_space.space), 2), np.int32)
        for choice, taken in zip(self.choices, found.x, strict=False):
            if taken > 0.5:
                configuration[choice.layer] = choice.weight_bits, choice.activation_bits
        return configuration

    def _one_each(self, further: int) -> LinearConstraint:
        count = len(self.choices)
        entries = (np.ones(count), ([c.layer for c in self.choices], range(count)))
        matrix = csr_array(entries, shape=(len(self.search_space.space), count + further))
        return LinearConstraint(matrix, 1, 1)

    def _ties(self, further: int) -> list[LinearConstraint]:
        """Constraints that give tied layers equal bit-widths."""

        def taken(place: Place, bits: int) -> np.ndarray:
            layer, column = place
            at = [(c.weight_bits, c.activation_bits)[column] for c in self.choices]
            own = [c.layer == layer and b == bits for c, b in zip(self.choices, at, strict=True)]
            return np.asarray(own + [False] * further, float)

        rows = [
            taken(variable.places[0], bits) - taken(other, bits)
            for variable in self.search_space.variables
            for other in _other_layers(variable)
            for bits in variable.allowed
        ]
        return [LinearConstraint(np.stack(rows), 0, 0)] if rows else []


def _other_layers(variable: SearchVariable) -> list[Place]:
    """A place of each layer but the first; a layer with two places has choices of equal bits."""
    places = {layer: (layer, column) for layer, column in variable.places}
    return [place for layer, place in places.items() if layer != variable.layers[0]]


def least_load(search_space: SearchSpace, limits: Sequence[Limit]) -> np.ndarray | None:
    """The configuration that minimizes the largest fraction of any limit."""
    program = IntegerProgram.of(search_space)
    objective = np.r_[np.zeros(len(program.choices)), 1.0]
    rows = []
    for limit in limits:
        start, added = program.loads(limit)
        rows.append(LinearConstraint(np.r_[added, -1.0][None], -np.inf, -start))
    return program.solve(objective, rows)
