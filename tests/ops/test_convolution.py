"""Convolutions in other ways than XLA's own, against it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rfquant_jax.errors import ArgumentError
from rfquant_jax.models.layers import SAME, SYMMETRIC, conv
from rfquant_jax.ops.convolution import convolve
from rfquant_jax.ops.cpu import batch_strip, switch
from rfquant_jax.ops.cpu.batch_strip import convolve_strip
from rfquant_jax.runtime.backend import compiling_for


def by_xla(x, kernel, *, strides, padding, dilation, groups=None, accumulator=None):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=strides,
        padding=padding,
        rhs_dilation=dilation,
        feature_group_count=groups or x.shape[-1],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=accumulator,
    )


@pytest.mark.parametrize(
    ("size", "window", "strides", "padding", "dilation"),
    [
        ((5, 6), (3, 3), (1, 1), "SAME", (1, 1)),
        ((6, 7), (3, 3), (2, 2), "SAME", (1, 1)),
        ((7, 6), (5, 5), (2, 2), ((2, 2), (2, 2)), (1, 1)),
        ((8, 9), (2, 3), (3, 1), "VALID", (1, 1)),
        ((9, 8), (3, 3), (2, 1), "SAME", (1, 2)),
        ((5, 5), (3, 3), (1, 1), ((0, 2), (1, 0)), (1, 1)),
        ((4, 4), (1, 1), (2, 2), "SAME", (1, 1)),
    ],
)
def test_shifted_images_give_what_xla_gives(size, window, strides, padding, dilation):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(*window, 1, 3)), jnp.float32)
    options = {"strides": strides, "padding": padding, "dilation": dilation}
    expected = by_xla(x, kernel, **options)
    np.testing.assert_allclose(convolve(x, kernel, groups=3, **options), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("count", "strides", "padding", "dilation"),
    [
        (2, (2, 2), "SAME", (1, 1)),
        (1, (1, 1), ((2, 0), (1, 3)), (1, 1)),
        (8, (1, 1), "VALID", (2, 1)),
        (11, (2, 1), "SAME", (1, 1)),  # of a prime number of images none are taken together
        (12, (3, 2), "VALID", (1, 2)),
    ],
)
def test_gradients_are_xlas_too(count, strides, padding, dilation):
    options = {"strides": strides, "padding": padding, "dilation": dilation}
    compare_gradients((count, 9, 8, 4), (3, 3, 1, 4), groups=4, **options)


@pytest.mark.parametrize(
    ("size", "window", "strides", "padding", "dilation"),
    [
        ((6, 7), (3, 3), (1, 1), "SAME", (1, 1)),
        ((7, 6), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
        ((7, 6), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)),
        ((9, 8), (7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1)),
        ((9, 8), (2, 4), (1, 1), "VALID", (1, 1)),
        ((9, 8), (3, 2), (3, 1), "SAME", (1, 1)),
        ((8, 9), (2, 3), (1, 3), "SAME", (2, 1)),
        ((9, 8), (3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2)),
        ((9, 8), (2, 3), (1, 1), ((0, 3), (5, 0)), (1, 2)),
        ((5, 1), (3, 3), (1, 1), "SAME", (1, 1)),
        ((5, 6), (1, 1), (1, 1), ((1, 0), (0, 2)), (1, 1)),
    ],
)
def test_gradients_across_all_channels_are_xlas(size, window, strides, padding, dilation):
    options = {"strides": strides, "padding": padding, "dilation": dilation}
    compare_gradients((3, *size, 4), (*window, 4, 5), groups=1, **options)


@pytest.mark.parametrize(
    ("size", "window", "padding", "dilation"),
    [
        ((7, 7), (3, 3), "SAME", (1, 1)),
        ((4, 5), (3, 3), ((1, 1), (1, 1)), (1, 1)),
        ((4, 5), (3, 3), ((2, 0), (0, 2)), (1, 1)),
        ((6, 5), (2, 4), "SAME", (1, 1)),
        ((6, 5), (3, 3), ((2, 2), (2, 2)), (2, 2)),
    ],
)
def test_small_images_of_many_channels_give_what_xla_gives(size, window, padding, dilation):
    options = {"strides": (1, 1), "padding": padding, "dilation": dilation}
    compare_gradients((3, *size, 129), (*window, 129, 130), groups=1, **options)


STRIPS = [
    ((7, 9), (3, 3), (1, 1), "SAME", (1, 1)),
    ((8, 9), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)),
    ((9, 8), (7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1)),
    ((9, 8), (3, 3), (1, 1), "VALID", (1, 1)),
    ((9, 10), (3, 3), (1, 3), ((2, 0), (0, 2)), (1, 2)),
    ((9, 8), (3, 4), (1, 1), ((2, 0), (3, 5)), (1, 1)),
]


@pytest.mark.parametrize(("size", "window", "strides", "padding", "dilation"), STRIPS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int8])
def test_images_in_a_strip_give_what_xla_gives(size, window, strides, padding, dilation, dtype):
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.integers(0, 127, (3, *size, 4)), dtype)
    kernel = jnp.asarray(rng.integers(-127, 127, (*window, 4, 5)), dtype)
    options = {"strides": strides, "padding": padding, "dilation": dilation}
    options["accumulator"] = jnp.int32 if dtype == jnp.int8 else jnp.float32
    # Whole numbers, exact in both types in any order.
    expected = by_xla(x, kernel, groups=1, **options)
    np.testing.assert_array_equal(convolve_strip(x, kernel, **options), expected)


@pytest.mark.parametrize(("size", "window", "strides", "padding", "dilation"), STRIPS)
def test_gradients_in_a_strip_are_xlas(monkeypatch, size, window, strides, padding, dilation):
    monkeypatch.setattr(batch_strip, "FEWEST", 1)
    monkeypatch.setattr(batch_strip, "LONG", 1)
    monkeypatch.setattr(batch_strip, "MANY", 1)
    options = {"strides": strides, "padding": padding, "dilation": dilation}
    x, kernel = jnp.ones((3, *size, 4)), jnp.ones((*window, 4, 5))
    text = jax.jit(lambda *a: convolve(*a, **options)).lower(x, kernel).as_text()
    assert f"<1x{size[0]}x" in text
    compare_gradients(x.shape, kernel.shape, groups=1, **options)


@pytest.mark.parametrize(
    ("of_images", "of_kernel", "dtype", "expected"),
    [
        ((64, 16, 16, 32), (3, 3, 32, 32), jnp.float32, True),
        ((64, 16, 16, 16), (3, 3, 16, 16), jnp.float32, False),
        ((8, 28, 28, 64), (3, 3, 64, 128), jnp.float32, True),
        ((8, 28, 28, 128), (3, 3, 128, 128), jnp.float32, False),
        ((8, 28, 28, 128), (3, 3, 128, 128), jnp.int8, True),
        ((8, 28, 28, 64), (3, 3, 64, 256), jnp.int8, False),
        ((8, 28, 28, 64), (3, 3, 64, 64), jnp.bfloat16, False),
        ((1, 56, 56, 64), (3, 3, 64, 64), jnp.float32, False),
        ((8, 4, 4, 64), (3, 3, 64, 64), jnp.float32, False),
        ((8, 112, 112, 3), (3, 3, 3, 32), jnp.float32, False),
    ],
)
def test_a_strip_is_for_few_channels_and_much_work(of_images, of_kernel, dtype, expected):
    x, kernel = jax.ShapeDtypeStruct(of_images, dtype), jax.ShapeDtypeStruct(of_kernel, dtype)
    assert batch_strip.pays(x, kernel, (1, 1), "SAME", (1, 1)) == expected


def test_no_strip_takes_a_padding_that_xla_gets_wrong():
    x = jax.ShapeDtypeStruct((64, 16, 16, 32), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 32, 32), jnp.float32)
    for padding, expected in (
        (((0, 1), (0, 1)), True),
        (((-1, 1), (1, 1)), False),
        (((1, 1), (-1, 1)), False),
        (((1, 1), (3, 0)), False),  # what is left of it on the other side is negative
    ):
        assert batch_strip.pays(x, kernel, (1, 1), padding, (1, 1)) == expected


def compare_gradients(of_images, of_kernel, *, groups, **options):
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=of_images), jnp.float32)
    # Outputs of about 1 for any number of channels.
    scale = np.sqrt(np.prod(of_kernel[:3]))
    kernel = jnp.asarray(rng.normal(size=of_kernel) / scale, jnp.float32)

    def loss(function):
        return lambda x, k: jnp.sum(jnp.sin(function(x, k, groups=groups, **options)))

    expected = (
        by_xla(x, kernel, groups=groups, **options),
        *jax.grad(loss(by_xla), (0, 1))(x, kernel),
    )
    got = (
        convolve(x, kernel, groups=groups, **options),
        *jax.jit(jax.grad(loss(convolve), (0, 1)))(x, kernel),
    )
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_processors_make_a_kernels_gradient_without_a_convolution():
    x, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 5))
    options = {"strides": (1, 1), "padding": "SAME"}

    def convolutions(function, **more):
        gradient = jax.grad(lambda x, k: jnp.sum(function(x, k, **options, **more)), 1)
        return jax.jit(gradient).lower(x, kernel).compile().as_text().count(" convolution(")

    # That of the forward pass is not needed for the gradient of a sum.
    assert (convolutions(convolve), convolutions(by_xla, groups=1, dilation=(1, 1))) == (0, 1)


@pytest.mark.parametrize("kernel", [(3, 3, 1, 1), (3, 3, 1, 2)])
def test_the_sums_of_a_bfloat16_kernels_gradient_are_not_rounded(kernel):
    x = jnp.full((16, 9, 9, 1), 1.0625, jnp.bfloat16)  # its square is no bfloat16 number
    kernel = jnp.ones(kernel, jnp.bfloat16)
    options = {"strides": (1, 1), "padding": "SAME", "groups": 1}
    y, back = jax.vjp(lambda k: convolve(x, k, **options), kernel)
    [gradients] = back(jnp.full(y.shape, 1.0625, jnp.bfloat16))
    assert gradients.dtype == jnp.bfloat16
    # The bfloat16 number next to 16 * 81 * 1.0625^2 = 1463.06; of rounded products it is 1456.
    assert gradients[1, 1, 0, 0] == 1464


def test_processors_take_no_grouped_convolution():
    x, kernel = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 1, 4))
    options = {"strides": (1, 1), "padding": "SAME"}
    text = jax.jit(lambda x, k: convolve(x, k, groups=4, **options)).lower(x, kernel).as_text()
    assert "stablehlo.convolution" not in text
    wide = jnp.ones((3, 3, 2, 8))  # two groups of four channels each are no depthwise layer
    x = jnp.ones((1, 8, 8, 4))
    text = jax.jit(lambda x, k: convolve(x, k, groups=2, **options)).lower(x, wide).as_text()
    assert "stablehlo.convolution" in text


@pytest.mark.parametrize(("strides", "shifts"), [((1, 1), False), ((2, 2), True), ((1, 2), True)])
def test_gpus_shift_images_of_strided_depthwise_layers_alone(strides, shifts):
    x, kernel = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 1, 4))

    def run(x, kernel):
        return convolve(x, kernel, groups=4, strides=strides, padding="SAME")

    with compiling_for("gpu"):
        text = str(jax.make_jaxpr(run)(x, kernel))
    assert ("conv_general_dilated" in text) != shifts


def test_sums_of_codes_of_a_single_channel_keep_their_dtype():
    """A convolution from one channel to one looks like a depthwise one."""
    x, kernel = jnp.full((1, 3, 3, 1), 15, jnp.int8), jnp.full((3, 3, 1, 1), 7, jnp.int8)
    options = {"strides": (2, 2), "padding": "VALID", "accumulator": jnp.int32}
    for backend in ("cpu", "gpu"):
        with compiling_for(backend):
            y = convolve(x, kernel, **options)
        assert y.dtype == jnp.int32
        assert y.item() == 9 * 15 * 7


def test_depthwise_sums_of_bfloat16_are_of_float32():
    x, kernel = jnp.ones((1, 3, 3, 1), jnp.bfloat16), jnp.full((3, 3, 1, 1), 1.0078125)
    options = {"strides": (2, 2), "padding": "VALID", "groups": 1}
    y, back = jax.vjp(lambda x: convolve(x, kernel.astype(x.dtype), **options), x)
    assert y.dtype == jnp.bfloat16
    # 9 * 1.0078125 = 9.0703125; bfloat16 has multiples of 1/16 there, and sums in it end at 9.
    assert y[0, 0, 0, 0] == 9.0625
    np.testing.assert_array_equal(back(y)[0], jnp.full(x.shape, 9.0625 * 1.0078125, x.dtype))


@pytest.mark.parametrize("padding", [SYMMETRIC, SAME])
def test_plain_layers_compute_the_same(padding):
    layer = conv(6, 6, 3, 2, nnx.Rngs(0), groups=6, padding=padding)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 6)), jnp.float32)
    pads = ((1, 1), (1, 1)) if padding == SYMMETRIC else ((0, 1), (0, 1))
    expected = by_xla(x, layer.kernel[...], strides=(2, 2), padding=pads, dilation=(1, 1))
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_an_unknown_padding_is_refused():
    with pytest.raises(ArgumentError, match="`padding` = 'same': must be symmetric or SAME"):
        conv(6, 6, 3, 2, nnx.Rngs(0), padding="same")


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (3, 1)])
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((0, 0), (0, 0))])
def test_a_kernel_of_one_pixel_gives_what_xla_gives_and_its_gradients(strides, padding):
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(size=(2, 7, 6, 4)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(1, 1, 4, 5)), jnp.float32)
    options = {"strides": strides, "padding": padding, "dilation": (1, 1), "groups": 1}

    def loss(function):
        return lambda x, k: jnp.sum(jnp.sin(function(x, k, **options)))

    expected, gradients = jax.value_and_grad(loss(by_xla), (0, 1))(x, kernel)
    got, found = jax.value_and_grad(loss(convolve), (0, 1))(x, kernel)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    for one, other in zip(found, gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert "conv_general_dilated" not in str(jax.make_jaxpr(loss(convolve))(x, kernel))


def test_whole_numbers_of_one_pixel_are_summed_as_whole_numbers():
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 127, (2, 5, 5, 300)).astype(np.int8)
    weights = rng.integers(-127, 127, (1, 1, 300, 7)).astype(np.int8)
    options = {"strides": (2, 2), "padding": "SAME", "accumulator": jnp.int32}
    got = convolve(jnp.asarray(codes), jnp.asarray(weights), **options)
    expected = codes[:, ::2, ::2].astype(np.int64) @ weights[0, 0].astype(np.int64)
    assert got.dtype == jnp.int32
    np.testing.assert_array_equal(got, expected)


def test_a_padded_kernel_of_one_pixel_sees_its_padding():
    x, kernel = jnp.ones((1, 2, 2, 1)), jnp.ones((1, 1, 1, 2))
    y = convolve(x, kernel, strides=(1, 1), padding=((1, 0), (0, 0)))
    np.testing.assert_array_equal(y[0, :, :, 0], [[0, 0], [1, 1], [1, 1]])


# One convolution that each kernel computes: image, kernel, groups.
SWITCHED = {
    "depthwise": ((2, 6, 6, 8), (3, 3, 1, 8), 8),
    "pointwise": ((2, 6, 6, 8), (1, 1, 8, 8), 1),
    "kernel_gradient": ((2, 6, 6, 8), (3, 3, 8, 8), 1),
    "batch_strip": ((4, 32, 32, 32), (3, 3, 32, 32), 1),
}
COMMON = {"strides": (1, 1), "padding": "SAME", "dilation": (1, 1)}


def values(image, window, groups):
    """The output and both gradients of a convolution, and the program that computes them."""
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in (image, window))

    def run(x, kernel):
        y, back = jax.vjp(lambda x, k: convolve(x, k, groups=groups, **COMMON), x, kernel)
        return y, *back(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    return jax.jit(run)(x, kernel), str(jax.make_jaxpr(run)(x, kernel))


@pytest.mark.parametrize("name", switch.KERNELS)
def test_with_a_kernel_off_xla_computes_the_same(name):
    ours, program = values(*SWITCHED[name])
    with switch.without(name):
        theirs, other = values(*SWITCHED[name])
    assert program != other, "this convolution does not use the kernel"
    for own, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=2e-4)
    assert values(*SWITCHED[name])[1] == program, "on again"


def test_with_all_kernels_off_there_is_one_convolution_of_xla():
    for image, window, groups in SWITCHED.values():
        x, kernel = jnp.zeros(image), jnp.zeros(window)
        with switch.without(*switch.KERNELS):
            traced = jax.make_jaxpr(lambda *a, g=groups: convolve(*a, groups=g, **COMMON))(
                x, kernel
            )
        assert [e.primitive.name for e in traced.jaxpr.eqns] == ["conv_general_dilated"]


def test_an_unknown_kernel_is_refused():
    with pytest.raises(ValueError, match=r"unknown kernels \['dense'\]; there are batch_strip"):
        switch.turn_off("dense")
