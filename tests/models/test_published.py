"""The published networks: their layers and costs against reference figures, and how they run."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rfquant_jax import models
from rfquant_jax.models.layers import SAME
from rfquant_jax.quant import convert
from rfquant_jax.quant.cost import CostModel
from rfquant_jax.quant.plan import QuantConfig, QuantizationPlan
from rfquant_jax.quant.space import Space
from tests.conftest import identity, mesh_of

# name -> layers in forward order as [name, MACs at 224x224, signed input], and
# "w,a" -> [BitOPs in G, size in MB] of uniform configurations.
REFERENCE = json.loads((Path(__file__).parent / "reference_costs.json").read_text())


def shapes(name, classes=1000, **options):
    builder = models.builder(name, num_classes=classes, channels=3, seed=0, options=options)
    return nnx.eval_shape(builder)


def plan(name, size=224, **options):
    return convert.plan(shapes(name, **options), (size, size, 3))


@pytest.mark.parametrize("name", REFERENCE)
def test_layers_and_costs_at_224_pixels(name):
    layers = plan(name)
    found = [[layer.name, layer.macs] for layer in layers if layer.candidates]
    assert found == [entry[:2] for entry in REFERENCE[name]["layers"]]
    costs, space = CostModel.of(layers), Space.of(layers, convert.CANDIDATES)
    assert len(REFERENCE[name]["uniform"]) == 25
    for bits, (bitops, size) in REFERENCE[name]["uniform"].items():
        configuration = space.uniform(*map(int, bits.split(",")))
        assert round(costs.bitops_g(configuration), 6) == bitops, bits
        assert round(costs.size_mb(configuration), 6) == size, bits


def test_resnet101_has_its_published_size():
    layers = plan("resnet101")
    # torchvision's 44,549,160 parameters without BatchNorm (2 x 52,672) and the classifier's bias.
    assert sum(layer.weights for layer in layers) == 44_549_160 - 2 * 52_672 - 1000
    assert sum(layer.macs for layer in layers) == pytest.approx(7.80e9, rel=1e-3)
    strided = [layer for layer in layers if layer.name == "layer2.0.conv1"]
    assert strided[0].macs == 56 * 56 * 256 * 128, "the stride is on the 3x3 convolution"


def test_a_stem_for_small_images_keeps_their_size():
    layers = {layer.name: layer for layer in plan("resnet18", size=32, small_images=True)}
    assert layers["conv1"].kernel_shape == (3, 3, 3, 64)
    assert layers["layer1.0.conv1"].macs == 32 * 32 * 9 * 64 * 64
    assert layers["layer4.1.conv2"].macs == 4 * 4 * 9 * 512 * 512


@pytest.mark.parametrize("name", ["resnet18", "resnet101", "mobilenetv2", "efficientnet_lite0"])
def test_every_searched_layer_has_a_feature_and_a_batch_norm(name):
    network = shapes(name)
    layers = convert.plan(network, (64, 64, 3))
    assert convert.layers_without_feature(network, layers) == []
    assert all(layer.batch_norm for layer in layers if layer.candidates)


@pytest.fixture(scope="module")
def mobile():
    """The networks with linear bottlenecks, for 5 classes."""
    common = {"num_classes": 5, "channels": 3, "seed": 0, "options": {"dropout": 0.5}}
    return {n: models.create(n, **common) for n in ("mobilenetv2", "efficientnet_lite0")}


@pytest.mark.parametrize("name", ["mobilenetv2", "efficientnet_lite0"])
def test_inputs_are_signed_behind_linear_bottlenecks(mobile, name, rng):
    quantization_plan = QuantizationPlan.of(mobile[name], (32, 32, 3), QuantConfig())
    batch = rng.normal(size=(4, 32, 32, 3)).astype(np.float32)
    found = quantization_plan.find_signed(mobile[name], [batch], identity, mesh_of(1))
    assert found == sorted(n for n, _, signed in REFERENCE[name]["layers"] if signed)


def test_padding_and_epsilon_of_tensorflow_are_arguments():
    for name, stem, norm in (
        ("mobilenetv2", lambda n: n.features[0][0], lambda n: n.features[3].conv[1]),
        ("efficientnet_lite0", lambda n: n.conv_stem, lambda n: n.blocks[2][1].bn2),
    ):
        network = shapes(name, padding=SAME, epsilon=1e-3)
        assert stem(network).padding == "SAME"
        assert norm(network).epsilon == 1e-3
        assert norm(shapes(name)).epsilon == 1e-5
        assert [layer.macs for layer in convert.plan(network, (224, 224, 3))] == [
            layer.macs for layer in plan(name)
        ]


def test_dropout_is_before_the_classifier_and_only_in_training(mobile):
    network = nnx.clone(mobile["mobilenetv2"])
    features = jnp.ones((1, 1280))
    dropout, _ = network.classifier
    network.eval()
    np.testing.assert_array_equal(dropout(features), features)
    network.train()
    dropped = np.asarray(dropout(features))
    assert set(np.unique(dropped)) == {0.0, 2.0}


def test_a_bottleneck_block_by_hand(mobile):
    network = nnx.clone(mobile["mobilenetv2"])
    network.eval()
    block = network.features[3]  # 24 -> 144 -> 24 channels, stride 1
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 24))
    expand, norm1, _, depthwise, norm2, _, project, norm3 = block.conv
    y = jnp.clip(norm1(expand(x)), 0, 6)
    y = jnp.clip(norm2(depthwise(y)), 0, 6)
    np.testing.assert_allclose(block(x), x + norm3(project(y)), rtol=1e-5, atol=1e-5)
    assert not network.features[2].residual, "stride 2 leaves nothing to add to"
    assert not network.features[4].residual
