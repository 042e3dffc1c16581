"""Quantized residual additions against NumPy float64, and in a coupled network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rfquant_jax as rfq
from rfquant_jax.errors import ArgumentError, UserError
from rfquant_jax.nn.batch_norm import BatchNorm
from rfquant_jax.nn.features import listening_to_inputs
from rfquant_jax.nn.functional import arrays_of
from rfquant_jax.quant import lsq
from rfquant_jax.quant.layers import StepSize
from tests.quant.test_lsq import reference

SHAPE = (6, 6, 2)


class Block(nnx.Module):
    """A stem, a residual block and a classifier."""

    def __init__(self, rngs: nnx.Rngs, add=rfq.ResidualAdd, times=1):
        def conv(inputs):
            return nnx.Conv(inputs, 4, (3, 3), use_bias=False, rngs=rngs)

        self.stem, self.conv, self.bn = conv(2), conv(4), BatchNorm(4, rngs=rngs)
        self.add, self.times = add(), times
        self.fc = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        y = self.bn(self.conv(x))
        for _ in range(self.times):
            y = self.add(y, x)
        return self.fc(nnx.relu(y).mean((1, 2)))


class FloatAdd(nnx.Module):
    """An addition that conversion does not know."""

    def __call__(self, x, y):
        return x + y


EIGHT = rfq.QuantConfig(residual_bits=8)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(16, *SHAPE)).astype(np.float32)


def network(**options):
    return nnx.jit(lambda: Block(nnx.Rngs(0), **options))()


def coupled(images, settings=EIGHT, **options):
    net = network(**options)
    return rfq.couple(net, rfq.plan(net, SHAPE, settings), images, devices=1)


@pytest.mark.parametrize("scale_gradient", [True, False])
def test_sum_and_gradients_equal_two_quantizers_in_float64(scale_gradient, rng):
    """With a step of a power of two, ties and bounds are exact: from -128 to 127 steps."""
    step = 0.25
    edges = np.asarray([-128, 127, -128.5, 127.5, -140, 140, 0.5, 1.5, -0.5, 0])
    x = np.concatenate([edges, rng.uniform(-135, 135, 200)]).astype(np.float32) * np.float32(step)
    y = rng.permutation(x)
    g = rng.normal(size=x.shape).astype(np.float32)

    def total(x, y, step):
        return lsq.quantized_sum(x, y, step, *lsq.bounds(8, True), scale_gradient)

    value, back = jax.vjp(jax.jit(total), x, y, jnp.float32(step))
    d_x, d_y, d_step = back(g)
    first, second = (reference(v, step, 8, True, g, scale_gradient) for v in (x, y))
    np.testing.assert_array_equal(value, first[0] + second[0])
    np.testing.assert_array_equal(d_x, first[1].astype(np.float32))
    np.testing.assert_array_equal(d_y, second[1].astype(np.float32))
    np.testing.assert_allclose(d_step, first[2] + second[2], rtol=1e-4)


def test_the_step_size_is_calibrated_on_both_inputs_together(images):
    """2 mean|x| / sqrt(127), with the layers before it at their largest bits."""
    made, seen = coupled(images), {}
    addition = made.network.add
    [step] = np.asarray(addition.input_quantizer.step[...])
    made.network.set_attributes(use_running_average=False, raise_if_not_found=False)
    with listening_to_inputs(lambda layer, x: seen.update({id(layer): np.asarray(x)})):
        made(images)
    both = seen[id(addition)]
    assert both.shape == (16, 2, 6, 6, 4)
    expected = 2 * np.abs(both.astype(np.float64)).mean() / np.sqrt(127)
    np.testing.assert_allclose(step, expected, rtol=1e-5)
    assert both.min() < 0 < both.max()


def test_by_default_nothing_changes(images):
    """No parameter, no entry in the identity, and the numbers of a network with a plain sum."""
    made, other = coupled(images, None), coupled(images, None, add=FloatAdd)
    assert made.plan.residuals == ()
    assert "residual_bits" not in made.plan.identity()
    for ours, theirs in zip(arrays_of(made.network), arrays_of(other.network), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            np.testing.assert_array_equal(value, theirs[name])
    np.testing.assert_array_equal(made(images), other(images))


def test_one_step_size_is_added_and_trained_with_the_others(images):
    made = coupled(images)
    assert made.plan.residuals == ("add",)
    assert made.plan.identity()["residual_bits"] == 8
    name = "add.input_quantizer.step"
    assert name in made.functional.names_of(StepSize)
    assert set(arrays_of(made.network)[0]) - set(arrays_of(coupled(images, None).network)[0]) == {
        name
    }
    step = rfq.CoupledStep(made, rfq.StepConfig())
    labels = np.arange(16, dtype=np.int32) % 3
    state, before = step.init(), np.asarray(arrays_of(made.network)[0][name])
    rates = {"lr": 0.01, "step_size_lr": 0.001}
    state, _ = step(state, (images, labels), key=jax.random.key(0), **rates)
    assert np.abs(np.asarray(state.params[name]) - before).max() == pytest.approx(1e-3, rel=1e-2)
    step(state, (images, labels), key=jax.random.key(1), **rates)
    assert set(step.traces.values()) == {1}


def test_outputs_lie_on_one_grid(images):
    made = coupled(images)
    addition, rng = made.network.add, np.random.default_rng(1)
    step = np.float32(addition.input_quantizer.step[...][0])
    x, y = (rng.normal(size=(2, 3, 3, 4)).astype(np.float32) * 40 * step for _ in range(2))
    codes = [np.rint(np.clip(v / step, -128, 127)) for v in (x, y)]
    np.testing.assert_array_equal(addition(x, y), step * (codes[0] + codes[1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"add": FloatAdd}, "the network has no residual addition"),
        ({"times": 2}, "residual addition add is called more than once"),
    ],
)
def test_additions_that_cannot_be_quantized_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        rfq.plan(network(**options), SHAPE, EIGHT)


def test_other_widths_are_refused():
    with pytest.raises(ArgumentError, match="`residual_bits` = 4: must be 8 or 32"):
        rfq.QuantConfig(residual_bits=4)


def test_without_training_the_step_size_has_the_least_squared_error(images):
    """No step within a factor of two of it has an error that is smaller by more than 1 %."""
    net = network()
    made = rfq.couple(
        net, rfq.plan(net, SHAPE, EIGHT), images, devices=1, step_sizes="least_squares"
    )
    addition, seen = made.network.add, {}
    [step] = np.asarray(addition.input_quantizer.step[...], np.float64)
    made.network.set_attributes(use_running_average=False, raise_if_not_found=False)
    with listening_to_inputs(lambda layer, x: seen.update({id(layer): np.asarray(x)})):
        made(images)
    x = seen[id(addition)].astype(np.float64)

    def error(s):
        return np.square(s * np.rint(np.clip(x / s, -128, 127)) - x).sum()

    best = min(error(step * f) for f in np.exp2(np.linspace(-1, 1, 401)))
    assert error(step) <= 1.01 * best


def test_devices_share_a_step(images):
    """Eight devices compute the step sizes and the update of one device."""
    states = []
    for devices in (1, 8):
        net = network()
        made = rfq.couple(net, rfq.plan(net, SHAPE, EIGHT), images, devices=devices)
        step, labels = rfq.CoupledStep(made, rfq.StepConfig()), np.arange(16, dtype=np.int32) % 3
        state, _ = step(step.init(), (images, labels), key=jax.random.key(0), lr=0.01)
        states.append(np.asarray(state.params["add.input_quantizer.step"]))
    np.testing.assert_allclose(*states, rtol=0.02)  # BatchNorm normalizes each device's images
