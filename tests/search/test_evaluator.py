"""The jitted evaluator of the search: what it measures, its devices, its traces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfquant_jax.data.sources import ArraySource
from rfquant_jax.quant.calibrate import initialize_activation_steps, with_batch_statistics
from rfquant_jax.quant.cost import CostModel
from rfquant_jax.quant.layers import assign
from rfquant_jax.runtime.devices import replicate, spread
from rfquant_jax.search.budget import parse_budget
from rfquant_jax.search.evaluator import CandidateEvaluator, common_base
from rfquant_jax.search.greedy import GreedySearch, GreedySettings
from rfquant_jax.search.metrics import METRICS
from rfquant_jax.search.variables import make_search_space
from tests.conftest import batch, identity, images, mesh_of, pipeline


@pytest.fixture(scope="module")
def params(functional, space):
    rng = np.random.default_rng(0)
    return initialize_activation_steps(functional, space, [images(rng, 8)], identity, mesh_of(1))


@pytest.fixture(scope="module")
def batches():
    data = batch(np.random.default_rng(5), 60)
    source = ArraySource(data["image"], data["label"])
    return pipeline().training(source, 20, seed=0)


LARGEST = np.full((4, 2), 6, np.int32)


def evaluator(functional, params, batches, devices, metric="error", starts=(0, 1, 2, 3)):
    mesh = mesh_of(devices)
    return CandidateEvaluator(
        functional,
        replicate(params, mesh),
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


def test_errors_are_those_of_the_network_with_batch_statistics(functional, params, batches, space):
    configurations = random_configurations(space, 3)
    evaluate = evaluator(functional, params, batches, 1)
    found = {metric: evaluate.by(metric)(configurations, 2) for metric in METRICS}
    np.testing.assert_array_equal(evaluate(configurations, 2), found["error"])
    data = batches[2]

    def log_probabilities(configuration):
        network = with_batch_statistics(functional, params, functional.stats)
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
    # Two cuts of the three configurations, and that of the largest one alone.
    assert evaluate.by("divergence")(LARGEST[None], 0)[0] == pytest.approx(0, abs=1e-6)
    assert evaluate.traces == {"network": 1, "largest": 1, "base": 1, "candidate": 3}


def test_the_programs_of_a_search_give_its_results(functional, params, batches):
    evaluate = evaluator(functional, params, batches, 2)
    data = replicate(batches[1], mesh_of(2))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), data)
    programs = evaluate.programs(shapes)
    assert set(programs) == {"largest", "base", "candidate"}
    largest, base, candidate = (
        compiled.lower(*given).compile() for compiled, given in programs.values()
    )
    params, rows = replicate((params, LARGEST), mesh_of(2))
    reference = largest(params, data["image"], rows)
    kept = base(params, data, rows, reference)
    found = candidate(params, data, reference, kept, spread(np.stack([LARGEST] * 2), mesh_of(2)))
    for column, metric in enumerate(METRICS):
        [expected] = evaluate.by(metric)(LARGEST[None], 1)
        np.testing.assert_allclose(found[:, column], [expected] * 2, rtol=1e-5, atol=1e-6)


def neighbours_of(space):
    """What a greedy iteration compares, and the configuration in their middle."""
    search_space = make_search_space(space)
    base = search_space.uniform(4, 4)
    return np.stack(
        [base, *(variable.assign(base, bits) for variable, bits in search_space.neighbours(base))]
    )


@pytest.mark.parametrize("like", [random_configurations, lambda space, _: neighbours_of(space)])
def test_the_number_of_devices_changes_nothing(functional, params, batches, space, like):
    configurations = like(space, 7)
    one, four = (evaluator(functional, params, batches, n) for n in (1, 4))
    for metric in METRICS:
        np.testing.assert_array_equal(
            one.by(metric)(configurations, 0), four.by(metric)(configurations, 0)
        )


def test_starting_where_candidates_differ_changes_nothing(functional, params, batches, space):
    configurations = np.concatenate([neighbours_of(space), random_configurations(space, 3)])
    whole, cut = (
        evaluator(functional, params, batches, 1, "cross_entropy", starts)(configurations, 1)
        for starts in ((0,), (0, 1, 3))
    )
    assert len(set(whole)) > 10
    np.testing.assert_allclose(cut, whole, rtol=1e-5)


def test_the_base_is_what_most_agree_on():
    configurations = np.asarray([[[4, 4], [2, 6]], [[4, 5], [2, 5]], [[3, 4], [2, 5]]])
    assert common_base(configurations).tolist() == [[4, 4], [2, 5]]


@pytest.mark.parametrize("broken", ["conv.kernel", "depthwise_bn.scale", "expand_bn.bias"])
def test_what_a_network_fails_to_compute_is_not_a_number(
    functional, params, batches, space, broken
):
    bad = params | {broken: jnp.full_like(params[broken], jnp.nan)}
    evaluate = evaluator(functional, bad, batches, 1)
    for metric in METRICS:
        assert np.isnan(evaluate.by(metric)(neighbours_of(space)[:3], 0)).all(), metric


def test_a_whole_search_traces_the_evaluation_once_and_equals_for_any_devices(
    functional, params, batches, space, layers
):
    costs = CostModel.of(layers)
    budgets = [parse_budget(f"1.05*w{b}a{b}", costs.kinds(), space) for b in (4, 3)]
    found = []
    for devices in (1, 2, 4, 8):
        evaluate = evaluator(functional, params, batches, devices)
        settings = GreedySettings(alpha=1.5, start_bits=5, normalize="minmax", max_iterations=80)
        found.append(GreedySearch(make_search_space(space), settings, budgets, evaluate).run())
        assert evaluate.traces == {
            "network": 1,
            "largest": 0,
            "base": 1,
            "candidate": 4,
        }  # each cut once
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
    for budget, configuration in zip(budgets, found[0], strict=True):
        assert budget.fits(configuration)


def test_batches_are_those_asked_for_and_prepared_once(functional, params, batches, space):
    asked, prepared = [0, 1, 1, 5, 2, 3], []

    class Counted:
        def __getitem__(self, number):
            prepared.append(number)
            return batches[number]

    configurations = neighbours_of(space)[:1]
    evaluate = evaluator(functional, params, Counted(), 1, "cross_entropy")
    found = [evaluate(configurations, number)[0] for number in asked]
    alone = {
        number: evaluator(functional, params, batches, 1, "cross_entropy")(configurations, number)[
            0
        ]
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


class Fixed:
    """Batches that never change, and how often each was asked for."""

    def __init__(self, count, size=20):
        self.batches = [batch(np.random.default_rng(50 + n), size) for n in range(count)]
        self.asked = []

    def __getitem__(self, number):
        self.asked.append(number)
        return self.batches[number % len(self.batches)]


def proposals(space):
    """As a search asks: random configurations, then some that differ in few layers."""
    near = neighbours_of(space)
    return [random_configurations(space, 5), near[:4], near[3:12], LARGEST[None]]


def test_a_mean_is_that_of_the_plain_evaluations(functional, params, space):
    """Bit for bit, on any number of devices, with nothing traced again."""
    numbers, found, metric = range(1, 4), [], "divergence"
    for devices in (1, 2, 4, 8):
        evaluate = evaluator(functional, params, Fixed(5), devices, metric, starts=(0,))
        found.append([evaluate.mean(asked, numbers) for asked in proposals(space)])
        plain = evaluator(functional, params, Fixed(5), devices, metric, starts=(0,))
        for asked, means in zip(proposals(space), found[-1], strict=True):
            expected = np.stack([plain(asked, n) for n in numbers]).astype(np.float64).mean(0)
            np.testing.assert_array_equal(means, expected)
            assert means.dtype == np.float64
        assert evaluate.traces == {"network": 1, "largest": 1, "base": 1, "candidate": 1}
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, same)


def test_a_mean_does_not_depend_on_what_is_evaluated_beside_it(functional, params, space):
    """A search that is killed asks again in other company, and must hear the same."""
    configurations = np.concatenate(proposals(space))
    evaluate = evaluator(functional, params, Fixed(2), 2, "divergence")
    together = evaluate.mean(configurations, range(2))
    alone = [evaluate.mean(configuration[None], range(2))[0] for configuration in configurations]
    np.testing.assert_array_equal(together, alone)
    parts = [evaluate.mean(configurations[k : k + 3], range(2)) for k in range(0, 19, 3)]
    np.testing.assert_array_equal(together, np.concatenate(parts))
    assert evaluate.traces == {
        "network": 1,
        "largest": 1,
        "base": 1,
        "candidate": 4,
    }  # each cut once


def test_the_largest_configuration_does_not_diverge_from_itself(functional, params):
    evaluate = evaluator(functional, params, Fixed(2), 1, "divergence")
    assert abs(evaluate.mean(LARGEST[None], range(2))[0]) < 1e-6


def test_what_fixed_batches_share_is_computed_once(functional, params, space, monkeypatch):
    batches = Fixed(3)
    evaluate = evaluator(functional, params, batches, 1, "divergence", starts=(0,))
    counts = {"_refer": 0, "_base": 0}

    def counted(name):
        compute = getattr(evaluate, name)

        def call(*arguments):
            counts[name] += 1
            return compute(*arguments)

        monkeypatch.setattr(evaluate, name, call)

    for name in counts:
        counted(name)
    first = evaluate.mean(random_configurations(space, 2), [0])
    for _ in range(3):
        np.testing.assert_array_equal(evaluate.mean(random_configurations(space, 2), [0]), first)
    assert counts == {"_refer": 1, "_base": 1}
    evaluate.mean(random_configurations(space, 2), range(3))
    assert counts == {"_refer": 3, "_base": 3}
    # The values of the last batch are kept, and the references of all.
    evaluate.mean(random_configurations(space, 2), [2])
    assert counts == {"_refer": 3, "_base": 3}
    # A fresh batch of the same number is another one.
    evaluate(random_configurations(space, 2), 7)
    evaluate(random_configurations(space, 2), 7)
    assert counts["_refer"] == 5


def test_a_mean_is_not_a_number_where_one_batch_has_none(functional, params, space):
    batches = Fixed(3)
    batches.batches[1]["image"][0] = np.nan
    for metric in METRICS:
        evaluate = evaluator(functional, params, batches, 1, metric)
        asked = random_configurations(space, 2)
        assert np.isnan(evaluate.mean(asked, range(3))).all()
        assert np.isfinite(evaluate.mean(asked, (0, 2))).all()
