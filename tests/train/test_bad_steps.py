"""A step with a number that is not finite changes nothing, on no device and in no strategy."""

import jax
import numpy as np
import pytest

from rfquant_jax.quant.lsq import MIN_STEP
from rfquant_jax.runtime import devices
from rfquant_jax.train.state import TrainState
from rfquant_jax.train.step import TrainStep
from tests.conftest import batch, identity, mesh_of
from tests.train.test_step import KEY, RATES, collectives, settings


@pytest.fixture(scope="module", params=["loop", "scan"])
def step(request, functional):
    """On four devices; the tests of this file share its compiled functions."""
    return TrainStep(functional, mesh_of(4), identity, settings(request.param, random_passes=1))


@pytest.fixture(scope="module")
def masks(space):
    return np.stack([space.full_mask] * 2)


@pytest.fixture(scope="module")
def data():
    return batch(np.random.default_rng(2), 16)


def spoilt(data, value):
    """The data with one bad pixel, in the part of device 2 of 4."""
    image = data["image"].copy()
    image[9, 1, 1, 0] = value
    return data | {"image": image}


def take(step, state, data, masks, rates=RATES, micro=1):
    parts = [{k: v[i::micro] for k, v in data.items()} for i in range(micro)]
    inputs = step.inputs(masks, KEY, **rates)
    return step(state, [devices.split(p, step.mesh) for p in parts], inputs)


def copied(tree):
    """On the host, sharing no memory with what a step donates; without buffers."""
    tree = tree._replace(buffers=None)
    return jax.tree.map(lambda x: np.array(x, copy=True), jax.device_get(tree))


def placed(step, state):
    """A copied state, back on the devices."""
    replicated = devices.replicate(state, step.mesh)
    stats = devices.per_device({n: v[0] for n, v in state.stats.items()}, step.mesh)
    return TrainState(*replicated)._replace(stats=stats)


def assert_same(got, want):
    for (path, mine), theirs in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs, err_msg=jax.tree_util.keystr(path))


@pytest.fixture(scope="module")
def start(step, functional, data, masks):
    """A state after a step: its averages and momenta are no longer those of the start."""
    state, _, report = take(step, step.init(functional.params), data, masks)
    assert not np.any(report.failed)
    return copied(state)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_bad_image_on_one_device_leaves_every_array_as_it_was(step, start, data, masks, value):
    state, metrics, report = take(step, placed(step, start), spoilt(data, value), masks)
    losses = np.asarray([m["loss"] for m in jax.device_get(metrics)])
    assert np.isfinite(losses).tolist() == [[True, True, False, True]] * 2
    assert np.asarray(report.failed)[:2].all()
    assert report.floored == 0
    assert_same(copied(state), start)
    # The next good step is the one that it would have been: the accumulators are zeros again.
    traces = dict(step.traces)
    after, _, report = take(step, state, data, masks)
    assert not np.any(report.failed)
    expected, *_ = take(step, placed(step, start), data, masks)
    assert_same(copied(after), copied(expected))
    assert not np.array_equal(after.params["conv.kernel"], start.params["conv.kernel"])
    assert step.traces == traces
    assert set(traces.values()) <= {0, 1}


def test_statistics_that_overflow_are_left_out_too(step, start, data, masks):
    """The variance of large numbers is infinite, but what is divided by it is zero: a fine loss."""
    state, metrics, report = take(step, placed(step, start), spoilt(data, 1e25), masks)
    assert np.isfinite([m["loss"] for m in jax.device_get(metrics)]).all()
    assert np.asarray(report.failed)[2]
    assert not np.asarray(report.failed)[0]
    assert_same(copied(state), start)


def test_an_update_that_is_not_finite_is_left_out_though_all_before_it_was(
    step, start, data, masks
):
    rates = RATES | {"lr": np.inf}
    state, _, report = take(step, placed(step, start), data, masks, rates)
    assert np.asarray(report.failed).tolist() == [False, False, False, True]
    assert_same(copied(state), start)


def test_step_sizes_below_the_floor_are_kept_there_and_counted(step, start, data, masks):
    # Adam's directions are about 1 in size: a rate of 10 takes every step size below or far up.
    rates = RATES | {"step_size_lr": 10}
    state, _, report = take(step, placed(step, start), data, masks, rates)
    before, after = (
        np.concatenate([v for n, v in s.items() if n.endswith("step")])
        for s in (start.params, copied(state).params)
    )
    assert not np.any(before == np.float32(MIN_STEP))
    expected = np.sum(after == np.float32(MIN_STEP))
    assert 0 < expected < len(after)
    assert report.floored == expected
    assert not np.any(report.failed)


def test_the_whole_step_has_one_all_reduce(step, start, data, masks):
    if step.settings.strategy == "loop":
        pytest.skip("test_step.py looks at every program of a host loop")
    sharded = devices.split(data, step.mesh)
    inputs = step.inputs(masks, KEY, **RATES)
    compiled, given = step.programs(placed(step, start), sharded, inputs)["whole"]
    assert collectives(compiled, *given) == ["all-reduce"]


def test_a_bad_micro_batch_spoils_the_whole_update(functional, data, masks):
    step = TrainStep(functional, mesh_of(1), identity, settings(random_passes=0))
    state = step.init(functional.params)
    before = copied(state)
    state, metrics, report = take(step, state, spoilt(data, np.nan), masks, micro=2)
    assert np.isfinite([m["loss"][0] for m in jax.device_get(metrics)]).tolist() == [True, False]
    assert np.asarray(report.failed).any()
    assert_same(copied(state), before)
