import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rfquant_jax.export.ir.fold import fold, weight_codes
from rfquant_jax.quant import convert
from rfquant_jax.quant.cost import CostModel
from rfquant_jax.quant.layers import assign
from tests.conftest import IMAGE_SHAPE
from tests.export.conftest import at


def test_codes_scale_and_bias_by_hand(mixed, model):
    """Layer `conv`: weights at 6 bits (slot 0), input at 2 bits (slot 4)."""
    layer = model.layers["conv"]
    assert (layer.weight_bits, layer.input_bits, layer.input_signed) == (6, 2, False)
    kernel = np.asarray(mixed.conv.kernel[...], np.float64)
    weight_step = float(mixed.conv.weight_quantizer.step[...][0])
    input_step = float(mixed.conv.input_quantizer.step[...][4])
    codes = np.round(kernel / weight_step).clip(-32, 31)
    assert np.abs(codes).max() > 2
    np.testing.assert_array_equal(layer.kernel, codes.transpose(3, 0, 1, 2))
    assert layer.kernel.dtype == np.int8
    mean, variance, scale, bias = (
        np.asarray(getattr(mixed.bn, name)[...][0, 4], np.float64)
        for name in ("mean", "var", "scale", "bias")
    )
    factor = scale / np.sqrt(variance + 1e-5)
    assert layer.input_step == input_step
    np.testing.assert_allclose(layer.scale, factor * weight_step * input_step, rtol=1e-12)
    np.testing.assert_allclose(layer.bias, bias - mean * factor, rtol=1e-12)
    assert (layer.scale < 0).any()
    # The statistics make the mean 0 and the variance v / (v + epsilon) before scale and bias.
    deviation = np.abs(scale) * np.sqrt(variance / (variance + 1e-5))
    np.testing.assert_allclose(layer.spread, [bias, deviation], rtol=1e-9, atol=1e-12)
    assert layer.stored().spread is None


def test_kernels_round_half_to_even_and_saturate_at_both_ends(mixed):
    layer = nnx.clone(mixed).conv
    steps = np.asarray([-40, -32.4, -31.5, -2.5, -0.5, 0.5, 1.5, 31.2, 31.6, 40], np.float32)
    kernel = np.zeros(216, np.float32)
    kernel[:10] = steps
    layer.weight_quantizer.step.set_value(jnp.full(5, 0.25))
    layer.kernel.set_value(jnp.asarray(kernel.reshape(3, 3, 4, 6) * 0.25))
    bits, step, codes = weight_codes(layer)
    assert (bits, step) == (6, 0.25)
    found = codes.transpose(1, 2, 3, 0).ravel()[:10]
    assert found.tolist() == [-32, -32, -32, -2, 0, 0, 2, 31, 31, 31]


def test_first_and_last_layers(mixed, model):
    stem, last = model.layers["stem"], model.layers["fc"]
    assert (stem.weight_bits, stem.input_bits, stem.input_step) == (8, 32, 1.0)
    assert (last.weight_bits, last.input_bits, last.input_signed) == (8, 8, False)
    step = float(mixed.fc.weight_quantizer.step[...][0])
    np.testing.assert_allclose(last.scale, step * last.input_step, rtol=1e-12)
    np.testing.assert_array_equal(last.bias, np.asarray(mixed.fc.bias[...], np.float64))
    assert model.layers["expand"].input_signed


@pytest.mark.parametrize("bits", [(6, 6), (5, 2), (3, 3), (2, 6)])
def test_kernels_take_the_bytes_that_the_search_counted(scrambled, layers, space, bits):
    """Each kernel is rounded up to a whole byte, and nothing else is added."""
    configuration = space.uniform(*bits)
    found = fold(at(scrambled, configuration), IMAGE_SHAPE)
    exact = CostModel.of(layers).size_mb(configuration) * 2**20
    assert exact <= found.kernel_bytes < exact + len(layers)
    # By hand: stem 72, conv 216, projection 24, expand 48, depthwise 72, fc 40 weights.
    w = bits[0]
    by_hand = [72 * 8, 216 * w, 24 * w, 48 * w, 72 * max(w, 3), 40 * 8]
    assert found.kernel_bytes == sum(-(-size // 8) for size in by_hand)


def test_unquantized_operands(plain, layers):
    """With 32 among the candidates either operand may stay as it is."""
    candidates = (32, 4)
    wide = convert.plan(plain, IMAGE_SHAPE, candidates=candidates, fixed_bits=32)
    network = convert.quantize(plain, wide, candidates=candidates)
    convert.set_signed(network, ["expand"])
    network.eval()
    assign(network, jnp.asarray([[32, 4], [4, 32], [32, 32], [4, 4]], jnp.int32))
    found = fold(network, IMAGE_SHAPE).layers
    widths = {name: (layer.weight_bits, layer.input_bits) for name, layer in found.items()}
    assert widths == {
        "stem": (32, 32),
        "conv": (32, 4),
        "projection.0": (4, 32),
        "expand": (32, 32),
        "depthwise": (4, 4),
        "fc": (32, 32),
    }
    for name in ("conv", "fc"):
        assert found[name].kernel.dtype == np.float32
    np.testing.assert_array_equal(
        found["conv"].kernel, np.moveaxis(np.asarray(plain.conv.kernel[...]), -1, 0)
    )


def test_a_convolution_with_a_bias_of_its_own():
    class Net(nnx.Module):
        def __init__(self):
            self.stem = nnx.Conv(2, 4, (1, 1), rngs=nnx.Rngs(0))
            self.norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))
            self.conv = nnx.Conv(4, 3, (1, 1), rngs=nnx.Rngs(1))

        def __call__(self, x):
            return self.conv(self.norm(self.stem(x))).mean((1, 2))

    plain = Net()
    plain.stem.bias.set_value(jnp.asarray([1.0, 2.0, 3.0, 4.0]))
    network = convert.quantize(plain, convert.plan(plain, (2, 2, 2), candidates=(4,)),
                               candidates=(4,))  # fmt: skip
    network.norm.scale.set_value(jnp.asarray([2.0, 1.0, 1.0, -1.0]))
    network.norm.mean.set_value(jnp.asarray([0.0, 1.0, 0.0, 0.0]))
    network.norm.var.set_value(jnp.asarray([4.0, 1.0, 0.25, 1.0]) - 1e-5)
    network.eval()
    # (b - m) * g / sqrt(v) + h, h = 0
    found = fold(network, (2, 2, 2)).layers["stem"].bias
    np.testing.assert_allclose(found, [1.0, 1.0, 6.0, -4.0], rtol=1e-6)
