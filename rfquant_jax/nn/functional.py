"""A network as a pure function of flat dictionaries `{dotted name: array}`.

Modules are convenient to build and inspect; compiled functions, optimizers and checkpoints need
plain arrays. A network is split once at this boundary, and compiled functions merge it inside their
trace.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from rfquant_jax.nn.mode import following_mode
from rfquant_jax.runtime import devices

Arrays = dict[str, jax.Array]


def dotted(path: tuple) -> str:
    """The dotted name of a path in a network, as in PyTorch checkpoints."""
    return ".".join(map(str, path))


class FunctionalNetwork:
    """A network split into its structure and its arrays.

    Attributes:
      params: the initial trainable arrays (`nnx.Param` and subclasses).
      stats: the initial BatchNorm statistics (`nnx.BatchStat`).
    """

    def __init__(self, network: nnx.Module):
        self._graphdef, params, stats, self._rest = nnx.split(
            following_mode(network), nnx.Param, nnx.BatchStat, ...
        )
        self._types = {dotted(p): (p, type(v)) for s in (params, stats) for p, v in _flat(s)}
        # Copies, because callers may donate them while the network keeps its own arrays.
        self.params: Arrays = devices.copied({dotted(p): v[...] for p, v in _flat(params)})
        self.stats: Arrays = devices.copied({dotted(p): v[...] for p, v in _flat(stats)})

    def names_of(self, kind: type[nnx.Variable]) -> frozenset[str]:
        """Names of the arrays held in variables of this type."""
        return frozenset(n for n, (_, held) in self._types.items() if issubclass(held, kind))

    def merge(self, params: Arrays, stats: Arrays) -> nnx.Module:
        """The network with these arrays; inside a trace they may be tracers."""
        variables = [
            (self._types[name][0], self._types[name][1](value))
            for name, value in (params | stats).items()
        ]
        return nnx.merge(self._graphdef, nnx.from_flat_state(variables), self._rest, copy=True)

    def stats_in(self, network: nnx.Module) -> Arrays:
        """The current BatchNorm statistics of a merged network."""
        return {dotted(p): v[...] for p, v in _flat(nnx.state(network, nnx.BatchStat))}


def arrays_of(network: nnx.Module) -> tuple[Arrays, Arrays]:
    """The trainable arrays and the BatchNorm statistics that a network holds now, not copies."""
    params, stats = (nnx.state(network, kind) for kind in (nnx.Param, nnx.BatchStat))
    return tuple({dotted(p): v[...] for p, v in _flat(state)} for state in (params, stats))


def write_arrays(network: nnx.Module, arrays: Arrays) -> None:
    """Gives trainable arrays and statistics of a network, named as `arrays_of` does, new values."""
    held = nnx.state(network, (nnx.Param, nnx.BatchStat))
    new = [(p, type(v)(arrays[dotted(p)])) for p, v in _flat(held) if dotted(p) in arrays]
    nnx.update(network, nnx.from_flat_state(new))


def zeros_like(arrays: Arrays) -> Arrays:
    """Zeros with the same names, shapes and dtypes."""
    return {name: jnp.zeros_like(value) for name, value in arrays.items()}


def _flat(state: nnx.State) -> list[tuple[tuple, nnx.Variable]]:
    return list(nnx.to_flat_state(state))


def module_at(network: nnx.Module, path: tuple) -> nnx.Module:
    """The module (or list of modules) at a path as `nnx.iter_modules` gives it."""
    for part in path:
        holds_items = isinstance(part, int) or isinstance(network, nnx.Dict)
        network = network[part] if holds_items else getattr(network, part)
    return network


def replace_modules(network: nnx.Module, modules: Mapping[tuple, nnx.Module]) -> None:
    """Replaces the modules at some paths in place, under every name that they can be reached by."""
    new = {id(module_at(network, path)): module for path, module in modules.items()}
    for _, parent in list(nnx.iter_modules(network)):
        for name, value in list(vars(parent).items()):
            if (swapped := _swapped(value, new)) is not value:
                plain = isinstance(swapped, nnx.Module)
                setattr(parent, name, swapped if plain else nnx.data(swapped))


def _swapped(value: object, new: Mapping[int, nnx.Module]) -> object:
    """The value with modules replaced by identity; the same object if it holds none of them."""
    if isinstance(value, nnx.Module):
        return new.get(id(value), value)
    if isinstance(value, list | tuple):
        items = [_swapped(item, new) for item in value]
        same = all(a is b for a, b in zip(items, value, strict=True))
        return value if same else type(value)(items)
    if isinstance(value, dict):
        items = {name: _swapped(item, new) for name, item in value.items()}
        return value if all(items[n] is value[n] for n in value) else items
    return value


def reseed(network: nnx.Module, key: jax.Array) -> None:
    """Sets every random stream of the network (dropout) to its own key derived from `key`."""
    for index, (_, node) in enumerate(nnx.iter_graph(network)):
        if isinstance(node, nnx.RngStream):
            node.key.set_value(jax.random.fold_in(key, index))
            node.count.set_value(jnp.zeros_like(node.count[...]))
