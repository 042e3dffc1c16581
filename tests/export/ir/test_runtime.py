import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from rfquant_jax.errors import UserError
from rfquant_jax.export.formats import integer, integer_reader, stablehlo
from rfquant_jax.export.ir import runtime
from rfquant_jax.export.ir.fold import fold
from rfquant_jax.export.ir.graph import Node
from rfquant_jax.export.ir.model import LayerData
from rfquant_jax.export.ir.operations import CONVOLUTION, DENSE
from tests.conftest import IMAGE_SHAPE, images
from tests.export.conftest import at


def data_of(kernel, weight_bits=8, input_bits=8, signed=False, step=1.0):
    ones = np.ones(len(kernel), np.float32)
    return LayerData(weight_bits, input_bits, signed, step, kernel, ones, 0 * ones)


def naive(x, kernel, strides, padding, dilation, groups):
    """A convolution as its definition reads, in Python's whole numbers."""
    x = np.pad(x, [(0, 0), *padding, (0, 0)]).astype(object)
    outputs, kh, kw, inputs = kernel.shape
    rows = (x.shape[1] - dilation[0] * (kh - 1) - 1) // strides[0] + 1
    columns = (x.shape[2] - dilation[1] * (kw - 1) - 1) // strides[1] + 1
    y = np.zeros((len(x), rows, columns, outputs), object)
    places = itertools.product(*map(range, (*y.shape, kh, kw, inputs)))
    for n, r, c, o, i, j, channel in places:
        source = o // (outputs // groups) * inputs + channel
        pixel = x[n, r * strides[0] + i * dilation[0], c * strides[1] + j * dilation[1], source]
        y[n, r, c, o] += int(pixel) * int(kernel[o, i, j, channel])
    return y


SHAPES = [
    # channels in, out, window, strides, padding, dilation, groups
    (3, 4, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    (4, 4, (3, 2), (2, 1), ((0, 1), (2, 0)), (1, 2), 1),
    (4, 6, (2, 2), (1, 2), ((0, 0), (1, 1)), (1, 1), 2),
    (5, 5, (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 5),
    (3, 6, (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 3),
    (4, 3, (1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("signed", [False, True])
def test_accumulators_are_those_of_whole_numbers(shape, signed, rng):
    c_in, c_out, window, strides, padding, dilation, groups = shape
    kernel = rng.integers(-128, 128, (c_out, *window, c_in // groups)).astype(np.int8)
    low, high = (-128, 128) if signed else (0, 256)
    codes = rng.integers(low, high, (2, 5, 6, c_in))
    attributes = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    node, data = Node(CONVOLUTION, ("x",), "y", attributes), data_of(kernel, signed=signed)
    expected = naive(codes, kernel, strides, padding, dilation, groups).astype(np.int64)
    found = runtime.accumulate(node, data, codes.astype(np.float32))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)
    for convolution in (stablehlo.integer_convolution, stablehlo.exact_convolution):
        by_jax = convolution(jnp.asarray(codes, jnp.float32), jnp.asarray(kernel), data, attributes)
        assert by_jax.dtype == np.int32
        np.testing.assert_array_equal(by_jax, expected)


def test_accumulators_beyond_what_float32_can_count(rng):
    """Every product is 255 * 127 and odd; their sum needs more than 24 bits."""
    count = 3 * 3 * 128
    codes, kernel = np.full((1, 3, 3, 128), 255), np.full((2, 3, 3, 128), 127, np.int8)
    kernel[1, 0, 0, 0] = 126
    data = data_of(kernel)
    whole = {"strides": (1, 1), "padding": ((0, 0),) * 2, "dilation": (1, 1), "groups": 1}
    expected = [255 * 127 * count, 255 * 127 * count - 255]
    assert data.largest_accumulator == expected[0] > 2**24
    node = Node(CONVOLUTION, ("x",), "y", whole)
    assert runtime.accumulate(node, data, codes.astype(np.float32)).ravel().tolist() == expected
    floats = jnp.asarray(codes, jnp.float32)
    found = stablehlo.exact_convolution(floats, jnp.asarray(kernel), data, whole)
    assert found.ravel().tolist() == expected
    dense = data_of(kernel.reshape(2, -1))
    flat = codes.reshape(1, -1).astype(np.float32)
    found = runtime.accumulate(Node(DENSE, ("x",), "y"), dense, flat)
    assert found.ravel().tolist() == expected


def test_codes_round_half_to_even_and_saturate():
    x = np.asarray([-9.0, -0.5, 0.5, 1.5, 2.5, 3.49, 99.0], np.float32)
    unsigned, signed = (data_of(np.ones((1, 1), np.int8), 8, 3, s, 0.5) for s in (False, True))
    assert runtime.quantize(unsigned, x).tolist() == [0, 0, 1, 3, 5, 7, 7]
    assert runtime.quantize(signed, x).tolist() == [-4, -1, 1, 3, 3, 3, 3]
    ties = np.asarray([0.25, 0.75, 1.25, -0.25, -0.75], np.float32)
    assert runtime.quantize(signed, ties).tolist() == [0, 2, 2, 0, -2]


def test_a_model_that_could_overflow_or_is_broken_is_refused(model):
    kernel = np.full((1, 1, 1, 70000), 127, np.int8)
    for changed, said in (
        ({"kernel": kernel, "input_bits": 8}, "do not fit into 32 bits"),
        ({"scale": np.full(6, np.nan)}, "is not finite"),
        ({"input_step": 0.0}, "is not positive"),
    ):
        layers = dict(model.layers) | {"conv": replace(model.layers["conv"], **changed)}
        with pytest.raises(UserError, match=f"layer conv.*{said}"):
            replace(model, layers=layers).check()


@pytest.fixture(scope="module")
def in_double(scrambled):
    """The network's evaluation in float64 on kernels that lie on their grids: one compilation."""
    x = images(np.random.default_rng(3), 4)

    @jax.jit
    def logits(state, x):
        return nnx.merge(graphdef, state)(x)

    def evaluate(network, model):
        nonlocal graphdef
        with jax.enable_x64(True):
            copy = nnx.clone(network)
            for name, layer in model.layers.items():
                part = {"projection.0": copy.projection[0]}.get(name) or getattr(copy, name)
                slot = part.weight_quantizer.candidates.index(layer.weight_bits)
                step = float(part.weight_quantizer.step[...][slot])
                grid = np.moveaxis(layer.kernel.astype(np.float64) * step, 0, -1)
                part.kernel.set_value(jnp.asarray(grid))
            graphdef, state = nnx.split(copy)
            state = jax.tree.map(
                lambda v: v.astype(jnp.float64) if v.dtype == jnp.float32 else v, state
            )
            return np.asarray(logits(state, jnp.asarray(x, jnp.float64)))

    graphdef = None
    return x, evaluate


@st.composite
def configurations(draw):
    bits = st.sampled_from([6, 5, 4, 3, 2])
    rows = [[draw(bits), draw(bits)] for _ in range(4)]
    rows[3] = [max(b, 3) for b in rows[3]]  # the depthwise layer
    return np.asarray(rows, np.int32)


NORMALIZED = {"mean": [0.5, 0.25], "std": [0.25, 0.5]}  # values from -2 to 2 and from -0.5 to 1.5


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda x: (127 * x).astype(np.uint8), TypeError, "images of uint8 must be normalised"),
        (lambda x: x.astype(np.int32), TypeError, "images of int32 must be normalised"),
        (lambda x: x.tolist(), TypeError, "images of list must be normalised"),
        (lambda x: x[0], ValueError, r"\(6, 6, 2\) must have the shape \('N', 6, 6, 2\)"),
        (lambda x: x.transpose(0, 3, 1, 2), ValueError, "must have the shape"),
        (lambda x: np.where(x == x.max(), np.nan, x), ValueError, "from nan to nan"),
        (lambda x: np.where(x == x.max(), np.inf, x), ValueError, "to inf must be normalised"),
        (lambda x: np.where(x == x.max(), 2.1, x), ValueError, "2.1 must .* from -2.004 to 2.004"),
        (lambda x: 127 * np.abs(x), ValueError, "must be normalised"),
    ],
)
def test_what_is_no_normalised_image_is_refused(model, rng, change, error, said):
    normalised = replace(model, about=NORMALIZED).stored()
    x = rng.uniform(-2, 2, (3, *IMAGE_SHAPE)).astype(np.float32)
    assert runtime.run(normalised, x).shape == (3, 5)
    assert runtime.run(normalised, x[:0]).shape == (0, 5)
    with pytest.raises(error, match=said):
        runtime.run(normalised, change(x).astype(np.float32) if error is ValueError else change(x))


@pytest.mark.parametrize("about", [{}, {"mean": "a", "std": [1]}, {"mean": [0], "std": [0]}])
def test_without_a_mean_and_std_any_finite_number_is_an_image(model, rng, about):
    assert runtime.value_range(replace(model, about=about))[1] > 1e38


@given(configurations())
@settings(max_examples=15)
def test_any_configuration_survives_packing_and_runs_unchanged(
    scrambled, space, in_double, configuration
):
    x, evaluate = in_double
    network = at(scrambled, configuration)
    model = fold(network, IMAGE_SHAPE)
    np.testing.assert_allclose(
        runtime.run(model, x.astype(np.float64)), evaluate(network, model), rtol=0, atol=1e-10
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        integer.write(path, {"any": model})
        back = integer_reader.read(path).model()
    assert back.equals(model.stored())
    bits = {name: [layer.weight_bits, layer.input_bits] for name, layer in back.layers.items()}
    assert {name: bits[name] for name in space.names} == space.to_json(configuration)
    np.testing.assert_array_equal(runtime.run(back, x), runtime.run(model.stored(), x))
