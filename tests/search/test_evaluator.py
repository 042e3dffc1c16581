"""The jitted evaluator of the search: what it measures, its devices, its traces."""

import jax.numpy as jnp
import numpy as np
import pytest

from rfquant_jax import parallel
from rfquant_jax.data.sources import ArraySource
from rfquant_jax.quant.calibrate import initialize_activation_steps, with_batch_statistics
from rfquant_jax.quant.layers import assign
from rfquant_jax.search.budget import parse_budget
from rfquant_jax.search.cost import CostModel
from rfquant_jax.search.evaluator import CandidateEvaluator
from rfquant_jax.search.greedy import GreedySearch, GreedySettings
from rfquant_jax.search.knobs import make_knobs
from tests.conftest import batch, identity, images, mesh_of, pipeline


@pytest.fixture(scope="module")
def params(pure, space):
    rng = np.random.default_rng(0)
    return initialize_activation_steps(pure, space, [images(rng, 8)], identity, mesh_of(1))


@pytest.fixture(scope="module")
def batches():
    data = batch(np.random.default_rng(5), 60)
    source = ArraySource(data["image"], data["label"])
    return pipeline().training(source, 20, seed=0)


def evaluator(pure, params, batches, devices, metric="error"):
    mesh = mesh_of(devices)
    return CandidateEvaluator(
        pure, parallel.replicate(params, mesh), mesh, identity, batches, metric
    )


def random_configurations(space, count):
    rng = np.random.default_rng(7)
    rows = [
        [[rng.choice(space.allowed(i)), rng.choice(space.allowed(i))] for i in range(len(space))]
        for _ in range(count)
    ]
    return np.asarray(rows, np.int32)


def test_errors_are_those_of_the_network_with_batch_statistics(pure, params, batches, space):
    configurations = random_configurations(space, 3)
    errors = evaluator(pure, params, batches, 1)(configurations, 2)
    entropies = evaluator(pure, params, batches, 1, "cross_entropy")(configurations, 2)
    data = batches[2]
    for configuration, error, entropy in zip(configurations, errors, entropies, strict=True):
        network = with_batch_statistics(pure, params, pure.stats)
        assign(network, configuration)
        logits = np.asarray(network(jnp.asarray(data["image"])), np.float64)
        assert error == pytest.approx(np.mean(logits.argmax(1) != data["label"]))
        log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        expected = -log_softmax[np.arange(20), data["label"]].mean()
        assert entropy == pytest.approx(expected, rel=1e-4)


def test_the_number_of_devices_changes_nothing(pure, params, batches, space):
    configurations = random_configurations(space, 7)
    one, four = (
        evaluator(pure, params, batches, n, "cross_entropy")(configurations, 0) for n in (1, 4)
    )
    np.testing.assert_array_equal(one, four)


def test_a_whole_search_traces_the_evaluation_once_and_equals_for_any_devices(
    pure, params, batches, space, layers
):
    costs = CostModel.of(layers)
    budgets = [parse_budget(f"1.05*w{b}a{b}", costs.kinds(), space) for b in (4, 3)]
    found = []
    for devices in (1, 4):
        evaluate = evaluator(pure, params, batches, devices)
        settings = GreedySettings(alpha=1.5, start_bits=5, normalize="minmax", max_iterations=80)
        found.append(GreedySearch(make_knobs(space), settings, budgets, evaluate).run())
        assert evaluate.traces == 1
    np.testing.assert_array_equal(*found)
    for budget, configuration in zip(budgets, found[0], strict=True):
        assert budget.fits(configuration)
