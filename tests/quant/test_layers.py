"""Quantized layers and switchable BatchNorm against NumPy, and what a configuration selects."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rfquant_jax.nn.batch_norm import BatchNorm
from rfquant_jax.nn.features import listening_to_inputs, recording_features
from rfquant_jax.quant.batch_norm import SwitchableBatchNorm
from rfquant_jax.quant.layers import (
    QuantConv,
    QuantDense,
    Quantizer,
    StepSize,
    assign,
    evaluate_on_codes,
    searched_layers,
)
from tests.conftest import IMAGE_SHAPE, SEARCHED, equations, images


def numpy_quantize(x, s, low, high):
    return s * np.rint(np.clip(np.asarray(x, np.float64) / s, low, high))


def make_quantizer(steps, signed, candidates):
    quantizer = Quantizer(candidates, signed=signed, scale_gradient=False)
    quantizer.step = StepSize(jnp.asarray(steps, jnp.float32))
    return quantizer


def make_dense(weight_steps, input_steps, candidates=(4, 2)):
    plain = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    return QuantDense(
        plain,
        name="dense",
        index=0,
        bits=(4, 4),
        weight_quantizer=make_quantizer(weight_steps, True, candidates),
        input_quantizer=make_quantizer(input_steps, False, candidates),
    )


@pytest.mark.parametrize(("w", "a"), [(4, 4), (4, 2), (2, 4), (2, 2)])
def test_a_dense_layer_uses_the_steps_of_its_bits(w, a, rng):
    layer = make_dense([0.125, 0.5], [0.25, 1.0])
    layer.bits.set_value(jnp.asarray([w, a]))
    x = rng.uniform(-1, 5, (7, 3)).astype(np.float32)
    kernel = numpy_quantize(
        layer.kernel[...], {4: 0.125, 2: 0.5}[w], -(2 ** (w - 1)), 2 ** (w - 1) - 1
    )
    quantized = numpy_quantize(x, {4: 0.25, 2: 1.0}[a], 0, 2**a - 1)
    expected = quantized @ kernel + np.asarray(layer.bias[...])
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-5)


def test_an_unused_step_size_gets_no_gradient():
    layer = make_dense([0.125, 0.5], [0.25, 1.0])
    layer.bits.set_value(jnp.asarray([2, 4]))
    gradients = nnx.grad(
        lambda m: jnp.sum(m(jnp.ones((2, 3)) * 0.6)), argnums=nnx.DiffState(0, StepSize)
    )(layer)
    weight, inputs = (gradients[q]["step"][...] for q in ("weight_quantizer", "input_quantizer"))
    assert weight[0] == 0
    assert inputs[1] == 0
    assert weight[1] != 0
    assert inputs[0] != 0


def test_thirty_two_bits_are_not_quantized():
    quantizer = Quantizer((32, 4), signed=True, scale_gradient=False)
    x = jnp.asarray([0.1234, -7.7])
    assert jax.jit(quantizer.__call__)(x, jnp.int32(32)).tolist() == x.tolist()
    assert jax.jit(quantizer.__call__)(x, jnp.int32(4)).tolist() == [0.0, -8.0]


def test_switchable_batch_norm_moves_only_its_own_bank(rng):
    plain = BatchNorm(3, rngs=nnx.Rngs(0))
    plain.scale.set_value(jnp.asarray([1.0, 2.0, 3.0]))
    layer = SwitchableBatchNorm(plain, layer="l", index=0, candidates=(6, 4, 2), bits=(6, 6))
    layer.bits.set_value(jnp.asarray([4, 2]))
    x = rng.normal(2, 3, (8, 5, 5, 3)).astype(np.float32)
    y = np.asarray(layer(jnp.asarray(x)))

    flat = x.reshape(-1, 3).astype(np.float64)
    expected = (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5) * [1, 2, 3]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.mean[...][1, 2], 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.var[...][1, 2], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)
    others = np.ones((3, 3), bool)
    others[1, 2] = False
    assert np.all(np.asarray(layer.mean[...])[others] == 0)
    assert np.all(np.asarray(layer.var[...])[others] == 1)


def test_switchable_batch_norm_evaluates_with_its_running_statistics():
    layer = SwitchableBatchNorm(
        BatchNorm(1, rngs=nnx.Rngs(0)), layer="l", index=0, candidates=(4, 2), bits=(4, 4)
    )
    layer.mean.set_value(layer.mean[...].at[1, 0].set(5.0))
    layer.var.set_value(layer.var[...].at[1, 0].set(4.0 - 1e-5))
    layer.eval()
    layer.bits.set_value(jnp.asarray([2, 4]))
    assert float(layer(jnp.full((1, 1, 1, 1), 9.0))[0, 0, 0, 0]) == pytest.approx(2.0)


def test_assign_reaches_every_layer_and_its_batch_norm(coupled):
    network = nnx.clone(coupled)
    configuration = jnp.asarray([[6, 5], [4, 3], [3, 2], [5, 6]], jnp.int32)
    assign(network, configuration)
    assert [layer.name for layer in searched_layers(network)] == list(SEARCHED)
    for layer, row in zip(searched_layers(network), configuration.tolist(), strict=True):
        assert layer.bits[...].tolist() == row
    norms = {m.layer: m for _, m in nnx.iter_modules(network) if isinstance(m, SwitchableBatchNorm)}
    for name, row in zip(SEARCHED, configuration.tolist(), strict=True):
        assert norms[name].bits[...].tolist() == row
    assert network.fc.bits[...].tolist() == [8, 8]


def test_features_come_from_marks_else_from_the_batch_norm(coupled, rng):
    network = nnx.clone(coupled)
    network.eval()
    with recording_features() as features:
        network(jnp.asarray(images(rng, 3)))
    assert features["expand"].min() == 0  # its Feature sits behind the ReLU
    assert features["conv"].min() < 0  # its Feature sits behind the BatchNorm
    assert features["depthwise"].min() < 0  # it has no Feature: the BatchNorm's output
    assert features["projection.0"].shape == features["conv"].shape


def test_listeners_see_the_unquantized_inputs_in_forward_order(coupled, rng):
    seen = []
    with listening_to_inputs(lambda layer, x: seen.append((layer.name, x.shape[-1]))):
        nnx.clone(coupled)(jnp.asarray(images(rng, 2)))
    assert seen == [
        ("stem", IMAGE_SHAPE[-1]),
        ("conv", 4),
        ("projection.0", 4),
        ("expand", 6),
        ("depthwise", 8),
        ("fc", 8),
    ]


def test_the_scaling_of_step_gradients_reaches_the_quantizer(rng):
    x = jnp.asarray(rng.normal(size=(5, 7)), jnp.float32)

    def slope(scale_gradient):
        quantizer = Quantizer((4, 2), signed=True, scale_gradient=scale_gradient)
        graphdef, state = nnx.split(quantizer)
        loss = lambda state: jnp.sum(nnx.merge(graphdef, state)(x, jnp.int32(4)) * x)  # noqa: E731
        return float(jax.grad(loss)(state)["step"][...][0])

    # 1 / sqrt(elements * Qp), Qp = 7 at 4 signed bits.
    assert slope(True) == pytest.approx(slope(False) / np.sqrt(35 * 7), rel=1e-5)


def make_conv(signed, candidates=(4, 2), groups=1, channels=4, window=(3, 3)):
    plain = nnx.Conv(
        channels, 8, window, feature_group_count=groups, use_bias=True, rngs=nnx.Rngs(0)
    )
    plain.bias.set_value(jnp.linspace(-1, 1, 8))
    return QuantConv(
        plain,
        name="conv",
        index=0,
        bits=candidates,
        strides=(2, 1),
        padding=((1, 0), (1, 1)),
        dilation=(1, 1),
        weight_quantizer=make_quantizer([0.05, 0.2], True, candidates),
        input_quantizer=make_quantizer([0.3, 1.1], signed, candidates),
    )


def convolve_by_hand(x, kernel, strides, padding):
    """Float64, `x[N, H, W, C]` with `kernel[3, 3, C, O]`."""
    x = np.pad(x, [(0, 0), *padding, (0, 0)])
    rows = (x.shape[1] - 3) // strides[0] + 1
    columns = (x.shape[2] - 3) // strides[1] + 1
    y = np.zeros((len(x), rows, columns, kernel.shape[3]))
    for i, j in np.ndindex(rows, columns):
        window = x[:, i * strides[0] :, j * strides[1] :][:, :3, :3]
        y[:, i, j] = np.einsum("nhwc,hwco->no", window, kernel)
    return y


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("w", "a"), [(4, 2), (2, 4)])
def test_a_convolution_on_codes_is_the_exact_one(signed, w, a, rng):
    layer = make_conv(signed)
    layer.bits.set_value(jnp.asarray([w, a]))
    x = rng.normal(0.5, 1.5, (3, 6, 5, 4)).astype(np.float32)
    s_w, s_a = {4: 0.05, 2: 0.2}[w], {4: 0.3, 2: 1.1}[a]
    low, high = (-(2 ** (a - 1)), 2 ** (a - 1) - 1) if signed else (0, 2**a - 1)
    kernel = numpy_quantize(layer.kernel[...], s_w, -(2 ** (w - 1)), 2 ** (w - 1) - 1)
    expected = convolve_by_hand(numpy_quantize(x, s_a, low, high), kernel, (2, 1), ((1, 0), (1, 1)))
    expected += np.linspace(-1, 1, 8)
    for dtype in (None, jnp.int8, jnp.bfloat16, jnp.float32):
        layer.codes_dtype = dtype
        np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-5)
    layer.dtype = jnp.bfloat16  # whose numbers x is made of now
    x = jnp.asarray(x, jnp.bfloat16)
    expected = convolve_by_hand(numpy_quantize(x, s_a, low, high), kernel, (2, 1), ((1, 0), (1, 1)))
    expected += np.linspace(-1, 1, 8)
    for dtype in (jnp.int8, jnp.bfloat16, jnp.float32):
        layer.codes_dtype = dtype
        found = layer(x)
        assert found.dtype == jnp.bfloat16
        # The sum is rounded twice, before the bias is added and after.
        reach = np.abs(expected).max()
        np.testing.assert_allclose(np.float64(found), expected, rtol=2**-8, atol=reach * 2**-8)


class Meter(nnx.Module):
    """A user's module with an attribute that has the name of ours."""

    def __init__(self):
        self.bits, self.index = 8, 0


def test_a_configuration_leaves_attributes_of_other_modules_alone():
    network = nnx.List([Meter(), make_conv(False)])
    network[1].index = 0
    assign(network, jnp.asarray([[4, 2]]))
    assert network[0].bits == 8
    assert network[1].bits[...].tolist() == [4, 2]


def operand_dtypes(layer, x):
    return {
        str(variable.aval.dtype)
        for equation in equations(jax.make_jaxpr(layer)(x).jaxpr)
        if equation.primitive.name == "conv_general_dilated"
        for variable in equation.invars
    }


def test_codes_are_convolved_only_where_they_fit_and_only_when_asked(monkeypatch):
    def wide(signed, candidates=(4, 2)):
        return make_conv(signed, candidates, channels=32)

    many = jnp.ones((1, 6, 5, 32))
    assert operand_dtypes(wide(False), many) == {"float32"}
    asked = {
        "int8": [wide(False), wide(True, candidates=(8, 2))],
        "float32": [wide(False, candidates=(8, 2)), wide(True, candidates=(32, 2))],
    }
    for dtype, layers in asked.items():
        for layer in layers:
            evaluate_on_codes(layer)
            assert operand_dtypes(layer, many) == {dtype}
    x = jnp.ones((1, 6, 5, 4))
    few, single = make_conv(False), make_conv(False, channels=32, window=(1, 1))
    for layer in few, single:
        evaluate_on_codes(layer)
        assert layer.codes_dtype == jnp.float32
    assert operand_dtypes(few, x) == {"float32"}
    grouped = make_conv(False, groups=2)
    evaluate_on_codes(grouped)
    assert operand_dtypes(grouped, x) == {"float32"}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    elsewhere, narrow, dilated = (make_conv(False) for _ in range(3))
    narrow.dtype, dilated.dilation = jnp.bfloat16, (2, 1)
    for layer, dtype in ((elsewhere, "int8"), (narrow, "int8"), (dilated, "float32")):
        evaluate_on_codes(layer)
        assert operand_dtypes(layer, x) == {dtype}
    assert "preferred_element_type=int32" in str(jax.make_jaxpr(narrow)(x))


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("dtype", [jnp.int8, jnp.float32])
def test_codes_do_not_hide_what_is_not_finite(value, dtype):
    layer = make_conv(False)
    layer.codes_dtype = dtype
    x = jnp.ones((3, 6, 5, 4))
    assert np.isfinite(layer(x)).all()
    one_image = layer(x.at[1, 5, 4, 2].set(value))  # the last position, in one channel
    assert np.isnan(one_image[1]).all()
    assert np.isfinite(one_image[::2]).all()
    layer.kernel.set_value(layer.kernel[...].at[1, 1, 0, 3].set(jnp.nan))
    assert np.isnan(layer(x)).all()
