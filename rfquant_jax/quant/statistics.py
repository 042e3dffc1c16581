"""The BatchNorm statistics of the banks that one configuration uses."""

from __future__ import annotations

from collections.abc import Iterator

import jax
from flax import nnx

from rfquant_jax.nn.functional import Arrays, dotted
from rfquant_jax.quant.batch_norm import SwitchableBatchNorm

_KINDS = ("mean", "var")


def _normalizations(network: nnx.Module) -> Iterator[tuple[str, nnx.BatchStat, tuple]]:
    """Name, variable and bank index of each active statistic; () in a plain BatchNorm."""
    for path, module in nnx.iter_modules(network):
        if isinstance(module, SwitchableBatchNorm):
            bank = module.bank()
        elif isinstance(module, nnx.BatchNorm):
            bank = ()
        else:
            continue
        for kind in _KINDS:
            yield f"{dotted(path)}.{kind}", getattr(module, kind), bank


def active_statistics(network: nnx.Module) -> Arrays:
    """Mean and variance, float32[C], of every BatchNorm at its current bit-widths."""
    return {name: held[...][bank] for name, held, bank in _normalizations(network)}


def install_statistics(network: nnx.Module, statistics: Arrays) -> None:
    """Writes the result of `active_statistics` into the active banks."""
    for name, held, bank in _normalizations(network):
        values: jax.Array = statistics[name]
        held.set_value(held[...].at[bank].set(values) if bank else values)
