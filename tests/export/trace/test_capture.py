import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rfquant_jax.export.ir import runtime
from rfquant_jax.export.ir.fold import fold
from rfquant_jax.export.trace.capture import capture
from rfquant_jax.export.trace.values import UnsupportedNetwork
from rfquant_jax.nn.batch_norm import BatchNorm
from rfquant_jax.ops.max_pool import max_pool
from rfquant_jax.quant import convert
from tests.conftest import IMAGE_SHAPE
from tests.export.conftest import logits_of, scramble


class Around(nnx.Module):
    """Two convolutions and a classifier, with anything in between and behind."""

    def __init__(self, between, behind=lambda x: x.mean((1, 2)), features=4):
        rngs = nnx.Rngs(0)
        self.stem = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.conv = nnx.Conv(4, 4, (3, 3), rngs=rngs)
        self.fc = nnx.Linear(features, 5, rngs=rngs)
        self.between, self.behind = between, behind

    def __call__(self, x):
        return self.fc(self.behind(self.conv(self.between(self.stem(x)))))


def coupled_of(plain, shape=IMAGE_SHAPE, **options):
    """The coupled network in evaluation, all its inputs signed, as nothing keeps them positive."""
    layers = convert.plan(plain, shape, **options)
    network = convert.quantize(plain, layers, candidates=options.get("candidates", (6, 4)))
    convert.set_signed(network, [layer.name for layer in layers])
    network.eval()
    return scramble(network)


def check(plain, shape=IMAGE_SHAPE):
    """The integer runtime computes what the network does, to float32's rounding."""
    network = coupled_of(plain, shape, candidates=(6, 4))
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    model = fold(network, shape)
    expected = logits_of(network, x)
    np.testing.assert_allclose(runtime.run(model, x), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(expected).max() > 0.01
    return model.graph


def test_the_graph_of_a_network(mixed):
    graph = capture(mixed, IMAGE_SHAPE).graph
    assert [(n.op, n.inputs, n.output) for n in graph.nodes] == [
        ("convolution", ("image",), "x2"),
        ("maximum", ("x2", 0.0), "x3"),
        ("convolution", ("x3",), "x5"),
        ("convolution", ("x3",), "x7"),
        ("add", ("x5", "x7"), "x8"),
        ("convolution", ("x8",), "x10"),
        ("maximum", ("x10", 0.0), "x11"),
        ("convolution", ("x11",), "x13"),
        ("maximum", ("x13", 0.0), "x14"),
        ("sum", ("x14",), "x15"),
        ("divide", ("x15", 9.0), "x16"),
        ("dense", ("x16",), "x17"),
    ]
    assert graph.nodes[2].attributes == {
        "layer": "conv",
        "kernel": [6, 3, 3, 4],
        "strides": [2, 2],
        "padding": [[1, 1], [1, 1]],
        "dilation": [1, 1],
        "groups": 1,
    }
    # SAME with stride 1: by hand, one pixel on every side.
    assert graph.nodes[0].attributes["padding"] == [[1, 1], [1, 1]]
    assert graph.shapes["x13"] == (3, 3, 8)
    assert graph.shapes[graph.output] == (5,)


SHIFT = np.asarray([0.5, -0.25, 1.0, 2.0], np.float32)


@pytest.mark.parametrize(
    ("between", "ops"),
    [
        (nnx.relu6, ["maximum", "minimum"]),
        (lambda x: jnp.clip(x, -1, 1.5), ["maximum", "minimum"]),
        (jax.nn.hard_swish, ["add", "maximum", "minimum", "divide", "multiply"]),
        (jax.nn.silu, ["sigmoid", "multiply"]),
        (jax.nn.tanh, ["tanh"]),
        (lambda x: 1 - jnp.abs(-x), ["negate", "absolute", "subtract"]),
        (lambda x: x * SHIFT + SHIFT[::-1], ["constant", "multiply", "constant", "add"]),
        (
            lambda x: x * jax.nn.sigmoid(x.mean((1, 2), keepdims=True)),  # squeeze and excitation
            ["sum", "reshape", "divide", "sigmoid", "multiply"],
        ),
        (lambda x: nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))), ["max_pool"]),
        (lambda x: max_pool(x, (2, 2), strides=(2, 2)), ["max_pool"]),
        (lambda x: nnx.avg_pool(x, (2, 2), (2, 2)), ["sum_pool", "divide"]),
        (lambda x: nnx.avg_pool(x, (2, 3), (1, 2), ((1, 0), (1, 1))), ["sum_pool", "divide"]),
        (
            lambda x: jnp.pad(x[:, ::2, 1:-1, :2], [(0, 0), (1, 0), (0, 2), (1, 1)]),
            ["slice", "pad"],
        ),
        (lambda x: jnp.concatenate([x[..., :1], x[..., 1:]], -1), ["slice"] * 2 + ["concatenate"]),
        (lambda x: jnp.concatenate([x[:, :1], x], 1), ["slice", "concatenate"]),
        (lambda x: x.reshape(len(x), 3, 12, 4), ["reshape"]),
        (lambda x: x + x.max((1, 2), keepdims=True), ["max", "reshape", "add"]),
        (lambda x: jax.jit(jax.checkpoint(nnx.relu))(x), ["maximum"]),
        (nnx.leaky_relu, ["greater_equal", "multiply", "where"]),
        (nnx.celu, ["maximum", "minimum", "divide", "expm1", "multiply", "add"]),
        (nnx.softmax, ["max", "reshape", "subtract", "exp", "sum", "reshape", "divide"]),
        (lambda x: x**3 / jnp.sqrt(x * x + 1), ["multiply"] * 3 + ["add", "sqrt", "divide"]),
        (lambda x: jnp.where(x < 0.5, x, SHIFT), ["greater", "constant", "where"]),
        (lambda x: x.transpose(0, 2, 3, 1).transpose(0, 3, 1, 2), []),
        (lambda x: x.transpose(0, 2, 1, 3), ["transpose"]),
        (lambda x: jnp.split(x, 2, -1)[1].repeat(2, -1), ["slice", "reshape", "take", "reshape"]),
    ],
)
def test_what_happens_between_layers_is_translated(between, ops):
    found = [node.op for node in check(Around(between)).nodes]
    assert found == ["convolution", *ops, "convolution", "sum", "divide", "dense"]


def test_flattened_images_keep_their_order():
    network = Around(nnx.relu, lambda x: x.reshape(len(x), -1), features=4 * 6 * 6)
    assert [n.op for n in check(network).nodes][-2:] == ["reshape", "dense"]


def test_dense_layers_over_more_than_one_vector():
    check(Around(nnx.relu, lambda x: x.max(1)))
    check(Around(nnx.relu, lambda x: x))


@pytest.mark.parametrize(
    ("between", "named"),
    [
        (lambda x: jnp.sort(x, -1), "'sort'"),
        (lambda x: jnp.floor(x), "'floor'"),
        (lambda x: jnp.cumsum(x, -1), "'cumsum'"),
        (lambda x: jnp.sort(x, -1), r"at .*test_capture.py:\d+:\d+ \(<lambda>\)"),
        (lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y + 1, x), "'scan'|'while'"),
        (lambda x: x - x.mean(0, keepdims=True), "'reduce_sum'|mixes the images"),
        (lambda x: x * len(x), "the number of images in the batch"),
        (lambda x: x * jnp.arange(len(x))[:, None, None, None], "treats the images"),
        (lambda x: x.transpose(1, 0, 2, 3) * 2, "moves the axis of the images"),
        (lambda x: jnp.concatenate(jnp.split(x, len(x)), 1), "splits the batch|depends on the"),
        (lambda x: x**2.5, "'pow'"),
    ],
)
def test_what_cannot_be_translated_is_named(between, named):
    network = coupled_of(Around(nnx.relu), candidates=(6, 4))
    network.between = between
    with pytest.raises(UnsupportedNetwork, match=f"cannot be exported.*({named})"):
        capture(network, IMAGE_SHAPE)


class WithNorm(Around):
    """Has a BatchNorm between its convolutions, in one place or another."""

    def __init__(self, place):
        super().__init__(nnx.relu)
        self.norm, self.place = BatchNorm(4, rngs=nnx.Rngs(0)), place

    def __call__(self, x):
        x = self.stem(x)
        x = self.norm(nnx.relu(x)) if self.place == "late" else self.norm(x) + x
        return self.fc(self.behind(self.conv(x)))


@pytest.mark.parametrize(
    ("place", "ops"),
    [
        ("late", ["convolution", "maximum", "affine", "convolution"]),
        # The sum needs the layer's own output as well.
        ("shared", ["convolution", "affine", "add", "convolution"]),
    ],
)
def test_a_batch_norm_that_no_layer_can_contain_stays(place, ops):
    assert [n.op for n in check(WithNorm(place)).nodes][:4] == ops
