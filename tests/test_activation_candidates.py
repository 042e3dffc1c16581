"""Activations with candidates of their own, from the plan to the exported file.

Weights have 8, 4 or 2 bits and activations 8 or 4, except for the weights (4, 2) and the
activations (4) of the layer `last`.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from flax import nnx

import rfquant_jax as rfq
from rfquant_jax.nn.functional import FunctionalNetwork, arrays_of
from rfquant_jax.quant.sampling import LEVELS, Sampling, sample_step
from rfquant_jax.quant.space import ACTIVATIONS, WEIGHTS
from rfquant_jax.search.variables import make_search_space
from rfquant_jax.train.scheduler import InstabilityMeter
from tests.api_network import IMAGE_SHAPE, bitops, by_numpy, images_and_labels, size_bits, varied

BW, BA = (8, 4, 2), (8, 4)
CONFIG = rfq.QuantConfig(candidates=BW, activation_candidates=BA)
RULED = rfq.QuantConfig(candidates=BW, activation_candidates=BA, rules=(("last", (4, 2)),))
IMAGES, LABELS = images_and_labels(50)


@pytest.fixture(scope="module")
def net():
    return varied()


@pytest.fixture(scope="module")
def plan(net):
    return rfq.plan(net, IMAGE_SHAPE, CONFIG)


@pytest.fixture(scope="module")
def ruled(net):
    return rfq.plan(net, IMAGE_SHAPE, RULED)


@pytest.fixture(scope="module")
def coupled(net, ruled):
    return rfq.couple(net, ruled, IMAGES, devices=1)


@pytest.fixture(scope="module")
def step(coupled):
    return rfq.CoupledStep(coupled, rfq.StepConfig(random_passes=2, ema_decay=0.0))


@pytest.fixture(scope="module")
def profile_file(tmp_path_factory):
    return tmp_path_factory.mktemp("profile") / "profile.jsonl"


@pytest.fixture(scope="module")
def profile(coupled, profile_file):
    return rfq.profile(coupled, IMAGES, profile_file, configurations=20)


def test_uniform_configurations_have_one_level_for_each_bit_width(plan):
    assert plan.space.candidates == (8, 4, 2)
    assert plan.space.levels == [(8, 8), (4, 4), (2, 4)]
    for name, rows in (("w8a4", (8, 4)), ("w2a8", (2, 8)), ("w2a4", (2, 4))):
        assert plan.configuration(name).tolist() == [list(rows)] * 2
        costs = {"bitops_g": bitops([rows] * 2) / 1e9, "size_mb": size_bits([rows] * 2) / 2**23}
        assert plan.costs(name) == costs
    # 64 places, 144 weights in each of two layers, and the fixed ones by hand.
    assert plan.costs("w2a4")["bitops_g"] == (64 * (64 * 108 + 12) + 2 * 2 * 4 * 64 * 144) / 1e9
    table = plan.cost_model.table(plan.space)
    assert [row["configuration"] for row in table] == ["w8a8", "w4a4", "w2a4"]
    assert [row["bitops_g"] for row in table] == [
        bitops([rows] * 2) / 1e9 for rows in ((8, 8), (4, 4), (2, 4))
    ]


def test_more_activations_than_weights_is_the_other_way_round(net):
    config = rfq.QuantConfig(candidates=(4, 2), activation_candidates=(8, 6, 4))
    plan = rfq.plan(net, IMAGE_SHAPE, config)
    assert plan.space.candidates == (8, 6, 4, 2)
    assert plan.space.levels == [(4, 8), (4, 6), (4, 4), (2, 4)]
    assert plan.space.largest.tolist() == [[4, 8], [4, 8]]
    assert plan.space.full_masks.tolist() == [[[0, 0, 1, 1]] * 2, [[1, 1, 1, 0]] * 2]


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("w4a2", r"'w4a2': 2 is not one of \(8, 4\), the candidates of activations"),
        ("w3a4", r"'w3a4': 3 is not one of \(8, 4, 2\), the candidates of weights"),
        (
            {"conv": (4, 2), "last": (4, 4)},
            r"layer conv has \(4, 2\); .* one of \[8, 4, 2\] and one of \[8, 4\]",
        ),
        ([[4, 4], [4, 2]], r"layer last has \[4, 2\]"),
    ],
)
def test_an_activation_width_that_is_no_candidate_is_refused(plan, form, said):
    with pytest.raises(rfq.UserError, match=said):
        plan.configuration(form)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"activation_candidates": (4, 8)}, "= .4, 8.: must be empty, or bit-widths from 2 to 8"),
        (
            {"activation_candidates": (9,)},
            "`activation_candidates` = .9,.: must be empty, or bit-w",
        ),
        ({"activation_candidates": (2,)}, r"_bits` = 3: .*none of `activation_candidates` \(2,\)"),
        ({"rules": (("last", (6, 5)),)}, r"of which only \(8, 4, 2\) .* and \(8, 4\)"),
        (
            {"rules": (("last", (3, 2)),), "candidates": (3, 2)},
            r"asks for bits \(3, 2\), which leaves none of \(8, 4\) \(`activation_candidates`\)",
        ),
    ],
)
def test_candidates_of_activations_are_checked(net, changes, said):
    given = {"candidates": BW, "activation_candidates": BA} | changes
    with pytest.raises(rfq.UserError, match=said):
        rfq.plan(net, IMAGE_SHAPE, rfq.QuantConfig(**given))


def test_a_rule_has_bits_of_weights_and_of_activations(net):
    rules = (("last", (2, 8)), ("conv", (4,)))
    config = rfq.QuantConfig(candidates=(4, 2), activation_candidates=BA, rules=rules)
    layers = rfq.plan(net, IMAGE_SHAPE, config).layers
    assert layers[2].columns == ((2,), (8,))
    assert (layers[1].columns, layers[1].fixed_bits) == (((), ()), (4, 4))


def test_step_sizes_and_banks_exist_for_candidates_only(ruled, coupled):
    params, stats = arrays_of(coupled.network)
    for layer, norm in (("conv", "bn"), ("last", "last_bn")):
        assert params[f"{layer}.weight_quantizer.step"].shape == (3,)
        assert params[f"{layer}.input_quantizer.step"].shape == (2,)
        banks = {n: a.shape for n, a in (params | stats).items() if n.startswith(f"{norm}.")}
        assert banks == {f"{norm}.{kind}": (3, 2, 4) for kind in ("scale", "bias", "mean", "var")}
    assert [layer.columns for layer in ruled.layers[1:3]] == [(BW, BA), ((4, 2), (4,))]
    assert ruled.space.full_masks.tolist() == [[[1, 1, 1], [0, 1, 1]], [[1, 1, 0], [0, 1, 0]]]
    assert coupled.configuration.tolist() == [[8, 8], [4, 4]]


def test_other_candidates_are_another_checkpoint_and_equal_ones_the_same(net, plan, ruled):
    default = rfq.plan(net, IMAGE_SHAPE, rfq.QuantConfig(candidates=BW))
    spelled = rfq.plan(net, IMAGE_SHAPE, rfq.QuantConfig(candidates=BW, activation_candidates=BW))
    assert spelled.identity() == default.identity()
    assert "activation_candidates" not in default.identity()
    assert plan.identity()["activation_candidates"] == [8, 4]
    assert plan.identity()["activation_bits"] == {"conv": [8, 4], "last": [8, 4]}
    assert ruled.identity()["activation_bits"] == {"conv": [8, 4], "last": [4]}


def test_calibration_is_that_of_the_same_passes_with_equal_candidates(net):
    """The passes at 8 and at 4 bits are the same; only those at 6 and at 2 bits are missing."""
    configs = (
        rfq.QuantConfig(candidates=(8, 6, 4, 2)),
        rfq.QuantConfig(candidates=(8, 6, 4, 2), activation_candidates=BA),
    )
    plans = [rfq.plan(net, IMAGE_SHAPE, config) for config in configs]
    for step_sizes in ("published", "least_squares"):
        options = {"step_sizes": step_sizes, "devices": 1}
        networks = [rfq.couple(net, plan, IMAGES, **options) for plan in plans]
        expected, found = (arrays_of(coupled.network)[0] for coupled in networks)
        for layer in ("conv", "last"):
            name = f"{layer}.input_quantizer.step"
            np.testing.assert_array_equal(found[name], expected[name][np.asarray([0, 2])])
            name = f"{layer}.weight_quantizer.step"
            np.testing.assert_array_equal(found[name], expected[name])
        name = "classifier.input_quantizer.step"
        np.testing.assert_array_equal(found[name], expected[name])


def test_instability_is_that_of_the_weights_candidates(net):
    """Masks and shares have a column for 8 bits, which only activations take."""
    default = rfq.plan(net, IMAGE_SHAPE, rfq.QuantConfig(candidates=(6, 4)))
    own = rfq.plan(net, IMAGE_SHAPE, rfq.QuantConfig(candidates=(6, 4), activation_candidates=BA))
    functional = [FunctionalNetwork(plan.convert(net)) for plan in (default, own)]
    expected = InstabilityMeter(functional[0], 0.25)
    found = InstabilityMeter(functional[1], 0.25, own.space.candidates)
    assert own.space.candidates == (8, 6, 4)
    params, masks = functional[1].params, own.space.full_mask
    of_default = functional[0].params, default.space.full_mask
    np.testing.assert_array_equal(found(params, masks), expected(*of_default))
    shares = found.shares(params, masks)
    np.testing.assert_array_equal(shares[:, 0], 0)
    np.testing.assert_array_equal(shares[:, 1:], expected.shares(*of_default))
    assert (shares[:, 1:] > 0).all()


@pytest.mark.parametrize("activations", [(32,), (32, 4)])
def test_activations_may_stay_unquantized(net, activations):
    config = rfq.QuantConfig(candidates=BW, activation_candidates=activations)
    plan = rfq.plan(net, IMAGE_SHAPE, config)
    coupled = rfq.couple(net, plan, IMAGES, devices=1)
    assert coupled.configuration.tolist() == [[8, 32]] * 2
    assert plan.costs("w2a32")["bitops_g"] == bitops([(2, 32)] * 2) / 1e9
    step = rfq.CoupledStep(coupled, rfq.StepConfig(random_passes=1))
    _, metrics = step(step.init(), (IMAGES, LABELS), key=jax.random.key(0), lr=0.1)
    assert np.isfinite(metrics.losses).all()
    assert not metrics.skipped


@pytest.mark.parametrize("rows", [[[8, 8], [4, 4]], [[2, 8], [2, 4]], [[4, 4], [2, 4]]])
def test_a_network_computes_what_its_bits_say(coupled, rows):
    copy, rng = nnx.clone(coupled), np.random.default_rng(1)
    for norm in (copy.network.bn, copy.network.last_bn):  # every bank is another one
        for banks in (norm.scale, norm.bias, norm.mean, norm.var):
            banks.set_value(jnp.asarray(rng.uniform(0.5, 2, (3, 2, 4)), jnp.float32))
    rfq.set_bits(copy, np.asarray(rows))
    expected = by_numpy(copy, IMAGES[:6], rows, BW, BA)
    np.testing.assert_allclose(copy(IMAGES[:6]), expected, rtol=1e-4, atol=1e-5)


def test_passes_draw_candidates_only_and_all_of_them(ruled):
    bits, masks = ruled.space.candidates, ruled.space.full_masks
    for sampling in (Sampling(), Sampling(LEVELS, 0.8, 0.5)):
        drawn = sample_step(jax.random.key(0), *masks, bits, 400, sampling)
        found = [{int(b) for b in drawn[:, i, c]} for i in (0, 1) for c in (WEIGHTS, ACTIVATIONS)]
        assert found == [{8, 4, 2}, {8, 4}, {4, 2}, {4}]
    smallest = sample_step(jax.random.key(0), *masks, bits, 1, Sampling(smallest_pass=1.0))
    assert smallest.tolist() == [[[8, 8], [4, 4]], [[2, 4], [2, 4]]]


def test_a_step_trains_the_slots_of_its_passes_and_compiles_once(coupled, step):
    state = step.init()
    before = {name: np.asarray(value) for name, value in (state.params).items()}
    rows = np.asarray([[[2, 4], [2, 4]], [[4, 4], [4, 4]]])
    options = {"lr": 0.1, "step_size_lr": 1e-3}
    state, metrics = step(state, (IMAGES, LABELS), configurations=rows, **options)
    assert metrics.configurations[0].tolist() == [[8, 8], [4, 4]]  # the max pass
    moved = {n: np.asarray(v) != before[n] for n, v in state.params.items()}
    assert moved["conv.weight_quantizer.step"].tolist() == [True, True, True]
    assert moved["conv.input_quantizer.step"].tolist() == [True, True]
    # The rule leaves `last` 4 bits of activations, and no 8 bits of weights.
    assert moved["last.weight_quantizer.step"].tolist() == [False, True, True]
    assert moved["last.input_quantizer.step"].tolist() == [False, True]
    # Banks [weights, activations]: w8a8, w4a4 and w2a4; in `last` w4a4 and w2a4.
    assert moved["bn.scale"].any(2).tolist() == [[True, False], [False, True], [False, True]]
    assert moved["last_bn.scale"].any(2).tolist() == [[False, False], [False, True], [False, True]]
    for number in range(3):
        key = jax.random.key(number)
        state, metrics = step(state, (IMAGES, LABELS), key=key, **options)
        for configuration in metrics.configurations:
            coupled.plan.configuration(np.asarray(configuration))  # refuses what is no candidate
    assert step.traces["one_pass"] == 1
    assert all(count <= 1 for count in step.traces.values())


def test_a_search_proposes_candidates_only(ruled, profile):
    found = rfq.search(profile, ["1*w2a4", "0.9*w4a4", "1*w8a8"], evaluations=6)
    assert found[0].layers == {"conv": (2, 4), "last": (2, 4)}
    assert found[2].layers == {"conv": (8, 8), "last": (4, 4)}
    measured, _ = profile.record.snapshot(0, len(profile))
    for configuration in measured:
        ruled.configuration(configuration)
    # 6 pairs in `conv`, 2 in `last`.
    assert 10 < len({c.tobytes() for c in measured}) == len(measured) <= 6 * 2
    assert {tuple(pair) for pair in measured[:, 0].tolist()} == {(w, a) for w in BW for a in BA}
    [equal] = rfq.search(profile, "1.6*w4a4", evaluations=6, same_bits=["conv"])
    assert equal.layers["conv"] in [(8, 8), (4, 4)]
    with pytest.raises(rfq.ArgumentError, match=r"outside the candidates \(8, 4, 2\) and \(8, 4\)"):
        rfq.search(profile, "1*w4a2")


def test_a_profile_belongs_to_its_candidates(net, ruled, profile, profile_file):
    header = json.loads(profile_file.read_text().splitlines()[0])
    assert (header["candidates"], header["activation_candidates"]) == ([8, 4, 2], [8, 4])
    assert rfq.profile(ruled, path=profile_file).known("w8a8") == profile.known("w8a8")
    default = rfq.plan(net, IMAGE_SHAPE, rfq.QuantConfig(candidates=BW))
    with pytest.raises(rfq.UserError, match="another network: its activation_candidates differ"):
        rfq.profile(default, path=profile_file)


def test_pins_and_equal_bits_know_both_candidates(plan):
    with pytest.raises(rfq.ArgumentError, match=r"layer conv takes \[8, 4\] for activations"):
        make_search_space(plan.space, pins=[("conv", (4, 2))])
    search_space = make_search_space(plan.space, pins=[("last", (2, 8))], same_bits=["conv"])
    assert [variable.allowed for variable in search_space.variables] == [(8, 4), (2,), (8,)]
    with pytest.raises(rfq.ArgumentError, match=r"its weights take \(2,\), its activations \(4,\)"):
        make_search_space(plan.space, max_bits=3, same_bits=["conv"])


def test_an_exported_configuration_computes_the_same(coupled, profile, tmp_path):
    found = rfq.search(profile, "0.9*w4a4", evaluations=0)
    [file] = rfq.export(coupled, found, tmp_path / "net.onnx", recalibrate=IMAGES)
    assert file.note == "verified"
    session = onnxruntime.InferenceSession(file)
    [given] = session.get_inputs()
    images = IMAGES if given.shape[-1] == 3 else IMAGES.transpose(0, 3, 1, 2)
    [logits] = session.run(None, {given.name: images})
    accuracy = rfq.evaluate(coupled, found[0], (IMAGES, LABELS), recalibrate=IMAGES)
    assert (logits.argmax(1) == LABELS).sum() == accuracy.top1
    [bundle] = rfq.export(coupled, "w2a8", tmp_path / "net.safetensors")
    assert bundle.verified
