"""Networks that take their mode as an argument follow train() and eval()."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rfquant_jax as rfq
from rfquant_jax.errors import UserError
from rfquant_jax.export.trace.capture import capture
from rfquant_jax.nn.functional import FunctionalNetwork
from rfquant_jax.nn.mode import following_mode

SHAPE = (4, 4, 2)


class Net(nnx.Module):
    """Two convolutions; the mode of its BatchNorm and Dropout is an argument of its call."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first, self.second = (nnx.Conv(2, 2, (3, 3), rngs=rngs) for _ in range(2))
        self.stem_norm, self.norm = (nnx.BatchNorm(2, rngs=rngs) for _ in range(2))
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def run(self, x, training):
        x = self.stem_norm(self.first(x), not training)
        x = self.norm(self.second(x), use_running_average=not training)
        return self.dropout(x.mean((1, 2)), deterministic=not training)


class Train(Net):
    def __call__(self, x, train):
        return self.run(x, train)


class Training(Net):
    def __call__(self, x, *, training=True):
        return self.run(x, training)


class Deterministic(Net):
    def __call__(self, x, deterministic=True, rngs=None):
        return self.run(x, not deterministic)


class Running(Net):
    def __call__(self, x, use_running_average=True):
        return self.run(x, not use_running_average)


class Frozen(Net):
    """A BatchNorm that evaluates in both modes."""

    def __call__(self, x):
        return self.run(x, False)


def images(count=6):
    return np.random.default_rng(0).normal(size=(count, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("kind", [Train, Training, Deterministic, Running])
def test_the_mode_is_that_of_train_and_eval(kind):
    network = kind()
    follows = following_mode(network)
    assert isinstance(follows, kind)
    assert type(network) is kind, "the network given is not changed"
    x = jnp.asarray(images())
    follows.eval()
    np.testing.assert_allclose(follows(x), nnx.clone(network).run(x, False), rtol=1e-6)
    follows.train()
    expected = nnx.clone(network)
    np.testing.assert_allclose(follows(x), expected.run(x, True), rtol=1e-6)
    np.testing.assert_allclose(follows.norm.mean[...], expected.norm.mean[...], rtol=1e-6)
    assert np.any(np.asarray(follows.norm.mean[...]) != 0)


def test_an_explicit_mode_comes_first():
    follows, x = following_mode(Training()), jnp.asarray(images())
    follows.eval()
    expected = nnx.clone(follows).run(x, True)
    np.testing.assert_allclose(follows(x, training=True), expected, rtol=1e-6)


def test_such_a_network_can_be_traced_for_export():
    network = Train()
    coupled = rfq.plan(network, SHAPE).convert(network)
    coupled.eval()
    assert capture(coupled, SHAPE).graph.nodes


def test_a_network_without_such_an_argument_is_left_alone():
    network = Frozen()
    assert following_mode(network) is network


def test_names_do_not_change():
    names = {*FunctionalNetwork(Train()).params, *FunctionalNetwork(Train()).stats}
    layers = {f"{n}.{p}" for n in ("first", "second") for p in ("kernel", "bias")}
    norms = {f"{n}.{p}" for n in ("stem_norm", "norm") for p in ("scale", "bias", "mean", "var")}
    assert names == layers | norms


@pytest.mark.parametrize("kind", [Train, Training, Deterministic])
def test_such_a_network_is_trained_and_recalibrated_in_the_right_mode(kind):
    network, x = kind(), images(8)
    coupled = rfq.couple(network, rfq.plan(network, SHAPE), x, devices=1)
    config = rfq.TrainConfig(epochs=1, warmup_epochs=0, batch_size=8, scheduler=None)
    rfq.Trainer(coupled, config, log=None).run((x, np.arange(8) % 2))
    assert np.any(np.asarray(coupled.network.norm.mean[...]) != 0), "statistics were not trained"
    rfq.set_bits(coupled, "w6a6")
    rfq.recalibrate(coupled, x)
    y = np.asarray(coupled.network.first(jnp.asarray(x)))
    stem, pixels = coupled.network.stem_norm, (0, 1, 2)  # the stem's BatchNorm is not switched
    np.testing.assert_allclose(stem.mean[...], y.mean(pixels), rtol=1e-4, atol=1e-6)
    y = (y - y.mean(pixels)) / np.sqrt(y.var(pixels) + 1e-5) * stem.scale[...] + stem.bias[...]
    y = np.asarray(coupled.network.second(y))
    found = coupled.network.norm.mean[0, 0]
    np.testing.assert_allclose(found, y.mean(pixels), rtol=1e-3, atol=1e-5)


def test_a_mode_that_does_not_follow_is_refused_by_name():
    with pytest.raises(UserError) as error:
        rfq.plan(Frozen(), SHAPE)
    said = "layer stem_norm: it is called with use_running_average=True in training mode"
    assert said in str(error.value)
