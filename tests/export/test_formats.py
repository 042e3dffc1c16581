"""ONNX and StableHLO beside the integer runtime."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import nnx

from rfquant_jax.errors import UserError
from rfquant_jax.export.formats import onnx as onnx_model
from rfquant_jax.export.formats import onnx_fast, stablehlo
from rfquant_jax.export.ir import runtime
from rfquant_jax.export.ir.fold import fold
from rfquant_jax.export.verify.runners import open_all, run_onnx
from rfquant_jax.quant import convert
from tests.conftest import IMAGE_SHAPE, images
from tests.export.conftest import at
from tests.export.trace.test_capture import SHIFT, Around, WithNorm, coupled_of

BETWEEN = {
    "relu6": nnx.relu6,
    "arithmetic": lambda x: (1 - jnp.abs(-x)) * SHIFT / 3,
    "excitation": lambda x: x * jax.nn.sigmoid(x.mean((1, 2), keepdims=True)),
    "max_pool": lambda x: nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))),
    "avg_pool": lambda x: nnx.avg_pool(x, (2, 3), (1, 2), ((1, 0), (1, 1))),
    "slice_and_pad": lambda x: jnp.pad(x[:, ::2, 1:-1], [(0, 0), (1, 0), (0, 2), (0, 0)]),
    "concatenate": lambda x: jnp.concatenate([x[..., 1:], jnp.tanh(x[..., :1])], -1),
    "reshape": lambda x: x.reshape(len(x), 3, 12, 4),
    "max": lambda x: (jnp.maximum(x, 0.1) + x.max((1, 2), keepdims=True)) / 8,
    "maxout": lambda x: jnp.concatenate([x, 2 - x], -1).reshape(len(x), 6, 6, 4, 2).max(-1),
    "leaky": lambda x: nnx.leaky_relu(x, 0.1),
    "gelu": lambda x: nnx.gelu(x, approximate=False),
    "gelu_tanh": nnx.gelu,
    "mish": jax.nn.mish,
    "elu": nnx.elu,
    "selu": nnx.selu,
    "celu": nnx.celu,
    "softplus": nnx.softplus,
    "prelu": lambda x: jnp.where(x >= 0, x, SHIFT * x),
    "where": lambda x: jnp.where((x > 0.2) & ~(x <= -0.3) | (x == 0), x, -jnp.sign(x) / 2),
    "group_norm": lambda x: normalized(x.reshape(len(x), 6, 6, 2, 2), (1, 2, 4)).reshape(x.shape),
    "layer_norm": lambda x: normalized(x, (3,)),
    "shuffle": lambda x: x.reshape(*x.shape[:3], 2, 2).swapaxes(3, 4).reshape(x.shape),
    "split": lambda x: jnp.concatenate(jnp.split(x, 2, -1)[::-1], -1),
    "einsum": lambda x: jnp.einsum("nhwc,cd->nhwd", x, np.outer(SHIFT, 1 - SHIFT) + np.eye(4)),
    "repeat": lambda x: x[:, :3].repeat(2, 1),
    "attention": lambda x: attention(x.reshape(len(x), 36, 4)).reshape(x.shape),
    "heads": lambda x: jnp.einsum("nhwc,nhvc->nhwv", x, x)[..., :4],
    "bilinear": lambda x: jax.image.resize(x, (len(x), 3, 9, 4), "bilinear"),
    "nearest": lambda x: jax.image.resize(x, (len(x), 12, 3, 4), "nearest"),
    "sum_of_groups": lambda x: jnp.concatenate([x, x * x], -1).reshape(len(x), 6, 6, 2, 4).sum(3),
}


def normalized(x, axes):
    """As LayerNorm and GroupNorm do, without their parameters."""
    mean = x.mean(axes, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(jnp.square(x - mean).mean(axes, keepdims=True) + 0.1)


def attention(x):
    """One head over positions [N, P, C]: queries, keys and values are the input."""
    return jnp.einsum("nqk,nkc->nqc", nnx.softmax(jnp.einsum("nqc,nkc->nqk", x, x)), x)


BEHIND = {
    "softmax": (lambda x: x.mean((1, 2)), 4),
    "flat": (lambda x: x.reshape(len(x), -1), 4 * 36),
    "rows": (lambda x: x.max(1), 4),
    "everywhere": (lambda x: x, 4),
    "over four axes": (lambda x: x.reshape(len(x), 6, 3, 2, 4), 4),
}


def compare(model, x, path):
    """All ONNX variants and the StableHLO program give what the integer runtime does.

    The input is such that no rounding tie is near: then nothing but the last digits may differ.
    """
    expected = runtime.run(model, x)
    for variant in ("plain", "small", "fast"):
        if variant == "fast":
            onnx_fast.write(path, model)
        else:
            onnx_model.write(path, model, small=variant == "small")
        onnx.checker.check_model(str(path), full_check=True)
        found = run_onnx(path).predict(x)
        if found.ndim == 4:  # an ONNX output that is an image has its channels first
            found = np.moveaxis(found, 1, -1)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    found = jax.jit(stablehlo.program(model))(x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.ptp(expected, axis=0).max() > 0.01


@pytest.mark.parametrize("between", BETWEEN)
def test_every_operation_between_layers(between, tmp_path, rng):
    network = coupled_of(Around(BETWEEN[between]), candidates=(6, 4))
    compare(fold(network, IMAGE_SHAPE).stored(), images(rng, 3), tmp_path / "a.onnx")


@pytest.mark.parametrize("behind", BEHIND)
def test_every_kind_of_classifier(behind, tmp_path, rng):
    pool, features = BEHIND[behind]
    network = coupled_of(Around(nnx.relu, pool, features), candidates=(6, 4))
    compare(fold(network, IMAGE_SHAPE).stored(), images(rng, 3), tmp_path / "a.onnx")


@pytest.mark.parametrize("place", ["late", "shared"])
def test_batch_norms_on_their_own(place, tmp_path, rng):
    network = coupled_of(WithNorm(place), candidates=(6, 4))
    compare(fold(network, IMAGE_SHAPE).stored(), images(rng, 3), tmp_path / "a.onnx")


@pytest.mark.parametrize("bits", [(2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (3, 6), (6, 2)])
def test_every_bit_width_of_depthwise_projecting_and_signed_layers(
    scrambled, space, bits, tmp_path, rng
):
    model = fold(at(scrambled, space.uniform(*bits)), IMAGE_SHAPE).stored()
    compare(model, images(rng, 3), tmp_path / "a.onnx")


def test_eight_and_seven_bits(plain, tmp_path, rng):
    for bits in (8, 7):
        network = coupled_of(plain, candidates=(bits,))
        model = fold(network, IMAGE_SHAPE).stored()
        assert model.layers["conv"].input_range[1] == 2 ** (bits - 1) - 1
        compare(model, images(rng, 3), tmp_path / "a.onnx")


ACTIVATIONS = {  # and whether their codes are 4-bit tensors
    "none": (lambda x: x, True),
    "relu": (nnx.relu, True),
    "residual": (lambda x: x + nnx.relu6(x), True),
    "relu6": (nnx.relu6, False),
    "bounded below": (lambda x: jnp.maximum(x, 0.1), False),
    "relu of clip": (lambda x: nnx.relu(jnp.clip(x, -1, 1.5)), False),
    "pooled relu6": (lambda x: nnx.max_pool(nnx.relu6(x), (2, 2), (1, 1)), False),
    "twice": (lambda x: nnx.relu(nnx.relu(x)), False),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_four_bit_codes_behind_any_activation(activation, tmp_path, rng):
    """onnxruntime cannot load 4-bit codes of what was clipped; those keep 8 bits and a Clip."""
    between, as_four_bits = ACTIVATIONS[activation]
    network = coupled_of(Around(between), candidates=(4,))
    convert.set_signed(network, ["fc"])
    model = fold(network, IMAGE_SHAPE).stored()
    compare(model, images(rng, 3), tmp_path / "a.onnx")
    small = onnx_model.make(model, small=True)
    kinds = {t.data_type for t in small.graph.initializer if not t.dims and len(t.raw_data) == 1}
    four_bits = onnx.TensorProto.UINT4 in kinds
    assert four_bits == as_four_bits


def kernels_of(path):
    model = onnx.load(path)
    kinds = {onnx.TensorProto.INT8: "int8", onnx.TensorProto.INT4: "int4"}
    return {
        t.name.removesuffix(".kernel"): (kinds[t.data_type], len(t.raw_data))
        for t in model.graph.initializer
        if t.name.endswith(".kernel")
    }


def test_the_small_variant_keeps_two_codes_a_byte(model, tmp_path):
    """Weights at 6, 2, 5 and 3 bits; 72, 216, 24, 48, 72 and 40 of them."""
    onnx_model.write(tmp_path / "plain.onnx", model, small=False)
    onnx_model.write(tmp_path / "small.onnx", model, small=True)
    assert {kind for kind, _ in kernels_of(tmp_path / "plain.onnx").values()} == {"int8"}
    assert kernels_of(tmp_path / "small.onnx") == {
        "stem": ("int8", 72),
        "conv": ("int8", 216),
        "projection.0": ("int4", 12),
        "expand": ("int8", 48),
        "depthwise": ("int4", 36),
        "fc": ("int8", 40),
    }
    plain = onnx.load(tmp_path / "plain.onnx")
    assert [(o.domain, o.version) for o in plain.opset_import] == [("", 13)]
    held = {p.key: json.loads(p.value) for p in plain.metadata_props}
    assert held["mean"] == [0.5]
    assert held["codes"].keys() == model.layers.keys() - {"stem"}
    shape = plain.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in shape] == ["batch", 2, 6, 6]


def test_onnx_takes_any_number_of_images(model, tmp_path, rng):
    onnx_model.write(tmp_path / "a.onnx", model, small=False)
    session = onnxruntime.InferenceSession(
        str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"]
    )
    x = images(rng, 5)
    for count in (1, 5):
        (found,) = session.run(["logits"], {"image": np.moveaxis(x[:count], -1, 1)})
        expected = runtime.run(model.stored(), x[:count])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_stablehlo_artifact_is_for_several_platforms_and_any_number_of_images(
    model, tmp_path, rng
):
    path = tmp_path / "a.stablehlo"
    stablehlo.write(path, model, ("cpu", "cuda"))
    artifact = stablehlo.read(path)
    assert artifact.platforms == ("cpu", "cuda")
    assert str(artifact.in_avals[0].shape) == "(batch, 6, 6, 2)"
    for count in (1, 4):
        x = images(rng, count)
        expected = runtime.run(model.stored(), x)
        np.testing.assert_allclose(artifact.call(x), expected, rtol=1e-4, atol=1e-4)


def test_the_stablehlo_artifact_grows_with_the_packed_kernels(model, tmp_path):
    """A kernel of 64 x 64 x 9 weights with 2 bits is 9216 bytes."""
    sizes = []
    for outputs in (8, 64):
        rng = np.random.default_rng(0)
        kernel = rng.integers(-2, 2, (outputs, 3, 3, 64)).astype(np.int8)
        ones = np.ones(outputs, np.float32)
        node = replace(
            model.graph.nodes[0],
            attributes=model.graph.nodes[0].attributes | {"kernel": [outputs, 3, 3, 64]},
        )
        graph = replace(model.graph, input_shape=(6, 6, 64), nodes=(node,), output=node.output)
        layer = replace(
            model.layers["conv"], kernel=kernel, weight_bits=2, scale=ones, bias=0 * ones
        )
        made = replace(model, graph=graph, layers={"stem": layer})
        stablehlo.write(tmp_path / "a", made, ("cpu",))
        sizes.append((tmp_path / "a").stat().st_size)
    grown = 56 * 9 * 64 * 2 // 8
    assert 0.95 * grown < sizes[1] - sizes[0] < 1.05 * grown


def test_float_convolutions_that_are_only_nearly_whole_are_rounded(model, rng, monkeypatch):
    node, data = model.graph.nodes[2], model.layers["conv"]
    assert node.layer == "conv"
    low, high = data.input_range
    codes = rng.integers(low, high + 1, (2, 6, 6, 4)).astype(np.float32)
    expected = stablehlo.integer_convolution(codes, data.kernel, data, node.attributes)
    right = stablehlo._convolve
    monkeypatch.setattr(stablehlo, "_convolve", lambda *args: right(*args) - 1e-3)
    found = stablehlo.exact_convolution(codes, data.kernel, data, node.attributes)
    np.testing.assert_array_equal(found, expected)


def test_a_stablehlo_artifact_of_one_image_at_a_time(model, tmp_path, rng):
    path = tmp_path / "a.stablehlo"
    stablehlo.write(path, model, ("cpu",), batch=1)
    assert stablehlo.read(path).in_avals[0].shape == (1, *IMAGE_SHAPE)
    assert "gather" not in str(stablehlo.read(path).mlir_module())  # as dynamic slices become
    x = images(rng, 3)
    found = open_all({"stablehlo": path})["stablehlo"].predict(x)
    np.testing.assert_allclose(found, runtime.run(model.stored(), x), rtol=1e-4, atol=1e-4)


def test_the_stablehlo_artifact_names_no_files_of_this_machine(model, tmp_path):
    path = tmp_path / "a.stablehlo"
    limit = jax.config.jax_traceback_in_locations_limit
    stablehlo.write(path, model, ("cpu",))
    assert jax.config.jax_traceback_in_locations_limit == limit
    content = path.read_bytes()
    for name in (b"rfquant_jax/", b"site-packages", b".py"):
        assert name not in content
    assert json.loads((tmp_path / "a.stablehlo.json").read_text()) == {"mean": [0.5]}


@pytest.mark.parametrize("content", [b"", b"nonsense", bytes(5000)])
def test_damaged_artifacts_are_refused(content, tmp_path):
    path = tmp_path / "a.stablehlo"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a.stablehlo: is damaged or not a StableHLO artifact"):
        stablehlo.read(path)
    with pytest.raises(UserError, match=r"missing: cannot be read"):
        stablehlo.read(tmp_path / "missing")
