"""Step sizes of a network that is not trained: against float64 grids, on any number of devices."""

import jax
import numpy as np
import pytest

from rfquant_jax.nn.features import listening_to_inputs
from rfquant_jax.nn.functional import FunctionalNetwork
from rfquant_jax.quant import post_training, step_search
from rfquant_jax.quant.calibrate import with_batch_statistics
from rfquant_jax.quant.layers import assign
from tests.conftest import identity, images, mesh_of
from tests.quant.test_step_search import dense_grid, error


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(3)
    return [images(rng, 48) for _ in range(3)]


@pytest.fixture(scope="module")
def on_devices(functional, space, batches):
    """Parameters by number of devices: of 3 batches, 2 devices leave one without a batch.

    Steps start at a size that makes every input zero: one that is searched must be used at once.
    """
    start = post_training.search_weight_steps(functional)
    start |= {k: v + 1000 for k, v in start.items() if k.endswith("input_quantizer.step")}
    return {
        count: jax.device_get(
            post_training.search_activation_steps(
                functional, start, space, batches, identity, mesh_of(count)
            )
        )
        for count in (1, 2)
    }


def test_the_same_on_any_number_of_devices(on_devices):
    for name, value in on_devices[1].items():
        np.testing.assert_array_equal(on_devices[2][name], value, err_msg=name)


def test_only_step_sizes_change(on_devices, functional):
    for name, value in on_devices[1].items():
        changed = not np.array_equal(value, functional.params[name])
        assert changed == name.endswith("quantizer.step"), name


def test_weight_steps_are_those_of_least_error(on_devices, functional):
    for layer in ("stem", "conv", "depthwise", "fc"):
        kernel = np.asarray(functional.params[f"{layer}.kernel"])
        found = on_devices[1][f"{layer}.weight_quantizer.step"]
        candidates = (8,) if layer in ("stem", "fc") else (6, 5, 4, 3, 2)
        assert np.array_equal(found, step_search.weight_steps(kernel, candidates)), layer


def inputs(functional, params, configuration, batches):
    """Every layer's inputs in all batches, with batch statistics."""
    seen = {}
    for batch in batches:
        network = with_batch_statistics(
            FunctionalNetwork(functional.merge(params, functional.stats)), params, functional.stats
        )
        assign(network, configuration)
        with listening_to_inputs(
            lambda layer, x: seen.setdefault(layer.name, []).append(np.asarray(x))
        ):
            network(batch)
    return {name: np.concatenate([x.ravel() for x in parts]) for name, parts in seen.items()}


@pytest.mark.parametrize("bits", [6, 2])
def test_no_step_of_a_dense_grid_is_better_over_all_batches(
    on_devices, functional, space, batches, bits
):
    """Also of late layers, on what the quantized layers before them make of the images.

    Those were searched while earlier layers had steps of a first round, a little off the final
    ones: their inputs differ a little from those here.
    """
    params = on_devices[1]
    seen = inputs(functional, params, space.uniform(bits, bits), batches)
    for layer, signed in (("conv", False), ("expand", True), ("depthwise", False)):
        if layer == "depthwise" and bits == 2:
            continue
        step = float(params[f"{layer}.input_quantizer.step"][(6, 5, 4, 3, 2).index(bits)])
        x = seen[layer]
        least = min(error(x, s, bits, signed) for s in dense_grid(x, bits, signed))
        margin = 1.001 if layer == "conv" else 1.02
        assert error(x, step, bits, signed) <= margin * least, layer


def test_depthwise_layers_keep_their_own_smallest_step(on_devices):
    steps = on_devices[1]["depthwise.input_quantizer.step"]
    assert np.all(np.diff(steps[:4]) > 0), "fewer bits, larger steps"
    assert steps[4] == 1001.0, "2 bits are none of its candidates: never set"


def test_a_stop_is_heeded_between_batches(functional, space, batches):
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        post_training.search_activation_steps(
            functional, functional.params, space, batches, identity, mesh_of(1), check
        )


@pytest.mark.parametrize("shape", [(8, 40, 32, 24), (300, 16, 16, 7), (5, 6, 6, 4), (131, 1024)])
def test_a_sample_meets_all_channels_alike(shape):
    x = np.broadcast_to(np.arange(shape[-1], dtype=np.float32), shape)
    taken = np.asarray(post_training.sample(jax.numpy.asarray(x))).astype(int)
    assert len(taken) <= post_training.SAMPLE
    assert len(taken) >= min(x.size, post_training.SAMPLE // 4)
    counts = np.bincount(taken, minlength=shape[-1])
    assert counts.max() - counts.min() <= 1
