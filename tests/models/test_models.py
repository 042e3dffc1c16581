"""Plain networks: shapes, names, normalization, and the boundary to pure functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rfquant_jax import models
from rfquant_jax.errors import ArgumentError
from rfquant_jax.nn.batch_norm import BatchNorm
from rfquant_jax.nn.functional import FunctionalNetwork, reseed
from rfquant_jax.quant import convert
from tests.conftest import TinyNet, images


def build(name, **options):
    return models.builder(name, num_classes=7, channels=3, seed=0, options=options)


@pytest.mark.parametrize(("name", "convolutions"), [("cifar_resnet8", 7), ("cifar_resnet20", 19)])
def test_a_cifar_resnet_has_its_layers(name, convolutions):
    network = nnx.eval_shape(build(name))
    layers = convert.plan(network, (32, 32, 3))
    assert sum(layer.is_convolution for layer in layers) == convolutions
    assert layers[1].name == "layer1.0.conv1"
    assert layers[-1].name == "linear"
    assert convert.layers_without_feature(network, layers) == []


def test_costs_of_resnet20_by_hand():
    builder = models.builder("cifar_resnet20", num_classes=10, channels=3, seed=0)
    layers = convert.plan(nnx.eval_shape(builder), (32, 32, 3))
    stages = 9 * (6 * 16 * 16), 9 * (16 * 32 + 5 * 32 * 32), 9 * (32 * 64 + 5 * 64 * 64)
    stem, classifier = 9 * 3 * 16, 64 * 10
    assert sum(layer.weights for layer in layers) == stem + sum(stages) + classifier
    macs = (stem + stages[0]) * 32**2 + stages[1] * 16**2 + stages[2] * 8**2 + classifier
    assert sum(layer.macs for layer in layers) == macs


def test_projection_shortcuts_add_two_convolutions_with_features():
    layers = convert.plan(nnx.eval_shape(build("cifar_resnet8", projection=True)), (8, 8, 3))
    names = [layer.name for layer in layers]
    assert [n for n in names if "downsample" in n] == [
        "layer2.0.downsample.0",
        "layer3.0.downsample.0",
    ]


def test_the_parameter_free_shortcut_subsamples_and_pads_channels():
    network = models.create(
        "cifar_resnet8", num_classes=7, channels=3, seed=0, options={"width": 4}
    )
    x = jnp.arange(2 * 6 * 6 * 4, dtype=jnp.float32).reshape(2, 6, 6, 4)
    y = np.asarray(network.layer2[0]._shortcut(x))
    assert y.shape == (2, 3, 3, 8)
    np.testing.assert_array_equal(y[..., 2:6], np.asarray(x)[:, ::2, ::2])
    assert np.all(y[..., :2] == 0)
    assert np.all(y[..., 6:] == 0)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("vgg", {}, "`name` = 'vgg': must be one of cifar_resnet14"),
        ("cifar_resnet8", {"depth": 3}, "`options.depth` = 3: cifar_resnet8 takes"),
    ],
)
def test_unknown_networks_and_options_are_refused(name, options, said):
    with pytest.raises(ArgumentError) as error:
        build(name, **options)
    assert said in str(error.value)


def test_batch_norm_follows_pytorchs_conventions(rng):
    layer = BatchNorm(2, rngs=nnx.Rngs(0))
    x = rng.normal(3, 2, (4, 3, 3, 2)).astype(np.float32)
    y = layer(jnp.asarray(x))
    flat = x.reshape(-1, 2).astype(np.float64)
    np.testing.assert_allclose(
        y, (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(layer.mean[...], 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.var[...], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)
    layer.eval()
    before = layer.mean[...]
    layer(jnp.asarray(x))
    np.testing.assert_array_equal(layer.mean[...], before)


def test_a_network_survives_the_way_to_pure_functions_and_back(plain, rng):
    functional = FunctionalNetwork(plain)
    x = jnp.asarray(images(rng, 3))
    assert "projection.0.kernel" in functional.params
    assert "projection.1.mean" in functional.stats

    @jax.jit
    def run(params, stats):
        network = functional.merge(params, stats)
        return network(x), functional.stats_in(network)

    logits, stats = run(functional.params, functional.stats)
    reference = nnx.clone(plain)
    np.testing.assert_allclose(logits, reference(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats["bn.mean"], reference.bn.mean[...], rtol=1e-4, atol=1e-6)
    assert set(stats) == set(functional.stats)


def test_pure_arrays_are_copies(plain):
    functional = FunctionalNetwork(plain)
    jax.tree.map(lambda x: x.delete(), functional.params)
    assert np.all(np.isfinite(plain.conv.kernel[...]))


def test_reseeding_decides_dropout():
    network = TinyNet(nnx.Rngs(0), dropout=0.5)
    x = jnp.ones((2, 6, 6, 2))
    outputs = []
    for seed in (1, 1, 2):
        reseed(network, jax.random.key(seed))
        outputs.append(np.asarray(network(x)))
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert np.any(outputs[0] != outputs[2])


def test_mobilenetv2_for_small_images_by_hand():
    build = models.builder(
        "mobilenetv2",
        num_classes=10,
        channels=3,
        seed=0,
        options={"width": 0.25, "small_images": True},
    )
    layers = convert.plan(nnx.eval_shape(build), (32, 32, 3))
    # 32 * 0.25 = 8; 16 * 0.25 = 4 becomes 8, the least; 96 * 0.25 = 24; the head stays 1280.
    shapes = {layer.name: layer.weights for layer in layers}
    assert shapes["features.0.0"] == 9 * 3 * 8
    assert shapes["features.1.conv.3"] == 8 * 8
    assert shapes["features.2.conv.0"] == 8 * 48
    assert shapes["features.11.conv.6"] == 16 * 6 * 24
    assert shapes["features.18.0"] == 80 * 1280
    stem = next(layer for layer in layers if layer.name == "features.0.0")
    assert stem.macs == 9 * 3 * 8 * 32**2
    last = next(layer for layer in layers if layer.name == "features.18.0")
    assert last.macs == 80 * 1280 * 4**2
    second = next(layer for layer in layers if layer.name == "features.2.conv.6")
    assert second.macs == 48 * 8 * 32**2


def test_the_tiny_mobilenetv2_by_hand():
    build = models.builder("mobilenetv2_tiny", num_classes=10, channels=1, seed=0)
    layers = convert.plan(nnx.eval_shape(build), (8, 8, 1))
    expected = [9 * 16, 9 * 16, 16 * 8]  # stem, depthwise, bottleneck
    for width_in, width in ((8, 12), (12, 12), (12, 20), (20, 20)):
        expected += [width_in * 4 * width_in, 9 * 4 * width_in, 4 * width_in * width]
    assert [layer.weights for layer in layers] == expected + [20 * 96, 96 * 10]


def test_a_constructor_must_return_a_module(monkeypatch):
    monkeypatch.setitem(models.REGISTRY, "odd", models.Architecture(lambda **given: len))
    said = r"`name` = 'odd': must construct an nnx.Module, not a builtin_function_or_method"
    with pytest.raises(ArgumentError, match=said):
        models.create("odd", num_classes=2, channels=1, seed=0)


class Reading(nnx.Module):
    """Its constructor computes with an array and reads the values."""

    def __init__(self, rngs):
        rates = jnp.linspace(0.0, 0.5, 3)
        self.dropout = nnx.Dropout(float(rates[1]), rngs=rngs)
        self.linear = nnx.Linear(int(rates[2] * 4), 3, rngs=rngs)


def test_a_constructor_that_reads_arrays_is_run_as_it_is():
    def build():
        return Reading(nnx.Rngs(0))

    for network in (models.abstract(build), models.initialised(build)):
        assert network.dropout.rate == 0.25
        assert network.linear.kernel.shape == (2, 3)
    assert isinstance(
        models.abstract(lambda: nnx.Linear(2, 3, rngs=nnx.Rngs(0))).kernel.get_value(),
        jax.ShapeDtypeStruct,
    )
