"""The gradient of a whole coupled pass against finite differences in float64.

A quantizer is a step function, so its finite differences say nothing about its straight-through
gradient. That gradient is the true one of a surrogate: around a point, `x + (round(v) - v) * s`
inside of the bounds and `bound * s` outside, with `round(v) - v` and the sides as constants. Here
every quantizer is replaced by its surrogate, whose values agree at the point, and the loss is
differenced along directions in all parameters of a kind.
"""

from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rfquant_jax.nn.features import listening_to_inputs
from rfquant_jax.nn.functional import FunctionalNetwork, zeros_like
from rfquant_jax.quant.layers import Quantizer, quantized_layers
from rfquant_jax.train.passes import max_pass, random_pass
from rfquant_jax.train.state import PassState, StepInputs
from rfquant_jax.train.training_network import LossWeights, TrainingNetwork
from tests.conftest import batch, identity

WEIGHTS = LossWeights(label_smoothing=0.1, distillation=0.3, idm=0.7, region=0.02)
CONFIGURATIONS = np.asarray([[[6, 6]] * 4, [[3, 2], [2, 5], [4, 3], [3, 6]]], np.int32)
SMALLEST = np.asarray([[3, 2], [2, 2], [2, 2], [3, 2]], np.int32)
WITHOUT_STEP_GRADIENT = ("damping", "region")  # terms that hold step sizes constant
KINDS = {
    "kernels": lambda name: name.endswith("kernel"),
    "biases and scales": lambda name: name.endswith(("bias", "scale")),
    "step sizes": lambda name: name.endswith("step"),
}
SPAN = 1e-6


class Surrogates:
    """Replaces `Quantizer.quantize` by its surrogate around the values of one forward pass."""

    def __init__(self, network: TrainingNetwork, params, stats, data, configuration):
        self._constants = {}
        with listening_to_inputs(lambda layer, x: self._hold(layer, x)):
            network(params, stats, data["image"], configuration, jax.random.key(0))

    def _hold(self, layer, x):
        weight_bits, input_bits = layer.bits[...]
        for quantizer, value, bits in (
            (layer.weight_quantizer, layer.kernel[...], weight_bits),
            (layer.input_quantizer, x, input_bits),
        ):
            if quantizer is not None:
                lower, upper = (float(b) for b in quantizer.bounds(bits))
                v = np.asarray(value, np.float64) / float(quantizer.step_size(bits))
                inside = (v >= lower) & (v <= upper)
                offset = np.where(inside, np.round(v) - v, np.clip(v, lower, upper))
                self._constants[quantizer.tag] = inside, offset

    def quantize(self, quantizer: Quantizer, x, step, bits):
        inside, offset = self._constants[quantizer.tag]
        return jnp.where(inside, x, 0) + offset * step


def tagged(coupled):
    """A copy of the network whose quantizers have a name each."""
    network = nnx.clone(coupled)
    for layer in quantized_layers(network):
        for role in ("weight_quantizer", "input_quantizer"):
            if getattr(layer, role) is not None:
                getattr(layer, role).tag = f"{layer.name}.{role}"
    return FunctionalNetwork(network)


class Problem:
    """A random pass on random data, to be called under `in_float64`."""

    def __init__(self, functional: FunctionalNetwork):
        rng = np.random.default_rng(3)
        # Away from the initial values, at which scales are one, biases zero and step sizes equal.
        self.params = {
            name: jnp.asarray(np.float64(v) * rng.uniform(0.7, 1.3, v.shape)) + 0.05
            for name, v in functional.params.items()
        }
        self.stats = {name: jnp.asarray(np.float64(v)) for name, v in functional.stats.items()}
        self.data = batch(rng, 8)
        self.data["image"] = np.float64(self.data["image"])
        self.network = TrainingNetwork(functional, identity, WEIGHTS)
        rates = np.float64(0), np.float64(0), np.float64(0.2)
        self._inputs = StepInputs(CONFIGURATIONS, SMALLEST, *rates, jax.random.key(0))
        start = PassState(self.stats, zeros_like(self.params))
        after, _ = jax.jit(lambda: self._run(max_pass, self.params, start, 0))()
        self._start = start._replace(logits=after.logits, features=after.features)

    def compiled(self):
        """`params -> (gradients, terms)` of a random pass, compiled for the current quantizers."""

        def gradients_and_terms(params):
            after, terms = self._run(random_pass, params, self._start, 1)
            return after.gradients, terms

        return jax.jit(gradients_and_terms)

    def _run(self, one, params, start, number):
        return one(self.network, params, start, self.data, self._inputs, number)


@contextmanager
def in_float64():
    """Computes in float64 what the library computes in float32."""
    with pytest.MonkeyPatch.context() as patch, jax.enable_x64(True):
        patch.setattr(jnp, "float32", jnp.float64)
        yield patch


@pytest.fixture(scope="module")
def found(coupled):
    """Terms of the loss and of its surrogate; derivatives by kind, (differenced, expected)."""
    with in_float64() as patch:
        problem = Problem(tagged(coupled))
        gradients, terms = problem.compiled()(problem.params)
        surrogates = Surrogates(
            problem.network, problem.params, problem.stats, problem.data, CONFIGURATIONS[1]
        )
        patch.setattr(Quantizer, "quantize", lambda *a: surrogates.quantize(*a))
        surrogate = problem.compiled()
        derivatives = {
            kind: [
                directional_derivative(surrogate, problem.params, gradients, kind, seed)
                for seed in range(3)
            ]
            for kind in KINDS
        }
        same = surrogate(problem.params)[1]
    return jax.device_get((terms, same)), derivatives


def directional_derivative(surrogate, params, gradients, kind, seed):
    """The derivative of the loss along a random direction: differenced, and from the gradients."""
    constant = WITHOUT_STEP_GRADIENT if kind == "step sizes" else ()

    def loss(params):
        terms = surrogate(params)[1]
        return float(terms["loss"]) - sum(float(terms[name]) for name in constant)

    names, rng = [name for name in params if KINDS[kind](name)], np.random.default_rng(seed)
    direction = {name: rng.normal(size=params[name].shape) for name in names}
    ahead, behind = (
        loss(params | {name: params[name] + span * direction[name] for name in names})
        for span in (SPAN, -SPAN)
    )
    expected = sum(float(np.sum(gradients[name] * direction[name])) for name in names)
    return (ahead - behind) / (2 * SPAN), expected


def test_every_term_counts_and_surrogates_have_its_value(found):
    terms, same = found[0]
    for name in ("cross_entropy", "distillation", "idm", "damping", "region"):
        assert terms[name] > 1e-3, name
        assert same[name] == pytest.approx(terms[name], rel=1e-12), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_a_random_pass_is_that_of_finite_differences(kind, found):
    for differenced, expected in found[1][kind]:
        assert abs(expected) > 1e-3
        assert differenced == pytest.approx(expected, rel=1e-6)


def test_every_parameter_belongs_to_a_kind(coupled):
    names = FunctionalNetwork(coupled).params
    assert all(sum(is_kind(name) for is_kind in KINDS.values()) == 1 for name in names)
