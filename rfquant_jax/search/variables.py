"""The variables of a search: bit-widths within limits, pinned ones, tied ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rfquant_jax.errors import ArgumentError
from rfquant_jax.quant.space import ACTIVATIONS, COLUMN_NAMES, WEIGHTS, Space, clamp
from rfquant_jax.search.ties import Allowed, Place, matching, tied_places


@dataclass(frozen=True)
class SearchVariable:
    """The weight or the activation bit-width of one layer, or of several tied layers.

    Attributes:
      layers: indices of the layers, ascending.
      column: `WEIGHTS` or `ACTIVATIONS`.
      allowed: allowed bit-widths, largest first.
      inputs: layers whose activations have the bit-width of these weights (`same_bits`).
    """

    layers: tuple[int, ...]
    column: int
    allowed: tuple[int, ...]
    inputs: tuple[int, ...] = ()

    @property
    def columns(self) -> tuple[int, ...]:
        """The columns of a configuration that the variable sets."""
        return (self.column, ACTIVATIONS) if self.inputs else (self.column,)

    @property
    def places(self) -> tuple[Place, ...]:
        """(layer, column) of every entry of a configuration that the variable sets."""
        own = tuple((layer, self.column) for layer in self.layers)
        return own + tuple((layer, ACTIVATIONS) for layer in self.inputs)

    def read(self, configuration: np.ndarray) -> int:
        """The bit-width in a configuration int32[L, 2]."""
        return int(configuration[self.layers[0], self.column])

    def assign(self, configuration: np.ndarray, bits: int) -> np.ndarray:
        """A copy of the configuration with this variable set to `bits`."""
        copy = np.array(configuration)
        copy[self.entries] = bits
        return copy

    def agrees(self, configuration: np.ndarray) -> bool:
        """Whether all entries have one allowed bit-width."""
        found = set(configuration[self.entries].tolist())
        return len(found) == 1 and found <= set(self.allowed)

    @property
    def entries(self) -> tuple[list[int], list[int]]:
        """The rows and columns of a configuration that the variable sets, as an index."""
        layers, columns = zip(*self.places, strict=True)
        return list(layers), list(columns)


@dataclass(frozen=True)
class SearchSpace:
    """All variables of a search: weights, then activations, in forward order.

    Attributes:
      space: all configurations of the network.
      variables: every layer belongs to exactly one for its weights and one for its activations,
        which is the same one with `same_bits`.
    """

    space: Space
    variables: tuple[SearchVariable, ...]

    @property
    def candidates(self) -> tuple[int, ...]:
        """Every bit-width of the network, largest first."""
        return self.space.candidates

    @property
    def levels(self) -> list[tuple[int, int]]:
        """Weight and activation bits of the uniform configurations, see `Space.levels`."""
        return self.space.levels

    @property
    def lowest(self) -> np.ndarray:
        """The configuration with every variable at its smallest bit-width."""
        return self.set(lambda variable: variable.allowed[-1])

    def of(self, column: int) -> Iterator[SearchVariable]:
        """The variables of weights, with tied activations, or those of activations alone."""
        return (variable for variable in self.variables if variable.column == column)

    def set(self, choose: Callable[[SearchVariable], int]) -> np.ndarray:
        """The configuration with every variable at the bit-width that `choose` returns."""
        configuration = np.zeros((len(self.space), 2), np.int32)
        for variable in self.variables:
            configuration[variable.entries] = choose(variable)
        return configuration

    def uniform(self, weight_bits: int, activation_bits: int) -> np.ndarray:
        """Each variable at its largest bit-width within its limits, else at its smallest."""
        limits = {WEIGHTS: weight_bits, ACTIVATIONS: activation_bits}

        def choose(variable: SearchVariable) -> int:
            return clamp(variable.allowed, min(limits[column] for column in variable.columns))

        return self.set(choose)

    def floor(self, configuration: np.ndarray, column: int) -> np.ndarray:
        """A copy of the configuration with the variables of one column at their smallest bits."""
        lowered = np.array(configuration)
        for variable in self.of(column):
            lowered[variable.entries] = variable.allowed[-1]
        return lowered

    def holds(self, configuration: np.ndarray) -> bool:
        """Whether every variable has an allowed bit-width and tied layers agree."""
        return all(variable.agrees(configuration) for variable in self.variables)

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
    same_bits: Sequence[str] = (),
) -> SearchSpace:
    """The search space under limits, pins, groups and equal bits of weights and activations.

    Args:
      min_bits, max_bits: limits of all bit-widths; a layer without candidates in this range keeps
        the nearest one.
      pins: (layer pattern, (weight bits, activation bits)) pairs; the last match applies,
        regardless of the limits.
      groups: ("weights", "activations" or "both", layer pattern, ...): layers that match any of the
        patterns share their bit-width.
      same_bits: patterns of layers whose weights and input activations share their bit-width.

    Raises:
      ArgumentError: a pattern matches no layer, a pinned bit-width is not a candidate of the layer,
        a layer is in two groups, or what shares a bit-width has none in common.
    """
    allowed = [
        [_within(space.allowed(layer, c), min_bits, max_bits) for c in (WEIGHTS, ACTIVATIONS)]
        for layer in range(len(space))
    ]
    for pattern, bits in pins:
        for layer in matching(space, pattern, "pins"):
            for column in (WEIGHTS, ACTIVATIONS):
                if bits[column] not in space.allowed(layer, column):
                    what = "" if space.has_one_set else f" for {COLUMN_NAMES[column]}"
                    rule = f"layer {space.names[layer]} takes {space.allowed(layer, column)}{what}"
                    raise ArgumentError("pins", (pattern, tuple(bits)), rule)
                allowed[layer][column] = [bits[column]]
    parts = tied_places(space, groups, same_bits, allowed)
    return SearchSpace(space, tuple(_variable(space, places, allowed) for places in parts))


def without_frozen(search_space: SearchSpace, masks: np.ndarray) -> SearchSpace:
    """The search space without bit-widths frozen by the scheduler.

    A variable with a single bit-width, pinned or not, keeps it.

    Args:
      masks: bool[2, L, |B|], candidate masks of weights and activations.

    Raises:
      ArgumentError: tied layers have no common bit-width left.
    """

    def left(variable: SearchVariable) -> SearchVariable:
        free = np.all([masks[column][layer] for layer, column in variable.places], axis=0)
        allowed = [b for b in variable.allowed if free[search_space.candidates.index(b)]]
        if not allowed and len(variable.places) > 1:
            names, field = _named(search_space.space, variable.places)
            rule = "have no bit-width in common that is not frozen (`use_frozen`)"
            raise ArgumentError(field, names, rule)
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


def _variable(space: Space, places: Sequence[Place], allowed: Allowed) -> SearchVariable:
    """The variable of these places, with the bit-widths that all of them may take."""
    (layer, column), *others = places
    common = [b for b in allowed[layer][column] if all(b in allowed[i][c] for i, c in others)]
    if not common:
        names, field = _named(space, places)
        raise ArgumentError(field, names, "have no bit-width in common")
    own = tuple(layer for layer, c in places if c == column)
    inputs = tuple(layer for layer, c in places if c != column)
    return SearchVariable(own, column, tuple(common), inputs)


def _named(space: Space, places: Iterable[Place]) -> tuple[str, str]:
    """Names of the layers of tied places, and the argument that ties them."""
    layers = list(dict.fromkeys(layer for layer, _ in places))
    names = ", ".join(space.names[layer] for layer in layers)
    return names, "groups" if len(layers) > 1 else "same_bits"
