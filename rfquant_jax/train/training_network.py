"""The forward pass of a network in training mode, and the loss terms on its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from rfquant_jax.nn.features import recording_features
from rfquant_jax.nn.functional import Arrays, FunctionalNetwork, dotted, reseed
from rfquant_jax.ops.sums import total
from rfquant_jax.quant.calibrate import Preprocess
from rfquant_jax.quant.layers import QuantizedLayer, assign, pick, searched_layers, slot
from rfquant_jax.quant.space import WEIGHTS
from rfquant_jax.runtime.setting import ANY, BELOW_ONE, FRACTION, documented, setting
from rfquant_jax.train.packing import Packing
from rfquant_jax.train.stem import Start, Stem

# term(kernel, step size, bit-width, index of the layer) -> float32 of any shape
WeightTerm = Callable[[jax.Array, jax.Array, jax.Array, int], jax.Array]
Outputs = tuple[jax.Array, Arrays]  # logits float32[N, classes] and features by layer name


@documented
@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms."""

    label_smoothing: float = setting(
        0.0, "fraction of the target that is spread evenly over all classes", BELOW_ONE
    )
    distillation: float = setting(
        0.5, "weight of distillation in the loss; cross-entropy has 1 - this", FRACTION
    )
    idm: float = setting(
        0.01,
        "weight of information distortion mitigation; 0: off, which saves the memory for features",
    )
    region: float = setting(0.0, "wd_region - weight_decay, the weight of R", ANY)


class TrainingNetwork:
    """A network as passes run it: in training mode, at a configuration, from its parameters.

    Args:
      functional: a coupled network, or a plain one (which has no searched layers).
      preprocess: maps a batch of images to the network's input.
      weights: weights of the loss terms.
      packing: layout of packed parameters and statistics; None: they are not packed.

    Attributes:
      stem: the part that all passes of a step share, once `trace_stem` has found it.
    """

    def __init__(
        self,
        functional: FunctionalNetwork,
        preprocess: Preprocess,
        weights: LossWeights,
        packing: Packing | None = None,
    ):
        self.functional, self.preprocess, self.weights = functional, preprocess, weights
        self.packing = packing
        self.stem: Stem | None = None
        self._layers = _searched(functional)

    def __call__(
        self, params: Arrays, stats: Arrays, images: jax.Array, configuration: jax.Array, key
    ) -> tuple[Outputs, Arrays]:
        """Runs the whole network on one device's images.

        Args:
          configuration: int32[L, 2], traced.
          key: for dropout.

        Returns:
          logits and features; the updated statistics.
        """
        own = params, stats
        if self.packing is not None:
            own = self.packing.chosen(params, stats, configuration)
        network = self.module(*own, configuration, key)
        with recording_features() as features:
            logits = network(self.preprocess(images)).astype(jnp.float32)
        searched = searched_layers(network)
        kept = {layer.name: features[layer.name] for layer in searched if self.weights.idm}
        new = self.functional.stats_in(network)
        if self.packing is not None:
            new = self.packing.moved(stats, new, configuration)
        return (logits, kept), new

    def after_stem(
        self, params: Arrays, stats: Arrays, start: Start, configuration: jax.Array, key
    ) -> tuple[Outputs, Arrays]:
        """The same from the activations of the stem, whose statistics are already updated."""
        return self.stem.rest(params, stats, start, configuration, key)

    def module(
        self, params: Arrays, stats: Arrays, configuration: jax.Array, key: jax.Array
    ) -> nnx.Module:
        """The network with these arrays, in training mode, at this configuration."""
        network = self.functional.merge(params, stats)
        network.train()
        assign(network, configuration)
        reseed(network, key)
        return network

    def sum_over_weights(
        self, params: Arrays, configuration: jax.Array, term: WeightTerm
    ) -> jax.Array:
        """Sums a term, all its elements, over the kernels of the searched layers, float32[]."""
        if self.packing is not None:
            params = self.packing.chosen_params(params, configuration)
        terms = []
        for index, (kernel, steps, candidates) in enumerate(self._layers):
            bits = configuration[index, WEIGHTS]
            step = pick(params[steps], slot(bits, candidates))
            terms.append(term(params[kernel], step, bits, index))
        return total(terms)

    def trace_stem(self, images: jax.ShapeDtypeStruct, *, passes: int) -> None:
        """Finds the part of the network that all passes of a step share; see `stem`.

        Args:
          images: one device's shard of a micro-batch.
          passes: 1 + K.
        """
        configuration = jax.ShapeDtypeStruct((len(self._layers), 2), jnp.int32)
        # Shapes only: the trace runs per device, so it must not capture the arrays' shardings.
        of_network = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
            (self.functional.params, self.functional.stats),
        )
        if self.packing is not None:
            of_network = jax.eval_shape(self.packing.packed, *of_network)
        key = jax.eval_shape(jax.random.key, 0)
        self.stem = Stem(self, *of_network, images, configuration, key, passes=passes)


def _searched(functional: FunctionalNetwork) -> list[tuple[str, str, tuple[int, ...]]]:
    """Kernel, weight step sizes (names of parameters) and candidates of each searched layer."""
    network = functional.merge(functional.params, functional.stats)
    found = {}
    for path, layer in nnx.iter_modules(network):
        if isinstance(layer, QuantizedLayer) and layer.index is not None:
            name = dotted(path)
            steps = f"{name}.weight_quantizer.step"
            found[layer.index] = f"{name}.kernel", steps, layer.weight_quantizer.candidates
    return [found[index] for index in sorted(found)]
