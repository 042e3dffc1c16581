"""The layers of a plain network, their shapes and BatchNorms, found by tracing it once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import jax
from flax import nnx
from jax.extend.core import get_opaque_trace_state

from rfquant_jax.errors import UserError
from rfquant_jax.nn.functional import dotted, replace_modules
from rfquant_jax.quant.forward import (
    abstractly,
    check_call,
    check_output,
    check_training_mode,
    line_of,
)
from rfquant_jax.quant.plain_layers import (
    attributes_kept,
    check_arguments,
    check_parameters,
    check_plain_layer,
    is_converted,
)


@dataclass(frozen=True)
class Layer:
    """One convolution or dense layer of a network at a given input size.

    Attributes:
      name: dotted path in the network.
      path: the same as a tuple, as in `nnx.iter_modules`.
      kernel_shape: (KH, KW, C / groups, O), or (C, O) of a dense layer.
      groups: feature groups; equal to the number of input channels in a depthwise convolution.
      macs: multiply-accumulates for one image.
      batch_norm: path of the BatchNorm applied to the layer's output, or None.
      candidates: bit-widths to search over, largest first; empty if the bits are fixed.
      activation_candidates: those of the input, if they differ; empty: `candidates`.
      fixed_bits: (weight, input) bits of a fixed layer, used in cost models.
      quantize_input: False for the first convolution, which reads the image.
    """

    name: str
    path: tuple
    kernel_shape: tuple[int, ...]
    groups: int
    macs: int
    batch_norm: tuple | None = None
    candidates: tuple[int, ...] = ()
    activation_candidates: tuple[int, ...] = ()
    fixed_bits: tuple[int, int] = (8, 8)
    quantize_input: bool = True

    @property
    def columns(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The bit-widths of weights and of input activations to search over."""
        return self.candidates, self.activation_candidates or self.candidates

    @property
    def is_convolution(self) -> bool:
        return len(self.kernel_shape) == 4

    @property
    def is_depthwise(self) -> bool:
        return self.is_convolution and self.groups > 1 and self.kernel_shape[2] == 1

    @property
    def weights(self) -> int:
        """Number of kernel elements."""
        return math.prod(self.kernel_shape)


@dataclass
class _Call:
    path: tuple
    module: nnx.Module
    x: jax.Array
    y: jax.Array


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


def layer_table(network: nnx.Module, input_shape: Sequence[int]) -> list[Layer]:
    """The convolutions and dense layers of a plain network, in call order.

    The network is traced once with an abstract image; nothing is computed.

    Args:
      network: maps float32[N, H, W, C] to logits float32[N, classes]; its arrays may be abstract
        (`nnx.eval_shape`).
      input_shape: (H, W, C) of one image.

    Raises:
      UserError: the network does not map images to logits; a layer cannot be converted, see
        `plain_layers`; a layer is never called; or a layer or BatchNorm is called twice.
    """
    layers: list[Layer] = []
    check_call(network)

    def traced(network: nnx.Module, images: jax.Array) -> None:
        check_parameters(network)
        network.eval()
        calls, expected = _insert_probes(network)
        check_output(network(images))
        layers.extend(_layers(calls, expected))
        check_training_mode(network, images)

    with _refusing_attributes():
        abstractly(network, input_shape, traced)
    return layers


@contextmanager
def _refusing_attributes() -> Iterator[None]:
    """Names the layer whose attribute is read although a converted layer lacks it."""
    try:
        yield
    except (AttributeError, UserError) as error:
        cause = error if isinstance(error, AttributeError) else error.__cause__
        if not isinstance(cause, AttributeError) or not isinstance(cause.obj, _Probe):
            raise
        raise UserError(
            f"layer {cause.obj.name}: the network reads its {cause.name}{line_of(cause)}, which a "
            "converted layer does not have: store the value in the module around it"
        ) from error


def _insert_probes(network: nnx.Module) -> tuple[list[_Call], list[tuple]]:
    calls: list[_Call] = []
    expected = []
    probes: dict[tuple, _Probe] = {}
    owners: dict[int, str] = {}
    for path, module in list(nnx.iter_modules(network)):
        name = dotted(path)
        check_plain_layer(name, module)
        if is_converted(module):

            def record(inner, x, y, path=path):
                calls.append(_Call(path, inner, x, y))

            probes[path] = _Probe(name, module, record)
            if not isinstance(module, nnx.BatchNorm):
                expected.append(path)
                if owners.setdefault(id(module.kernel), name) != name:
                    shared = f"{owners[id(module.kernel)]} and {name}"
                    raise UserError(f"layers {shared} share their kernel: each needs its own")
    replace_modules(network, probes)
    return calls, expected


def _layers(calls: list[_Call], expected: list[tuple]) -> list[Layer]:
    called = [call.path for call in calls]
    for path in expected:
        if called.count(path) != 1:
            times = "never called" if path not in called else "called more than once"
            raise UserError(f"layer {dotted(path)} is {times}: each layer must be called once")
    norms = [call for call in calls if isinstance(call.module, nnx.BatchNorm)]
    for norm in norms:
        if sum(other.path == norm.path for other in norms) > 1:
            raise UserError(
                f"{dotted(norm.path)} is called more than once: each layer needs a BatchNorm of "
                "its own, because banks are switched with the layer's bit-widths"
            )
    return [
        _layer(call, next((n.path for n in norms if n.x is call.y), None))
        for call in calls
        if not isinstance(call.module, nnx.BatchNorm)
    ]


def _layer(call: _Call, batch_norm: tuple | None) -> Layer:
    kernel_shape = tuple(call.module.kernel[...].shape)
    if isinstance(call.module, nnx.Conv) and len(kernel_shape) != 4:
        raise UserError(f"layer {dotted(call.path)} is not 2-D: its kernel is {kernel_shape}")
    positions = math.prod(call.y.shape[1:-1])
    return Layer(
        name=dotted(call.path),
        path=call.path,
        kernel_shape=kernel_shape,
        groups=getattr(call.module, "feature_group_count", 1),
        macs=positions * math.prod(kernel_shape),
        batch_norm=batch_norm,
    )
