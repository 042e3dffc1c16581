"""Sums that share kernels on GPU: against float64, and how they are written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfquant_jax.ops.sums import LONG, row_sums, sums, total
from rfquant_jax.runtime.backend import compiling_for


def operations(function, *arguments):
    return str(jax.make_jaxpr(function)(*arguments))


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_several_sums_and_their_gradients(backend, rng):
    first, second = (rng.normal(size=(3, 4, 5, 2)).astype(np.float32) for _ in range(2))
    with compiling_for(backend):
        got, back = jax.vjp(lambda *x: sums(x, (0, 1, 2)), jnp.asarray(first), jnp.asarray(second))
    for one, x in zip(got, (first, second), strict=True):
        np.testing.assert_allclose(one, np.float64(x).sum((0, 1, 2)), rtol=1e-5, atol=1e-5)
    slopes = jnp.asarray([1.0, 2.0]), jnp.asarray([3.0, 4.0])
    for one, slope in zip(back(slopes), slopes, strict=True):
        np.testing.assert_array_equal(one, np.broadcast_to(slope, (3, 4, 5, 2)))


def test_on_gpus_several_sums_are_one_reduction():
    x = jnp.ones((3, 2))
    assert operations(lambda x: sums((x, 2 * x), (0,)), x).count("reduce_sum") == 2
    with compiling_for("gpu"):
        program = operations(lambda x: sums((x, 2 * x), (0,)), x)
    assert (program.count(" reduce["), program.count("reduce_sum")) == (1, 0)


@pytest.mark.parametrize(
    ("shape", "rows"),
    [((2, 3, 64, 64), (2, 3)), ((3, 128, 64), (3,)), ((3, LONG), (3,)), ((3, 3, 4, 4), ())],
)
def test_long_sums_are_split_into_rows_on_gpus(shape, rows, rng):
    x = rng.normal(size=shape).astype(np.float32)
    assert row_sums(jnp.asarray(x)).shape == ()
    with compiling_for("gpu"):
        parts = row_sums(jnp.asarray(x))
    assert parts.shape == rows
    last = tuple(range(len(rows), x.ndim))
    np.testing.assert_allclose(parts, np.float64(x).sum(last), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_the_total_of_arrays_of_different_shapes(backend):
    parts = [jnp.float32(1.5), jnp.asarray([2.0, 3.0]), jnp.full((2, 2), 0.25)]
    with compiling_for(backend):
        assert total(parts) == 1.5 + 5 + 1
        assert total([]) == 0
        slopes = jax.grad(lambda parts: 2 * total(parts))(parts)
    assert [np.unique(slope).tolist() for slope in slopes] == [[2], [2], [2]]


def test_on_gpus_a_total_is_one_sum():
    parts = [jnp.ones(3), jnp.ones(4)]
    with compiling_for("gpu"):
        assert operations(total, parts).count("reduce_sum") == 1
