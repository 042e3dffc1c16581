"""Activations of coupled inverted residuals end at 6: ReLU in the place of ReLU6 would show."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rfquant_jax import models
from rfquant_jax.nn.features import listening_to_inputs
from rfquant_jax.quant import convert
from rfquant_jax.quant.batch_norm import SwitchableBatchNorm
from rfquant_jax.quant.layers import assign
from rfquant_jax.quant.space import Space


@pytest.fixture(scope="module")
def inputs():
    """What each layer of a coupled MobileNetV2 reads, where BatchNorms return large values."""
    plain = models.create("mobilenetv2_tiny", num_classes=10, channels=1, seed=0, options={})
    layers = convert.plan(plain, (8, 8, 1))
    network = convert.quantize(plain, layers)
    for _, module in nnx.iter_modules(network):
        if isinstance(module, SwitchableBatchNorm | nnx.BatchNorm):
            module.scale.set_value(jnp.full_like(module.scale[...], 40.0))
    assign(network, jnp.asarray(Space.of(layers, convert.CANDIDATES).uniform(4, 4)))
    network.train()
    found = {}
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    with listening_to_inputs(lambda layer, x: found.update({layer.name: np.asarray(x)})):
        network(jnp.asarray(images))
    return found


def test_layers_after_an_activation_read_values_up_to_six(inputs):
    # The first convolution of a block reads the linear bottleneck before it, the first block's the
    # stem; `conv.3` is the depthwise layer of an expanded block, `conv.6` its projection.
    after = [n for n in inputs if n.endswith((".conv.3", ".conv.6")) or n == "features.1.conv.0"]
    assert len(after) == 2 + 2 * 4
    for name in after:
        assert inputs[name].max() == 6, name
        assert inputs[name].min() == 0, name


def test_bottlenecks_are_linear(inputs):
    for name in (f"features.{i}.conv.0" for i in (2, 3, 4, 5)):
        assert inputs[name].max() > 6, name
        assert inputs[name].min() < 0, name


def test_the_classifier_reads_the_mean_of_values_up_to_six(inputs):
    (head,) = (x for name, x in inputs.items() if x.ndim == 2)
    assert head.min() >= 0
    assert 1 < head.max() <= 6
