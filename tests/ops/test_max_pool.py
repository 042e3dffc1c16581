"""Max pooling: values and gradients against loops in NumPy and against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from rfquant_jax.ops.max_pool import max_pool


def by_loops(x, g, window, strides, padding):
    """Maxima and input gradient; the first of equal maxima, by rows, receives the cotangent."""
    (top, bottom), (left, right) = padding
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=-np.inf)
    y, d_padded = np.zeros(g.shape), np.zeros(padded.shape)
    for n, i, j, c in np.ndindex(*g.shape):
        rows, columns = i * strides[0], j * strides[1]
        part = padded[n, rows : rows + window[0], columns : columns + window[1], c]
        row, column = np.unravel_index(part.argmax(), part.shape)
        y[n, i, j, c] = part[row, column]
        d_padded[n, rows + row, columns + column, c] += g[n, i, j, c]
    height, width = x.shape[1:3]
    return y, d_padded[:, top : top + height, left : left + width]


@st.composite
def pools(draw):
    window = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    # A window of padding alone has no maximum.
    edges = [st.integers(0, extent - 1) for extent in window for _ in range(2)]
    top, bottom, left, right = (draw(edge) for edge in edges)
    size = draw(st.tuples(st.integers(3, 7), st.integers(3, 7)))
    return window, strides, ((top, bottom), (left, right)), size, draw(st.integers(0, 99))


@settings(max_examples=25, deadline=None)
@given(pools())
def test_values_and_gradients_are_those_of_loops(pool):
    window, strides, padding, size, seed = pool
    rng = np.random.default_rng(seed)
    # Few distinct values, so that many windows have several maxima.
    x = rng.integers(-2, 3, (2, *size, 2)).astype(np.float32)
    y, pull = jax.vjp(lambda x: max_pool(x, window, strides=strides, padding=padding), x)
    g = rng.normal(size=y.shape).astype(np.float32)
    expected, d_x = by_loops(x, g, window, strides, padding)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(pull(g)[0], d_x, rtol=1e-5, atol=1e-6)
    plain = max_pool(x, window, strides=strides, padding=padding)
    np.testing.assert_array_equal(plain, expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_it_is_the_pool_of_flax(dtype):
    x = jax.random.normal(jax.random.key(0), (2, 9, 8, 3), dtype)
    options = {"strides": (2, 2), "padding": ((1, 1), (1, 1))}
    found, pull = jax.vjp(lambda x: max_pool(x, (3, 3), **options), x)
    expected, pull_flax = jax.vjp(lambda x: nnx.max_pool(x, (3, 3), **options), x)
    np.testing.assert_array_equal(found, expected)
    g = jax.random.normal(jax.random.key(1), found.shape, dtype)
    assert pull(g)[0].dtype == dtype
    tolerance = 1e-6 if dtype == jnp.float32 else 0.03
    np.testing.assert_allclose(
        pull(g)[0].astype(np.float32), pull_flax(g)[0].astype(np.float32), atol=tolerance
    )


@pytest.mark.parametrize("place", [0, 1])
def test_not_a_number_is_passed_on(place):
    x = np.zeros((1, 2, 2, 1), np.float32)
    x[0, place, 1] = np.nan
    y, _ = jax.vjp(lambda x: max_pool(x, (2, 2), strides=(2, 2)), x)
    assert np.isnan(y).all()
    assert np.isnan(max_pool(x, (2, 2), strides=(2, 2))).all()


def test_the_backward_pass_has_neither_scatter_nor_sort():
    x = jnp.zeros((1, 4, 4, 1))
    gradient = jax.grad(lambda x: max_pool(x, (2, 2), strides=(2, 2)).sum())
    text = str(jax.make_jaxpr(gradient)(x))
    assert "scatter" not in text
    assert "sort" not in text
