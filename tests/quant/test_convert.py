"""Conversion of plain networks: which layers, with which candidates, and what stays the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rfquant_jax.errors import UserError
from rfquant_jax.nn.batch_norm import BatchNorm
from rfquant_jax.nn.features import Feature
from rfquant_jax.quant import convert, lsq
from rfquant_jax.quant.batch_norm import SwitchableBatchNorm
from rfquant_jax.quant.layers import QuantConv, QuantDense, quantized_layers
from tests.conftest import IMAGE_SHAPE, SEARCHED, images
from tests.networks.transformers import Perceptron


def by_name(layers):
    return {layer.name: layer for layer in layers}


def test_the_plan_finds_layers_in_forward_order_with_their_costs(layers):
    assert [layer.name for layer in layers] == ["stem", *SEARCHED, "fc"]
    found = by_name(layers)
    # 6x6 images, the stem keeps their size, stride 2 leaves 3x3
    assert found["stem"].macs == 6 * 6 * 3 * 3 * 2 * 4
    assert found["conv"].macs == 3 * 3 * 3 * 3 * 4 * 6
    assert found["projection.0"].macs == 3 * 3 * 1 * 4 * 6
    assert found["depthwise"].macs == 3 * 3 * 3 * 3 * 1 * 8
    assert found["fc"].macs == 8 * 5
    assert found["conv"].batch_norm == ("bn",)
    assert found["projection.0"].batch_norm == ("projection", 1)
    assert found["fc"].batch_norm is None


def test_the_plan_fixes_first_and_last_and_spares_depthwise_layers(layers):
    found = by_name(layers)
    assert found["stem"].candidates == found["fc"].candidates == ()
    assert not found["stem"].quantize_input
    assert found["fc"].quantize_input
    assert found["conv"].candidates == (6, 5, 4, 3, 2)
    assert found["depthwise"].candidates == (6, 5, 4, 3)
    assert found["depthwise"].is_depthwise
    assert not found["conv"].is_depthwise


def test_rules_narrow_and_fix_and_the_later_one_wins(plain):
    rules = [("*", (5, 4)), ("conv", (4, 3)), ("expand", (8,))]
    found = by_name(convert.plan(plain, IMAGE_SHAPE, rules=rules))
    assert found["projection.0"].candidates == (5, 4)
    assert found["conv"].candidates == (4, 3)
    assert found["expand"].candidates == ()
    assert found["expand"].fixed_bits == (8, 8)
    assert found["stem"].fixed_bits == found["fc"].fixed_bits == (8, 8)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (("convv*", (4,)), "'convv*' matches no searched layer; they are conv, projection.0"),
        (("stem", (4,)), "matches no searched layer"),
        (("conv", (7, 4)), "'conv' asks for bits (7, 4)"),
    ],
)
def test_a_rule_that_cannot_hold_is_refused(plain, rule, said):
    with pytest.raises(UserError) as error:
        convert.plan(plain, IMAGE_SHAPE, rules=[rule])
    assert said in str(error.value)


def test_the_coupled_network_has_quantized_layers_in_place(plain, coupled):
    assert isinstance(coupled.stem, QuantConv)
    assert coupled.stem.input_quantizer is None
    assert coupled.stem.weight_quantizer.candidates == (8,)
    assert isinstance(coupled.stem_bn, BatchNorm)
    assert isinstance(coupled.projection[1], SwitchableBatchNorm)
    assert coupled.bn.mean[...].shape == (5, 5, 6)
    assert isinstance(coupled.fc, QuantDense)
    assert coupled.fc.input_quantizer.candidates == (8,)
    assert not coupled.fc.input_quantizer.signed
    assert isinstance(plain.conv, nnx.Conv), "the plain network must stay as it is"
    np.testing.assert_array_equal(coupled.conv.kernel[...], plain.conv.kernel[...])


def test_weight_steps_follow_the_formula(plain, coupled):
    kernel = np.asarray(plain.conv.kernel[...], np.float64)
    reach = max(abs(kernel.mean() + s * 3 * kernel.std(ddof=1)) for s in (-1, 1))
    expected = [reach / 2 ** (b - 1) for b in (6, 5, 4, 3, 2)]
    np.testing.assert_allclose(coupled.conv.weight_quantizer.step[...], expected, rtol=1e-6)


def test_banks_start_as_copies_of_the_plain_batch_norm(layers, plain, rng):
    trained = nnx.clone(plain)
    for name in ("scale", "bias", "mean", "var"):
        getattr(trained.bn, name).set_value(jnp.asarray(rng.uniform(1, 2, 6), jnp.float32))
    bn = convert.quantize(trained, layers).bn
    for name in ("scale", "bias", "mean", "var"):
        banks = getattr(bn, name)[...]
        assert jnp.all(banks == getattr(trained.bn, name)[...]), name


def test_without_quantizers_the_coupled_network_computes_the_plain_one(plain, coupled, rng):
    x = jnp.asarray(images(rng, 4))
    bare, reference = nnx.clone(coupled), nnx.clone(plain)
    for layer in quantized_layers(bare):
        layer.weight_quantizer = layer.input_quantizer = None
    bare.eval()
    reference.eval()
    np.testing.assert_allclose(bare(x), reference(x), rtol=1e-5, atol=1e-6)


def test_a_layer_fixed_at_full_precision_is_not_quantized(plain):
    layers = convert.plan(plain, IMAGE_SHAPE, rules=[("conv", (lsq.FULL_PRECISION,))])
    network = convert.quantize(plain, layers)
    assert network.conv.weight_quantizer is None
    assert network.conv.input_quantizer is None
    assert isinstance(network.bn, BatchNorm)


class Odd(nnx.Module):
    """A network with one thing wrong."""

    def __init__(self, wrong, rngs):
        padding = {"padding": "CIRCULAR", "dilation": 1}.get(wrong, "SAME")
        self.conv = nnx.Conv(2, 2, (3, 3), padding=padding, rngs=rngs)
        dilation = 2 if wrong == "dilation" else 1
        self.second = nnx.Conv(2, 2, (3, 3), padding=padding, input_dilation=dilation, rngs=rngs)
        self.norm = BatchNorm(2, rngs=rngs)
        self.feature = Feature("nowhere" if wrong == "feature" else "second")
        if wrong == "transpose":
            self.up = nnx.ConvTranspose(2, 2, (2, 2), rngs=rngs)
        self.wrong = wrong

    def __call__(self, x):
        x = self.conv(x)
        if self.wrong == "norm":
            x = self.norm(x)
        x = self.feature(self.norm(self.second(x)))
        if self.wrong == "twice":
            x = self.conv(x)
        return x.mean((1, 2))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("twice", "layer conv is called more than once"),
        ("norm", "norm is called more than once: each layer needs a BatchNorm of its own"),
        ("transpose", "layer up is an nnx.ConvTranspose, which cannot be quantized"),
        ("feature", "Feature feature marks layer 'nowhere', which does not exist"),
        ("padding", "layer conv: padding 'CIRCULAR' is not supported"),
        ("dilation", "layer second: input_dilation=2 is not supported: it must be 1"),
    ],
)
def test_networks_that_cannot_be_converted_are_refused_by_name(wrong, said):
    network = Odd(wrong, nnx.Rngs(0))
    with pytest.raises(UserError) as error:
        convert.quantize(network, convert.plan(network, (4, 4, 2)))
    assert said in str(error.value)


class Doubled(nnx.Conv):
    """A convolution whose own `__call__` conversion would lose."""

    def __call__(self, x):
        return 2 * super().__call__(x)


class Named(nnx.Conv):
    """Another constructor alone changes nothing."""

    def __init__(self, rngs):
        super().__init__(2, 2, (3, 3), rngs=rngs)


def _network(second=None, norm=None, head=None):
    """A convolution, the layers given, and a head."""

    class Network(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.first = nnx.Conv(2, 2, (3, 3), rngs=rngs)
            self.second = second or nnx.Conv(2, 2, (3, 3), rngs=rngs)
            self.norm = norm or BatchNorm(2, rngs=rngs)
            self.head = head or nnx.Linear(2, 2, rngs=rngs)

        def __call__(self, x):
            return self.head(self.norm(self.second(self.first(x))).mean((1, 2)))

    return Network()


def _conv(**options):
    return {"second": nnx.Conv(2, 2, (3, 3), rngs=nnx.Rngs(0), **options)}


def _norm(**options):
    return {"norm": nnx.BatchNorm(2, rngs=nnx.Rngs(0), **options)}


def _double(x, kernel, *options, **others):
    return 2 * jax.lax.conv_general_dilated(x, kernel, *options, **others)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"second": Doubled(2, 2, (3, 3), rngs=nnx.Rngs(0))},
            "layer second is a Doubled, a subclass of nnx.Conv with its own __call__",
        ),
        (_conv(mask=jnp.ones((3, 3, 2, 2))), "layer second: mask=array(3, 3, 2, 2) is not"),
        (_conv(precision="highest"), "layer second: precision='highest' is not supported"),
        (_conv(conv_general_dilated=_double), "layer second: conv_general_dilated=_double is not"),
        (_conv(preferred_element_type=jnp.float64), "second: preferred_element_type=float64 is"),
        (
            _conv(param_dtype=jnp.bfloat16),
            "second.bias is bfloat16, but parameters (nnx.Param) must be float32",
        ),
        (_norm(axis=1), "layer norm: axis=1 is not supported: it must be -1"),
        (_norm(axis_name="data"), "layer norm: axis_name='data' is not supported"),
        (_norm(dtype=jnp.bfloat16), "layer norm: dtype=bfloat16 is not supported"),
        (
            {"head": nnx.Linear(2, 2, dot_general=_double, rngs=nnx.Rngs(0))},
            "layer head: dot_general=_double is not supported: it must be dot_general",
        ),
    ],
)
def test_what_a_conversion_would_drop_is_refused_by_name(parts, said):
    with pytest.raises(UserError) as error:
        convert.plan(_network(**parts), (4, 4, 2))
    assert said in str(error.value)


def _returning(change):
    """A network that returns something else than its logits."""

    class Network(type(_network())):
        def __call__(self, x):
            return change(super().__call__(x))

    return Network()


class WithMode(nnx.Module):
    """A network of another library's habit: the mode is an argument."""

    def __init__(self):
        self.inner = _network()

    def __call__(self, x, train, *, rngs):
        return self.inner(x)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (_returning(lambda y: (y, y)), "the network returns a tuple: it must return the logits"),
        (_returning(lambda y: {"logits": y, "aux": y}), "returns a dict of aux, logits: it must"),
        (_returning(lambda y: y[0]), "the network returns float32[2] for 2 images: it must"),
        (_returning(lambda y: y.argmax(-1, keepdims=True)), "returns int32[2, 1] for 2 images"),
        (WithMode(), "its __call__ also needs rngs: give them defaults"),
    ],
)
def test_a_network_that_does_not_map_images_to_logits_is_refused(network, said):
    with pytest.raises(UserError) as error:
        convert.plan(network, (4, 4, 2))
    assert said in str(error.value)


def test_a_subclass_without_a_call_of_its_own_is_converted():
    network = _network(second=Named(nnx.Rngs(0)))
    coupled = convert.quantize(network, convert.plan(network, (4, 4, 2)))
    assert isinstance(coupled.second, QuantConv)


def test_layers_without_a_feature_are_named(plain, layers):
    assert convert.layers_without_feature(plain, layers) == ["projection.0", "depthwise"]


def test_depthwise_layers_keep_three_bits_whatever_the_rules(plain):
    layers = convert.plan(plain, IMAGE_SHAPE, rules=[("*", (4, 3, 2))])
    candidates = {layer.name: layer.candidates for layer in layers if layer.candidates}
    assert candidates["conv"] == (4, 3, 2)
    assert candidates["depthwise"] == (4, 3)
    for bits in ((2,), (2, 2)):
        with pytest.raises(UserError, match="depthwise is depthwise and must keep at least 3 bits"):
            convert.plan(plain, IMAGE_SHAPE, rules=[("depthwise", bits)])


def test_a_network_without_a_searched_layer_is_refused(plain):
    with pytest.raises(UserError, match="no layer is left to search"):
        convert.plan(plain, IMAGE_SHAPE, rules=[("*", (4,))])


ALL = (6, 5, 4, 3, 2)


def planned(**options):
    """The plan of a perceptron with two hidden dense layers, by layer."""
    network = Perceptron((2, 2, 3), 5, nnx.Rngs(0))
    return {layer.name: layer for layer in convert.plan(network, (2, 2, 3), **options)}


def test_dense_layers_between_the_first_and_the_classifier_are_searched():
    found = planned(fixed_bits=7)
    assert [layer.candidates for layer in found.values()] == [(), ALL, ALL, ()]
    assert [layer.quantize_input for layer in found.values()] == [False, True, True, True]
    assert found["hidden.0"].fixed_bits == found["head"].fixed_bits == (7, 7)
    assert [layer.macs for layer in found.values()] == [12 * 16, 16 * 12, 12 * 8, 8 * 5]


def test_only_its_full_name_selects_the_classifier():
    found = planned(rules=[("*", (4, 3)), ("head", (5,))])
    assert [layer.candidates for layer in found.values()] == [(), (4, 3), (4, 3), ()]
    assert found["head"].fixed_bits == (5, 5)
    assert planned(rules=[("head", (6, 2))])["head"].candidates == (6, 2)
    with pytest.raises(UserError, match="pattern 'hea\\*' matches no searched layer; they are hid"):
        planned(rules=[("hea*", (4,))])
