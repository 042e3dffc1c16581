"""A coupled TinyNet whose every number differs, integer models of it and a file of one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rfquant_jax.errors import UserError
from rfquant_jax.export.formats import integer, integer_reader
from rfquant_jax.export.ir.fold import fold
from rfquant_jax.quant.batch_norm import SwitchableBatchNorm
from rfquant_jax.quant.layers import Quantizer, assign
from tests.conftest import IMAGE_SHAPE


def scramble(network, seed=0):
    """Gives every BatchNorm and step size of a network other values; some channels get negative."""
    rng = np.random.default_rng(seed)
    for _, module in nnx.iter_modules(network):
        if isinstance(module, SwitchableBatchNorm | nnx.BatchNorm):
            for held, low, high in (
                (module.scale, -1.5, 1.5),
                (module.bias, -0.5, 1.0),
                (module.mean, -0.5, 0.5),
                (module.var, 0.2, 1.5),
            ):
                held.set_value(jnp.asarray(rng.uniform(low, high, held[...].shape), jnp.float32))
        if isinstance(module, Quantizer):
            # Steps of powers of two and others alike, the coarser the fewer bits there are.
            spread = 2.0 ** -np.asarray(module.candidates) * rng.uniform(1.5, 3)
            module.step.set_value(jnp.asarray(spread, jnp.float32))
    return network


@pytest.fixture(scope="session")
def scrambled(coupled):
    network = scramble(nnx.clone(coupled))
    network.eval()
    return network


def at(network, configuration):
    """A copy of a network in evaluation at a configuration."""
    copy = nnx.clone(network)
    assign(copy, jnp.asarray(configuration))
    return copy


@pytest.fixture(scope="session")
def mixed(scrambled, space):
    """The network at weights 6, 2, 5, 3 and inputs 2, 6, 3, 4 bits."""
    return at(scrambled, np.asarray([[6, 2], [2, 6], [5, 3], [3, 4]], np.int32))


@pytest.fixture(scope="session")
def model(mixed):
    return fold(mixed, IMAGE_SHAPE, {"mean": [0.5]})


def logits_of(network, x):
    return np.asarray(jax.jit(lambda x: network(x))(x))


@pytest.fixture(scope="session")
def models(scrambled, space):
    """Two configurations that share some kernels: both have the second layer at 4 bits."""
    rows = {
        "low": [[2, 3], [4, 2], [3, 4], [3, 3]],
        "high": [[6, 6], [4, 5], [5, 4], [6, 5]],
    }
    return {n: fold(at(scrambled, np.asarray(r)), IMAGE_SHAPE, {"n": n}) for n, r in rows.items()}


@pytest.fixture
def path(models, tmp_path):
    path = tmp_path / "model.safetensors"
    integer.write(path, {"low": models["low"]})
    return path


def refused(path):
    with pytest.raises(UserError) as error:
        integer_reader.read(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert len(text) < len(str(path)) + 600
    return text
