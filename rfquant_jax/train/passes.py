"""The passes of a coupled step: forward and backward pass of the network at one configuration.

`loss_terms` is the whole loss. `max_pass` and `random_pass` differ in what they compare the network
with: the max pass has the labels, and an external teacher if there is one; a random pass is also
distilled from the max pass and has the terms that couple the bit-widths. A pass runs on one device
and adds its gradients to accumulators; there is no communication between devices.

Source: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rfquant_jax.nn.functional import Arrays
from rfquant_jax.ops.ordering import alone, replaced
from rfquant_jax.quant.space import WEIGHTS
from rfquant_jax.train import damping, losses
from rfquant_jax.train.state import PassState, StepInputs
from rfquant_jax.train.stem import Start
from rfquant_jax.train.training_network import Outputs, TrainingNetwork

COUPLING = ("damping", "idm")  # loss terms of random passes only


class Comparison(NamedTuple):
    """What the loss compares a pass with, besides the labels.

    Attributes:
      logits: of the teacher, float32[N, classes]; None: no distillation.
      share: weight of the distillation; the cross-entropy has weight 1 - share.
      features: of the max pass by layer name; None: a max pass, without coupling terms.
      damping: weight of oscillation damping, float32[].
      smallest: int32[L], the smallest weight bit-widths allowed now.
      at_smallest: bool[L], the layers to which information distortion mitigation applies.
    """

    logits: jax.Array | None = None
    share: float | jax.Array = 0.0
    features: Arrays | None = None
    damping: jax.Array | None = None
    smallest: jax.Array | None = None
    at_smallest: jax.Array | None = None


def loss_terms(
    network: TrainingNetwork,
    params: Arrays,
    configuration: jax.Array,
    outputs: Outputs,
    labels: jax.Array,
    compared: Comparison,
) -> Arrays:
    """The weighted terms of the loss of a pass, float32[] by name; the loss is their sum."""
    weights, (logits, features) = network.weights, outputs
    entropy = losses.cross_entropy(logits, labels, weights.label_smoothing)
    terms = {"cross_entropy": (1 - compared.share) * entropy}
    if compared.logits is not None:
        terms["distillation"] = compared.share * losses.distillation(compared.logits, logits)

    def oscillation(kernel, step, bits, index):
        return damping.oscillation(kernel, step, bits, compared.smallest[index])

    if compared.features is not None:
        total = network.sum_over_weights(params, configuration, oscillation)
        terms["damping"] = compared.damping * total
        if weights.idm:
            terms["idm"] = weights.idm * losses.information_distortion(
                features, compared.features, list(features), compared.at_smallest
            )
    if weights.region:
        total = network.sum_over_weights(params, configuration, lambda *w: damping.region(*w[:3]))
        terms["region"] = weights.region * total
    return terms


def max_pass(
    network: TrainingNetwork,
    params: Arrays,
    state: PassState,
    batch: Arrays,
    inputs: StepInputs,
    number: jax.Array | int,
    *,
    teacher: jax.Array | None = None,
    start: Start | None = None,
) -> tuple[PassState, Arrays]:
    """The pass at the largest bit-widths; its outputs become the targets of random passes.

    Args:
      params: parameters of the network.
      state: this device's state; its logits and features are not read.
      batch: {"image": [N, H, W, C], "label": int32[N]}, this device's shard.
      inputs: inputs shared by all passes of the step.
      number: int32[], index of the pass within the step.
      teacher: logits of an external teacher, float32[N, classes]; None: there is none.
      start: activations of the stem, whose statistics are already updated; None: start from the
        images.

    Returns:
      the new state; the loss terms, their sum "loss" and the "accuracy", float32[].
    """
    share = 0.0 if teacher is None else network.weights.distillation

    def compare(configuration, outputs):
        return Comparison(teacher, share), jax.lax.stop_gradient(outputs)

    return _run(network, params, state, batch, inputs, number, start, compare)


def random_pass(
    network: TrainingNetwork,
    params: Arrays,
    state: PassState,
    batch: Arrays,
    inputs: StepInputs,
    number: jax.Array | int,
    *,
    start: Start | None = None,
) -> tuple[PassState, Arrays]:
    """A pass at a sampled configuration, coupled to the max pass; arguments as for `max_pass`."""

    def compare(configuration, _):
        return _coupled(network, state, inputs, configuration), (state.logits, state.features)

    return _run(network, params, state, batch, inputs, number, start, compare)


def either_pass(
    network: TrainingNetwork,
    params: Arrays,
    state: PassState,
    batch: Arrays,
    inputs: StepInputs,
    number: jax.Array,
    *,
    teacher: jax.Array | None = None,
    start: Start | None = None,
) -> tuple[PassState, Arrays]:
    """`max_pass` or `random_pass`, by the number of the pass, as one program.

    Compiling a pass takes most of the compile time, so the host loop compiles one for both. In a
    max pass the coupling terms are multiplied by zero, and the distillation without a teacher.
    The state always has logits and features; those of a max pass replace them in place.
    """
    is_max = number % len(inputs.configurations) == 0
    is_random = jnp.logical_not(is_max)
    is_taught = is_random | (teacher is not None)

    def compare(configuration, outputs):
        logits, own = jax.lax.stop_gradient(outputs)
        features = {name: replaced(is_max, own[name], state.features[name]) for name in own}
        # Selected, not multiplied: logits that are no targets may be NaN, and 0 * NaN is NaN.
        coupled = _coupled(network, state, inputs, configuration)
        given = coupled._replace(
            logits=jnp.where(is_max, 0.0 if teacher is None else teacher, state.logits),
            share=jnp.where(is_taught, coupled.share, 0),
            features=features,
            damping=jnp.where(is_random, coupled.damping, 0),
            at_smallest=coupled.at_smallest & is_random,
        )
        return given, (jnp.where(is_max, logits, state.logits), features)

    return _run(network, params, state, batch, inputs, number, start, compare)


def _coupled(
    network: TrainingNetwork, state: PassState, inputs: StepInputs, configuration: jax.Array
) -> Comparison:
    """What a random pass is compared with: the max pass, at the smallest bit-widths allowed now."""
    smallest = inputs.smallest[:, WEIGHTS]
    return Comparison(
        logits=state.logits,
        share=network.weights.distillation,
        features=state.features,
        damping=inputs.damping,
        smallest=smallest,
        at_smallest=configuration[:, WEIGHTS] == smallest,
    )


def configuration_of(inputs: StepInputs, number: jax.Array | int) -> jax.Array:
    """The configuration of a pass, int32[L, 2]; every micro-batch runs all configurations."""
    return inputs.configurations[number % len(inputs.configurations)]


def _run(network, params, state, batch, inputs, number, start, compare):
    """Forward and backward pass; see `max_pass` for the arguments.

    Args:
      compare: `compare(configuration, outputs)` -> a `Comparison`, and the logits and features of
        the new state.
    """
    # Kept out of XLA's fusions: each layer's loops would repeat the lookup and compile longer.
    configuration = alone(lambda: configuration_of(inputs, number), inputs.damping)
    key = jax.random.fold_in(inputs.key, number)

    def loss(params, learned):
        if start is None:
            outputs, stats = network(params, state.stats, batch["image"], configuration, key)
        else:
            given = start._replace(learned=learned)
            outputs, stats = network.after_stem(params, state.stats, given, configuration, key)
        compared, targets = compare(configuration, outputs)
        terms = loss_terms(network, params, configuration, outputs, batch["label"], compared)
        return sum(terms.values()), (stats, targets, outputs[0], terms)

    learned = () if start is None else start.learned
    differentiated = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (total, (stats, targets, logits, terms)), gradients = differentiated(params, learned)
    accuracy = jnp.mean(jnp.argmax(logits, -1) == batch["label"])
    state = PassState(stats, *_added(state, *gradients), *targets)
    return state, terms | {"loss": total, "accuracy": accuracy}


def _added(state: PassState, gradients: Arrays, cotangents: tuple) -> tuple[Arrays, tuple]:
    """The accumulators of a state with the gradients and cotangents of a pass added."""
    gradients = jax.tree.map(jnp.add, state.gradients, gradients)
    # float32, because these are summed over passes: bfloat16 would round after every pass.
    cotangents = jax.tree.map(lambda cotangent: cotangent.astype(jnp.float32), cotangents)
    if state.cotangents:
        cotangents = jax.tree.map(jnp.add, state.cotangents, cotangents)
    return gradients, cotangents
