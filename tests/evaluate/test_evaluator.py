"""Recalibration and exact evaluation against NumPy, for any batch size and number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfquant_jax.data.grouped import share
from rfquant_jax.data.sources import ArraySource
from rfquant_jax.evaluate.evaluator import Accuracy, Evaluator, Outcomes, _judged
from rfquant_jax.nn.functional import FunctionalNetwork
from rfquant_jax.quant.calibrate import initialize_activation_steps
from rfquant_jax.runtime.devices import replicate, split
from tests.conftest import batch, identity, images, mesh_of, pipeline


@pytest.fixture(scope="module")
def params(functional, space):
    rng = np.random.default_rng(0)
    return initialize_activation_steps(functional, space, [images(rng, 8)], identity, mesh_of(1))


@pytest.fixture(scope="module")
def recalibration():
    rng = np.random.default_rng(1)
    return [images(rng, 4) for _ in range(5)]


@pytest.fixture(scope="module")
def evaluators(functional):
    return {devices: Evaluator(functional, mesh_of(devices), identity) for devices in (1, 4, 8)}


def on(evaluator, params):
    return replicate(params, evaluator.mesh)


def test_recalibrated_statistics_are_plain_averages_of_batch_statistics(
    evaluators, params, functional, space, recalibration
):
    configuration = space.uniform(3, 4)
    got = evaluators[1].recalibrate(params, configuration, recalibration)
    # The stem's input is not quantized: its statistics can be worked out apart.
    network = functional.merge(params, functional.stats)
    stem = network.stem
    means, variances = [], []
    for x in recalibration:
        y = np.asarray(stem(jnp.asarray(x)), np.float64).reshape(-1, 4)
        means.append(y.mean(0))
        variances.append(y.var(0, ddof=1))
    np.testing.assert_allclose(got["stem_bn.mean"], np.mean(means, 0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got["stem_bn.var"], np.mean(variances, 0), rtol=1e-4)
    assert got["bn.mean"].shape == (6,)


def test_statistics_depend_on_the_configuration_and_not_on_the_devices(
    evaluators, params, space, recalibration
):
    for bits in (2, 6):
        one, *others = (
            e.recalibrate(on(e, params), space.uniform(bits, bits), recalibration)
            for e in evaluators.values()
        )
        for other in others:
            for name, values in one.items():
                np.testing.assert_array_equal(values, other[name], err_msg=name)
    fine = evaluators[1].recalibrate(params, space.uniform(6, 6), recalibration)
    assert np.any(
        one["bn.mean"]
        != evaluators[1].recalibrate(params, space.uniform(2, 2), recalibration)["bn.mean"]
    )
    np.testing.assert_array_equal(one["bn.mean"], fine["bn.mean"])


def test_the_programs_of_an_evaluation_give_its_results(evaluators, params, space, recalibration):
    evaluator, configuration = evaluators[4], space.uniform(3, 4)
    data = {"image": np.concatenate(recalibration[:4]), "label": np.arange(16, dtype=np.int32) % 5}
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), data)
    programs = evaluator.programs(params, shapes, configuration)
    measure, count = (programs[name][0].lower(*programs[name][1]) for name in ("measure", "count"))
    params, bits = replicate((params, configuration), evaluator.mesh)
    parts = split(data, evaluator.mesh)
    measured = jax.device_get(measure.compile()(params, parts["image"], bits))
    statistics = evaluator.recalibrate(params, configuration, recalibration[:4])
    for name, values in statistics.items():
        np.testing.assert_allclose(measured[name].mean(0), values, rtol=1e-5, atol=1e-7)
    counted = count.compile()(params, replicate(statistics, evaluator.mesh), parts, bits)
    batches = [{name: x[4 * i : 4 * i + 4] for name, x in data.items()} for i in range(4)]
    expected = evaluator.outcomes(params, statistics, configuration, batches)
    np.testing.assert_allclose(counted[:, 0], expected.loss, rtol=1e-5)
    np.testing.assert_array_equal(np.asarray(counted[:, 3]), data["label"])


@pytest.mark.parametrize("batch_size", [5, 16])
@pytest.mark.parametrize("devices", [1, 4, 8])
def test_counts_are_exact_for_any_batch_size_and_devices(
    evaluators, params, functional, space, recalibration, batch_size, devices
):
    data = batch(np.random.default_rng(2), 23)
    configuration = space.uniform(4, 4)
    evaluator = evaluators[devices]
    statistics = evaluator.recalibrate(on(evaluator, params), configuration, recalibration)
    source = ArraySource(data["image"], data["label"])
    accuracy = evaluator.accuracy(
        on(evaluator, params), statistics, configuration, pipeline().exact(source, batch_size)
    )
    # All 23 images at once, with the statistics put into the banks by hand.
    stats = dict(functional.stats)
    for name, values in statistics.items():
        # uniform 4 bits is slot 2 of (6, 5, 4, 3, 2)
        stats[name] = stats[name].at[2, 2].set(values) if stats[name].ndim == 3 else values
    network = functional.merge(params, stats)
    network.eval()
    from rfquant_jax.quant.layers import assign

    assign(network, configuration)
    logits = np.asarray(network(jnp.asarray(data["image"])), np.float64)
    assert accuracy.images == 23
    assert accuracy.top1 == int(np.sum(logits.argmax(1) == data["label"]))
    assert accuracy.top5 == 23, "there are five classes"
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert accuracy.loss == pytest.approx(
        -log_softmax[np.arange(23), data["label"]].sum(), rel=1e-4
    )


def test_percentages():
    from rfquant_jax.evaluate.evaluator import Accuracy

    accuracy = Accuracy(top1=30, top5=36, loss=10.0, images=40)
    assert accuracy.top1_percent == 75.0
    assert accuracy.top5_percent == 90.0
    assert accuracy.mean_loss == 0.25


def test_counting_by_hand():
    logits = jnp.asarray(
        [
            [9.0, 8, 7, 6, 5, 4],  # label 0: first
            [9.0, 8, 7, 6, 5, 4],  # label 4: fifth
            [9.0, 8, 7, 6, 5, 4],  # label 5: sixth
            [np.nan, 8, 7, 6, 5, 4],  # label 0: not finite, so wrong
            [9.0, 8, 7, 6, 5, 4],  # padding
        ]
    )
    rows = np.asarray(_judged(logits, jnp.asarray([0, 4, 5, 0, -1])))
    assert rows[:, 1].tolist() == [1, 0, 0, 0, 0]
    assert rows[:, 2].tolist() == [1, 1, 0, 0, 0]
    assert rows[:, 3].tolist() == [0, 4, 5, 0, -1]
    sum_of_exponentials = np.exp([9.0, 8, 7, 6, 5, 4]).sum()
    expected = np.log(sum_of_exponentials) - np.asarray([9.0, 5.0, 4.0])
    np.testing.assert_allclose(rows[:3, 0], expected, rtol=1e-6)


def test_accuracies_of_each_class_by_hand():
    right = np.asarray([True, False, True, True, False])
    labels = np.asarray([0, 0, 2, 2, 3], np.int32)
    outcomes = Outcomes(right, right | True, np.full(5, 0.5, np.float32), labels)
    assert outcomes.top1_by_class(5) == [50.0, None, 100.0, 0.0, None]
    assert outcomes.accuracy == Accuracy(top1=3, top5=5, loss=2.5, images=5)


def test_images_that_do_not_count_keep_their_place_but_add_nothing():
    right = np.asarray([True, False, True])
    labels = np.asarray([1, -1, 0], np.int32)
    outcomes = Outcomes(right, right, np.asarray([0.5, 9.0, 0.25], np.float32), labels)
    assert outcomes.accuracy == Accuracy(top1=2, top5=2, loss=0.75, images=2)
    assert outcomes.top1_by_class(2) == [100.0, 100.0]


@pytest.mark.parametrize(
    ("batch_size", "devices", "expected"),
    [(128, 1, 128), (128, 4, 32), (128, 8, 16), (10, 4, 3), (1, 8, 1)],
)
def test_a_batch_is_shared_by_the_devices(batch_size, devices, expected):
    assert share(batch_size, mesh_of(devices)) == expected


@pytest.mark.parametrize("devices", [1, 4])
def test_outcomes_keep_the_order_of_the_images(evaluators, params, space, recalibration, devices):
    data = batch(np.random.default_rng(2), 23)
    evaluator, configuration = evaluators[devices], space.uniform(4, 4)
    statistics = evaluator.recalibrate(on(evaluator, params), configuration, recalibration)
    source = ArraySource(data["image"], data["label"])
    outcomes = evaluator.outcomes(
        on(evaluator, params), statistics, configuration, pipeline().exact(source, 3)
    )
    np.testing.assert_array_equal(outcomes.labels, [*data["label"], -1])  # fills the last batch
    assert outcomes.first(23).accuracy == outcomes.accuracy
    assert outcomes.accuracy.images == 23
    alone = evaluator.outcomes(
        on(evaluator, params),
        statistics,
        configuration,
        pipeline().exact(ArraySource(data["image"][17:18], data["label"][17:18]), 3),
    )
    np.testing.assert_allclose(outcomes.loss[17], alone.loss[0], rtol=1e-5)


def test_running_statistics_are_those_of_the_configurations_banks(
    evaluators, params, functional, space
):
    stats = {n: v + jnp.arange(v.size).reshape(v.shape) for n, v in functional.stats.items()}
    got = evaluators[1].running_statistics(params, stats, space.uniform(5, 2))
    # 5 bits: slot 1; 2 bits: slot 4; the depthwise layer's activations stay at 3 bits: slot 3
    np.testing.assert_array_equal(got["bn.mean"], stats["bn.mean"][1, 4])
    np.testing.assert_array_equal(got["depthwise_bn.mean"], stats["depthwise_bn.mean"][1, 3])
    np.testing.assert_array_equal(got["stem_bn.var"], stats["stem_bn.var"])


def test_everything_is_traced_once(functional, params, space, recalibration):
    evaluator = Evaluator(functional, mesh_of(1), identity)
    data = batch(np.random.default_rng(3), 4)
    for bits in (6, 4, 2):
        configuration = space.uniform(bits, bits)
        statistics = evaluator.recalibrate(params, configuration, recalibration[:1])
        evaluator.accuracy(params, statistics, configuration, [data])
    assert evaluator.traces == {"measure": 1, "count": 1}


def test_a_full_precision_network_is_evaluated_the_same_way(plain):
    functional = FunctionalNetwork(plain)
    none = np.zeros((0, 2), np.int32)
    evaluator = Evaluator(functional, mesh_of(1), identity)
    statistics = evaluator.running_statistics(functional.params, functional.stats, none)
    data = batch(np.random.default_rng(4), 9)
    accuracy = evaluator.accuracy(functional.params, statistics, none, [data])
    network = functional.merge(functional.params, functional.stats)
    network.eval()
    logits = jax.device_get(network(jnp.asarray(data["image"])))
    assert accuracy.top1 == int(np.sum(logits.argmax(1) == data["label"]))


@pytest.mark.parametrize(
    ("right", "images", "expected"),
    # Wilson's interval as tables have it; at the ends it stays inside 0 and 100.
    [(90, 100, (82.56, 94.48)), (0, 10, (0.0, 27.75)), (10, 10, (72.25, 100.0))],
)
def test_an_accuracy_has_an_interval(right, images, expected):
    accuracy = Accuracy(top1=right, top5=right, loss=0.0, images=images)
    np.testing.assert_allclose(accuracy.top1_interval, expected, atol=0.005)
