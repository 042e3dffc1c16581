"""Probes around the layers of a plain network, which record how its code uses them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import jax
from flax import nnx
from jax.extend.core import get_opaque_trace_state

from rfquant_jax.errors import UserError
from rfquant_jax.nn.functional import dotted, replace_modules
from rfquant_jax.quant.forward import line_of
from rfquant_jax.quant.plain_layers import (
    attributes_kept,
    check_arguments,
    check_plain_layer,
    is_converted,
)


@dataclass
class Call:
    """A call of a layer or BatchNorm at `path`, with its input and its output."""

    path: tuple
    module: nnx.Module
    x: jax.Array
    y: jax.Array

    @property
    def is_norm(self) -> bool:
        return isinstance(self.module, nnx.BatchNorm)


class _Probe(nnx.Module):
    """Wraps a module and records its inputs and outputs."""

    def __init__(self, name: str, module: nnx.Module, record: Callable):
        self.name, self.module, self.record = name, module, record
        self.trace = get_opaque_trace_state()

    def __call__(self, x, *args, **kwargs):
        # Training reads features and layer inputs, which must not leave an inner trace.
        if get_opaque_trace_state() != self.trace:
            raise UserError(
                f"layer {self.name} is called inside a transformation, such as nnx.jit, nnx.remat "
                "or jax.vmap: call it directly; the whole network is compiled anyway"
            )
        check_arguments(self.name, self.module, args, kwargs)
        y = self.module(x)
        self.record(self.module, x, y)
        return y

    def __getattr__(self, name: str):
        module = vars(self).get("module")
        if module is not None and name in attributes_kept(module):
            return getattr(module, name)
        raise AttributeError(f"{type(self).__name__} has no {name}", name=name, obj=self)


@contextmanager
def refusing_attributes() -> Iterator[None]:
    """Names the layer whose attribute is read although a converted layer lacks it."""
    try:
        yield
    except (AttributeError, UserError) as error:
        cause = error if isinstance(error, AttributeError) else error.__cause__
        if not isinstance(cause, AttributeError) or not isinstance(cause.obj, _Probe):
            raise
        line = f" ({line_of(cause)})" if line_of(cause) else ""
        raise UserError(
            f"layer {cause.obj.name}: the network reads its {cause.name}{line}, which a "
            "converted layer does not have: store the value in the module around it"
        ) from error


def check_layers(network: nnx.Module) -> None:
    """Refuses layers that cannot be converted.

    Raises:
      UserError: names the layer, see `plain_layers`; or two layers that share their kernel.
    """
    owners: dict[int, str] = {}
    for path, module in nnx.iter_modules(network):
        name = dotted(path)
        check_plain_layer(name, module)
        if not is_converted(module) or isinstance(module, nnx.BatchNorm):
            continue
        if (owner := owners.setdefault(id(module.kernel), name)) != name:
            raise UserError(f"layers {owner} and {name} share their kernel: each needs its own")


def insert_probes(network: nnx.Module) -> tuple[list[Call], list[tuple]]:
    """Wraps all layers and BatchNorms of a network in place.

    Returns:
      a list to which the calls are added; the paths of the layers.
    """
    calls: list[Call] = []
    modules = {path: m for path, m in nnx.iter_modules(network) if is_converted(m)}

    def probe(path: tuple, module: nnx.Module) -> _Probe:
        record = functools.partial(_record, calls, path)
        return _Probe(dotted(path), module, record)

    replace_modules(network, {path: probe(path, module) for path, module in modules.items()})
    return calls, [path for path, m in modules.items() if not isinstance(m, nnx.BatchNorm)]


def _record(calls: list[Call], path: tuple, module: nnx.Module, x: jax.Array, y: jax.Array):
    calls.append(Call(path, module, x, y))


def check_calls(calls: Sequence[Call], expected: Sequence[tuple], mode: str = "") -> None:
    """Refuses a pass in which a layer is not called exactly once, or a BatchNorm twice.

    Args:
      mode: the mode of the pass, for the message.

    Raises:
      UserError: names the layer.
    """
    where = f" in {mode} mode" if mode else ""
    called = [call.path for call in calls]
    for path in expected:
        if called.count(path) != 1:
            times = "never called" if path not in called else "called more than once"
            raise UserError(
                f"layer {dotted(path)} is {times}{where}: each layer must be called once"
            )
    norms = [call.path for call in calls if call.is_norm]
    for path in norms:
        if norms.count(path) > 1:
            raise UserError(
                f"{dotted(path)} is called more than once{where}: each layer needs a BatchNorm of "
                "its own, because banks are switched with the layer's bit-widths"
            )


def norm_of(call: Call, calls: Sequence[Call]) -> tuple | None:
    """The path of the BatchNorm that is applied to the output of a layer's call, or None."""
    return next((other.path for other in calls if other.is_norm and other.x is call.y), None)
