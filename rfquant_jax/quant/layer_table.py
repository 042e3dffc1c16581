"""The layers of a plain network, their shapes and BatchNorms, found by tracing it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
from flax import nnx

from rfquant_jax.errors import UserError
from rfquant_jax.nn.functional import dotted
from rfquant_jax.quant import forward, probes
from rfquant_jax.quant.plain_layers import check_parameters
from rfquant_jax.quant.probes import Call


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


class LayerTable(NamedTuple):
    """The layers of a plain network in call order, and the shape of the logits of one image."""

    layers: list[Layer]
    logits_shape: tuple[int, ...]


def layer_table(network: nnx.Module, input_shape: Sequence[int]) -> LayerTable:
    """The convolutions and dense layers of a plain network, in call order.

    The network is traced with abstract images, in evaluation and in training mode; nothing is
    computed. It must do the same when its layers are replaced by other modules, as conversion does.

    Args:
      network: maps float32[N, H, W, C] to logits float32[N, classes]; its arrays may be abstract
        (`nnx.eval_shape`).
      input_shape: (H, W, C) of one image.

    Raises:
      UserError: the network does not map images to logits; a layer cannot be converted, see
        `plain_layers`; a layer is never called; or a layer or BatchNorm is called twice.
      RunFailure: the network's code fails, see `forward.evaluation`.
    """
    plain = forward.evaluation(network, input_shape, probes.check_layers)
    layers: list[Layer] = []

    def evaluated(network: nnx.Module, images: jax.Array) -> None:
        check_parameters(network)
        network.eval()
        what = "the network runs, but not once its layers are replaced, as conversion does"
        layers.extend(_layers(_calls(network, images, what)))

    def trained(network: nnx.Module, images: jax.Array) -> None:
        network.train()
        what = "the network runs in evaluation mode, but not in training mode"
        _calls(network, images, what, "training")

    with probes.refusing_attributes():
        probed = forward.traced(network, input_shape, evaluated)
        if place := forward.first_difference(plain.program, probed):
            raise UserError(
                "the network computes something else once its layers are replaced, as conversion "
                f"does, from {place} on: its code must not depend on their types (isinstance)"
            )
        forward.traced(network, input_shape, trained)
    return LayerTable(layers, plain.logits_shape)


def _calls(network: nnx.Module, images: jax.Array, what: str, mode: str = "") -> list[Call]:
    """The calls of layers and BatchNorms in one pass.

    Args:
      what: the start of the message if the network's code fails.
      mode: the mode, for other messages.
    """
    names = forward.module_names(network)
    calls, expected = probes.insert_probes(network)
    forward.check_output(forward.call(network, images, what, UserError, names), mode)
    probes.check_calls(calls, expected, mode)
    return calls


def _layers(calls: Sequence[Call]) -> list[Layer]:
    return [_layer(call, probes.norm_of(call, calls)) for call in calls if not call.is_norm]


def _layer(call: Call, batch_norm: tuple | None) -> Layer:
    kernel_shape = tuple(call.module.kernel[...].shape)
    if isinstance(call.module, nnx.Conv) and len(kernel_shape) != 4:
        raise UserError(f"layer {dotted(call.path)} is not 2-D: its kernel is {kernel_shape}")
    return Layer(
        name=dotted(call.path),
        path=call.path,
        kernel_shape=kernel_shape,
        groups=getattr(call.module, "feature_group_count", 1),
        macs=_positions(call.y.shape) * math.prod(kernel_shape),
        batch_norm=batch_norm,
    )


def _positions(shape: Sequence[int]) -> int:
    """How often a layer with an output of this shape applies its kernel for one image.

    The axis of images may be merged with others, as in [N P, C] for P patches. An odd number of
    rows is that of a layer which is applied to parameters alone, without such an axis.
    """
    rows = math.prod(shape[:-1])
    return rows // forward.IMAGES if rows % forward.IMAGES == 0 else rows
