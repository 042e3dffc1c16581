"""The quantization plan of a network: layers, candidates, and conversion to a coupled network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from rfquant_jax.data.grouped import grouped
from rfquant_jax.nn.functional import Arrays, FunctionalNetwork
from rfquant_jax.quant import calibrate, convert, forward, post_training, residual
from rfquant_jax.quant.configuration import Configuration, as_configuration
from rfquant_jax.quant.cost import CostModel
from rfquant_jax.quant.coupled_check import check_coupled
from rfquant_jax.quant.layer_table import Layer, layer_table
from rfquant_jax.quant.lsq import FULL_PRECISION
from rfquant_jax.quant.quant_config import QuantConfig
from rfquant_jax.quant.space import ACTIVATIONS, Space


# Compared by identity: modules that carry a plan can then be hashed by their structure.
@dataclass(frozen=True, eq=False)
class QuantizationPlan:
    """The quantization plan of a network, which needs neither weights nor data.

    Attributes:
      settings: the settings of the conversion.
      layers: all layers in forward order, with their candidates.
      space: all configurations of the searched layers.
      image_shape: (H, W, C) of one image, which determines the costs.
      logits_shape: shape of the logits of one image, (classes,), or (..., classes) for logits at
        several positions.
      residuals: names of the quantized residual additions, in forward order.
    """

    settings: QuantConfig
    layers: tuple[Layer, ...]
    space: Space
    image_shape: tuple[int, ...] = ()
    logits_shape: tuple[int, ...] = ()
    residuals: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, network: nnx.Module, input_shape: Sequence[int], settings: QuantConfig
    ) -> QuantizationPlan:
        """The plan of a plain network for images of `input_shape` (H, W, C).

        The plain and the coupled network are traced in evaluation and in training mode; nothing is
        computed.
        """
        table = layer_table(network, input_shape)
        layers = convert.with_candidates(
            network,
            table.layers,
            candidates=settings.candidates,
            activation_candidates=settings.activation_candidates,
            depthwise_min_bits=settings.depthwise_min_bits,
            fixed_bits=settings.fixed_bits,
            rules=settings.rules,
        )
        space = Space.of(layers, settings.candidates, settings.activation_candidates)
        residuals: tuple[str, ...] = ()
        if settings.residual_bits < FULL_PRECISION:
            residuals = residual.residual_additions(network, input_shape)
        plan = cls(settings, layers, space, tuple(input_shape), table.logits_shape, residuals)
        plan._override_signed(())  # validates the patterns
        check_coupled(network, plan)
        return plan

    @cached_property
    def cost_model(self) -> CostModel:
        """Costs of all configurations."""
        return CostModel.of(self.layers)

    def configuration(self, given: Configuration) -> np.ndarray:
        """Converts a configuration in any form that `set_bits` takes to int32[L, 2].

        Raises:
          UserError: not a configuration of this network.
        """
        return as_configuration(self.space, given)

    def costs(self, configuration: Configuration) -> dict[str, float]:
        """The costs of a configuration: {"bitops_g": GBitOPs, "size_mb": MB of 2^20 bytes}.

        BitOPs are the sum over layers of weight bits * activation bits * multiply-accumulates for
        one image. The size counts kernels only. Layers of fixed bit-width are included.

        Raises:
          UserError: not a configuration of this network.
        """
        return self.cost_model.of_one(self.configuration(configuration))

    def convert(
        self, network: nnx.Module, signed: Sequence[str] = (), *, initialise_steps: bool = True
    ) -> nnx.Module:
        """The coupled network; layers named in `signed` get signed input quantizers.

        `initialise_steps`: see `convert.quantize`.
        """
        coupled = convert.quantize(
            network,
            self.layers,
            candidates=self.settings.candidates,
            activation_candidates=self.settings.activation_candidates,
            scale_gradient=self.settings.scale_gradient,
            initialise_steps=initialise_steps,
        )
        convert.set_signed(coupled, signed)
        residual.quantize_residuals(
            coupled,
            self.residuals,
            self.settings.residual_bits,
            scale_gradient=self.settings.scale_gradient,
        )
        return coupled

    def find_signed(
        self,
        network: nnx.Module,
        batches: Sequence[np.ndarray],
        preprocess: Callable,
        mesh: Mesh,
    ) -> list[str]:
        """Names of the layers with signed input, from calibration images and overrides."""
        found = calibrate.find_signed(self.convert(network), batches, preprocess, mesh)
        return self._override_signed(found)

    def _override_signed(self, found: Sequence[str]) -> list[str]:
        names = [layer.name for layer in self.layers if layer.quantize_input]
        return calibrate.override_signed(found, names, self.settings.signed, self.settings.unsigned)

    def start(
        self,
        network: nnx.Module,
        batches: Sequence[np.ndarray],
        preprocess: Callable,
        mesh: Mesh,
    ) -> tuple[FunctionalNetwork, Arrays, list[str]]:
        """The coupled network for training, with signs and step sizes initialised from data.

        Args:
          network: the trained full-precision network.
          batches: batches of training images, of equal size.
          preprocess: maps images to the network's input.

        Returns:
          the network, its initial parameters, and the names of the layers with signed input.
        """
        signed = self.find_signed(network, batches, preprocess, mesh)
        functional = FunctionalNetwork(self.convert(network, signed))
        params = calibrate.initialize_activation_steps(
            functional, self.space, batches, preprocess, mesh
        )
        return functional, params, signed

    def start_untrained(
        self,
        network: nnx.Module,
        batches: Sequence,
        preprocess: Callable,
        mesh: Mesh,
        check: Callable[[], None] = lambda: None,
    ) -> tuple[FunctionalNetwork, Arrays, list[str]]:
        """The coupled network for use without training, with step sizes of least squared error.

        Args:
          network: the trained full-precision network.
          batches: batches of calibration images, of equal size, see `Pipeline.full`.
          preprocess: maps images to the network's input.
          check: called regularly; may raise to stop.

        Returns:
          the same as `start`.
        """
        stacked = [images for images, _ in grouped(batches, mesh)]
        signed = self.find_signed(network, stacked, preprocess, mesh)
        check()
        functional = FunctionalNetwork(self.convert(network, signed))
        params = post_training.search_weight_steps(functional)
        params = post_training.search_activation_steps(
            functional, params, self.space, batches, preprocess, mesh, check
        )
        return functional, params, signed

    def identity(self) -> Mapping[str, Any]:
        """The part of a checkpoint's identity that this plan determines, JSON."""
        found = {
            "candidates": list(self.settings.candidates),
            "layers": {layer.name: list(layer.kernel_shape) for layer in self.layers},
            "bits": {
                layer.name: list(layer.candidates or layer.fixed_bits) for layer in self.layers
            },
        }
        # Entries of what is not used are absent, as in checkpoints of earlier releases.
        if self.residuals:
            found["residual_bits"] = self.settings.residual_bits
        if self.space.has_one_set:
            return found
        searched = [layer for layer in self.layers if layer.candidates]
        return found | {
            "activation_candidates": list(self.settings.activation_candidates),
            "activation_bits": {x.name: list(x.columns[ACTIVATIONS]) for x in searched},
        }


def plan(
    network: nnx.Module,
    image_shape: Sequence[int],
    config: QuantConfig | None = None,
    *,
    num_classes: int | None = None,
) -> QuantizationPlan:
    """Plans the quantization of a plain network: its layers, their candidates, their costs.

    The first convolution and the last dense layer, the classifier, have fixed bit-widths; all other
    layers are searched. Nothing is computed: the plain and the coupled network are traced with
    abstract images, in evaluation and in training mode, so that a network that cannot be coupled
    is refused here, before any training. What could not be exported is told by
    `rfquant_jax.remarks`.

    Args:
      network: float32[N, H, W, C] -> logits [N, classes], made of 2-D `nnx.Conv` and `nnx.Linear`
        layers that are called once each. Its arrays may be abstract (`nnx.eval_shape`).
      image_shape: (H, W, C) of the network's input.
      config: candidates and rules; None: the published ones.
      num_classes: number of classes, checked against the number of logits; None: any.

    Returns:
      the plan, with the `layers` in forward order, the `space` of configurations and the function
      `costs`.

    Raises:
      UserError: a layer is of an unsupported type or is not called exactly once, a rule or pattern
        matches no layer, or there is no layer to search; the message names the layer. Or the
        network does not return `num_classes` logits.
      RunFailure: the network's own code fails, plain or coupled; names the module and the line.

    Source: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543).

    Example:
      >>> plan = rfq.plan(net, (8, 8, 3), rfq.QuantConfig(candidates=(6, 5, 4, 3, 2)))
      >>> [layer.name for layer in plan.layers]
      ['stem', 'conv', 'last', 'classifier']
      >>> plan.space.names
      ('conv', 'last')
      >>> plan.costs("w4a4")["size_mb"] * 2**20  # 8 * (108 + 12) + 4 * (144 + 144) bits
      264.0
    """
    found = QuantizationPlan.of(network, image_shape, config or QuantConfig())
    if num_classes is not None:
        forward.check_classes(found.logits_shape, num_classes)
    return found
