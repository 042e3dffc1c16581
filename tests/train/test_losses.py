"""Loss terms against hand-worked cases and independent float64 loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfquant_jax.runtime.backend import compiling_for
from rfquant_jax.train import damping, losses


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_cross_entropy_with_smoothing(rng):
    logits, labels = rng.normal(size=(4, 3)), np.asarray([0, 2, 1, 1])
    target = np.full((4, 3), 0.1 / 3)
    target[np.arange(4), labels] += 0.9
    expected = -(target * np.log(softmax(logits))).sum(-1).mean()
    assert losses.cross_entropy(jnp.asarray(logits), labels, 0.1) == pytest.approx(
        expected, rel=1e-5
    )


def test_distillation_is_the_divergence_from_the_teacher(rng):
    teacher, student = rng.normal(size=(2, 4, 3))
    p, q = softmax(teacher), softmax(student)
    expected = (p * np.log(p / q)).sum(-1).mean()
    got = losses.distillation(jnp.asarray(teacher), jnp.asarray(student))
    assert got == pytest.approx(expected, rel=1e-5)
    assert losses.distillation(jnp.asarray(teacher), jnp.asarray(teacher)) == pytest.approx(
        0, abs=1e-6
    )


def test_information_distortion_counts_layers_at_their_smallest_bits():
    features = {"a": jnp.asarray([1.0, 2.0]), "b": jnp.ones((2, 2)), "c": jnp.zeros(4)}
    reference = {"a": jnp.asarray([0.0, 0.0]), "b": jnp.zeros((2, 2)), "c": jnp.full(4, 3.0)}
    at_smallest = jnp.asarray([True, False, True])
    got = losses.information_distortion(features, reference, ["a", "b", "c"], at_smallest)
    assert got == pytest.approx((1 + 4) / 2 + 9)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_information_distortion_of_many_pixels(backend, rng):
    own, of_max = (rng.normal(size=(3, 32, 32, 8)).astype(np.float32) for _ in range(2))

    def loss(own):
        reference = {"a": jnp.asarray(of_max), "b": jnp.ones((2, 2))}
        features = {"a": own, "b": jnp.full((2, 2), 3.0)}
        return losses.information_distortion(features, reference, ["a", "b"], jnp.ones(2, bool))

    with compiling_for(backend):
        value, slope = jax.value_and_grad(loss)(jnp.asarray(own))
    difference = own.astype(np.float64) - of_max
    assert value == pytest.approx(np.mean(difference**2) + 4, rel=1e-5)
    np.testing.assert_allclose(slope, 2 * difference / own.size, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_information_distortion_moves_a_layers_own_feature_alone(dtype, backend, rng):
    own, of_max = (jnp.asarray(rng.normal(size=(3, 4)), dtype) for _ in range(2))

    def loss(own, of_max):
        features, reference = {"a": own, "b": own}, {"a": of_max, "b": of_max}
        return 0.5 * losses.information_distortion(
            features, reference, ["a", "b"], jnp.asarray([True, False])
        )

    with compiling_for(backend):
        slope, of_reference = jax.jit(jax.grad(loss, (0, 1)))(own, of_max)
    expected = 0.5 * 2 / 12 * (np.float64(own) - np.float64(of_max))
    assert slope.dtype == dtype
    np.testing.assert_allclose(
        np.float64(slope), expected, rtol=1e-6 if dtype == jnp.float32 else 4e-3
    )
    assert not np.any(of_reference)


def test_features_that_do_not_count_may_be_anything():
    def loss(own):
        reference = {"a": jnp.full(3, np.nan)}
        return losses.information_distortion({"a": own}, reference, ["a"], jnp.asarray([False]))

    value, slope = jax.value_and_grad(loss)(jnp.ones(3))
    assert value == 0
    assert slope.tolist() == [0, 0, 0]


def test_clipped_weights_pass_gradients_on_the_bounds():
    # 2 bits, step 0.5: bounds -1 and 0.5
    kernel = jnp.asarray([-1.0, 0.5, -1.01, 0.51, 0.2])
    value, back = jax.vjp(lambda k: damping.clip_weights(k, jnp.float32(0.5), jnp.int32(2)), kernel)
    np.testing.assert_allclose(value, [-1.0, 0.5, -1.0, 0.5, 0.2])
    assert back(jnp.ones(5))[0].tolist() == [1, 1, 0, 0, 1]


def oscillation(kernel, step, bits, smallest):
    """QE of a layer."""
    return jnp.sum(damping.oscillation(kernel, step, bits, smallest))


def test_oscillation_by_hand_at_the_smallest_bits():
    # step 1, 2 bits: codes -2..1. Two output channels, two weights each.
    kernel = jnp.asarray([[0.4, -3.0], [0.75, 0.5]])
    # channel 0: 0.4 -> 0, 0.75 -> 1: (0.16 + 0.0625) / 2
    # channel 1: -3 is clipped to -2, no error; 0.5 -> 0: 0.25 / 2
    got = oscillation(kernel, jnp.float32(1), jnp.int32(2), jnp.int32(2))
    assert got == pytest.approx((0.16 + 0.0625) / 2 + 0.25 / 2)


def test_oscillation_by_hand_above_the_smallest_bits():
    # 4 bits, smallest 2: only codes -8, -4, 0, 4 take part
    kernel = jnp.asarray([[0.25], [1.25], [3.75], [-8.5], [4.6], [-4.25]])
    # 0.25 -> 0 takes part; 1.25 -> 1 does not; 3.75 -> 4 does; -8.5 is clipped to -8: no error;
    # 4.6 -> 5 does not; -4.25 -> -4 does
    expected = (0.0625 + 0.0625 + 0.0 + 0.0625) / 6
    got = oscillation(kernel, jnp.float32(1), jnp.int32(4), jnp.int32(2))
    assert got == pytest.approx(expected)


def loop_oscillation(kernel, s, b, m):
    """QE and its gradient, weight by weight."""
    low, high = -(2 ** (b - 1)), 2 ** (b - 1) - 1
    coarse = {k * 2 ** (b - m) for k in range(-(2 ** (m - 1)), 2 ** (m - 1))}
    total, slope = 0.0, np.zeros_like(kernel)
    share = kernel.size / kernel.shape[-1]
    for index, w in np.ndenumerate(kernel):
        code = np.rint(np.clip(w / s, low, high))
        if int(code) in coarse:
            clipped = np.clip(w, s * low, s * high)
            total += (clipped - s * code) ** 2 / share
            if s * low <= w <= s * high:
                slope[index] = 2 * (clipped - s * code) / share
    return total, slope


@pytest.mark.parametrize(("b", "m"), [(2, 2), (3, 2), (5, 3), (6, 2), (4, 4)])
def test_oscillation_and_its_gradient_equal_a_float64_loop(b, m, rng):
    kernel, s = rng.normal(size=(3, 3, 2, 4)), 0.3
    value, slope = jax.value_and_grad(oscillation)(
        jnp.asarray(kernel, jnp.float32), jnp.float32(s), jnp.int32(b), jnp.int32(m)
    )
    expected, expected_slope = loop_oscillation(
        kernel.astype(np.float32).astype(np.float64), s, b, m
    )
    assert value == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(slope, expected_slope, atol=1e-6)


def test_oscillation_leaves_the_step_size_alone():
    slope = jax.grad(oscillation, argnums=1)(
        jnp.asarray([[0.4]]), jnp.float32(1.0), jnp.int32(2), jnp.int32(2)
    )
    assert slope == 0


def test_region_acts_at_two_bits_inside_the_bounds():
    # step 0.5: bounds -1 .. 0.5
    kernel = jnp.asarray([0.2, 0.5, 3.0, -2.0])
    step = jnp.float32(0.5)
    value, slope = jax.value_and_grad(damping.region)(kernel, step, jnp.int32(2))
    assert value == pytest.approx(0.5 * (0.04 + 0.25 + 0.25 + 1.0))
    np.testing.assert_allclose(slope, [0.2, 0.5, 0, 0])
    assert damping.region(kernel, step, jnp.int32(3)) == 0
    assert jax.grad(damping.region, argnums=1)(kernel, step, jnp.int32(2)) == 0
