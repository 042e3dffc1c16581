"""What the task `cost` says of a network that can or cannot be exported."""

import inspect

import jax.numpy as jnp
from flax import nnx

from rfquant_jax.quant.plan import QuantConfig, QuantizationPlan
from rfquant_jax.tasks.activations import activation_bytes, activation_line
from tests.conftest import IMAGE_SHAPE, TinyNet


class Sorting(TinyNet):
    """Sorts its channels, which no integer model can."""

    def __call__(self, x):
        return super().__call__(jnp.sort(x, axis=-1))


def measured(build):
    abstract = nnx.eval_shape(build)
    plan = QuantizationPlan.of(abstract, IMAGE_SHAPE, QuantConfig())
    return activation_bytes(abstract, plan)


def test_the_line_of_code_that_prevents_the_export_is_named():
    size, reason = measured(lambda: Sorting(nnx.Rngs(0)))
    assert size is None
    lines, first = inspect.getsourcelines(Sorting.__call__)
    line = first + next(i for i, text in enumerate(lines) if "jnp.sort" in text)
    assert f"test_activations.py:{line}:" in reason
    assert "(Sorting.__call__)" in reason
    assert activation_line(size, reason).startswith(
        "peak activation memory: unknown, because this network cannot be exported: between its"
    )


class Normalized(nnx.Module):
    """A LayerNorm, whose scale of 1 and bias of 0 before training would take no operation."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.conv = nnx.Conv(4, 4, (3, 3), strides=2, rngs=rngs)
        self.norm, self.head = nnx.LayerNorm(4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(nnx.relu(self.stem(x)))))
        return self.head(x.mean((1, 2)))


def test_bytes_are_those_of_a_trained_network(rng):
    abstract, trained = nnx.eval_shape(lambda: Normalized(nnx.Rngs(0))), Normalized(nnx.Rngs(0))
    for held in (trained.norm.scale, trained.norm.bias):
        held.set_value(jnp.asarray(rng.uniform(1.5, 2.5, 4), jnp.float32))
    plan = QuantizationPlan.of(abstract, (8, 8, 1), QuantConfig())
    assert activation_bytes(abstract, plan) == activation_bytes(trained, plan)


def test_a_network_that_can_be_exported_has_its_bytes():
    size, reason = measured(lambda: TinyNet(nnx.Rngs(0)))
    assert size > 0
    assert reason == ""
    assert activation_line(size) == (
        f"peak activation memory: {size} bytes for one image (C export, any configuration)"
    )
