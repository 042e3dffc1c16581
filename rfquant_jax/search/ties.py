"""Which bit-widths of a search are equal: groups of layers, weights and activations of a layer."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from rfquant_jax.errors import ArgumentError
from rfquant_jax.quant.space import ACTIVATIONS, WEIGHTS, Space

Place = tuple[int, int]  # a layer and a column of a configuration
Allowed = Sequence[Sequence[Sequence[int]]]  # bit-widths of each layer and column
COLUMNS = {"weights": (WEIGHTS,), "activations": (ACTIVATIONS,), "both": (WEIGHTS, ACTIVATIONS)}


def tied_places(
    space: Space,
    groups: Iterable[Sequence[str]],
    same_bits: Iterable[str],
    allowed: Allowed,
) -> list[list[Place]]:
    """The places that share a bit-width: weights first, ordered by their first layer.

    Args:
      groups, same_bits: see `variables.make_search_space`.

    Raises:
      ArgumentError: a pattern matches no layer, a layer is in two groups, or weights and
        activations of a layer in `same_bits` have no common bit-width.
    """
    group_of = _group_of(space, groups)
    places = [(layer, column) for column in (WEIGHTS, ACTIVATIONS) for layer in range(len(space))]
    # A group of "both" shares weights with weights and activations with activations.
    part_of = {p: (group_of[p], p[1]) if p in group_of else ("alone", *p) for p in places}
    for layer in _equal_layers(space, same_bits, allowed):
        kept, other = part_of[layer, WEIGHTS], part_of[layer, ACTIVATIONS]
        part_of = {p: kept if part == other else part for p, part in part_of.items()}
    parts: dict[object, list[Place]] = {}
    for place in places:
        parts.setdefault(part_of[place], []).append(place)
    return list(parts.values())


def matching(space: Space, pattern: str, argument: str) -> list[int]:
    """Indices of the layers that a shell pattern matches.

    Raises:
      ArgumentError: it matches none.
    """
    found = [i for i, name in enumerate(space.names) if fnmatch.fnmatchcase(name, pattern)]
    if not found:
        raise ArgumentError(argument, pattern, f"matches none of {', '.join(space.names)}")
    return found


def _group_of(space: Space, groups: Iterable[Sequence[str]]) -> dict[Place, int]:
    """{(layer, column): number of its group}."""
    found: dict[Place, int] = {}
    for number, (what, *patterns) in enumerate(groups):
        layers = {i for p in patterns for i in matching(space, p, "groups")}
        for place in ((layer, column) for layer in layers for column in COLUMNS[what]):
            if place in found:
                rule = f"layer {space.names[place[0]]} is in another group, too"
                raise ArgumentError("groups", (what, *patterns), rule)
            found[place] = number
    return found


def _equal_layers(space: Space, same_bits: Iterable[str], allowed: Allowed) -> list[int]:
    """The layers that patterns of `same_bits` match."""
    found = []
    for pattern in same_bits:
        for layer in matching(space, pattern, "same_bits"):
            weights, activations = map(tuple, allowed[layer])
            if not set(weights) & set(activations):
                rule = (
                    f"layer {space.names[layer]} has no bit-width in common: its weights take "
                    f"{weights}, its activations {activations}"
                )
                raise ArgumentError("same_bits", pattern, rule)
            found.append(layer)
    return found
