"""Quantizing again in the backward pass: the same numbers, out of less memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfquant_jax.nn.batch_norm import normalize_batch
from rfquant_jax.ops.convolution import convolve
from rfquant_jax.quant import lsq
from rfquant_jax.quant.layers import Quantizer
from rfquant_jax.quant.remat import on_quantized

OPTIONS = {"strides": (2, 1), "padding": "SAME"}
OPERATIONS = {
    "convolution": (functools.partial(convolve, **OPTIONS), (3, 3, 4, 5)),
    "depthwise": (functools.partial(convolve, groups=4, **OPTIONS), (3, 3, 1, 4)),
    "pointwise": (functools.partial(convolve, **OPTIONS), (1, 1, 4, 5)),
    "dense": (jnp.matmul, (4, 5)),
}


def in_turn(quantize, operation):
    return lambda x, step, bits, kernel: operation(quantize(x, step, bits), kernel)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("bits", [32, 8, 2])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_and_gradients_are_those_of_one_after_the_other(operation, bits, dtype, rng):
    function, shape = OPERATIONS[operation]
    quantizer = Quantizer((32, 8, 2), signed=True, scale_gradient=True)
    x = jnp.asarray(rng.normal(size=(3, 6, 5, 4)), dtype)
    kernel = jnp.asarray(rng.normal(size=shape), dtype)
    arguments = (x, jnp.float32(0.31), jnp.int32(bits), kernel)

    def run(make):
        def values(x, step, kernel):
            return make(quantizer.quantize, function)(x, step, arguments[2], kernel)

        y, back = jax.vjp(values, x, arguments[1], kernel)
        return y, *back(jnp.cos(y))

    # Not compiled: no rounding differs then, and every number is the same.
    for got, expected in zip(run(on_quantized), run(in_turn), strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(np.float32(got), np.float32(expected))


def test_a_chain_of_layers_needs_the_memory_of_its_convolutions_alone():
    layers, x = 8, jnp.ones((8, 16, 16, 16))
    kernels = jnp.ones((layers, 3, 3, 16, 16))

    def quantize(x, step, bits):
        return lsq.quantize(x, step, *lsq.bounds(bits, False))

    def temporary(make):
        def loss(kernels, step, x, bits):
            for kernel in kernels:
                operation = functools.partial(convolve, strides=(1, 1), padding="SAME")
                x = make(quantize, operation)(x, step, bits, kernel)
                x = jax.nn.relu(normalize_batch(x, None, None, 1e-5)[0])
            return jnp.sum(x)

        arguments = (kernels, jnp.float32(0.5), x, jnp.int32(4))
        program = jax.jit(jax.grad(loss, (0, 1))).lower(*arguments).compile()
        return program.memory_analysis().temp_size_in_bytes / x.nbytes

    # A convolution's output and a quantizer's input each, and a few in the works; otherwise what
    # the step's gradient is made of as well.
    assert temporary(on_quantized) < 2 * layers + 6
    assert temporary(in_turn) > 3 * layers
