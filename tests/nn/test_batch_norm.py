"""The gradients of BatchNorm against automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfquant_jax.nn.batch_norm import batch_moments, normalize, normalize_batch
from rfquant_jax.runtime.backend import compiling_for


def step_by_step(x, scale, bias):
    return normalize(x, *batch_moments(x), scale, bias, 1e-3)


@pytest.mark.parametrize("has_scale", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("dtype", "most"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
def test_values_and_gradients_are_those_of_the_steps(has_scale, has_bias, dtype, most, rng):
    x, slope = (jnp.asarray(rng.normal(1, 2, (5, 4, 3, 6)), dtype) for _ in range(2))
    scale = jnp.asarray(rng.normal(size=6), jnp.float32) if has_scale else None
    bias = jnp.asarray(rng.normal(size=6), jnp.float32) if has_bias else None
    # The steps in float32 even for bfloat16 numbers: what both should give.
    expected, back = jax.vjp(step_by_step, x.astype(jnp.float32), scale, bias)
    wanted = back(slope.astype(jnp.float32))
    got, back = jax.vjp(lambda *a: normalize_batch(*a, 1e-3)[0], x, scale, bias)
    found = jax.jit(back)(slope)
    np.testing.assert_allclose(np.float32(got), expected, rtol=most, atol=most)
    assert found[0].dtype == dtype
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(np.float32(one), other, rtol=most, atol=most)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("centre", [3, 3000])  # of 2 deviations: squares have no digit to spare
def test_it_gives_the_moments_of_the_batch(backend, centre, rng):
    x = rng.normal(centre, 2, (4, 5, 5, 2)).astype(np.float32)
    x[..., 1] = centre + 0.25  # without any variance
    with compiling_for(backend):
        _, mean, variance = normalize_batch(jnp.asarray(x), None, None, 1e-5)
    flat = x.reshape(-1, 2).astype(np.float64)
    np.testing.assert_allclose(mean, flat.mean(0), rtol=1e-6)
    np.testing.assert_allclose(variance, flat.var(0), rtol=1e-4, atol=1e-7)


def test_on_gpus_an_outlier_at_an_edge_costs_no_digits():
    x = np.ones((4, 64, 64, 1), np.float32)
    x[:, ::2] = -1
    x[0, 0, 0] = 128  # sqrt(n) deviations away
    with compiling_for("gpu"):
        _, _, variance = normalize_batch(jnp.asarray(x), None, None, 1e-5)
    np.testing.assert_allclose(variance, [x.astype(np.float64).var()], rtol=1e-5)


def test_on_gpus_gradients_are_those_of_the_steps(rng):
    x, slope = (jnp.asarray(rng.normal(1, 2, (5, 4, 3, 6)), jnp.float32) for _ in range(2))
    scale, bias = (jnp.asarray(rng.normal(size=6), jnp.float32) for _ in range(2))
    _, back = jax.vjp(step_by_step, x, scale, bias)
    with compiling_for("gpu"):
        _, found = jax.vjp(lambda *a: normalize_batch(*a, 1e-3)[0], x, scale, bias)
        _, through = jax.vjp(step_by_step, x, scale, bias)
    for gradients in (found, through):
        for one, other in zip(gradients(slope), back(slope), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
