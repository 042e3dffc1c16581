"""What the passes of a step have in common, against the same passes made whole, one by one."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rfquant_jax.nn.batch_norm import BatchNorm
from rfquant_jax.nn.functional import FunctionalNetwork, zeros_like
from rfquant_jax.nn.precision import compute_in
from rfquant_jax.quant import convert
from rfquant_jax.quant.layer_table import layer_table
from rfquant_jax.quant.sampling import sample_step
from rfquant_jax.quant.space import smallest_bits
from rfquant_jax.runtime.backend import compiling_for
from rfquant_jax.train.passes import max_pass, random_pass
from rfquant_jax.train.state import PassState, StepInputs
from rfquant_jax.train.training_network import LossWeights, TrainingNetwork
from tests.conftest import IMAGE_SHAPE, SEARCHED, TinyNet, batch, identity

PASSES = 4
# From 32 bits on nothing is quantized: no code can differ because something rounds differently.
CANDIDATES = (34, 33, 32, 6)
WEIGHTS = LossWeights(label_smoothing=0.1, idm=0.01, region=-2.5e-5)


def shapes_of(images):
    return jax.ShapeDtypeStruct(images.shape, images.dtype)


def prepared(functional, images, preprocess=identity):
    network = TrainingNetwork(functional, preprocess, WEIGHTS)
    network.trace_stem(shapes_of(images), passes=PASSES)
    return network


@pytest.fixture(scope="module")
def data():
    return batch(np.random.default_rng(3), 8)


@pytest.fixture(scope="module")
def functional(plain):
    layers = convert.plan(plain, IMAGE_SHAPE, candidates=CANDIDATES)
    return FunctionalNetwork(convert.quantize(plain, layers, candidates=CANDIDATES))


@pytest.fixture(scope="module")
def inputs():
    mask = np.tile([True, True, True, False], (len(SEARCHED), 1))
    configurations = sample_step(jax.random.key(2), mask, mask, CANDIDATES, PASSES - 1)
    smallest = np.stack([smallest_bits(mask, CANDIDATES)] * 2, axis=-1)
    rates = np.float32(0), np.float32(0), np.float32(0.1)
    return StepInputs(configurations, smallest, *rates, jax.random.key(7))


@pytest.fixture(scope="module")
def whole(functional, data, inputs):
    """Statistics and gradients after all passes, each from the images on."""
    network = TrainingNetwork(functional, identity, WEIGHTS)
    state = PassState(functional.stats, zeros_like(functional.params))
    return all_passes(network, state, data, inputs)


def all_passes(network, state, data, inputs, start=None):
    """The state after a max pass and random passes, each program compiled once."""
    of_max, of_random = (jax.jit(partial(one, network)) for one in (max_pass, random_pass))
    for number in range(PASSES):
        one = of_random if number else of_max
        state, _ = one(network.functional.params, state, data, inputs, number, start=start)
    return state


@pytest.fixture(scope="module")
def shared(functional, data, inputs):
    one = prepared(functional, data["image"])
    start, moved = jax.jit(one.stem.start)(functional.params, functional.stats, data["image"])
    carry = PassState(functional.stats | moved, zeros_like(functional.params))
    carry = all_passes(one, carry, data, inputs, start)
    own = jax.jit(one.stem.backward)(
        functional.params, functional.stats, data["image"], carry.cotangents
    )
    return one, start, moved, own, carry


def test_gradients_of_the_stem_are_the_sums_over_whole_passes(whole, shared):
    _, _, _, own, carry = shared
    assert set(own) >= {"stem.kernel", "stem_bn.scale", "stem_bn.bias"}
    assert not any(name.startswith(SEARCHED) for name in own)
    for name, gradient in own.items():
        assert not np.any(carry.gradients[name])
        largest = np.abs(whole.gradients[name]).max()
        np.testing.assert_allclose(
            gradient, whole.gradients[name], rtol=1e-4, atol=1e-5 * largest, err_msg=name
        )


def test_on_gpus_the_backward_pass_computes_the_stem_again(shared, functional, data):
    one, _, _, own, carry = shared

    def both(params, images):
        start, _ = one.stem.start(params, functional.stats, images)
        return start, one.stem.backward(params, functional.stats, images, carry.cotangents)

    given = functional.params, data["image"]
    with compiling_for("gpu"):
        _, got = jax.jit(both)(*given)
        program = jax.make_jaxpr(both)(*given)
    for name, gradient in own.items():
        np.testing.assert_allclose(got[name], gradient, rtol=1e-4, atol=1e-6, err_msg=name)
    barriers = [e for e in program.eqns if e.primitive.name == "optimization_barrier"]
    [of_inputs] = [e for e in barriers if program.jaxpr.invars[-1] in e.invars]
    assert len(of_inputs.invars) == len(own) + 1 + len(carry.cotangents)


def test_all_other_gradients_are_those_of_whole_passes(whole, shared):
    _, _, _, own, carry = shared
    for name in set(whole.gradients) - set(own):
        np.testing.assert_allclose(
            carry.gradients[name], whole.gradients[name], rtol=1e-5, atol=1e-7, err_msg=name
        )


def test_sums_over_passes_are_not_rounded_to_the_compute_type(plain, inputs, data):
    network = compute_in(nnx.clone(plain), jnp.bfloat16)
    layers = convert.plan(network, IMAGE_SHAPE, candidates=CANDIDATES)
    functional = FunctionalNetwork(convert.quantize(network, layers, candidates=CANDIDATES))
    one = prepared(functional, data["image"])
    start, moved = one.stem.start(functional.params, functional.stats, data["image"])
    assert [value.dtype for value in start.learned] == [jnp.bfloat16]
    carry = PassState(functional.stats | moved, zeros_like(functional.params))
    given = (functional.params, carry, data, inputs, 0)
    carry, _ = jax.eval_shape(lambda *args: max_pass(one, *args, start=start), *given)
    assert [cotangent.dtype for cotangent in carry.cotangents] == [jnp.float32]
    cotangents = tuple(jnp.ones(cotangent.shape) for cotangent in carry.cotangents)
    own = one.stem.backward(functional.params, functional.stats, data["image"], cotangents)
    assert {gradient.dtype for gradient in own.values()} == {jnp.dtype(jnp.float32)}


def test_statistics_are_moved_as_often_as_there_are_passes(whole, shared, functional, data):
    _, _, moved, _, carry = shared
    assert set(moved) == {"stem_bn.mean", "stem_bn.var"}
    for name, expected in whole.stats.items():
        np.testing.assert_allclose(carry.stats[name], expected, rtol=1e-5, atol=1e-7, err_msg=name)
    network = functional.merge(functional.params, functional.stats)
    y = np.asarray(network.stem(data["image"]), np.float64)
    left = 0.9**PASSES
    expected = left * np.asarray(functional.stats["stem_bn.mean"]) + (1 - left) * y.mean((0, 1, 2))
    np.testing.assert_allclose(moved["stem_bn.mean"], expected, rtol=1e-5, atol=1e-6)


def test_passes_start_from_the_activation_before_the_first_searched_layer(shared, functional, data):
    _, start, *_ = shared
    network = functional.merge(functional.params, functional.stats)
    network.train()
    expected = nnx.relu(network.stem_bn(network.stem(data["image"])))
    assert start.fixed == ()
    (value,) = start.learned
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


class Bare(nnx.Module):
    """Its first convolution is searched: pixels go straight into it."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 5, (3, 3), use_bias=False, rngs=rngs)
        self.bn = BatchNorm(5, rngs=rngs)
        self.fc = nnx.Linear(5, 5, rngs=rngs)

    def __call__(self, x):
        return self.fc(nnx.relu(self.bn(self.conv(x))).mean((1, 2)))


def test_without_a_stem_no_gradient_reaches_the_images(data):
    plain = Bare(nnx.Rngs(0))
    first, last = layer_table(plain, IMAGE_SHAPE).layers
    first = replace(first, candidates=(4, 2), quantize_input=True)
    functional = FunctionalNetwork(convert.quantize(plain, (first, last), candidates=(4, 2)))
    one = prepared(functional, data["image"], lambda x: 2.0 * x)
    start, moved = one.stem.start(functional.params, functional.stats, data["image"])
    assert start.learned == ()
    np.testing.assert_array_equal(start.fixed[0], 2 * data["image"])
    assert moved == {}
    assert one.stem.backward(functional.params, functional.stats, data["image"], ()) == {}


class Remembering(BatchNorm):
    """Subtracts a running statistic that it has just moved: no two passes are alike."""

    def __call__(self, x):
        return super().__call__(x) - self.mean[...]


def test_what_depends_on_statistics_that_passes_move_is_not_shared(data):
    plain = TinyNet(nnx.Rngs(0))
    network = convert.quantize(plain, convert.plan(plain, IMAGE_SHAPE))
    network.stem_bn = Remembering.like(plain.stem_bn)
    functional = FunctionalNetwork(network)
    one = prepared(functional, data["image"])
    start, moved = one.stem.start(functional.params, functional.stats, data["image"])
    configuration, key = jnp.full((4, 2), 4, jnp.int32), jax.random.key(0)
    (logits, _), stats = one.stem.rest(
        functional.params, functional.stats | moved, start, configuration, key
    )
    (expected, _), after = one(
        functional.params, functional.stats, data["image"], configuration, key
    )
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    for name in set(after) - set(moved):
        np.testing.assert_allclose(stats[name], after[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert "stem_bn.mean" not in moved
