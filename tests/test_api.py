"""The public API: what each call computes, against numbers worked out another way."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import rfquant_jax as rfq
from configs import default
from rfquant_jax.config import settings as of_config
from rfquant_jax.data.grouped import grouped
from rfquant_jax.evaluate import evaluator
from rfquant_jax.nn.functional import arrays_of
from tests.api_network import (
    IMAGE_SHAPE,
    SmallNet,
    bitops,
    by_numpy,
    images_and_labels,
    size_bits,
    varied,
)

ROOT = Path(__file__).resolve().parents[1]
IMAGES, LABELS = images_and_labels(50)
MIXED = {"conv": (4, 2), "last": (3, 6)}


@pytest.fixture(scope="module")
def net():
    return varied()


@pytest.fixture(scope="module")
def plan(net):
    return rfq.plan(net, IMAGE_SHAPE)


@pytest.fixture(scope="module")
def coupled(net, plan):
    return rfq.couple(net, plan, IMAGES, devices=1)


@pytest.fixture(scope="module")
def step(coupled):
    return rfq.CoupledStep(coupled, rfq.StepConfig(random_passes=2))


@pytest.fixture(scope="module")
def profile_file(tmp_path_factory):
    return tmp_path_factory.mktemp("profile") / "small" / "profile.jsonl"


@pytest.fixture(scope="module")
def profile(coupled, profile_file):
    return rfq.profile(coupled, IMAGES, profile_file, configurations=40)


def test_a_plan_says_layers_and_costs_without_computing_anything(plan):
    abstract = nnx.eval_shape(lambda: SmallNet(nnx.Rngs(0)))
    assert rfq.plan(abstract, IMAGE_SHAPE).layers == plan.layers
    assert [layer.candidates for layer in plan.layers] == [(), (6, 5, 4, 3, 2), (6, 5, 4, 3, 2), ()]
    costs = plan.costs(MIXED)
    assert costs == {
        "bitops_g": bitops([(4, 2), (3, 6)]) / 1e9,
        "size_mb": size_bits([(4, 2), (3, 6)]) / 8 / 2**20,
    }
    assert plan.costs("w3a2") == plan.costs(np.asarray([[3, 2], [3, 2]]))


@pytest.mark.parametrize("rows", [[[6, 6], [6, 6]], [[4, 2], [3, 6]], [[2, 2], [2, 2]]])
def test_a_coupled_network_computes_what_its_bits_say(coupled, rows):
    rfq.set_bits(coupled, np.asarray(rows))
    assert coupled.configuration.tolist() == rows
    expected = by_numpy(coupled, IMAGES[:6], rows)
    np.testing.assert_allclose(coupled(IMAGES[:6]), expected, rtol=1e-4, atol=1e-5)


def test_every_form_of_a_configuration_means_the_same_and_none_recompiles(coupled):
    traces = []

    @nnx.jit
    def run(network, images):
        traces.append(1)
        return network(images)

    found = []
    for form in (MIXED, [[4, 2], [3, 6]], {"layers": MIXED}, np.asarray([[4, 2], [3, 6]], np.int8)):
        rfq.set_bits(coupled, "w6a6")
        rfq.set_bits(coupled, form)
        found.append(np.asarray(run(coupled, IMAGES[:4])))
    assert all((other == found[0]).all() for other in found)
    rfq.set_bits(coupled, "w2a2")
    assert (np.asarray(run(coupled, IMAGES[:4])) != found[0]).any()
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("w7a4", r"7 is not one of \(6, 5, 4, 3, 2\)"),
        ({"conv": (4, 4)}, "missing layers: .*last"),
        ({"conv": (4, 4), "last": (4, 9)}, "layer last has .*4, 9"),
        ([[4, 4]], r"shape \(2, 2\).* not int64 of shape \(1, 2\)"),
        (np.full((2, 2), 4.0), "not float64"),
    ],
)
def test_what_is_no_configuration_is_refused_by_name(coupled, form, message):
    with pytest.raises(rfq.UserError, match=message):
        rfq.set_bits(coupled, form)


def test_explicit_configurations_are_those_that_were_sampled(step):
    key, batch = jax.random.key(5), {"image": IMAGES, "label": LABELS}
    sampled, metrics = step(step.init(), batch, key=key, lr=0.1)
    drawn = metrics.configurations
    assert drawn.shape == (3, 2, 2)
    assert (drawn[0] == 6).all()
    repeated, again = step(step.init(), (IMAGES, LABELS), key=key, lr=0.1, configurations=drawn[1:])
    np.testing.assert_array_equal(again.configurations, drawn)
    np.testing.assert_array_equal(again.losses, metrics.losses)
    for name, value in sampled.params.items():
        np.testing.assert_array_equal(value, repeated.params[name])
    other, _ = step(
        step.init(), (IMAGES, LABELS), key=key, lr=0.1, configurations=drawn[1:] * 0 + 2
    )
    assert any((value != sampled.params[name]).any() for name, value in other.params.items())
    assert all(count <= 1 for count in step.traces.values())
    assert step.traces["one_pass"] == 1


def test_masks_rates_and_keys_are_data(step):
    mask = np.zeros((2, 2, 5), bool)
    mask[0, :, 3], mask[1, :, 1] = True, True  # weights at 3 bits, activations at 5
    state, metrics = step(step.init(), (IMAGES, LABELS), key=jax.random.key(1), lr=0.5, masks=mask)
    np.testing.assert_array_equal(metrics.configurations, np.broadcast_to([3, 5], (3, 2, 2)))
    assert np.isnan(metrics.term("distillation")[0])
    assert (metrics.term("distillation")[1:] >= 0).all()
    before = {name: np.asarray(value) for name, value in state.params.items()}
    state, _ = step(state, (IMAGES, LABELS), key=jax.random.key(2), lr=0.0, step_size_lr=0.0)
    assert all((np.asarray(state.params[name]) == value).all() for name, value in before.items())
    assert all(count <= 1 for count in step.traces.values())


def test_a_step_that_is_not_finite_changes_nothing(step):
    images = IMAGES.copy()
    images[0, 0, 0, 0] = np.nan
    start = {name: np.asarray(value) for name, value in step.init().params.items()}
    state, metrics = step(step.init(), (images, LABELS), key=jax.random.key(0), lr=0.1)
    assert metrics.skipped
    assert all((np.asarray(state.params[name]) == value).all() for name, value in start.items())


def test_what_a_step_trained_is_in_the_network_when_asked(net, plan, coupled):
    copy = nnx.clone(coupled)
    step = rfq.CoupledStep(copy, rfq.StepConfig(random_passes=2, ema_decay=0.5))
    state = step.init()
    before = arrays_of(copy.network)[0]["conv.kernel"]
    state, _ = step(state, (IMAGES, LABELS), key=jax.random.key(0), lr=0.1)
    assert (arrays_of(copy.network)[0]["conv.kernel"] == before).all()
    step.update_network(state, average=False)
    last = arrays_of(copy.network)[0]["conv.kernel"]
    step.update_network(state)
    np.testing.assert_allclose(
        arrays_of(copy.network)[0]["conv.kernel"], (before + last) / 2, rtol=1e-6
    )
    assert (arrays_of(coupled.network)[0]["conv.kernel"] == before).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": None}, "`key` = None: is needed"),
        (
            {"configurations": np.full((1, 2, 2), 4)},
            r"`configurations` = \(1, 2, 2\): .*\(2, 2, 2\)",
        ),
        ({"masks": np.zeros((2, 5), bool)}, "leaves layer conv no bit-width"),
        ({"masks": np.ones((3, 5), bool)}, r"`masks` = \(3, 5\)"),
        ({"batch": (IMAGES, LABELS[:3])}, "`batch` = .*images .* and labels"),
    ],
)
def test_a_step_names_the_argument_that_does_not_fit(step, changes, message):
    arguments = {"batch": (IMAGES, LABELS), "key": jax.random.key(0), "lr": 0.1} | changes
    with pytest.raises(rfq.ArgumentError, match=message):
        step(step.init(), **arguments)


def cross_entropies(logits, labels):
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]


def test_an_evaluation_counts_every_image_once(coupled):
    copy = nnx.clone(coupled)
    rfq.set_bits(copy, MIXED)
    rfq.recalibrate(copy, IMAGES[:32], batch_size=16)
    logits = np.asarray(copy(IMAGES))
    found = rfq.evaluate(coupled, MIXED, (IMAGES, LABELS), recalibrate=IMAGES[:32], batch_size=16)
    assert found.images == 50
    assert found.top1 == (logits.argmax(1) == LABELS).sum()
    assert found.top5 == 50
    np.testing.assert_allclose(found.loss, cross_entropies(logits, LABELS).sum(), rtol=1e-4)
    low, high = found.top1_interval
    assert low < found.top1_percent < high


def test_an_evaluation_takes_batches_and_the_statistics_it_is_told(coupled):
    batches = [
        {"image": IMAGES[:32], "label": LABELS[:32]},
        {"image": IMAGES[32:], "label": LABELS[32:]},
    ]
    whole = rfq.evaluate(coupled, "w4a4", (IMAGES, LABELS), batch_size=32)
    assert rfq.evaluate(coupled, "w4a4", batches) == whole
    assert rfq.evaluate(coupled, "w4a4", batches, recalibrate=IMAGES) == whole  # as `couple` had
    running = rfq.evaluate(coupled, "w4a4", batches, recalibrate=False)
    copy = nnx.clone(coupled)
    rfq.set_bits(copy, "w4a4")  # with the statistics of the plain network
    expected = cross_entropies(np.asarray(copy(IMAGES)), LABELS).sum()
    np.testing.assert_allclose(running.loss, expected, rtol=1e-4)
    assert abs(running.loss - whole.loss) > 1e-3


def test_a_profile_is_measured_once(coupled, profile, profile_file):
    assert len(profile) == 40
    assert len(profile_file.read_text().splitlines()) == 41
    again = rfq.profile(coupled, IMAGES, profile_file, configurations=40)
    assert again.evaluator.traces["network"] == 0  # nothing was evaluated
    np.testing.assert_array_equal(
        again.divergences(["w2a2", "w4a4"]), profile.divergences(["w2a2", "w4a4"])
    )


def softmax(logits):
    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def test_a_divergence_is_that_of_the_probabilities(coupled, profile):
    """All 50 images are one batch, whose own statistics BatchNorm uses, as in training."""
    found = []
    for configuration in ("w6a6", "w2a3"):
        copy = nnx.clone(coupled)
        copy.train()
        rfq.set_bits(copy, configuration)
        found.append(softmax(np.asarray(copy(IMAGES))))
    largest, other = found
    expected = np.mean(np.sum(largest * np.log(largest / other), axis=1))
    np.testing.assert_allclose(profile.divergences(["w2a3"])[0], expected, rtol=1e-3)


@given(st.sampled_from([2, 3, 4, 5, 6]), st.floats(1.0, 1.5), st.sampled_from(["", ":MB"]))
@settings(max_examples=12)
def test_no_result_exceeds_its_budget(profile, bits, factor, unit):
    [found] = rfq.search(profile, f"{factor!r}*w{bits}a{bits}{unit}", evaluations=0)
    uniform = [(bits, bits)] * 2
    if unit:
        assert size_bits(found.configuration) <= factor * size_bits(uniform)
    else:
        assert bitops(found.configuration) <= factor * bitops(uniform)


def test_results_come_in_the_order_of_the_budgets_and_do_not_depend_on_it(profile):
    budgets = ["0.9*w3a3", "1*w5a5", "0.25KB"]
    found = rfq.search(profile, budgets, evaluations=6)
    assert [result.budget for result in found] == budgets
    assert all(result.measured for result in found)
    swapped = rfq.search(profile, budgets[::-1], evaluations=6)
    for one, other in zip(found, swapped[::-1], strict=True):
        np.testing.assert_array_equal(one.configuration, other.configuration)
    assert size_bits(found[2].configuration) <= 8 * 256
    assert found[0].layers == {
        name: tuple(row)
        for name, row in zip(("conv", "last"), found[0].configuration.tolist(), strict=True)
    }
    assert found[0].costs["bitops_g"] == bitops(found[0].configuration) / 1e9


def test_weights_and_activations_have_equal_bits_where_asked(profile):
    [found] = rfq.search(profile, "0.9*w4a3", evaluations=4, same_bits=["*"])
    assert found.measured
    assert all(weights == activations for weights, activations in found.layers.values())


def test_pins_and_groups_hold(profile):
    [found] = rfq.search(profile, "1*w5a5", evaluations=4, pins=[("conv", (3, 4))])
    assert found.layers["conv"] == (3, 4)
    [found] = rfq.search(profile, "1*w3a4", evaluations=4, groups=[("weights", "*")])
    assert found.configuration[0, 0] == found.configuration[1, 0]


def test_a_profile_answers_from_its_file_alone(plan, profile, profile_file):
    alone = rfq.profile(plan, path=profile_file)
    assert not alone.measured
    np.testing.assert_array_equal(alone.divergences(["w3a3"]), profile.divergences(["w3a3"]))
    [found] = rfq.search(alone, "0.77*w4a4")
    assert bitops(found.configuration) <= 0.77 * bitops([(4, 4)] * 2)
    assert found.measured == (alone.known(found) is not None)
    assert found.predicted > 0
    unknown = next(
        c
        for c in (np.asarray([[w, 3], [v, 5]]) for w in (6, 5, 2) for v in (6, 4, 3))
        if alone.known(c) is None
    )
    with pytest.raises(LookupError, match="no network"):
        alone.divergences([unknown])
    with pytest.raises(rfq.UserError, match="fewer than 10 configurations within these limits"):
        rfq.search(alone, "1*w5a5", pins=[("*", (3, 3))])
    other = rfq.plan(
        nnx.eval_shape(lambda: SmallNet(nnx.Rngs(0))), IMAGE_SHAPE, rfq.QuantConfig((4, 2))
    )
    with pytest.raises(rfq.UserError, match="another network: its candidates differ"):
        rfq.profile(other, path=profile_file)


def test_an_exported_file_predicts_the_evaluations_classes(coupled, profile, tmp_path):
    found = rfq.search(profile, ["1*w4a4", "0.9*w3a3"], evaluations=0)
    files = rfq.export(coupled, found, tmp_path / "models" / "net.onnx", recalibrate=IMAGES)
    assert [file.path.name for file in files] == ["net_1xw4a4.onnx", "net_0.9xw3a3.onnx"]
    assert [file.note for file in files] == ["verified", "verified"]
    for file, result in zip(files, found, strict=True):
        session = onnxruntime.InferenceSession(file)
        [given] = session.get_inputs()
        images = IMAGES if given.shape[-1] == 3 else IMAGES.transpose(0, 3, 1, 2)
        [logits] = session.run(None, {given.name: images})
        accuracy = rfq.evaluate(coupled, result, (IMAGES, LABELS), recalibrate=IMAGES)
        assert (logits.argmax(1) == LABELS).sum() == accuracy.top1
        np.testing.assert_allclose(cross_entropies(logits, LABELS).sum(), accuracy.loss, rtol=1e-4)
    [bundle] = rfq.export(coupled, found, tmp_path / "net.safetensors")
    assert (bundle.path, bundle.verified) == (tmp_path / "net.safetensors", True)
    with pytest.raises(rfq.ArgumentError, match=r"`path` = .*must end in one of .*\.onnx"):
        rfq.export(coupled, "w4a4", tmp_path / "net.pb")


def test_a_trainer_keeps_what_load_needs(net, coupled, tmp_path):
    copy = nnx.clone(coupled)
    config = rfq.TrainConfig(
        epochs=2, warmup_epochs=0, batch_size=25, lr=0.02, log_every=1, eval_every=1
    )
    said = []
    trainer = rfq.Trainer(copy, config, checkpoints=tmp_path / "run", log=said.append)

    def score(network):
        accuracy = rfq.evaluate(network, "w4a4", (IMAGES, LABELS), recalibrate=IMAGES)
        return {"w4a4": accuracy.top1_percent}

    records = trainer.run((IMAGES, LABELS), score=score)
    assert [record["step"] for record in records if "loss" in record] == [1, 2, 3, 4]
    assert any("held-out top-1" in line for line in said)
    assert all(count <= 1 for count in trainer.traces.values())
    trained = arrays_of(copy.network)[0]
    assert (trained["conv.kernel"] != arrays_of(coupled.network)[0]["conv.kernel"]).any()

    resumed = rfq.Trainer(nnx.clone(coupled), config, checkpoints=tmp_path / "run", log=None)
    assert resumed.run((IMAGES, LABELS)) == []  # it is at its end
    model = rfq.load(tmp_path / "run", MIXED, network=net, recalibrate=IMAGES[:32], devices=1)
    best = max(records, key=lambda r: (r.get("held_out/mean", -1), r["step"]))
    if best["step"] == 4:
        np.testing.assert_array_equal(
            arrays_of(model.network)[0]["conv.kernel"], trained["conv.kernel"]
        )
        accuracy = rfq.evaluate(copy, MIXED, (IMAGES, LABELS), recalibrate=IMAGES[:32])
        assert (np.asarray(model(IMAGES)).argmax(1) == LABELS).sum() == accuracy.top1
    with pytest.raises(rfq.ArgumentError, match="`network` = None: must be given"):
        rfq.load(tmp_path / "run", MIXED)


def test_a_trainer_trains_a_plain_network():
    plain = nnx.jit(lambda: SmallNet(nnx.Rngs(1)))()
    config = rfq.TrainConfig.full_precision(
        epochs=40,
        warmup_epochs=0,
        batch_size=25,
        log_every=1,
        ema_decay=0.5,
    )
    images = np.round(IMAGES * 20 + 128).clip(0, 255).astype(np.uint8)
    records = rfq.Trainer(
        plain, config, preprocess=lambda x: (x.astype(jnp.float32) - 128) / 20, devices=1, log=None
    ).run((images, LABELS))
    assert records[-1]["loss"] < 0.7 * records[0]["loss"]
    plain.eval()
    assert (np.asarray(plain(IMAGES)).argmax(1) == LABELS).mean() > 0.6


def test_evaluation_shares_a_batch_between_the_devices(net, plan, monkeypatch):
    """Each device gets 4 of 16 images; statistics and counts are those of one device."""
    networks = [rfq.couple(net, plan, IMAGES[:48], devices=n) for n in (1, 4)]
    # The step sizes differ: calibration normalizes with the statistics of each device's images.
    nnx.update(networks[1].network, nnx.state(networks[0].network))
    parts = {}

    def recorded(batches, mesh):
        for group, real in grouped(batches, mesh):
            images = group["image"] if isinstance(group, dict) else group
            parts.setdefault(mesh.size, []).append(len(images) // mesh.size)
            yield group, real

    monkeypatch.setattr(evaluator, "grouped", recorded)
    one, four = (
        rfq.evaluate(c, "w4a4", (IMAGES, LABELS), recalibrate=IMAGES[:32], batch_size=16)
        for c in networks
    )
    assert parts == {1: [16, 16, 16, 16, 16, 16], 4: [16, 4, 4, 4, 4]}
    assert (four.top1, four.top5, four.images) == (one.top1, one.top5, one.images) != (0, 0, 0)
    assert four.loss == pytest.approx(one.loss, rel=1e-5)


def test_images_are_what_preprocess_takes(net, plan):
    images = np.round(IMAGES * 20 + 128).clip(0, 255).astype(np.uint8)

    def preprocess(x):
        return (x.astype(jnp.float32) - 128) / 20

    coupled = rfq.couple(
        net,
        plan,
        [images[:25], images[25:]],
        preprocess=preprocess,
        step_sizes="least_squares",
        devices=1,
    )
    rfq.set_bits(coupled, "w6a6")
    np.testing.assert_allclose(
        coupled(images[:5]), coupled.network(preprocess(images[:5])), rtol=1e-6
    )
    accuracy = rfq.evaluate(coupled, "w6a6", (images, LABELS), recalibrate=False)
    assert accuracy.top1 == (np.asarray(coupled(images)).argmax(1) == LABELS).sum()


def test_the_defaults_are_the_published_ones():
    config = default.get_config()
    assert rfq.QuantConfig() == of_config.quant_settings(config)
    candidates = rfq.QuantConfig().candidates
    assert rfq.StepConfig().settings(candidates) == of_config.coupled_step(config)
    assert rfq.StepConfig().accumulate == config.train.accumulate
    published, ours = of_config.coupled_plan(config), rfq.TrainConfig().plan("train")
    own = {"seed", "remedy", "save_every_steps", "save_every_minutes"}
    assert {k: v for k, v in vars(ours).items() if k not in own} == {
        k: v for k, v in vars(published).items() if k not in own
    }
    assert rfq.TrainConfig().batch_size == config.train.batch_size
    assert rfq.SchedulerConfig().boundary == config.scheduler.boundary
    assert rfq.SchedulerConfig().split_candidates == config.quant.split_candidates
    plain = rfq.TrainConfig.full_precision()
    assert plain.step.settings(candidates) == of_config.pretrain_step(config)
    assert plain.batch_size == config.pretrain.batch_size
    published, ours = of_config.pretrain_plan(config), plain.plan("pretrain")
    own |= {"damping_start_epoch"}  # without damping
    assert {k: v for k, v in vars(ours).items() if k not in own} == {
        k: v for k, v in vars(published).items() if k not in own
    }

    def defaults(function):
        return {k: p.default for k, p in inspect.signature(function).parameters.items()}

    assert defaults(rfq.profile)["configurations"] == config.search.profile
    assert defaults(rfq.profile)["batch_size"] == config.search.batch_size
    assert defaults(rfq.search)["evaluations"] == config.search.evaluations
    assert defaults(rfq.evaluate)["batch_size"] == config.evaluate.batch_size


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rfq.QuantConfig(candidates=(2, 4)), r"`candidates` = \(2, 4\): must be .*largest"),
        (lambda: rfq.QuantConfig(rules=(("conv", 4),)), "`rules` = .*layer pattern and a tuple"),
        (
            lambda: rfq.QuantConfig(fixed_bits=9),
            "`fixed_bits` = 9: must be a bit-width from 2 to 8",
        ),
        (lambda: rfq.StepConfig(momentum=1.0), "`momentum` = 1.0: must be at least 0 and below 1"),
        (lambda: rfq.StepConfig(strategy="fast"), "`strategy` = 'fast': must be auto"),
        (lambda: rfq.TrainConfig(epochs=3), "`warmup_epochs` = 5: must be below `epochs` 3"),
        (lambda: rfq.SchedulerConfig(ratio_amplitude=0.5), "freezes 1.2 of the layers"),
    ],
)
def test_configs_name_the_field_its_value_and_the_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_importing_the_package_loads_nothing():
    code = (
        "import sys, rfquant_jax as rfq; "
        "assert not {'jax', 'flax', 'numpy', 'orbax'} & set(sys.modules); "
        "assert set(rfq.__all__) <= set(dir(rfq)); "
        # A room first, then the package: the room is callable, and still a package.
        "import rfquant_jax.search.budget as budget; "
        "from rfquant_jax.evaluate.evaluator import Accuracy; "
        "assert callable(rfq.search) and rfq.search.budget is budget; "
        "assert rfq.Accuracy is Accuracy and callable(rfq.evaluate)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("room", ["search", "evaluate", "export"])
def test_a_room_is_callable_and_a_package(room, monkeypatch):
    package = importlib.import_module(f"rfquant_jax.{room}")
    function = getattr(importlib.import_module(f"rfquant_jax.{room}.{room}"), room)
    assert getattr(rfq, room) is package
    assert package.__path__
    assert inspect.signature(package) == inspect.signature(function)
    assert inspect.getdoc(package) == inspect.getdoc(function)
    assert inspect.unwrap(package) is function
    monkeypatch.setattr(f"rfquant_jax.{room}.{room}.{room}", lambda *a, **k: (a, k))
    assert package(1, two=2) == ((1,), {"two": 2})


def test_every_public_name_is_there_and_an_unknown_one_is_not():
    assert all(getattr(rfq, name) is not None for name in rfq.__all__)
    assert sorted(rfq.__all__) == rfq.__all__
    with pytest.raises(AttributeError, match="'quantize'"):
        _ = rfq.quantize
