"""Two updates of every group of parameters, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from rfquant_jax.quant.lsq import MIN_STEP
from rfquant_jax.train.optimizer import OptimizerSettings, descend, make_optimizer

SETTINGS = OptimizerSettings(clip=1.0, momentum=0.9, weight_decay=0.1)


@pytest.fixture(scope="module")
def directions(functional):
    """What two gradients in a row turn into: the first far beyond the clip."""
    optimizer = make_optimizer(functional, SETTINGS)
    state, found = optimizer.init(functional.params), []
    for size in (5.0, -0.25):
        gradients = {name: jnp.full_like(v, size) for name, v in functional.params.items()}
        update, state = optimizer.update(gradients, state, functional.params)
        found.append(update)
    return found


def nesterov(first, second):
    """Directions of two steps at momentum 0.9 from zero velocity."""
    return first + 0.9 * first, second + 0.9 * (0.9 * first + second)


@pytest.mark.parametrize("name", ["conv.kernel", "stem.kernel"])
def test_convolution_kernels_decay_after_the_clip_and_before_the_momentum(
    directions, functional, name
):
    decay = 0.1 * np.asarray(functional.params[name], np.float64)
    for found, expected in zip(directions, nesterov(1.0 + decay, -0.25 + decay), strict=True):
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["fc.kernel", "fc.bias", "bn.scale", "stem_bn.bias"])
def test_other_weights_do_not_decay(directions, name):
    for found, expected in zip(directions, nesterov(1.0, -0.25), strict=True):
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["conv.weight_quantizer.step", "fc.input_quantizer.step"])
def test_step_sizes_take_adam_on_clipped_gradients(directions, name):
    # After the second step: m = 0.9 * 0.1 * 1 - 0.1 * 0.25, v likewise, both corrected for bias.
    m = (0.9 * 0.1 * 1.0 + 0.1 * -0.25) / (1 - 0.9**2)
    v = (0.999 * 0.001 * 1.0 + 0.001 * 0.25**2) / (1 - 0.999**2)
    np.testing.assert_allclose(directions[0][name], 1.0, rtol=1e-5)
    np.testing.assert_allclose(directions[1][name], m / np.sqrt(v), rtol=1e-4)


def test_groups_have_rates_of_their_own_and_steps_stay_positive():
    # Of the step sizes: one stays, one reaches zero, one changes sign, one lies at the floor
    # already and rests, one lies there and would sink.
    params = {"w": jnp.asarray([1.0]), "s": jnp.asarray([0.5, 0.01, 1e-3, MIN_STEP, MIN_STEP])}
    directions = {"w": jnp.ones(1), "s": jnp.asarray([1.0, 1.0, 1.0, 0.0, 1e-7])}
    moved, floored = descend(params, directions, frozenset({"s"}), 0.25, 0.01)
    np.testing.assert_allclose(moved["w"], [0.75])
    np.testing.assert_allclose(moved["s"], [0.49] + [MIN_STEP] * 4)
    assert floored == 3


def test_the_floor_is_none_for_a_direction_that_is_no_number():
    moved, floored = descend(
        {"s": jnp.ones(2)}, {"s": jnp.asarray([jnp.nan, 0.0])}, frozenset({"s"}), 0.1, 0.1
    )
    np.testing.assert_array_equal(moved["s"], [np.nan, 1.0])
    assert floored == 0
