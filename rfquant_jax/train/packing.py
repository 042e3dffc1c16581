"""Step sizes and BatchNorm banks of all layers as a few arrays, for passes on GPU.

A coupled network has hundreds of small arrays with a row for each bit-width, of which a pass reads
one row. Reading each row, its gradient and its running statistics would be a kernel each, and a
kernel takes longer to start than to run. Packed side by side, [rows, columns], arrays with equally
many rows need one kernel together. Between steps they have their own names and shapes again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rfquant_jax.nn.functional import Arrays, FunctionalNetwork, dotted
from rfquant_jax.quant.batch_norm import SwitchableBatchNorm
from rfquant_jax.quant.layers import QuantizedLayer, searched_layers, slot
from rfquant_jax.quant.space import ACTIVATIONS, WEIGHTS


@dataclass(frozen=True)
class _Member:
    """An array with a row for each bit-width, or pair of bit-widths, of a searched layer.

    Attributes:
      name: of the array.
      shape: of the array, (*rows, *columns).
      depth: number of axes of the rows.
      row: `row(configuration)` -> int32[], the active row.
    """

    name: str
    shape: tuple[int, ...]
    depth: int
    row: Callable[[jax.Array], jax.Array]

    @property
    def rows(self) -> int:
        return int(np.prod(self.shape[: self.depth]))

    @property
    def columns(self) -> int:
        return int(np.prod(self.shape[self.depth :]))


class Packing:
    """Which arrays of a network are packed, and where.

    A packed dictionary has "packed.<rows>", [..., rows, columns], in place of the members.

    Args:
      functional: a coupled network; a plain one has nothing to pack.
    """

    def __init__(self, functional: FunctionalNetwork):
        network = functional.merge(functional.params, functional.stats)
        shapes = {n: x.shape for n, x in (functional.params | functional.stats).items()}
        members = [m for m in _members(network, shapes) if m.rows > 1]
        self._of_params = _grouped(m for m in members if m.name in functional.params)
        self._of_stats = _grouped(m for m in members if m.name in functional.stats)

    def packed(self, params: Arrays, stats: Arrays) -> tuple[Arrays, Arrays]:
        """Parameters and statistics in packed form; arrays may have more, leading axes."""
        return _packed(params, self._of_params), _packed(stats, self._of_stats)

    def unpacked(self, params: Arrays, stats: Arrays) -> tuple[Arrays, Arrays]:
        """The inverse of `packed`, also for gradients of packed parameters."""
        return _unpacked(params, self._of_params), _unpacked(stats, self._of_stats)

    def chosen(
        self, params: Arrays, stats: Arrays, configuration: jax.Array
    ) -> tuple[Arrays, Arrays]:
        """All arrays by their names, of packed ones the active row alone.

        Its axes of rows have length 1. The layers of `quant` take that row for any bit-width.
        """
        own = self.chosen_params(params, configuration)
        return own, _chosen(stats, self._of_stats, configuration)

    def chosen_params(self, params: Arrays, configuration: jax.Array) -> Arrays:
        """The parameters as `chosen` returns them."""
        return _chosen(params, self._of_params, configuration)

    def moved(self, stats: Arrays, own: Arrays, configuration: jax.Array) -> Arrays:
        """The packed statistics with new values of the active rows.

        Args:
          stats: packed, before the pass.
          own: all statistics after the pass, as `chosen` returns them.
        """
        names = {m.name for group in self._of_stats.values() for m in group}
        new = {name: value for name, value in own.items() if name not in names}
        for key, group in self._of_stats.items():
            rows = jnp.concatenate([own[m.name].reshape(1, m.columns) for m in group], axis=-1)
            new[key] = jnp.where(_is_active(group, configuration), rows, stats[key])
        return new


Groups = dict[str, list[_Member]]


def _grouped(members) -> Groups:
    groups: Groups = {}
    for member in members:
        groups.setdefault(f"packed.{member.rows}", []).append(member)
    return groups


def _members(network: nnx.Module, shapes: dict[str, tuple[int, ...]]) -> list[_Member]:
    """The arrays of searched layers with rows, in the order of the network's modules."""
    layers, found = {layer.index for layer in searched_layers(network)}, []
    for path, module in nnx.iter_modules(network):
        if isinstance(module, SwitchableBatchNorm) and module.index in layers:
            names = [f"{dotted(path)}.{kind}" for kind in ("scale", "bias", "mean", "var")]
            row = _bank_of(module.index, *module.columns)
            found += [_Member(name, shapes[name], 2, row) for name in names if name in shapes]
        elif isinstance(module, QuantizedLayer) and module.index in layers:
            of_column = {WEIGHTS: "weight_quantizer", ACTIVATIONS: "input_quantizer"}
            for column, quantizer in of_column.items():
                name = f"{dotted(path)}.{quantizer}.step"
                row = _slot_of(module.index, column, getattr(module, quantizer).candidates)
                found.append(_Member(name, shapes[name], 1, row))
    return found


def _slot_of(index: int, column: int, candidates: tuple[int, ...]):
    return lambda configuration: slot(configuration[index, column], candidates)


def _bank_of(index: int, weights: tuple[int, ...], activations: tuple[int, ...]):
    row, column = _slot_of(index, WEIGHTS, weights), _slot_of(index, ACTIVATIONS, activations)
    return lambda configuration: row(configuration) * len(activations) + column(configuration)


def _packed(arrays: Arrays, groups: Groups) -> Arrays:
    new = dict(arrays)
    for key, group in groups.items():
        parts = []
        for member in group:
            value = new.pop(member.name)
            lead = value.shape[: value.ndim - len(member.shape)]
            parts.append(value.reshape(*lead, member.rows, member.columns))
        new[key] = jnp.concatenate(parts, axis=-1)
    return new


def _unpacked(arrays: Arrays, groups: Groups) -> Arrays:
    new = dict(arrays)
    for key, group in groups.items():
        whole, ends = new.pop(key), np.cumsum([m.columns for m in group])
        for member, part in zip(group, jnp.split(whole, ends[:-1], axis=-1), strict=True):
            new[member.name] = part.reshape(*whole.shape[:-2], *member.shape)
    return new


def _chosen(arrays: Arrays, groups: Groups, configuration: jax.Array) -> Arrays:
    new = dict(arrays)
    for key, group in groups.items():
        # Selected, not multiplied: a row that is not active may hold anything. The transpose of a
        # selection is a selection, that of an index a scatter.
        active = jnp.sum(jnp.where(_is_active(group, configuration), new.pop(key), 0), axis=0)
        ends = np.cumsum([m.columns for m in group])
        for member, part in zip(group, jnp.split(active, ends[:-1]), strict=True):
            new[member.name] = part.reshape(*(1,) * member.depth, *member.shape[member.depth :])
    return new


def _is_active(group: list[_Member], configuration: jax.Array) -> jax.Array:
    """Whether an element is in the active row of its member, bool[rows, columns]."""
    rows = jnp.stack([member.row(configuration) for member in group])
    member = np.repeat(np.arange(len(group)), [m.columns for m in group])
    return jnp.arange(group[0].rows)[:, None] == rows[member]
