"""One pass: one forward and backward of the network under one configuration (method, section 4).

Runs per device. Gradients are added to accumulators; nothing crosses devices here.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from rfquant_jax.bits import WEIGHTS
from rfquant_jax.models.pure import Arrays, PureNetwork, reseed
from rfquant_jax.models.tap import recording_features
from rfquant_jax.quant.calibrate import Preprocess
from rfquant_jax.quant.layers import assign, searched_layers
from rfquant_jax.train import damping, losses
from rfquant_jax.train.state import Carry, Reference, StepInputs


@dataclass(frozen=True)
class LossWeights:
    """The constants of the loss; see `configs/default.py` for their meaning."""

    label_smoothing: float = 0.0
    distillation: float = 0.5  # the rest is the cross-entropy's
    idm: float = 0.01  # 0 leaves information distortion mitigation out
    region: float = 0.0  # wd_region - wd, the factor of R


class CoupledPass:
    """The pass of one network as a pure function; calling it is what gets compiled.

    Args:
      pure: a coupled network, or a plain one (which has no searched layers).
      preprocess: turns a batch of images into the network's input.
      weights: the constants of the loss.
    """

    def __init__(self, pure: PureNetwork, preprocess: Preprocess, weights: LossWeights):
        self.pure, self.preprocess, self.weights = pure, preprocess, weights

    def __call__(
        self,
        params: Arrays,
        carry: Carry,
        batch: Arrays,
        reference: Reference | None,
        inputs: StepInputs,
        number: jax.Array,
        *,
        is_max: bool,
    ) -> tuple[Carry, Reference, Arrays]:
        """One forward and backward pass.

        Args:
          params: of the network.
          carry: this device's statistics and gradient accumulators.
          batch: {"image": [N, H, W, C], "label": int32[N]}, this device's part.
          reference: of the max pass; for the max pass itself the external teacher's or None.
          inputs: what all passes of the step share.
          number: int32[], counts the passes of the step.
          is_max: whether this is the max pass; static.

        Returns:
          the carry after it, what later passes are distilled from, and scalar metrics.
        """
        configuration = inputs.configurations[number % len(inputs.configurations)]

        def loss(params):
            network = self.network(params, carry.stats, inputs, number)
            with recording_features() as features:
                logits = network(self.preprocess(batch["image"])).astype(jnp.float32)
            searched = searched_layers(network)
            own = {layer.name: features[layer.name] for layer in searched if self.weights.idm}
            terms = self._output_terms(logits, batch["label"], reference)
            if not is_max:
                terms |= self._coupling_terms(own, reference, searched, inputs, configuration)
            if self.weights.region:
                terms["region"] = self.weights.region * _sum_layers(
                    searched, lambda kernel, step, bits, _: damping.region(kernel, step, bits)
                )
            return sum(terms.values()), (self.pure.stats_in(network), Reference(logits, own), terms)

        (total, (stats, own, terms)), slopes = jax.value_and_grad(loss, has_aux=True)(params)
        accuracy = jnp.mean(jnp.argmax(own.logits, -1) == batch["label"])
        gradients = jax.tree.map(jnp.add, carry.gradients, slopes)
        return Carry(stats, gradients), own, terms | {"loss": total, "accuracy": accuracy}

    def network(
        self, params: Arrays, stats: Arrays, inputs: StepInputs, number: jax.Array
    ) -> nnx.Module:
        """The network as a pass runs it: in training, with the pass's configuration and dropout."""
        network = self.pure.merge(params, stats)
        network.train()
        reseed(network, jax.random.fold_in(inputs.key, number))
        assign(network, inputs.configurations[number % len(inputs.configurations)])
        return network

    def _output_terms(self, logits, labels, reference: Reference | None) -> Arrays:
        entropy = losses.cross_entropy(logits, labels, self.weights.label_smoothing)
        if reference is None:
            return {"cross_entropy": entropy}
        divergence = losses.distillation(reference.logits, logits)
        share = self.weights.distillation
        return {"cross_entropy": (1 - share) * entropy, "distillation": share * divergence}

    def _coupling_terms(self, own, reference, searched, inputs, configuration) -> Arrays:
        at_smallest = configuration[:, WEIGHTS] == inputs.smallest

        def oscillation(kernel, step, bits, index):
            return damping.oscillation(kernel, step, bits, inputs.smallest[index])

        terms = {"damping": inputs.damping * _sum_layers(searched, oscillation)}
        if self.weights.idm:
            terms["idm"] = self.weights.idm * losses.information_distortion(
                own, reference.features, list(own), at_smallest
            )
        return terms


def _sum_layers(searched: list[nnx.Module], term) -> jax.Array:
    """Sums `term(kernel, step, bits, index)` over the searched layers."""
    total = jnp.zeros(())
    for layer in searched:
        bits = layer.bits[...][WEIGHTS]
        step = layer.weight_quantizer.step_size(bits)
        total = total + term(layer.kernel[...], step, bits, layer.index)
    return total
