"""The jitted evaluator of the search: what it measures, its devices, its traces."""

import jax.numpy as jnp
import numpy as np
import pytest

from rfquant_jax.data.sources import ArraySource
from rfquant_jax.quant.calibrate import initialize_activation_steps, with_batch_statistics
from rfquant_jax.quant.layers import assign
from rfquant_jax.runtime import devices as parallel
from rfquant_jax.search.budget import parse_budget
from rfquant_jax.search.cost import CostModel
from rfquant_jax.search.evaluator import METRICS, CandidateEvaluator, common_base
from rfquant_jax.search.greedy import GreedySearch, GreedySettings
from rfquant_jax.search.variables import make_knobs
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


LARGEST = np.full((4, 2), 6, np.int32)


def evaluator(pure, params, batches, devices, metric="error", starts=(0, 1, 2, 3)):
    mesh = mesh_of(devices)
    return CandidateEvaluator(
        pure,
        parallel.replicate(params, mesh),
        mesh,
        identity,
        batches,
        LARGEST,
        metric,
        starts,
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
    evaluate = evaluator(pure, params, batches, 1)
    found = {metric: evaluate.by(metric)(configurations, 2) for metric in METRICS}
    np.testing.assert_array_equal(evaluate(configurations, 2), found["error"])
    data = batches[2]

    def log_probabilities(configuration):
        network = with_batch_statistics(pure, params, pure.stats)
        assign(network, configuration)
        logits = np.asarray(network(jnp.asarray(data["image"])), np.float64)
        return logits - np.log(np.exp(logits).sum(1, keepdims=True))

    reference = log_probabilities(LARGEST)
    for number, configuration in enumerate(configurations):
        logs = log_probabilities(configuration)
        wrong = np.mean(logs.argmax(1) != data["label"])
        assert found["error"][number] == pytest.approx(wrong)
        entropy = -logs[np.arange(20), data["label"]].mean()
        assert found["cross_entropy"][number] == pytest.approx(entropy, rel=1e-4)
        divergence = (np.exp(reference) * (reference - logs)).sum(1).mean()
        assert found["divergence"][number] == pytest.approx(divergence, rel=1e-3)
    assert evaluate.traces == {"network": 1, "largest": 1, "base": 1, "candidate": 1}
    assert evaluate.by("divergence")(LARGEST[None], 0)[0] == pytest.approx(0, abs=1e-6)


def neighbours_of(space):
    """What a greedy iteration compares, and the configuration in their middle."""
    knobs = make_knobs(space)
    base = knobs.uniform(4, 4)
    return np.stack([base, *(knob.turned(base, bits) for knob, bits in knobs.neighbours(base))])


@pytest.mark.parametrize("like", [random_configurations, lambda space, _: neighbours_of(space)])
def test_the_number_of_devices_changes_nothing(pure, params, batches, space, like):
    configurations = like(space, 7)
    one, four = (evaluator(pure, params, batches, n) for n in (1, 4))
    for metric in METRICS:
        np.testing.assert_array_equal(
            one.by(metric)(configurations, 0), four.by(metric)(configurations, 0)
        )


def test_starting_where_candidates_differ_changes_nothing(pure, params, batches, space):
    configurations = np.concatenate([neighbours_of(space), random_configurations(space, 3)])
    whole, cut = (
        evaluator(pure, params, batches, 1, "cross_entropy", starts)(configurations, 1)
        for starts in ((0,), (0, 1, 3))
    )
    assert len(set(whole)) > 10
    np.testing.assert_allclose(cut, whole, rtol=1e-5)


def test_the_base_is_what_most_agree_on():
    configurations = np.asarray([[[4, 4], [2, 6]], [[4, 5], [2, 5]], [[3, 4], [2, 5]]])
    assert common_base(configurations).tolist() == [[4, 4], [2, 5]]


@pytest.mark.parametrize("broken", ["conv.kernel", "depthwise_bn.scale", "expand_bn.bias"])
def test_what_a_network_fails_to_compute_is_not_a_number(pure, params, batches, space, broken):
    bad = params | {broken: jnp.full_like(params[broken], jnp.nan)}
    evaluate = evaluator(pure, bad, batches, 1)
    for metric in METRICS:
        assert np.isnan(evaluate.by(metric)(neighbours_of(space)[:3], 0)).all(), metric


def test_a_whole_search_traces_the_evaluation_once_and_equals_for_any_devices(
    pure, params, batches, space, layers
):
    costs = CostModel.of(layers)
    budgets = [parse_budget(f"1.05*w{b}a{b}", costs.kinds(), space) for b in (4, 3)]
    found = []
    for devices in (1, 2, 4, 8):
        evaluate = evaluator(pure, params, batches, devices)
        settings = GreedySettings(alpha=1.5, start_bits=5, normalize="minmax", max_iterations=80)
        found.append(GreedySearch(make_knobs(space), settings, budgets, evaluate).run())
        assert evaluate.traces == {"network": 1, "largest": 0, "base": 1, "candidate": 1}
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
    for budget, configuration in zip(budgets, found[0], strict=True):
        assert budget.fits(configuration)


def test_batches_are_those_asked_for_and_prepared_once(pure, params, batches, space):
    asked, prepared = [0, 1, 1, 5, 2, 3], []

    class Counted:
        def __getitem__(self, number):
            prepared.append(number)
            return batches[number]

    configurations = neighbours_of(space)[:1]
    evaluate = evaluator(pure, params, Counted(), 1, "cross_entropy")
    found = [evaluate(configurations, number)[0] for number in asked]
    alone = {
        number: evaluator(pure, params, batches, 1, "cross_entropy")(configurations, number)[0]
        for number in (0, 5)
    }
    assert found[0] == alone[0]
    assert found[3] == alone[5]
    assert found[1] == found[2]
    assert len(set(found)) == 5
    # Behind each but the last the next one was prepared, in vain where it was not asked for.
    # Two threads prepare them, so that neighbours come in either order.
    evaluate._batches._worker.shutdown()
    assert sorted(prepared) == sorted([0, 1, 2, 1, 2, 5, 6, 2, 3, 4])
