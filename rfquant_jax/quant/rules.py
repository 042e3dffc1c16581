"""Rules for single layers: which bit-widths they are searched over, or fixed at."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import replace

from rfquant_jax.errors import UserError
from rfquant_jax.quant.layer_table import Layer

Rules = Sequence[tuple[str, Sequence[int]]]  # (layer pattern, bit-widths) pairs


def apply_rule(
    layers: list[Layer],
    pattern: str,
    bits: tuple[int, ...],
    columns: tuple[tuple[int, ...], tuple[int, ...]],
    classifier: list[str],
) -> list[Layer]:
    """The layers after one rule.

    Args:
      pattern, bits: the rule, see `convert.plan`.
      columns: the candidates of weights and of activations, which may be empty.
      classifier: name of the last dense layer, if there is one.

    Raises:
      UserError: the rule matches no searched layer, or leaves it no candidates.
    """
    # The classifier by its full name only: a pattern such as `*` must not change it.
    named = [pattern] if pattern in classifier else []
    searchable = [x.name for x in layers if x.quantize_input and x.name not in classifier] + named
    matched = set(fnmatch.filter(searchable, pattern))
    if not matched:
        raise UserError(
            f"`rules`: pattern {pattern!r} matches no searched layer; "
            f"they are {', '.join(searchable)}"
        )
    if len(bits) == 1:
        changed = {"candidates": (), "activation_candidates": (), "fixed_bits": (bits[0], bits[0])}
    else:
        changed = _restricted(pattern, bits, *columns)
    return [replace(layer, **changed) if layer.name in matched else layer for layer in layers]


def _restricted(
    pattern: str, bits: tuple[int, ...], candidates: tuple[int, ...], activations: tuple[int, ...]
) -> dict[str, tuple[int, ...]]:
    """The candidates of a layer by a rule with several bit-widths."""
    if not set(bits) <= {*candidates, *activations}:
        known = f"{candidates} (`candidates`)"
        known += f" and {activations} (`activation_candidates`)" if activations else ""
        raise UserError(
            f"`rules`: {pattern!r} asks for bits {bits}, of which only {known} can be searched"
        )
    found = {}
    for name, column in (("candidates", candidates), ("activation_candidates", activations)):
        found[name] = tuple(sorted(set(bits) & set(column), reverse=True))
        if column and not found[name]:
            raise UserError(
                f"`rules`: {pattern!r} asks for bits {bits}, which leaves none of {column} "
                f"(`{name}`)"
            )
    return found


def at_least(layer: Layer, depthwise_min_bits: int) -> Layer:
    """The layer without the bit-widths below `depthwise_min_bits` if it is depthwise.

    Raises:
      UserError: no bit-width is left.
    """
    if not layer.is_depthwise or not layer.quantize_input:
        return layer
    weights, activations = (
        tuple(b for b in column if b >= depthwise_min_bits) for column in layer.columns
    )
    too_few = layer.candidates and not (weights and activations)
    if too_few or (not layer.candidates and min(layer.fixed_bits) < depthwise_min_bits):
        raise UserError(
            f"`rules`: {layer.name} is depthwise and must keep at least "
            f"{depthwise_min_bits} bits (`depthwise_min_bits`)"
        )
    # Left empty where weights and activations have the same ones.
    own = activations if layer.activation_candidates else ()
    return replace(layer, candidates=weights, activation_candidates=own)
