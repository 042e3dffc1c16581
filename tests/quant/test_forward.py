"""What a network returns, found on abstract passes, and which networks are refused."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rfquant_jax as rfq
from rfquant_jax.errors import ArgumentError, RunFailure, UserError
from rfquant_jax.quant import convert
from rfquant_jax.quant.batch_norm import SwitchableBatchNorm
from rfquant_jax.quant.forward import check_classes, logits_shape
from rfquant_jax.quant.layers import QuantConv

SHAPE = (4, 4, 2)


def conv(**options):
    return nnx.Conv(2, 2, (3, 3), rngs=nnx.Rngs(0), **options)


class Network(nnx.Module):
    """Two convolutions, a BatchNorm and a head of `classes`."""

    def __init__(self, classes=3):
        self.first, self.second = conv(), conv()
        self.norm = nnx.BatchNorm(2, rngs=nnx.Rngs(0))
        self.head = nnx.Linear(2, classes, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.head(self.norm(self.second(self.first(x))).mean((1, 2)))


class Dense(Network):
    """Logits at every pixel."""

    def __call__(self, x):
        return self.head(self.norm(self.second(self.first(x))))


class Auxiliary(Network):
    """A second output in training mode, as of an auxiliary head."""

    def __call__(self, x):
        y = super().__call__(x)
        return y if self.norm.use_running_average else (y, y)


class Keyless(Network):
    """Dropout without random numbers, which evaluation does not need."""

    def __init__(self):
        super().__init__()
        self.dropout = nnx.Dropout(0.5)

    def __call__(self, x):
        return super().__call__(self.dropout(x))


class Reading(Network):
    """Its code reads a value of a layer."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def __call__(self, x):
        getattr(self.second, self.name)
        return super().__call__(x)


def test_the_shape_of_logits_is_that_of_one_image():
    assert logits_shape(Network(7), SHAPE) == (7,)
    assert logits_shape(Dense(5), SHAPE) == (4, 4, 5)
    assert logits_shape(nnx.eval_shape(lambda: Network(7)), SHAPE) == (7,)
    assert rfq.plan(Network(7), SHAPE).logits_shape == (7,)


def test_another_number_of_logits_is_refused_with_both_numbers():
    check_classes((4, 4, 5), 5)
    rfq.plan(Network(10), SHAPE, num_classes=10)
    with pytest.raises(UserError) as error:
        rfq.plan(Network(1000), SHAPE, num_classes=10)
    assert str(error.value).startswith("the network returns 1000 logits, but there are 10 classes")


def test_labels_without_a_logit_are_refused_before_training_and_evaluation():
    images, labels = np.zeros((8, *SHAPE), np.float32), np.asarray([0, 1, 2, -1, 0, 1, 2, 9])
    network = Network(3)
    coupled = rfq.couple(network, rfq.plan(network, SHAPE), images, devices=1)
    config = rfq.TrainConfig.full_precision(epochs=1, warmup_epochs=0, batch_size=8)
    coupled_config = rfq.TrainConfig(epochs=1, warmup_epochs=0, batch_size=8, scheduler=None)
    said = "`data` = 9: has labels up to this one, but the network has 3 logits"
    for call in (
        lambda: rfq.Trainer(network, config, devices=1, log=None).run((images, labels)),
        lambda: rfq.Trainer(coupled, coupled_config, log=None).run((images, labels)),
        lambda: rfq.evaluate(coupled, "w4a4", (images, labels)),
    ):
        with pytest.raises(ArgumentError) as error:
            call()
        assert str(error.value) == said
    kept = rfq.evaluate(coupled, "w4a4", (images[:7], labels[:7]))
    assert kept.images == 6  # without the one of label -1


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Auxiliary(), "the network returns a tuple in training mode: it must return the logits"),
        (Keyless(), "runs in evaluation mode, but not in training mode: ValueError: `determin"),
        (Reading("out_features"), "layer second: the network reads its out_features (test_forward"),
    ],
)
def test_what_would_fail_later_is_refused_by_the_plan(network, said):
    with pytest.raises(UserError) as error:
        rfq.plan(network, SHAPE)
    assert said in str(error.value)


class Small(Network):
    """It cannot take images of other than two channels."""

    def __call__(self, x):
        return super().__call__(x.reshape(-1, 4, 4, 2))[:1, :3]


def test_code_that_fails_is_named_with_its_line():
    with pytest.raises(RunFailure) as error:
        rfq.plan(Small(), (5, 5, 2))
    said = "the network fails on an image of shape (5, 5, 2): TypeError: cannot reshape array of "
    assert str(error.value).startswith(said)
    line = inspect.getsourcelines(Small.__call__)[1] + 1
    assert str(error.value).endswith(f"(test_forward.py, line {line})")
    assert isinstance(error.value.__cause__, TypeError)


@pytest.mark.parametrize("name", ["kernel", "bias", "strides", "padding", "dtype"])
def test_what_a_quantized_layer_keeps_may_be_read(name):
    network = Reading(name)
    coupled = convert.quantize(network, rfq.plan(network, SHAPE).layers)
    assert coupled(jnp.ones((1, *SHAPE))).shape == (1, 3)


class Shared(nnx.Module):
    """Its layers can be reached by attributes and by a Sequential."""

    def __init__(self):
        self.stem, self.zulu = conv(), conv()
        self.odd_name = nnx.BatchNorm(2, rngs=nnx.Rngs(0))
        self.body = nnx.Sequential(self.zulu, self.odd_name, nnx.relu)

    def __call__(self, x):
        return self.body(self.stem(x)).mean((1, 2))


def test_a_layer_of_two_names_is_one_layer_with_its_batch_norm():
    network = Shared()
    plan = rfq.plan(network, SHAPE)
    assert [layer.name for layer in plan.layers] == ["stem", "body.layers.0"]
    assert plan.layers[1].batch_norm is not None
    coupled = convert.quantize(network, plan.layers)
    assert coupled.zulu is coupled.body.layers[0]
    assert isinstance(coupled.zulu, QuantConv)
    assert coupled.odd_name is coupled.body.layers[1]
    assert isinstance(coupled.odd_name, SwitchableBatchNorm)
    kernels = [p for p, _ in nnx.to_flat_state(nnx.state(coupled, nnx.Param)) if p[-1] == "kernel"]
    assert len(kernels) == 2


class Tied(nnx.Module):
    def __init__(self):
        self.first, self.second, self.third = conv(), conv(), conv()
        self.third.kernel = self.second.kernel

    def __call__(self, x):
        return self.third(self.second(self.first(x))).mean((1, 2))


class Stacked(nnx.Module):
    """Three equal layers, applied one after the other by a scan."""

    def __init__(self, layer):
        self.first, self.second = conv(), conv()
        self.layers = nnx.vmap(layer, in_axes=0, out_axes=0)(nnx.Rngs(0).split(3))

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def chain(x, layer):
            return layer(x)

        return chain(self.second(self.first(x)), self.layers).mean((1, 2))


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Tied(), "layers second and third share their kernel: each needs its own"),
        (
            Stacked(lambda rngs: nnx.Conv(2, 2, (3, 3), rngs=rngs)),
            "layer layers: its kernel (3, 3, 3, 2, 2) has 5 axes instead of 4: stacks of layers",
        ),
        (
            Stacked(lambda rngs: nnx.Linear(2, 2, rngs=rngs)),
            "layer layers: its kernel (3, 2, 2) has 3 axes instead of 2: stacks of layers",
        ),
        (
            Stacked(lambda rngs: nnx.BatchNorm(2, rngs=rngs)),
            "layer layers: its mean (3, 2) has 2 axes instead of 1: stacks of layers",
        ),
    ],
)
def test_layers_that_are_not_one_each_are_refused_by_name(network, said):
    with pytest.raises(UserError) as error:
        rfq.plan(network, SHAPE)
    assert said in str(error.value)


class Transformed(Network):
    """Its second convolution runs inside a transformation of its own."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def __call__(self, x):
        y = self.how(lambda layer, x: layer(x))(self.second, self.first(x))
        return self.head(self.norm(y).mean((1, 2)))


def over_images(call):
    return lambda layer, x: jax.vmap(lambda image: call(layer, image[None])[0])(x)


@pytest.mark.parametrize("how", [nnx.jit, nnx.remat, over_images])
def test_layers_inside_transformations_are_refused(how):
    with pytest.raises(UserError) as error:
        rfq.plan(Transformed(how), SHAPE)
    assert str(error.value).startswith("layer second is called inside a transformation, such as")
    with jax.named_scope("scope"):
        assert len(rfq.plan(Transformed(lambda call: call), SHAPE).layers) == 3


def test_only_an_nnx_module_is_a_network():
    with pytest.raises(UserError, match=r"the network must be an nnx\.Module, not a function"):
        rfq.plan(over_images, SHAPE)


class Scaled(Network):
    """A parameter of its own, besides those of layers."""

    def __init__(self, kind, dtype):
        super().__init__()
        self.gain = kind(jnp.ones(3, dtype))

    def __call__(self, x):
        return super().__call__(x) * self.gain[...]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int32])
def test_every_parameter_is_float32(dtype):
    rfq.plan(Scaled(nnx.Param, jnp.float32), SHAPE)
    rfq.plan(Scaled(nnx.Variable, dtype), SHAPE)  # it is not trained
    with pytest.raises(UserError) as error:
        rfq.plan(Scaled(nnx.Param, dtype), SHAPE)
    assert str(error.value).startswith(f"gain is {jnp.dtype(dtype)}, but parameters (nnx.Param)")


def test_statistics_belong_to_a_batch_norm():
    rfq.plan(Scaled(nnx.Variable, jnp.float32), SHAPE)
    with pytest.raises(UserError, match=r"^gain is an nnx\.BatchStat outside an nnx"):
        logits_shape(Scaled(nnx.BatchStat, jnp.float32), SHAPE)


def test_one_weight_and_constant_weights_have_finite_steps():
    class Sparse(nnx.Module):
        def __init__(self):
            def layer(value, size):
                made = nnx.Conv(1, 1, (size, size), use_bias=False, rngs=nnx.Rngs(0))
                made.kernel.set_value(jnp.full((size, size, 1, 1), value, jnp.float32))
                return made

            self.stem, self.one, self.zero = layer(1.0, 3), layer(-0.5, 1), layer(0.0, 3)
            self.head = nnx.Linear(1, 2, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.head(self.zero(self.one(self.stem(x))).mean((1, 2)))

    network = Sparse()
    coupled = rfq.couple(network, rfq.plan(network, (4, 4, 1)), np.ones((2, 4, 4, 1)), devices=1)
    layers = coupled.network
    np.testing.assert_allclose(  # |-0.5| / 2^(b - 1) at 6 to 2 bits
        layers.one.weight_quantizer.step[...], [2**-6, 2**-5, 2**-4, 2**-3, 2**-2], rtol=1e-6
    )
    np.testing.assert_allclose(  # 3 / sqrt(9 inputs) / 2^(b - 1)
        layers.zero.weight_quantizer.step[...], [2**-5, 2**-4, 2**-3, 2**-2, 2**-1], rtol=1e-6
    )
    steps = [np.asarray(v) for n, v in coupled.functional.params.items() if n.endswith("step")]
    assert all(np.all(np.isfinite(s) & (s > 0)) for s in steps)
    assert np.all(np.isfinite(coupled(jnp.ones((1, 4, 4, 1)))))
