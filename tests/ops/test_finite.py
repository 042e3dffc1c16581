"""Whether all numbers are finite."""

import jax.numpy as jnp
import numpy as np
import pytest

from rfquant_jax.ops.finite import all_finite
from rfquant_jax.runtime.backend import compiling_for


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_one_number_that_is_not_finite_is_found_anywhere(backend):
    tree = {str(i): np.ones(shape, np.float32) for i, shape in enumerate([(), (3,), (2, 2)] * 15)}
    with compiling_for(backend):
        assert all_finite({})
        assert all_finite(tree)
        for name in ("0", "1", "20", "41", "44"):
            for bad in (np.nan, np.inf, -np.inf):
                value = np.ravel(tree[name]).copy()
                value[-1] = bad
                assert not all_finite(tree | {name: jnp.asarray(value)})
