from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rfquant_jax.evaluate.evaluator import Evaluator
from rfquant_jax.export.ir import runtime
from rfquant_jax.export.ir.fold import fold
from rfquant_jax.export.verify.compare import (
    Agreement,
    CodeCount,
    compare_codes,
    compare_predictions,
)
from rfquant_jax.export.verify.reference import ReferenceModel, fixed_network
from rfquant_jax.nn.functional import FunctionalNetwork
from rfquant_jax.quant import convert
from rfquant_jax.quant.layers import QuantConv
from tests.conftest import CLASSES, IMAGE_SHAPE, batch, identity, images, mesh_of
from tests.export.conftest import at, logits_of, scramble
from tests.export.trace.test_capture import Around

CONFIGURATION = np.asarray([[6, 2], [2, 6], [5, 3], [3, 4]], np.int32)


def test_the_reference_is_the_evaluation(functional, rng):
    """Logits and codes of one configuration are those of the evaluator's network."""
    evaluator = Evaluator(functional, mesh_of(1), identity)
    batches = [batch(rng, 20) for _ in range(2)]
    statistics = evaluator.recalibrate(
        functional.params, CONFIGURATION, [b["image"] for b in batches]
    )
    expected = evaluator.accuracy(functional.params, statistics, CONFIGURATION, batches)
    shares = evaluator.probabilities(functional.params, statistics, CONFIGURATION, batches)
    network = fixed_network(functional, functional.params, statistics, CONFIGURATION)
    reference = ReferenceModel(network)
    correct = 0
    for one, (_, share) in zip(batches, shares, strict=True):
        logits, codes = reference(one["image"])
        np.testing.assert_allclose(jax.nn.softmax(logits), share, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(reference.logits(one["image"]), logits)
        np.testing.assert_allclose(logits, logits_of(network, one["image"]), rtol=1e-5, atol=1e-6)
        correct += int((logits.argmax(-1) == one["label"]).sum())
    assert correct == expected.top1
    assert codes.keys() == {"conv", "projection.0", "expand", "depthwise", "fc"}
    # Input bits 2, 6, 3 (signed), 4; the classifier's 8.
    ranges = {name: (int(c.min()), int(c.max())) for name, c in codes.items()}
    for name, low, high in (("conv", 0, 3), ("projection.0", 0, 63), ("expand", -4, 3),
                            ("depthwise", 0, 15), ("fc", 0, 255)):  # fmt: skip
        assert low <= ranges[name][0] <= ranges[name][1] <= high
    assert ranges["expand"][0] < 0


def test_the_reference_computes_on_codes_where_the_evaluation_does(rng):
    """The classifier takes floats here: nothing behind the convolution hides its last digits."""
    plain = Around(nnx.relu)
    layers = convert.plan(plain, IMAGE_SHAPE, candidates=(6, 4), fixed_bits=32)
    functional = FunctionalNetwork(scramble(convert.quantize(plain, layers, candidates=(6, 4))))
    evaluator, one = Evaluator(functional, mesh_of(1), identity), batch(rng, 50)
    configuration = np.asarray([[6, 4]], np.int32)
    statistics = evaluator.recalibrate(functional.params, configuration, [one["image"]])
    ((_, expected),) = evaluator.probabilities(functional.params, statistics, configuration, [one])
    network = fixed_network(functional, functional.params, statistics, configuration)
    simulated = nnx.clone(network)
    simulated.set_attributes(QuantConv, codes_dtype=None)
    found, other = (ReferenceModel(n).logits(one["image"]) for n in (network, simulated))
    ours, simulation = (
        np.abs(jax.nn.softmax(logits) - expected).max() for logits in (found, other)
    )
    assert ours < simulation < 1e-5
    exact, same = (ReferenceModel(n, np.float64).logits(one["image"]) for n in (network, simulated))
    np.testing.assert_allclose(exact, same, rtol=0, atol=1e-12)


def test_fed_the_evaluations_codes_no_code_differs_in_float64(scrambled, space, rng):
    network = at(scrambled, CONFIGURATION)
    model, reference = fold(network, IMAGE_SHAPE), ReferenceModel(network, np.float64)
    padded = batch(rng, 40)
    padded["label"][10:] = -1
    compared = compare_codes(model, reference, [batch(rng, 40), padded])
    counts = compared.layers
    assert compared.logits < 1e-9
    totals = {name: (count.different, count.total) for name, count in counts.items()}
    # By hand: images of 6x6 with 4 channels, of 3x3 with 6 and 8, and 8 numbers, 50 of each.
    assert totals == {
        "conv": (0, 7200),
        "projection.0": (0, 7200),
        "expand": (0, 2700),
        "depthwise": (0, 3600),
        "fc": (0, 400),
    }
    logits, _ = reference(images(rng, 1))
    assert logits.dtype == np.float64


def test_in_float64_kernels_lie_exactly_on_their_grids(scrambled, rng):
    """Codes of kernels are decided in float32: in float64 this quotient is no tie and rounds up."""
    step, weight = np.float32(0.3), np.nextafter(np.float32(0.75), np.float32(1))
    assert weight / step == np.float32(2.5)
    assert np.float64(weight) / np.float64(step) > 2.5
    network = at(scrambled, CONFIGURATION)
    network.conv.weight_quantizer.step.set_value(jnp.full(5, step))
    network.conv.kernel.set_value(jnp.full((3, 3, 4, 6), weight))
    model, x = fold(network, IMAGE_SHAPE), images(rng, 20)
    assert (model.layers["conv"].kernel == 2).all()
    logits, _ = ReferenceModel(network, np.float64)(x)
    expected = runtime.run(model, x.astype(np.float64))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-11)


def test_in_float32_nothing_but_ties_differs(scrambled, space, rng):
    network = at(scrambled, CONFIGURATION)
    model = fold(network, IMAGE_SHAPE).stored()
    counts = compare_codes(model, ReferenceModel(network), [batch(rng, 200)]).layers
    assert sum(count.different for count in counts.values()) <= 2
    assert max(count.off_tie for count in counts.values()) < 1e-3


@pytest.mark.parametrize("part", ["scale", "bias"])
def test_a_wrong_scale_is_noticed_in_the_next_layer(scrambled, part, rng):
    """Each layer is fed right codes: an error shows up behind the layer that makes it, only."""
    network = at(scrambled, CONFIGURATION)
    model, reference = fold(network, IMAGE_SHAPE), ReferenceModel(network, np.float64)
    expand = model.layers["expand"]
    wrong = replace(expand, **{part: getattr(expand, part) * 1.05})
    broken = replace(model, layers=model.layers | {"expand": wrong})
    counts = compare_codes(broken, reference, [batch(rng, 40)]).layers
    assert counts["depthwise"].different > 5
    assert counts["depthwise"].off_tie > 0.01
    assert {name for name, count in counts.items() if count.different} == {"depthwise"}


def test_codes_are_counted_with_their_distance_from_a_tie():
    count = CodeCount()
    values = np.asarray([0.5001, 1.2, 2.4, 3.0])
    count.add(values, np.asarray([1, 1, 2, 3]), np.asarray([0, 1, 3, 3]))
    count.add(values, np.asarray([1, 1, 2, 3]), np.asarray([1, 1, 2, 3]))
    assert (count.different, count.total) == (2, 8)
    assert count.off_tie == pytest.approx(0.1)  # 2.4 lies that far from 2.5


def test_a_code_of_no_number_is_never_a_tie():
    count = CodeCount()
    count.add(np.asarray([0.5, np.nan]), np.asarray([1, np.nan]), np.asarray([0, 0]))
    assert (count.different, count.off_tie) == (2, np.inf)


@pytest.mark.parametrize(("factor", "difference"), [(1.001, 1e-3), (np.nan, np.inf)])
def test_a_wrong_scale_of_the_last_layer_is_noticed_in_the_logits(
    scrambled, factor, difference, rng
):
    """No codes lie behind it that could tell."""
    network = at(scrambled, CONFIGURATION)
    model, reference = fold(network, IMAGE_SHAPE), ReferenceModel(network, np.float64)
    last = model.layers["fc"]
    wrong = replace(last, scale=last.scale * factor, bias=last.bias * factor)
    broken = replace(model, layers=model.layers | {"fc": wrong})
    compared = compare_codes(broken, reference, [batch(rng, 10), batch(rng, 10)])
    assert not any(count.different for count in compared.layers.values())
    assert compared.logits == pytest.approx(difference, rel=1e-6)


def test_agreement_counts_by_hand():
    found = Agreement()
    expected = np.asarray([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    exact = expected[:, ::-1]  # the other class, always
    found.add(expected + [[0, 0], [0, -3], [0.5, 0]], expected, exact, np.asarray([0, 1, 1]))
    assert found.as_dict() == {
        "images": 3,
        "top1": pytest.approx(100 / 3),
        "equal_percent": pytest.approx(200 / 3),
        "equal_exact_percent": pytest.approx(100 / 3),
        "largest_difference": 3.0,
    }
    sure = np.asarray([[0.0, 1.0]])
    found.add(np.asarray([[np.nan, 1.0]]), sure, sure, np.asarray([1]))
    assert found.largest_difference == np.inf


def test_formats_are_compared_on_real_images_only(scrambled, rng):
    network = at(scrambled, CONFIGURATION)
    model = fold(network, IMAGE_SHAPE).stored()
    first, second = batch(rng, 16), batch(rng, 16)
    second["label"][4:] = -1
    wrong = {"shifted": lambda x: np.roll(runtime.run(model, x), 1, axis=-1)}
    formats = {"integer": lambda x: runtime.run(model, x)} | wrong
    exact = ReferenceModel(network, np.float64)
    found = compare_predictions(ReferenceModel(network), exact, formats, [first, second])
    assert found.evaluation.images == found.formats["integer"].images == 20
    assert found.formats["integer"].equal == found.formats["integer"].equal_exact == 20
    assert found.evaluation.equal_exact == 20
    assert found.formats["integer"].largest_difference < 1e-4
    assert found.formats["shifted"].equal == 0
    assert CLASSES > 1
