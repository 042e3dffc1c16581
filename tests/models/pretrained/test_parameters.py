"""Every parameter of a network is imported and missed by name, not those of layers alone."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rfquant_jax.errors import UserError
from rfquant_jax.models.pretrained.load import load_weights


class Token(nnx.Module):
    """A network of a transformer's parts."""

    def __init__(self, seed=0):
        rngs = nnx.Rngs(seed)
        self.patch = nnx.Conv(3, 4, (2, 2), rngs=rngs)
        self.temporal = nnx.Conv(3, 4, (5,), rngs=rngs)
        self.cls_token = nnx.Param(jnp.zeros((1, 1, 4)))
        self.embed = nnx.Embed(7, 4, rngs=rngs)
        self.norm, self.group = nnx.LayerNorm(4, rngs=rngs), nnx.GroupNorm(4, 2, rngs=rngs)
        self.rms, self.slope = nnx.RMSNorm(4, rngs=rngs), nnx.PReLU(0.25)
        self.body = nnx.Sequential(nnx.Linear(4, 6, rngs=rngs), nnx.gelu)
        self.gain = nnx.BatchStat(jnp.zeros(2))
        self.counter = nnx.Variable(jnp.zeros((), jnp.int32))
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(6, 2, rngs=rngs)


# As PyTorch names and shapes them, written out by hand.
SHAPES = {
    "patch.weight": (4, 3, 2, 2),
    "patch.bias": (4,),
    "temporal.weight": (4, 3, 5),
    "temporal.bias": (4,),
    "cls_token": (1, 1, 4),
    "embed.weight": (7, 4),
    "norm.weight": (4,),
    "norm.bias": (4,),
    "group.weight": (4,),
    "group.bias": (4,),
    "rms.weight": (4,),
    "slope.weight": (1,),
    "body.0.weight": (6, 4),
    "body.0.bias": (6,),
    "gain": (2,),
    "head.weight": (2, 6),
    "head.bias": (2,),
}


@pytest.fixture
def weights(rng):
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def test_every_parameter_is_imported_from_pytorchs_names(weights):
    network = Token()
    assert load_weights(network, "mine", weights) == []
    for ours, theirs in (
        (network.patch.kernel, weights["patch.weight"].transpose(2, 3, 1, 0)),
        (network.temporal.kernel, weights["temporal.weight"].transpose(2, 1, 0)),
        (network.cls_token, weights["cls_token"]),
        (network.embed.embedding, weights["embed.weight"]),
        (network.norm.scale, weights["norm.weight"]),
        (network.norm.bias, weights["norm.bias"]),
        (network.group.scale, weights["group.weight"]),
        (network.group.bias, weights["group.bias"]),
        (network.rms.scale, weights["rms.weight"]),
        (network.slope.negative_slope, weights["slope.weight"][0]),
        (network.body.layers[0].kernel, weights["body.0.weight"].T),
        (network.gain, weights["gain"]),
        (network.head.kernel, weights["head.weight"].T),
    ):
        np.testing.assert_array_equal(ours[...], theirs)


@pytest.mark.parametrize("name", SHAPES)
def test_each_one_is_missed_by_its_name(weights, name):
    network, before = Token(), Token()
    del weights[name]
    with pytest.raises(UserError) as error:
        load_weights(network, "mine", weights)
    assert str(error.value) == f"`weights` does not fit mine: missing: {name}"
    np.testing.assert_array_equal(network.head.kernel[...], before.head.kernel[...])


def test_what_is_left_over_is_named(weights):
    weights |= {"pos_embed": np.zeros((1, 5, 4)), "norm2.weight": np.zeros(4)}
    with pytest.raises(UserError) as error:
        load_weights(Token(), "mine", weights)
    said = "`weights` does not fit mine: left over: norm2.weight, pos_embed"
    assert str(error.value) == said


def state(network, separator):
    found = nnx.to_flat_state(nnx.state(network, (nnx.Param, nnx.BatchStat)))
    return {separator.join(map(str, path)): np.asarray(v[...]) for path, v in found}


@pytest.mark.parametrize("prefix", ["", "params/", "model/"])
def test_a_state_has_every_parameter_by_its_path(prefix):
    source, network = Token(1), Token(2)
    source.cls_token.set_value(jnp.full((1, 1, 4), 3.0))
    source.norm.scale.set_value(jnp.arange(4.0))
    given = {f"{prefix}{name}": value for name, value in state(source, "/").items()}
    given |= {f"{prefix}{name}": np.zeros((), np.int32) for name in ("counter", "drop/rngs/count")}
    assert load_weights(network, "mine", given) == []
    for name, value in state(source, ".").items():
        np.testing.assert_array_equal(state(network, ".")[name], value)
    for name in ("cls_token", "norm/scale", "embed/embedding", "slope/negative_slope"):
        less = {given: v for given, v in given.items() if given != f"{prefix}{name}"}
        with pytest.raises(UserError) as error:
            load_weights(network, "mine", less)
        assert str(error.value).endswith(f"mine: missing: {name.replace('/', '.')}")
    with pytest.raises(UserError, match=r"left over: .*gamma$"):
        load_weights(network, "mine", given | {f"{prefix}gamma": np.zeros(2, np.float32)})


class Dense(nnx.Module):
    """Half of whose names are the same in PyTorch."""

    def __init__(self):
        self.first, self.head = (nnx.Linear(3, 3, rngs=nnx.Rngs(0)) for _ in range(2))


def test_equal_names_do_not_decide_whose_layout_a_file_has(rng):
    network, square = Dense(), rng.normal(size=(3, 3)).astype(np.float32)
    weights = {"weight": square, "bias": np.zeros(3, np.float32)}
    names = [(layer, name) for layer in ("first", "head") for name in weights]
    load_weights(network, "mine", {f"{layer}.{name}": weights[name] for layer, name in names})
    np.testing.assert_array_equal(network.first.kernel[...], square.T)
