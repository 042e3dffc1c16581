"""Step-size initialisation against a float64 forward pass, and the search for signed inputs."""

import jax
import numpy as np
import pytest

from rfquant_jax.errors import UserError
from rfquant_jax.nn.functional import FunctionalNetwork
from rfquant_jax.quant import calibrate, convert
from rfquant_jax.quant.space import Space
from tests.conftest import IMAGE_SHAPE, identity, images, mesh_of


def step(x, upper):
    return 2 * np.abs(np.asarray(x, np.float64)).mean() / np.sqrt(upper)


def quantize(x, s, low, high):
    return s * np.rint(np.clip(x / s, low, high))


def batch_norm(x):
    flat = x.reshape(-1, x.shape[-1])
    return (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)


def test_signed_inputs_are_found_by_looking(coupled, rng):
    batches = [images(rng, 8)]
    assert calibrate.find_signed(coupled, batches, identity, mesh_of(2)) == ["expand"]


def test_overrides_of_signed_inputs():
    names = ["a", "b.0", "b.1"]
    assert calibrate.override_signed(["a"], names, ["b.*"], ["b.1"]) == ["a", "b.0"]
    with pytest.raises(UserError, match=r"`unsigned`: 'c\*' matches none of a, b.0, b.1"):
        calibrate.override_signed([], names, [], ["c*"])


@pytest.fixture(scope="module")
def initialised(functional, space):
    """Parameters after two batches on two devices, and the four device batches."""
    rng = np.random.default_rng(3)
    batches = [images(rng, 8) for _ in range(2)]
    params = calibrate.initialize_activation_steps(functional, space, batches, identity, mesh_of(2))
    return jax.device_get(params), [b[i : i + 4] for b in batches for i in (0, 4)]


def test_the_first_layers_steps_are_means_over_batches_and_devices(initialised, coupled):
    params, shards = initialised
    kernel = np.asarray(coupled.stem.kernel[...], np.float64)
    s = float(coupled.stem.weight_quantizer.step[...][0])
    kernel = quantize(kernel, s, -128, 127)
    found = params["conv.input_quantizer.step"]
    for slot, bits in enumerate((6, 5, 4, 3, 2)):
        expected = []
        for shard in shards:
            y = np.asarray(jax.lax.conv_general_dilated(
                shard.astype(np.float32), kernel.astype(np.float32), (1, 1), "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC")), np.float64)  # fmt: skip
            expected.append(step(np.maximum(batch_norm(y), 0), 2**bits - 1))
        assert found[slot] == pytest.approx(np.mean(expected), rel=1e-5), bits


def test_signed_layers_use_the_signed_upper_code(initialised):
    params, _ = initialised
    steps = params["expand.input_quantizer.step"]
    # At 2 bits Qp = 1: the step is twice the mean size of the input, which is about 0.8 after two
    # BatchNorms were added; with the unsigned Qp = 3 it would be 1.7 times smaller.
    assert 1.5 < steps[4] < 3.5


@pytest.mark.parametrize("rules", [(), (("conv", (4, 3)), ("expand", (6, 3)))])
def test_later_layers_see_the_steps_of_earlier_ones(plain, rules, rng):
    """A single-batch initialisation is a fixed point: running the same pass measures the same."""
    batch = [images(rng, 4)]
    layers = convert.plan(plain, IMAGE_SHAPE, rules=rules)
    functional, space = (
        FunctionalNetwork(convert.quantize(plain, layers)),
        Space.of(layers, convert.CANDIDATES),
    )
    first = calibrate.initialize_activation_steps(functional, space, batch, identity, mesh_of(1))
    again = FunctionalNetwork(functional.merge(first, functional.stats))
    second = calibrate.initialize_activation_steps(again, space, batch, identity, mesh_of(1))
    for name, value in first.items():
        np.testing.assert_allclose(second[name], value, rtol=1e-6, err_msg=name)


def test_depthwise_layers_keep_their_own_smallest_step(initialised, functional):
    params, _ = initialised
    steps = params["depthwise.input_quantizer.step"]
    assert np.all(np.diff(steps[:4]) > 0), "fewer bits, larger steps"
    assert steps[4] == 1.0, "2 bits are none of its candidates: never set"


def test_the_classifier_takes_its_step_from_the_pass_at_the_largest_bits(functional, space, rng):
    from dataclasses import replace

    batch = [images(rng, 4)]
    everything = calibrate.initialize_activation_steps(
        functional, space, batch, identity, mesh_of(1)
    )
    largest_only = replace(space, full_mask=space.full_mask & (np.arange(5) == 0))
    alone = calibrate.initialize_activation_steps(
        functional, largest_only, batch, identity, mesh_of(1)
    )
    name = "fc.input_quantizer.step"
    np.testing.assert_allclose(everything[name], alone[name], rtol=1e-6)
    assert everything[name].shape == (1,)
