"""The loss of a whole random pass against NumPy float64, on random weights and images."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfquant_jax.nn.features import recording_features
from rfquant_jax.nn.functional import zeros_like
from rfquant_jax.quant import convert
from rfquant_jax.quant.layers import assign
from rfquant_jax.train.passes import either_pass, max_pass, random_pass
from rfquant_jax.train.state import PassState, StepInputs
from rfquant_jax.train.training_network import LossWeights, TrainingNetwork
from tests.conftest import CLASSES, SEARCHED, batch, identity

# Every term has a weight of its own, so that none can stand for another.
WEIGHTS = LossWeights(label_smoothing=0.1, distillation=0.3, idm=0.7, region=-0.01)
DAMPING = 0.2
LARGEST = [[6, 6]] * 4
# Weight and activation bits differ everywhere. Of conv, projection and depthwise the smallest
# allowed weight bits are in use; that of the last is not the smallest of its activations.
MIXED = [[3, 2], [2, 5], [4, 3], [3, 6]]
SMALLEST = np.asarray([3, 2, 2, 3], np.int32)


def inputs_of(configurations, smallest):
    columns = np.stack([smallest, np.full_like(smallest, 2)], axis=-1)
    rates = np.float32(0), np.float32(0), np.float32(DAMPING)
    return StepInputs(configurations, columns, *rates, jax.random.key(0))


def compiled(functional, *passes):
    network = TrainingNetwork(functional, identity, WEIGHTS)
    return [jax.jit(partial(one, network)) for one in passes]


@pytest.fixture(scope="module")
def passes(functional):
    """The terms of a max pass and of a random pass after it, and their features and logits."""
    data = batch(np.random.default_rng(0), 8)
    configurations = np.asarray([LARGEST, MIXED], np.int32)
    inputs = inputs_of(configurations, SMALLEST)
    of_max, of_random = compiled(functional, max_pass, random_pass)
    state = PassState(functional.stats, zeros_like(functional.params))
    state, largest = of_max(functional.params, state, data, inputs, 0)
    _, mixed = of_random(functional.params, state, data, inputs, 1)
    outputs = [forward(functional, data["image"], bits) for bits in configurations]
    return largest, mixed, outputs, data["label"]


def test_max_and_random_passes_may_be_one_program(functional):
    """Which takes targets in any case: the max pass must not depend on them, not even on NaNs."""
    data, configurations = batch(np.random.default_rng(0), 8), np.asarray([LARGEST, MIXED])
    # In part the smallest of both: the max pass would have random passes' terms, too.
    inputs = inputs_of(configurations, np.asarray([6, 2, 4, 6], np.int32))
    of_max, of_random, either = compiled(functional, max_pass, random_pass, either_pass)
    given = functional.params, data, inputs
    start = PassState(functional.stats, zeros_like(functional.params))
    after, terms = of_max(given[0], start, *given[1:], 0)
    nothing = {name: jnp.full_like(x, np.nan) for name, x in after.features.items()}
    unset = start._replace(logits=jnp.full_like(after.logits, np.nan), features=nothing)
    same, without = either(given[0], unset, *given[1:], 0)
    compare(same.gradients, after.gradients)
    compare(same.features, after.features)
    np.testing.assert_allclose(same.logits, after.logits, rtol=1e-4, atol=1e-6)
    assert float(without["loss"]) == pytest.approx(float(terms["loss"]), rel=1e-6)
    assert {float(without[name]) for name in ("distillation", "damping", "idm")} == {0}
    later, terms = of_random(given[0], after, *given[1:], 1)
    same, coupled = either(given[0], after, *given[1:], 1)
    compare(same.gradients, later.gradients)
    compare(coupled, terms)
    assert coupled["idm"] > 0
    for state in (later, same):
        compare(state.features, after.features)
        np.testing.assert_array_equal(state.logits, after.logits)


def compare(got, expected):
    assert set(got) == set(expected)
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-4, atol=1e-6, err_msg=name)


def forward(functional, images, configuration):
    network = functional.merge(functional.params, functional.stats)
    network.train()
    assign(network, configuration)
    with recording_features() as features:
        logits = network(images)
    return {n: np.asarray(f, np.float64) for n, f in features.items()}, np.float64(logits)


def log_softmax(z):
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def cross_entropy(logits, labels):
    target = np.full(logits.shape, 0.1 / CLASSES)
    target[np.arange(len(labels)), labels] += 0.9
    return -np.mean(np.sum(target * log_softmax(logits), 1))


def test_the_max_pass_has_nothing_but_cross_entropy(passes):
    largest, _, outputs, labels = passes
    assert largest["cross_entropy"] == pytest.approx(cross_entropy(outputs[0][1], labels), rel=1e-5)
    # No layer runs at 2 bits, so R is zero; the other terms are those of random passes.
    assert largest["region"] == 0
    assert set(largest) == {"cross_entropy", "region", "loss", "accuracy"}


def test_cross_entropy_and_distillation_share_the_loss(passes):
    _, mixed, ((_, of_max), (_, own)), labels = passes
    teacher = log_softmax(of_max)
    divergence = np.mean(np.sum(np.exp(teacher) * (teacher - log_softmax(own)), 1))
    assert mixed["cross_entropy"] == pytest.approx(0.7 * cross_entropy(own, labels), rel=1e-5)
    assert mixed["distillation"] == pytest.approx(0.3 * divergence, rel=1e-4)


def test_information_distortion_counts_where_weights_are_at_their_smallest(passes):
    _, mixed, ((of_max, _), (own, _)), _ = passes
    layers = [n for n, (w, _), m in zip(SEARCHED, MIXED, SMALLEST, strict=True) if w == m]
    assert layers == ["conv", "projection.0", "depthwise"]
    expected = 0.7 * sum(np.mean(np.square(own[n] - of_max[n])) for n in layers)
    assert mixed["idm"] == pytest.approx(expected, rel=1e-4)


def test_oscillation_damping_and_region_decay(passes, functional):
    _, mixed, _, _ = passes
    damping = region = 0.0
    for name, (bits, _), smallest in zip(SEARCHED, MIXED, SMALLEST, strict=True):
        kernel = np.asarray(functional.params[f"{name}.kernel"], np.float64)
        slot = convert.CANDIDATES.index(bits)
        step = float(functional.params[f"{name}.weight_quantizer.step"][slot])
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        clipped = np.clip(kernel, low * step, high * step)
        code = np.rint(np.clip(kernel / step, low, high))
        coarse = [
            k * 2 ** (bits - smallest) for k in range(-(2 ** (smallest - 1)), 2 ** (smallest - 1))
        ]
        error = np.where(np.isin(code, coarse), np.square(clipped - code * step), 0)
        damping += np.sum(np.mean(error.reshape(-1, kernel.shape[-1]), 0))
        if bits == 2:
            region += 0.5 * np.sum(np.square(clipped))
    assert region > 0
    assert mixed["damping"] == pytest.approx(DAMPING * damping, rel=1e-4)
    assert mixed["region"] == pytest.approx(-0.01 * region, rel=1e-4)


def test_the_terms_add_up(passes):
    _, mixed, _, _ = passes
    names = ("cross_entropy", "distillation", "idm", "damping", "region")
    assert mixed["loss"] == pytest.approx(sum(float(mixed[name]) for name in names), rel=1e-5)
