"""What is said of a network that was only planned."""

import inspect

import jax.numpy as jnp
import pytest
from flax import nnx

import rfquant_jax as rfq
from tests.conftest import IMAGE_SHAPE, TinyNet


class Sorting(TinyNet):
    """Sorts its channels, which no integer model can, after a normalization of each image."""

    def __init__(self, rngs):
        super().__init__(rngs)
        self.norm = nnx.LayerNorm(IMAGE_SHAPE[-1], rngs=rngs)

    def __call__(self, x):
        return super().__call__(jnp.sort(self.norm(x), axis=-1))


class Reading(TinyNet):
    """Its code reads what it may read of its layers."""

    def __call__(self, x):
        assert self.conv.kernel[...].ndim == 4
        assert self.conv.bias is None
        assert self.bn.epsilon > 0
        return super().__call__(x)


def test_code_that_reads_its_layers_is_traced():
    network = Reading(nnx.Rngs(0))
    assert rfq.remarks(network, rfq.plan(network, IMAGE_SHAPE)) == []


@pytest.mark.parametrize("build", [lambda make: make(), nnx.eval_shape], ids=["real", "abstract"])
def test_what_is_not_switched_or_exported_is_known_after_the_plan(build):
    network = build(lambda: Sorting(nnx.Rngs(0)))
    norm, export = rfq.remarks(network, rfq.plan(network, IMAGE_SHAPE))
    assert norm.startswith("LayerNorm norm: one scale and bias for all bit-widths")
    line = inspect.getsourcelines(Sorting.__call__)[1] + 1
    assert export.startswith("warning: this network cannot be exported: between its")
    assert f"test_remarks.py:{line}:" in export
    usual = build(lambda: TinyNet(nnx.Rngs(0)))
    assert rfq.remarks(usual, rfq.plan(usual, IMAGE_SHAPE)) == []
