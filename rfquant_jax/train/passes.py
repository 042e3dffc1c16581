"""One pass: forward and backward pass of the network at one configuration.

`CoupledPass.__call__` has the whole loss: the terms on outputs are in `losses.py`, those on weights
in `damping.py`. A pass runs on one device and adds its gradients to accumulators; there is no
communication between devices.

Source: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from rfquant_jax.nn.features import recording_features
from rfquant_jax.nn.functional import Arrays, FunctionalNetwork, reseed
from rfquant_jax.ops.ordering import alone, replaced
from rfquant_jax.quant.calibrate import Preprocess
from rfquant_jax.quant.layers import assign, searched_layers
from rfquant_jax.quant.space import WEIGHTS
from rfquant_jax.train import damping, losses
from rfquant_jax.train.state import Carry, DistillationTargets, StepInputs
from rfquant_jax.train.stem import Start, Stem

COUPLING = ("damping", "idm")  # loss terms of random passes only


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms; `StepConfig` has their meanings."""

    label_smoothing: float = 0.0
    distillation: float = 0.5  # the cross-entropy has weight 1 - distillation
    idm: float = 0.01  # 0 disables information distortion mitigation
    region: float = 0.0  # wd_region - wd, the weight of R


class CoupledPass:
    """The pass of one network as a pure function, to be compiled by the caller.

    Args:
      functional: a coupled network, or a plain one (which has no searched layers).
      preprocess: maps a batch of images to the network's input.
      weights: weights of the loss terms.
    """

    def __init__(self, functional: FunctionalNetwork, preprocess: Preprocess, weights: LossWeights):
        self.functional, self.preprocess, self.weights = functional, preprocess, weights
        self.stem: Stem | None = None

    def __call__(
        self,
        params: Arrays,
        carry: Carry,
        batch: Arrays,
        targets: DistillationTargets | None,
        inputs: StepInputs,
        number: jax.Array,
        *,
        is_max: bool | jax.Array,
        taught: bool | jax.Array = True,
        start: Start | None = None,
    ) -> tuple[Carry, DistillationTargets, Arrays]:
        """One forward and backward pass.

        With a static `is_max`, max and random passes are two programs. With `is_max` as data, one
        program runs both: a max pass then returns the coupling terms as zeros, and it takes
        features, which it replaces by its own; a random pass returns them unchanged.

        Args:
          params: parameters of the network.
          carry: this device's statistics and gradient accumulators.
          batch: {"image": [N, H, W, C], "label": int32[N]}, this device's shard.
          targets: results of the max pass; for the max pass itself, the external teacher's logits
            or None. If `is_max` is data, features are always present.
          inputs: inputs shared by all passes of the step.
          number: int32[], index of the pass within the step.
          is_max: whether this is the max pass; static or bool[].
          taught: whether the logits of `targets` are valid; static or bool[].
          start: activations of the stem, shared by all passes of the batch, whose statistics are
            already updated; None: start from the images.

        Returns:
          the new carry, distillation targets for later passes, and scalar metrics.
        """
        # Kept out of XLA's fusions: each layer's loops would repeat the lookup and compile longer.
        configuration = alone(lambda: _configuration(inputs, number), inputs.damping)
        key = jax.random.fold_in(inputs.key, number)

        def loss(params, learned):
            if start is None:
                outputs, stats = self.forward(
                    params, carry.stats, batch["image"], configuration, key
                )
            else:
                given = start._replace(learned=learned)
                outputs, stats = self.stem.rest(params, carry.stats, given, configuration, key)
            logits, own = outputs
            network = self._configured(params, carry.stats, configuration)
            searched = searched_layers(network)
            terms = self._output_terms(logits, batch["label"], targets, taught)
            kept = own
            if is_max is not True:
                kept = _of_max(own, targets.features, is_max)
                coupled = jnp.logical_not(is_max)
                terms |= self._coupling_terms(own, kept, coupled, searched, inputs, configuration)
            if self.weights.region:
                terms["region"] = self.weights.region * _sum_layers(
                    searched, lambda kernel, step, bits, _: damping.region(kernel, step, bits)
                )
            return sum(terms.values()), (stats, DistillationTargets(logits, kept), terms)

        learned = () if start is None else start.learned
        differentiated = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        (total, (stats, own, terms)), (pass_gradients, of_start) = differentiated(params, learned)
        accuracy = jnp.mean(jnp.argmax(own.logits, -1) == batch["label"])
        gradients = jax.tree.map(jnp.add, carry.gradients, pass_gradients)
        # float32, because these are summed over passes: bfloat16 would round after every pass.
        of_start = jax.tree.map(lambda cotangent: cotangent.astype(jnp.float32), of_start)
        if carry.start:
            of_start = jax.tree.map(jnp.add, carry.start, of_start)
        carry = Carry(stats, gradients, of_start)
        return carry, own, terms | {"loss": total, "accuracy": accuracy}

    def trace_stem(self, images: jax.ShapeDtypeStruct, layers: int, *, passes: int) -> None:
        """Finds the part of the network that all passes of a step share; see `stem`.

        Args:
          images: one device's shard of a micro-batch.
          layers: L.
          passes: 1 + K.
        """
        configuration = jax.ShapeDtypeStruct((layers, 2), jnp.int32)
        # Shapes only: the trace runs per device, so it must not capture the arrays' shardings.
        of_network = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
            (self.functional.params, self.functional.stats),
        )
        key = jax.eval_shape(jax.random.key, 0)
        arguments = (*of_network, images, configuration, key)
        self.stem = Stem(self.forward, *arguments, passes=passes)

    def forward(
        self, params: Arrays, stats: Arrays, images: jax.Array, configuration: jax.Array, key
    ) -> tuple[tuple[jax.Array, Arrays], Arrays]:
        """Logits and features of the network, and its updated statistics."""
        network = self._configured(params, stats, configuration)
        reseed(network, key)
        with recording_features() as features:
            logits = network(self.preprocess(images)).astype(jnp.float32)
        searched = searched_layers(network)
        own = {layer.name: features[layer.name] for layer in searched if self.weights.idm}
        return (logits, own), self.functional.stats_in(network)

    def network(
        self, params: Arrays, stats: Arrays, inputs: StepInputs, number: jax.Array
    ) -> nnx.Module:
        """The network as a pass runs it: in training mode, with its configuration and dropout."""
        network = self._configured(params, stats, _configuration(inputs, number))
        reseed(network, jax.random.fold_in(inputs.key, number))
        return network

    def _configured(self, params: Arrays, stats: Arrays, configuration: jax.Array) -> nnx.Module:
        network = self.functional.merge(params, stats)
        network.train()
        assign(network, configuration)
        return network

    def _output_terms(self, logits, labels, targets: DistillationTargets | None, taught) -> Arrays:
        entropy = losses.cross_entropy(logits, labels, self.weights.label_smoothing)
        if targets is None:
            return {"cross_entropy": entropy}
        # Selected, not multiplied: without a teacher the logits may be NaN, and 0 * NaN is NaN.
        teacher = jnp.where(taught, targets.logits, 0)
        divergence = losses.distillation(teacher, logits)
        share = jnp.where(taught, self.weights.distillation, 0)
        return {"cross_entropy": (1 - share) * entropy, "distillation": share * divergence}

    def _coupling_terms(self, own, of_max, coupled, searched, inputs, configuration) -> Arrays:
        at_smallest = (configuration[:, WEIGHTS] == inputs.smallest) & coupled

        def oscillation(kernel, step, bits, index):
            return damping.oscillation(kernel, step, bits, inputs.smallest[index])

        factor = jnp.where(coupled, inputs.damping, 0)
        terms = {"damping": factor * _sum_layers(searched, oscillation)}
        if self.weights.idm:
            terms["idm"] = self.weights.idm * losses.information_distortion(
                own, of_max, list(own), at_smallest
            )
        return terms


def _of_max(own: Arrays, given: Arrays, is_max: bool | jax.Array) -> Arrays:
    """The features of the max pass: the pass's own in a max pass, else the given ones.

    If the given buffers are donated, a random pass returns them without a copy.
    """
    if is_max is False:
        return given
    own = jax.lax.stop_gradient(own)
    return {name: replaced(is_max, own[name], given[name]) for name in own}


def _configuration(inputs: StepInputs, number: jax.Array) -> jax.Array:
    """The configuration of a pass, int32[L, 2]; every micro-batch runs all configurations."""
    return inputs.configurations[number % len(inputs.configurations)]


def _sum_layers(searched: list[nnx.Module], term) -> jax.Array:
    """Sums `term(kernel, step, bits, index)` over the searched layers."""
    total = jnp.zeros(())
    for layer in searched:
        bits = layer.bits[...][WEIGHTS]
        step = layer.weight_quantizer.step_size(bits)
        total = total + term(layer.kernel[...], step, bits, layer.index)
    return total
