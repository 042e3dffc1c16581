"""The quantizer against an independent computation in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfquant_jax.quant import lsq


def reference(x, s, bits, signed, g, scale_gradient):
    """Value, dL/dx and dL/ds as the LSQ paper defines them, element by element."""
    x, g = np.asarray(x, np.float64).ravel(), np.asarray(g, np.float64).ravel()
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    value, dx, ds = np.zeros_like(x), np.zeros_like(x), 0.0
    for i, v in enumerate(x / s):
        if v < low:
            value[i], slope = low * s, low
        elif v > high:
            value[i], slope = high * s, high
        else:
            nearest = np.rint(v)
            value[i], slope, dx[i] = nearest * s, nearest - v, g[i]
        ds += g[i] * slope
    return value, dx, ds / np.sqrt(len(x) * high) if scale_gradient else ds


def ours(x, s, bits, signed, g, scale_gradient):
    @jax.jit
    def run(x, s, bits, g):
        low, high = lsq.bounds(bits, signed)
        value, back = jax.vjp(lambda x, s: lsq.quantize(x, s, low, high, scale_gradient), x, s)
        return value, *back(g)

    return run(jnp.float32(x), jnp.float32(s), jnp.int32(bits), jnp.float32(g))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("scale_gradient", [True, False])
def test_value_and_gradients_equal_float64(bits, signed, scale_gradient, rng):
    s = 0.25  # a power of two: ties and bounds are exact in float32
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    ties = np.arange(low - 2, high + 3) + 0.5
    edges = np.asarray([low, high, low - 1e-3, high + 1e-3, low - 7, high + 7, 0.0])
    v = np.concatenate([ties, edges, rng.uniform(low - 2, high + 2, 300)]).astype(np.float32)
    x, g = v * np.float32(s), rng.normal(size=v.shape).astype(np.float32)
    expected = reference(x, s, bits, signed, g, scale_gradient)
    for got, want in zip(ours(x, s, bits, signed, g, scale_gradient), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("scale_gradient", [True, False])
def test_bfloat16_inputs_have_the_codes_and_gradients_of_float64(bits, signed, scale_gradient, rng):
    s = np.float32(0.2971)  # no bfloat16 number is a middle between two codes
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    near_ties = (np.arange(low - 2, high + 2) + 0.5)[:, None] * (1 + np.asarray([-1, 0, 1]) / 256)
    v = np.concatenate([near_ties.ravel(), rng.uniform(low - 2, high + 2, 3000)])
    x, g = (jnp.asarray(a, jnp.bfloat16) for a in (v * s, rng.normal(size=v.shape)))
    lower, upper = lsq.bounds(bits, signed)

    @jax.jit
    def run(x, s, g):
        value, back = jax.vjp(lambda x, s: lsq.quantize(x, s, lower, upper, scale_gradient), x, s)
        return lsq.codes(x, s, lower, upper), value, *back(g)

    codes, value, dx, ds = run(x, s, g)
    types = [a.dtype.name for a in (codes, value, dx, ds)]
    assert types == ["float32", "bfloat16", "bfloat16", "float32"]
    wanted, wanted_dx, wanted_ds = reference(x, np.float64(s), bits, signed, g, scale_gradient)
    np.testing.assert_array_equal(codes, np.rint(wanted / np.float64(s)))
    np.testing.assert_array_equal(value, jnp.asarray(wanted, jnp.bfloat16))
    np.testing.assert_array_equal(np.asarray(dx, np.float64), wanted_dx)
    # Every product is summed as it is: less than any bfloat16 sum would leave of it.
    assert ds == pytest.approx(wanted_ds, rel=1e-4)


def test_literal_codes_of_a_signed_three_bit_quantizer():
    x = jnp.asarray([-5.0, -2.0, -0.75, -0.25, 0.25, 0.75, 1.25, 1.5, 9.0])
    low, high = lsq.bounds(3, signed=True)
    # step 0.5: v = -10, -4, -1.5, -0.5, 0.5, 1.5, 2.5, 3, 18; ties go to even codes
    codes = lsq.quantize(x, jnp.float32(0.5), low, high) / 0.5
    assert codes.tolist() == [-4, -4, -2, 0, 0, 2, 2, 3, 3]


def test_the_gradient_passes_on_the_bounds_and_stops_beyond():
    low, high = lsq.bounds(2, signed=True)  # -2 .. 1

    def total(x, s):
        return jnp.sum(lsq.quantize(x, s, low, high))

    x = jnp.asarray([-2.0, 1.0, -2.001, 1.001])
    dx, ds = jax.grad(total, argnums=(0, 1))(x, jnp.float32(1.0))
    assert dx.tolist() == [1, 1, 0, 0]
    assert ds == pytest.approx(0 + 0 - 2 + 1)


@pytest.mark.parametrize(
    ("bits", "signed", "expected"),
    [(2, True, (-2, 1)), (2, False, (0, 3)), (8, True, (-128, 127)), (8, False, (0, 255))],
)
def test_bounds(bits, signed, expected):
    traced = jax.jit(lambda b: lsq.bounds(b, signed))(jnp.int32(bits))
    assert tuple(float(b) for b in traced) == expected


def test_full_precision_bounds_do_not_overflow():
    low, high = lsq.bounds(lsq.FULL_PRECISION, signed=True)
    assert np.isfinite(low)
    assert low < 0 < high


@given(
    bits=st.integers(2, 8),
    signed=st.booleans(),
    step=st.floats(2**-10, 8.0, width=32),
    values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30),
)
def test_properties_of_the_grid(bits, signed, step, values):
    x, s = jnp.asarray(values, jnp.float32), jnp.float32(step)
    low, high = lsq.bounds(bits, signed)
    y = lsq.quantize(x, s, low, high)
    codes = np.asarray(y, np.float64) / step
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-3)
    assert np.all(np.rint(codes) >= low)
    assert np.all(np.rint(codes) <= high)
    # Quantizing again changes nothing; inside the range no value moves by more than half a step.
    np.testing.assert_array_equal(lsq.quantize(y, s, low, high), y)
    inside = (x / s >= low) & (x / s <= high)
    assert np.all(np.abs(np.where(inside, y - x, 0)) <= 0.5001 * step)


def test_initial_weight_steps_by_hand():
    # mean 2, unbiased deviation 2 (squares 4, 0, 4 over 2): |2 + 6| = 8 is more than |2 - 6|
    steps = lsq.weight_step_sizes(np.asarray([0.0, 2.0, 4.0]), (4, 3, 2))
    np.testing.assert_allclose(steps, [8 / 8, 8 / 4, 8 / 2])


def test_initial_weight_steps_of_constant_weights_stay_positive():
    tiny = lsq.weight_step_sizes(np.full((3, 3), 1e-12), (6, 2))
    assert np.all(tiny == np.float32(lsq.MIN_STEP))
    # Zeros: 3 / sqrt(4 inputs) / 2^(b - 1). One weight has no deviation: 0.5 / 2^(b - 1).
    np.testing.assert_allclose(lsq.weight_step_sizes(np.zeros((4, 3)), (6, 2)), [3 / 64, 3 / 4])
    np.testing.assert_allclose(lsq.weight_step_sizes(np.full((1, 1), -0.5), (3, 2)), [1 / 8, 1 / 4])


def test_initial_activation_step_by_hand():
    # 2 * mean(1, 3, 2) / sqrt(4)
    step = lsq.activation_step_size(jnp.asarray([1.0, -3.0, 2.0]), jnp.float32(4.0))
    assert float(step) == pytest.approx(2.0)
