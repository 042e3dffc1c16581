"""The coupled step: its update worked out from single passes, its devices, its programs."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfquant_jax.nn.functional import FunctionalNetwork, zeros_like
from rfquant_jax.quant import convert
from rfquant_jax.quant.sampling import Sampling, sample_step
from rfquant_jax.quant.space import smallest_bits
from rfquant_jax.runtime import devices
from rfquant_jax.train.optimizer import OptimizerSettings, convolution_kernels
from rfquant_jax.train.passes import max_pass, random_pass
from rfquant_jax.train.scheduler import freeze
from rfquant_jax.train.state import PassState, StepInputs
from rfquant_jax.train.step import StepSettings, TrainStep, default_strategy
from rfquant_jax.train.training_network import LossWeights, TrainingNetwork
from tests.conftest import SEARCHED, TinyNet, batch, identity, mesh_of

WEIGHTS = LossWeights(label_smoothing=0.1, idm=0.01, region=-2.5e-5)
RATES = {"lr": 0.05, "step_size_lr": 1e-3, "damping": 0.1}
KEY = jax.random.key(5)
DEVICES = 8


def settings(strategy="loop", **changes):
    values = {
        "candidates": convert.CANDIDATES,
        "random_passes": 3,
        "strategy": strategy,
        "ema_decay": 0.9,
        "loss": WEIGHTS,
        "optimizer": OptimizerSettings(weight_decay=0.01),
    }
    return StepSettings(**values | changes)


@pytest.fixture(scope="module")
def masks(space):
    """One layer's weights have lost their smallest bit-width, its activations have not."""
    weights = space.full_mask.copy()
    weights[0, -1] = False
    return np.stack([weights, space.full_mask])


@pytest.fixture(scope="module")
def on_all(functional):
    """A coupled step on eight devices; the tests of this file share its compiled functions."""
    return TrainStep(functional, mesh_of(DEVICES), identity, settings())


@pytest.fixture(scope="module")
def data():
    return batch(np.random.default_rng(1), 16)


def run(step, params, data, masks, micro=1, key=KEY):
    parts = np.split(np.arange(len(data["label"])), micro)
    batches = [devices.split({k: v[p] for k, v in data.items()}, step.mesh) for p in parts]
    state, metrics, report = step(step.init(params), batches, step.inputs(masks, key, **RATES))
    assert not np.any(report.failed)
    return jax.device_get(state), jax.device_get(metrics)


@pytest.fixture(scope="module")
def after(on_all, functional, data, masks):
    return run(on_all, functional.params, data, masks)


@pytest.fixture(scope="module")
def by_hand(functional, data, masks, space):
    """Gradients and statistics of each of the eight shards, every pass called alone."""
    sample_key, _ = jax.random.split(KEY)
    configurations = sample_step(sample_key, *masks, convert.CANDIDATES, 3)
    smallest = np.stack([smallest_bits(mask, convert.CANDIDATES) for mask in masks], axis=-1)
    inputs = StepInputs(configurations, smallest, *map(np.float32, RATES.values()), KEY)
    # They start from what they have in common, as those of a step do: computed anew in each pass it
    # would be rounded differently, and a few codes with it. tests/train/test_stem.py compares both.
    network, each = TrainingNetwork(functional, identity, WEIGHTS), 16 // DEVICES
    part = jax.ShapeDtypeStruct((each, *data["image"].shape[1:]), jnp.float32)
    network.trace_stem(part, passes=4)
    of_max, of_random = (jax.jit(partial(one, network)) for one in (max_pass, random_pass))
    forward, backward = jax.jit(network.stem.start), jax.jit(network.stem.backward)
    shards = []
    for i in range(DEVICES):
        shard = {name: values[each * i : each * (i + 1)] for name, values in data.items()}
        start, moved = forward(functional.params, functional.stats, shard["image"])
        state = PassState(functional.stats | moved, zeros_like(functional.params))
        for number in range(4):
            one = of_random if number else of_max
            state, _ = one(functional.params, state, shard, inputs, number, start=start)
        of_stem = functional.params, functional.stats, shard["image"], state.cotangents
        state.gradients.update(
            {n: state.gradients[n] + gradient for n, gradient in backward(*of_stem).items()}
        )
        shards.append(jax.device_get(state))
    return shards


def test_one_step_on_eight_devices_is_the_update_from_the_mean_gradient(after, by_hand, functional):
    state, _ = after
    kernels = convolution_kernels(functional)
    assert "conv.kernel" in kernels
    assert "fc.kernel" not in kernels
    for name, before in jax.device_get(functional.params).items():
        gradient = np.mean([s.gradients[name].astype(np.float64) for s in by_hand], axis=0)
        clipped = np.clip(gradient, -1, 1)
        if name.endswith("step"):  # Adam's first step: its averages are the gradient itself
            direction = clipped / (np.abs(clipped) + 1e-8)
            expected = before - 1e-3 * direction
            # Where the gradient is tiny its sign, and with it the whole step, is rounding.
            sure = np.abs(gradient) > 1e-5
        else:  # Nesterov's first step: gradient plus 0.9 of the velocity it has just become
            decayed = clipped + (0.01 * before if name in kernels else 0)
            expected = before - 0.05 * 1.9 * decayed
            sure = np.ones(before.shape, bool)
        np.testing.assert_allclose(
            state.params[name][sure], expected[sure], rtol=1e-4, atol=2e-6, err_msg=name
        )


def test_unused_banks_and_steps_have_no_gradient_and_stay(after, by_hand, functional):
    state, _ = after
    unused = [s.gradients["expand.input_quantizer.step"] == 0 for s in by_hand]
    assert np.any(np.all(unused, axis=0)), "three random passes cannot use every bit-width"
    for name, before in jax.device_get(functional.params).items():
        if name.endswith("step") or name == "bn.scale":
            still = np.all([s.gradients[name] == 0 for s in by_hand], axis=0)
            np.testing.assert_array_equal(state.params[name][still], before[still])


def test_running_statistics_are_averaged_over_devices(after, by_hand):
    state, _ = after
    for name, values in state.stats.items():
        expected = np.mean([s.stats[name] for s in by_hand], axis=0)
        for device in range(DEVICES):
            np.testing.assert_allclose(values[device], expected, rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_average_moves_by_its_decay(after, functional):
    state, _ = after
    for name, before in jax.device_get(functional.params).items():
        expected = 0.9 * before + 0.1 * state.params[name]
        np.testing.assert_allclose(state.ema_params[name], expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        state.ema_stats["bn.mean"], 0.1 * state.stats["bn.mean"][0], rtol=1e-5, atol=1e-7
    )


def test_metrics_tell_the_passes_apart(after):
    _, metrics = after
    assert len(metrics) == 4
    assert set(metrics[0]) == {"cross_entropy", "region", "loss", "accuracy"}
    assert set(metrics[1]) >= {"distillation", "idm", "damping"}
    for of_pass in metrics:
        terms = sum(v for k, v in of_pass.items() if k not in ("loss", "accuracy"))
        np.testing.assert_allclose(of_pass["loss"], terms, rtol=1e-6)
        assert of_pass["loss"].shape == (DEVICES,)


def test_the_scan_and_the_host_loop_agree(after, functional, data, masks):
    step = TrainStep(functional, mesh_of(DEVICES), identity, settings("scan"))
    state, metrics = run(step, functional.params, data, masks)
    reference, reference_metrics = after
    for name, expected in reference.params.items():
        np.testing.assert_allclose(state.params[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)
    for got, want in zip(metrics, reference_metrics, strict=True):
        np.testing.assert_allclose(got["loss"], want["loss"], rtol=1e-4)
    assert step.traces == {"sample": 1, "whole": 1}


def test_micro_batches_on_one_device_average_like_devices(functional, data, masks, after):
    """Their gradients are those of devices, but running statistics move on from one to the next."""
    step = TrainStep(functional, mesh_of(1), identity, settings())
    state, metrics = run(step, functional.params, data, masks, micro=DEVICES)
    assert len(metrics) == 4 * DEVICES
    for name, expected in after[0].params.items():
        if not name.endswith("step"):
            np.testing.assert_allclose(state.params[name], expected, rtol=1e-3, atol=1e-5)


def collectives(compiled, *args):
    text = compiled.lower(*args).compile().as_text()
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    return re.findall(rf"({kinds})(?:-start)?\(", text)


@pytest.fixture(scope="module")
def inspected(functional):
    """A step like `on_all` whose programs are looked at; it takes no step, and traces add up."""
    return TrainStep(functional, mesh_of(DEVICES), identity, settings())


def test_one_all_reduce_a_step_and_none_in_a_pass(inspected, functional, data, masks):
    programs = programs_of(inspected, functional, data, masks)
    found = {name: collectives(compiled, *given) for name, (compiled, given) in programs.items()}
    assert found.pop("update") == ["all-reduce"]
    assert found == {name: [] for name in ("sample", "buffers", "stem", "one_pass", "stem_back")}


def programs_of(step, functional, data, masks):
    sharded, inputs = devices.split(data, step.mesh), step.inputs(masks, KEY, **RATES)
    return step.programs(step.init(functional.params), sharded, inputs)


def test_a_pass_updates_accumulators_and_targets_in_place(functional, data, masks):
    step = TrainStep(functional, mesh_of(1), identity, settings())
    compiled, given = programs_of(step, functional, data, masks)["one_pass"]
    memory = compiled.lower(*given).compile().memory_analysis()
    donated = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(given[2]))
    assert memory.alias_size_in_bytes == donated
    assert set(given[2].features) == set(SEARCHED)


@pytest.fixture(scope="module")
def update(inspected, functional, data, masks):
    """The update as XLA gets it and as it compiles it."""
    compiled, given = programs_of(inspected, functional, data, masks)["update"]
    lowered = compiled.lower(*given)
    return lowered.as_text(), lowered.compile().as_text()


def test_little_is_reduced_but_gradients_and_statistics(update, functional):
    (reduced,) = re.findall(r"= \(?(.*?)\)? all-reduce(?:-start)?\(", update[1])
    shapes = re.findall(r"f32\[([\d,]*)\]", reduced)
    sent = sum(4 * np.prod([int(n) for n in shape.split(",") if n]) for shape in shapes)
    needed = sum(4 * x.size for x in (*functional.params.values(), *functional.stats.values()))
    assert needed < sent <= 1.01 * needed  # a flag is sent with them


def test_the_check_for_finite_numbers_is_not_computed_for_each_parameter_anew(update):
    lowered, compiled = (text.count("\n") for text in update)
    assert compiled < 4 * lowered  # 2.6 times; 17 times where XLA fuses it into every selection


def test_nothing_is_traced_again_when_bits_masks_and_rates_change(
    on_all, functional, data, space, rng
):
    state = on_all.init(functional.params)
    sharded = devices.split(data, on_all.mesh)
    run(on_all, functional.params, data, np.stack([space.full_mask] * 2))
    before = dict(on_all.traces)
    for i in range(4):
        masks = freeze(rng.random(4), space, 0.25 * i, split_candidates=i % 2 == 0)
        inputs = on_all.inputs(masks, jax.random.key(i), **dict.fromkeys(RATES, 0.01 * i))
        state, *_ = on_all(state, [sharded], inputs)
    assert before == on_all.traces
    assert on_all.traces == dict.fromkeys(on_all.traces, 1)


def test_a_plain_step_of_several_micro_batches_compiles_one_pass(plain, data):
    step = TrainStep(FunctionalNetwork(plain), mesh_of(1), identity, settings(random_passes=0))
    state, nothing = step.init(step.functional.params), np.zeros((2, 0, 5), bool)
    parts = [{name: values[i::2] for name, values in data.items()} for i in range(2)]
    for i in range(2):
        batches = [devices.split(part, step.mesh) for part in parts]
        state, *_ = step(state, batches, step.inputs(nothing, jax.random.key(i), **RATES))
    used = ("sample", "buffers", "one_pass", "update")
    assert step.traces == dict.fromkeys(step.traces, 0) | dict.fromkeys(used, 1)


@pytest.mark.parametrize("devices_used", [1, 2, DEVICES])
def test_levels_are_drawn_by_one_program_alike_on_every_device(
    functional, space, rng, devices_used
):
    sampling = Sampling("levels", 0.8, 0.5)
    step = TrainStep(functional, mesh_of(devices_used), identity, settings(sampling=sampling))
    for i in range(4):
        masks = freeze(rng.random(4), space, 0.25 * i, split_candidates=i % 2 == 0)
        drawn = step.inputs(masks, jax.random.key(i), **RATES).configurations
        sample_key, _ = jax.random.split(jax.random.key(i))
        expected = sample_step(sample_key, *masks, convert.CANDIDATES, 3, sampling)
        for shard in drawn.addressable_shards:
            np.testing.assert_array_equal(shard.data, expected)
        assert len(drawn.addressable_shards) == devices_used
    assert step.traces["sample"] == 1


def test_a_network_that_lies_on_the_mesh_already_can_be_trained(coupled, data, masks):
    mesh = mesh_of(1)
    functional = FunctionalNetwork(coupled)
    functional.params, functional.stats = devices.replicate(
        (functional.params, functional.stats), mesh
    )
    step = TrainStep(functional, mesh, identity, settings(random_passes=1))
    state, _ = run(step, functional.params, data, masks)
    assert all(np.all(np.isfinite(value)) for value in state.params.values())


def test_configurations_are_the_same_on_all_devices_and_dropout_differs(layers, space, masks):
    from flax import nnx

    network = convert.quantize(TinyNet(nnx.Rngs(0), dropout=0.5), layers)
    functional = FunctionalNetwork(network)
    same = batch(np.random.default_rng(0), 1)
    repeated = {name: np.repeat(values, 8, axis=0) for name, values in same.items()}
    step = TrainStep(functional, mesh_of(2), identity, settings(random_passes=0))
    _, metrics = run(step, functional.params, repeated, masks)
    # Both devices hold the same images: without dropout their losses would be equal.
    assert metrics[0]["loss"][0] != metrics[0]["loss"][1]


def test_an_external_teacher_teaches_the_max_pass(functional, data, masks):
    step = TrainStep(functional, mesh_of(1), identity, settings(random_passes=0))
    sharded = devices.split(data, step.mesh)
    teacher = jnp.zeros((16, 5))
    inputs = step.inputs(masks, KEY, **RATES)
    _, metrics, _ = step(step.init(functional.params), [sharded], inputs, [teacher])
    _, alone, _ = step(step.init(functional.params), [sharded], inputs)
    assert float(metrics[0]["cross_entropy"][0]) == pytest.approx(
        float(alone[0]["cross_entropy"][0]) / 2, rel=1e-5
    )
    assert float(metrics[0]["distillation"][0]) > 0
    assert "distillation" not in alone[0]


def test_an_external_teacher_teaches_the_max_pass_alone(functional, data, masks):
    step = TrainStep(functional, mesh_of(1), identity, settings())
    sharded = devices.split(data, step.mesh)
    teacher = np.random.default_rng(1).normal(size=(16, 5)).astype(np.float32)
    teacher = devices.split(teacher, step.mesh)
    inputs = step.inputs(masks, KEY, **RATES)
    _, metrics, _ = step(step.init(functional.params), [sharded], inputs, [teacher])
    _, alone, _ = step(step.init(functional.params), [sharded], inputs)
    assert set(metrics[0]) == {*alone[0], "distillation"}
    assert float(metrics[0]["cross_entropy"][0]) < float(alone[0]["cross_entropy"][0])
    for taught, untaught in zip(metrics[1:], alone[1:], strict=True):
        assert jax.device_get(taught) == jax.device_get(untaught)
    assert step.traces["one_pass"] == 2  # with a teacher and without one


def test_information_distortion_mitigation_can_be_left_out(functional, data, masks):
    step = TrainStep(functional, mesh_of(1), identity, settings(loss=LossWeights(idm=0.0)))
    _, given = programs_of(step, functional, data, masks)["one_pass"]
    assert given[2].features == {}
    _, metrics = run(step, functional.params, data, masks)
    assert "damping" in metrics[1]
    assert "idm" not in metrics[1]


def test_default_strategies(monkeypatch):
    assert default_strategy() == "loop"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert default_strategy() == "scan"
