"""The variables of a search: bit-widths within limits, pinned ones, tied ones."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rfquant_jax.errors import ArgumentError
from rfquant_jax.quant.space import ACTIVATIONS, WEIGHTS, Space

COLUMNS = {"weights": (WEIGHTS,), "activations": (ACTIVATIONS,), "both": (WEIGHTS, ACTIVATIONS)}


@dataclass(frozen=True)
class SearchVariable:
    """The weight or the activation bit-width of one layer, or of several tied layers.

    Attributes:
      layers: indices of the layers, ascending.
      column: `WEIGHTS` or `ACTIVATIONS`.
      allowed: allowed bit-widths, largest first.
    """

    layers: tuple[int, ...]
    column: int
    allowed: tuple[int, ...]

    def read(self, configuration: np.ndarray) -> int:
        """The bit-width in a configuration int32[L, 2]."""
        return int(configuration[self.layers[0], self.column])

    def assign(self, configuration: np.ndarray, bits: int) -> np.ndarray:
        """A copy of the configuration with this variable set to `bits`."""
        copy = np.array(configuration)
        copy[list(self.layers), self.column] = bits
        return copy


@dataclass(frozen=True)
class SearchSpace:
    """All variables of a search: weights, then activations, in forward order.

    Attributes:
      space: all configurations of the network.
      variables: every layer belongs to exactly one for its weights and one for its activations.
    """

    space: Space
    variables: tuple[SearchVariable, ...]

    @property
    def candidates(self) -> tuple[int, ...]:
        """Every bit-width of the network, largest first."""
        return self.space.candidates

    @property
    def lowest(self) -> np.ndarray:
        """The configuration with every variable at its smallest bit-width."""
        return self.set(lambda variable: variable.allowed[-1])

    def of(self, column: int) -> Iterator[SearchVariable]:
        """The variables of weights or of activations."""
        return (variable for variable in self.variables if variable.column == column)

    def set(self, choose: Callable[[SearchVariable], int]) -> np.ndarray:
        """The configuration with every variable at the bit-width that `choose` returns."""
        configuration = np.zeros((len(self.space), 2), np.int32)
        for variable in self.variables:
            configuration[list(variable.layers), variable.column] = choose(variable)
        return configuration

    def uniform(self, weight_bits: int, activation_bits: int) -> np.ndarray:
        """Each variable at its largest bit-width within the limit, else at its smallest."""
        bits = {WEIGHTS: weight_bits, ACTIVATIONS: activation_bits}
        return self.set(
            lambda variable: next(
                (b for b in variable.allowed if b <= bits[variable.column]), variable.allowed[-1]
            )
        )

    def floor(self, configuration: np.ndarray, column: int) -> np.ndarray:
        """A copy of the configuration with one column at its smallest bit-widths."""
        lowered = np.array(configuration)
        for variable in self.of(column):
            lowered[list(variable.layers), variable.column] = variable.allowed[-1]
        return lowered

    def holds(self, configuration: np.ndarray) -> bool:
        """Whether every variable has an allowed bit-width and tied layers agree."""
        return all(
            len({int(configuration[layer, variable.column]) for layer in variable.layers}) == 1
            and variable.read(configuration) in variable.allowed
            for variable in self.variables
        )

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """A uniformly random configuration."""
        return self.set(lambda variable: int(rng.choice(variable.allowed)))

    def neighbours(
        self, configuration: np.ndarray, column: int | None = None
    ) -> Iterator[tuple[SearchVariable, int]]:
        """Moves of one variable to the next lower and the next higher bit-width.

        Args:
          column: restricts the moves to one column; None: weights, then activations.
        """
        for variable in self.variables if column is None else self.of(column):
            place = variable.allowed.index(variable.read(configuration))
            if place + 1 < len(variable.allowed):
                yield variable, variable.allowed[place + 1]
            if place > 0:
                yield variable, variable.allowed[place - 1]


def make_search_space(
    space: Space,
    *,
    min_bits: int = 0,
    max_bits: int = 10**6,
    pins: Sequence[tuple[str, Sequence[int]]] = (),
    groups: Sequence[Sequence[str]] = (),
) -> SearchSpace:
    """The search space under limits, pins and groups.

    Args:
      min_bits, max_bits: limits of all bit-widths; a layer without candidates in this range keeps
        the nearest one.
      pins: (layer pattern, (weight bits, activation bits)) pairs; the last match applies,
        regardless of the limits.
      groups: ("weights", "activations" or "both", layer pattern, ...): layers that match any of the
        patterns share their bit-width.

    Raises:
      ArgumentError: a pattern matches no layer, a pinned bit-width is not a candidate of the layer,
        a layer is in two groups, or the layers of a group have no common bit-width.
    """
    allowed = [
        [_within(space.allowed(layer), min_bits, max_bits) for _ in (WEIGHTS, ACTIVATIONS)]
        for layer in range(len(space))
    ]
    for pattern, bits in pins:
        for layer in _matching(space, pattern, "pins"):
            for column in (WEIGHTS, ACTIVATIONS):
                if bits[column] not in space.allowed(layer):
                    rule = f"layer {space.names[layer]} takes {space.allowed(layer)}"
                    raise ArgumentError("pins", (pattern, tuple(bits)), rule)
                allowed[layer][column] = [bits[column]]
    group_of = _group_of(space, groups)
    variables = []
    for column in (WEIGHTS, ACTIVATIONS):
        for layers in _partition(len(space), column, group_of):
            common = [
                bits
                for bits in allowed[layers[0]][column]
                if all(bits in allowed[layer][column] for layer in layers)
            ]
            if not common:
                names = ", ".join(space.names[layer] for layer in layers)
                raise ArgumentError("groups", names, "have no bit-width in common")
            variables.append(SearchVariable(tuple(layers), column, tuple(common)))
    return SearchSpace(space, tuple(variables))


def without_frozen(search_space: SearchSpace, masks: np.ndarray) -> SearchSpace:
    """The search space without bit-widths frozen by the scheduler.

    A variable with a single bit-width, pinned or not, keeps it.

    Args:
      masks: bool[2, L, |B|], candidate masks of weights and activations.

    Raises:
      ArgumentError: tied layers have no common bit-width left.
    """

    def left(variable: SearchVariable) -> SearchVariable:
        free = np.all(masks[variable.column][list(variable.layers)], axis=0)
        allowed = [b for b in variable.allowed if free[search_space.candidates.index(b)]]
        if not allowed and len(variable.layers) > 1:
            names = ", ".join(search_space.space.names[layer] for layer in variable.layers)
            rule = "have no bit-width in common that is not frozen (`use_frozen`)"
            raise ArgumentError("groups", names, rule)
        return replace(variable, allowed=tuple(allowed)) if allowed else variable

    return SearchSpace(
        search_space.space,
        tuple(
            variable if len(variable.allowed) == 1 else left(variable)
            for variable in search_space.variables
        ),
    )


def _within(bits: list[int], smallest: int, largest: int) -> list[int]:
    inside = [b for b in bits if smallest <= b <= largest]
    return inside or [min(bits, key=lambda b: max(smallest - b, b - largest))]


def _matching(space: Space, pattern: str, argument: str) -> list[int]:
    found = [i for i, name in enumerate(space.names) if fnmatch.fnmatchcase(name, pattern)]
    if not found:
        raise ArgumentError(argument, pattern, f"matches none of {', '.join(space.names)}")
    return found


def _group_of(space: Space, groups: Iterable[Sequence[str]]) -> dict[tuple[int, int], int]:
    """{(layer, column): number of its group}."""
    found: dict[tuple[int, int], int] = {}
    for number, (what, *patterns) in enumerate(groups):
        layers = {i for p in patterns for i in _matching(space, p, "groups")}
        for place in ((layer, column) for layer in layers for column in COLUMNS[what]):
            if place in found:
                rule = f"layer {space.names[place[0]]} is in another group, too"
                raise ArgumentError("groups", (what, *patterns), rule)
            found[place] = number
    return found


def _partition(count: int, column: int, group_of: dict[tuple[int, int], int]) -> list[list[int]]:
    """Groups of layers that share a variable, ordered by their first layer."""
    parts: dict[object, list[int]] = {}
    for layer in range(count):
        parts.setdefault(group_of.get((layer, column), f"alone {layer}"), []).append(layer)
    return list(parts.values())
