"""Step sizes of least squared error against float64 grids and cases solved by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfquant_jax.quant import step_search
from rfquant_jax.quant.lsq import MIN_STEP

search = jax.jit(step_search.line_search)


def codes_of(bits, signed):
    """Smallest and largest code."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def found(x, bits, signed):
    lower, upper = codes_of(bits, signed)
    return float(search(np.asarray(x, np.float32), np.float32(lower), np.float32(upper)))


def error(x, step, bits, signed):
    """E in float64."""
    x = np.asarray(x, np.float32).astype(np.float64)
    return np.sum((step * np.rint(np.clip(x / step, *codes_of(bits, signed))) - x) ** 2)


def dense_grid(x, bits, signed):
    """From twice the step that clips nothing down to a 300th of it, 0.2 % apart."""
    lower, upper = codes_of(bits, signed)
    most = max(np.max(x) / upper, np.min(x) / lower if signed else 0)
    return most * np.geomspace(1 / 300, 2, 3200)


DRAWN = {
    "normal": lambda rng, n: rng.normal(size=n),
    "rectified": lambda rng, n: np.maximum(rng.normal(size=n), 0),
    "laplace": lambda rng, n: 0.01 * rng.laplace(size=n),
    "long tails": lambda rng, n: 100 * rng.standard_t(3, size=n),
    "shifted": lambda rng, n: rng.normal(size=n) - 2,
}


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("name", DRAWN)
def test_no_step_of_a_dense_grid_is_better(name, bits):
    x = DRAWN[name](np.random.default_rng(bits), 10_000)
    signed = name != "rectified"
    least = min(error(x, step, bits, signed) for step in dense_grid(x, bits, signed))
    assert error(x, found(x, bits, signed), bits, signed) <= 1.001 * least


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([200, 1500]),
    scale=st.sampled_from([1e-5, 1.0, 1e6]),
    bits=st.sampled_from([2, 3, 4]),
    signed=st.booleans(),
)
def test_no_step_of_a_dense_grid_is_better_whatever_the_scale(seed, size, scale, bits, signed):
    rng = np.random.default_rng(seed)
    x = scale * rng.normal(rng.uniform(-1, 1), rng.uniform(0.1, 1), size)
    if not signed:
        x = np.abs(x)
    least = min(error(x, step, bits, signed) for step in dense_grid(x, bits, signed))
    assert error(x, found(x, bits, signed), bits, signed) <= 1.001 * least


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_even_values_by_hand(bits):
    """Values spread evenly over [0, 1]: two cells of s / 2, Qp - 1 of s, and the rest above Qp s.

    dE/ds = Qp s^2 / 4 - Qp (1 - Qp s)^2 = 0, so s / 2 = 1 - Qp s and s = 2 / (2 Qp + 1).
    """
    x = (np.arange(70_000) + 0.5) / 70_000
    assert found(x, bits, signed=False) == pytest.approx(2 / (2 * (2**bits - 1) + 1), rel=2e-3)


def test_a_single_outlier_is_clipped():
    """10,000 ones and a ten in 0, s, 2s, 3s: 10000 (s - 1)^2 + (10 - 3 s)^2 is least at 1.0021.

    The error is 49.0 there. Half of it fits the ones exactly and leaves (10 - 1.5)^2; to reach the
    ten without clipping it the ones would all become zeros.
    """
    x = np.r_[np.ones(10_000), 10.0]
    step = found(x, 2, signed=False)
    assert step == pytest.approx(10_030 / 10_009, rel=1e-5)


@pytest.mark.parametrize("size", [0.03, 1.0, 700.0])
def test_ternary_weights_get_their_exact_step(size, rng):
    weights = (size * rng.integers(-1, 2, (3, 3, 16, 32))).astype(np.float32)
    two, _ = step_search.weight_steps(weights, (2, 32))
    assert two == pytest.approx(np.float32(size), rel=1e-6)
    assert error(weights, float(two), 2, signed=True) < 1e-9 * np.sum(np.square(weights))


def test_values_of_one_sign_reach_beyond_the_largest_code_of_the_other():
    """Signed codes -2 to 1: -1 and 0.9 both get size 1, and (1 + 0.9) / 2 fits them best."""
    x = np.tile([-1.0, 0.9], 500)
    assert found(x, 2, signed=True) == pytest.approx(0.95, rel=1e-6)


def test_weights_have_a_step_for_each_bit_width(rng):
    weights = rng.normal(size=(3, 3, 8, 40)).astype(np.float32)
    steps = step_search.weight_steps(weights, (32, 8, 4, 2))
    assert steps.dtype == np.float32
    assert steps[0] == 1, "not quantized"
    for step, bits in zip(steps[1:], (8, 4, 2), strict=True):
        least = min(error(weights, s, bits, True) for s in dense_grid(weights, bits, True))
        assert error(weights, float(step), bits, True) <= 1.001 * least


def test_nothing_but_zeros_has_the_smallest_step():
    assert found(np.zeros(50), 4, signed=True) == np.float32(MIN_STEP)
    assert (
        step_search.weight_steps(np.zeros((1, 1, 2, 2), np.float32), (4, 2)).tolist()
        == [np.float32(MIN_STEP)] * 2
    )


def test_errors_of_many_values_are_added_up_without_loss(rng):
    x = rng.normal(size=(2**21,)).astype(np.float32)
    steps = np.asarray([0.5, 0.05], np.float32)
    bounds = np.float32(-128), np.float32(127)
    errors = step_search.squared_errors(jnp.asarray(x), steps, *bounds)
    for step, value in zip(steps, errors, strict=True):
        assert float(value) == pytest.approx(error(x, float(step), 8, True), rel=1e-5)


def test_the_fine_grid_encloses_what_was_found():
    grid = step_search.fine_grid(np.asarray([1.0, 1.5], np.float32))
    assert grid.shape == (step_search.FINE,)
    assert (grid[0], grid[-1]) == pytest.approx((2 ** (-1 / 16), 1.5 * 2 ** (1 / 16)), rel=1e-6)
    ratios = grid[1:] / grid[:-1]
    assert np.allclose(ratios, ratios[0], rtol=1e-5)
