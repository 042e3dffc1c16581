"""A network that computes in bfloat16 beside the same one in float32: what stays in float32.

bfloat16 numbers have 8 bits: each rounding is off by at most one part in 512. Through the few
layers here that makes up to some percent, by which the two may differ.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import quickstart
from rfquant_jax.data.sources import ArraySource
from rfquant_jax.errors import ConfigError
from rfquant_jax.evaluate.evaluator import Evaluator
from rfquant_jax.nn.functional import FunctionalNetwork, zeros_like
from rfquant_jax.nn.precision import compute_in, compute_type
from rfquant_jax.quant import convert
from rfquant_jax.quant.calibrate import initialize_activation_steps
from rfquant_jax.runtime import devices
from rfquant_jax.search.evaluator import CandidateEvaluator
from rfquant_jax.search.metrics import METRICS
from rfquant_jax.tasks.run import Run
from rfquant_jax.train.passes import max_pass, random_pass
from rfquant_jax.train.state import PassState, StepInputs
from rfquant_jax.train.training_network import LossWeights, TrainingNetwork
from tests.conftest import IMAGE_SHAPE, batch, equations, identity, images, mesh_of, pipeline
from tests.search.test_evaluator import neighbours_of

WEIGHTS = LossWeights(label_smoothing=0.1, distillation=0.3, idm=0.7, region=-0.01)
CONFIGURATIONS = np.asarray([[[6, 6]] * 4, [[3, 2], [2, 5], [4, 3], [3, 6]]], np.int32)
SMALLEST = np.asarray([[3, 2], [2, 2], [2, 2], [3, 2]], np.int32)


def narrowed(x):
    return x.astype(jnp.bfloat16)


PREPROCESS = {"float32": identity, "bfloat16": narrowed}


@pytest.fixture(scope="module")
def networks(plain, layers, space):
    """By compute type, the coupled TinyNet and its calibrated parameters (those of float32)."""
    found = {}
    for name in PREPROCESS:
        network = compute_in(nnx.clone(plain), compute_type(name))
        coupled = convert.quantize(network, layers)
        convert.set_signed(coupled, ["expand"])
        found[name] = FunctionalNetwork(coupled)
    calibration = [images(np.random.default_rng(1), 16)]
    params = initialize_activation_steps(found["float32"], space, calibration, identity, mesh_of(1))
    return found, params


def two_passes(functional, preprocess, params, data):
    rates = np.float32(0), np.float32(0), np.float32(0.2)
    inputs = StepInputs(CONFIGURATIONS, SMALLEST, *rates, jax.random.key(0))
    network = TrainingNetwork(functional, preprocess, WEIGHTS)
    state = PassState(functional.stats, zeros_like(functional.params))
    state, largest = max_pass(network, params, state, data, inputs, 0)
    state, mixed = random_pass(network, params, state, data, inputs, 1)
    return state, largest, mixed


@pytest.fixture(scope="module")
def passes(networks):
    data = batch(np.random.default_rng(0), 32)
    return {
        name: jax.jit(two_passes, static_argnums=(0, 1))(
            functional, PREPROCESS[name], networks[1], data
        )
        for name, functional in networks[0].items()
    }


def test_nothing_but_activations_is_narrow(passes):
    state, *metrics = passes["bfloat16"]
    for name, value in (state.stats | state.gradients).items():
        assert value.dtype == jnp.float32, name
    assert state.logits.dtype == jnp.float32
    assert {f.dtype for f in state.features.values()} == {jnp.dtype(jnp.bfloat16)}
    assert {value.dtype for terms in metrics for value in terms.values()} == {jnp.dtype("float32")}


def test_a_narrow_pass_is_close_to_a_wide_one(passes):
    (wide, *wide_terms), (narrow, *terms) = (passes[n] for n in PREPROCESS)
    for found, expected in zip(terms, wide_terms, strict=True):
        for name in expected.keys() - {"accuracy"}:
            # The divergence is a small difference; damping and region see float32 weights alone.
            share = {"distillation": 0.1, "damping": 1e-6, "region": 1e-6}.get(name, 0.03)
            assert found[name] == pytest.approx(float(expected[name]), rel=share, abs=1e-6), name
    size = np.abs(wide.logits).max()
    assert 0 < np.abs(narrow.logits - wide.logits).mean() < 0.02 * size
    for name, expected in wide.stats.items():
        np.testing.assert_allclose(narrow.stats[name], expected, rtol=0.02, atol=0.01, err_msg=name)
    whole = np.sqrt(sum(np.sum(np.square(g)) for g in wide.gradients.values()))
    compared = 0
    for name, expected in wide.gradients.items():
        # As directions: near a tie a code is another one, and its gradient with it. Small ones are
        # differences: what a later BatchNorm takes out again, as a scale, has next to none.
        a, b = (np.ravel(g).astype(np.float64) for g in (narrow.gradients[name], expected))
        if np.linalg.norm(b) > 0.02 * whole:
            assert a @ b > 0.97 * np.linalg.norm(a) * np.linalg.norm(b), name
            compared += 1
    assert compared > 5


PRODUCTS = ("conv_general_dilated", "dot_general")


def dtypes(atoms):
    return {atom.aval.dtype.name for atom in atoms}


@pytest.mark.parametrize("name", PREPROCESS)
def test_all_layers_compute_in_the_type_asked_for(networks, name):
    data = batch(np.random.default_rng(0), 4)
    functional = networks[0][name]
    traced = jax.make_jaxpr(lambda p: two_passes(functional, PREPROCESS[name], p, data))(
        networks[1]
    )
    found = list(equations(traced.jaxpr))
    products = [e for e in found if e.primitive.name in PRODUCTS]
    # Forward twice, and backward for the kernel and, behind the stem, the input. The backward pass
    # of a layer with a quantized input is traced with its forward one, which nothing reads there.
    # The kernels of 3 x 3 have three products for their gradient, and so has the stem one for its
    # input, which nothing reads either.
    assert len(products) == 2 * (4 + 1 + 4 + 1 + 3 + 1) + 2 * 4 + 2 * (2 * 2 + 1)
    assert {dtype for e in products for dtype in dtypes(e.invars)} == {name}
    for equation in found:
        kind = equation.primitive.name
        scalar = any(v.aval.shape == () for v in equation.outvars)
        if kind in ("exp", "log") or (kind == "reduce_sum" and scalar):
            assert dtypes(equation.invars) == {"float32"}, equation
    wide = {"float32"} if name == "float32" else {"float32", "bfloat16"}
    assert {d for e in found for d in dtypes(e.outvars) if "float" in d} == wide


def test_a_plain_network_computes_in_the_type_asked_for(plain):
    """Whatever the type of what it is given."""
    network = compute_in(nnx.clone(plain), jnp.bfloat16)
    network.eval()
    jaxpr = jax.make_jaxpr(network)(jnp.ones((1, *IMAGE_SHAPE))).jaxpr
    products = [e for e in equations(jaxpr) if e.primitive.name in PRODUCTS]
    assert len(products) == 6
    assert {dtype for e in products for dtype in dtypes(e.invars)} == {"bfloat16"}


def test_calibration_in_bfloat16_measures_in_float32(networks, space):
    functionals, params = networks
    calibration = [images(np.random.default_rng(1), 16)]
    found = initialize_activation_steps(
        functionals["bfloat16"], space, calibration, narrowed, mesh_of(1)
    )
    for name, value in found.items():
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, params[name], rtol=0.03, err_msg=name)
    steps = np.concatenate([found[n] for n in found if n.endswith("input_quantizer.step")])
    assert np.any(steps != np.asarray(jnp.asarray(steps, jnp.bfloat16), np.float32))


def test_counts_in_bfloat16_are_nearly_those_in_float32(networks, space):
    functionals, params = networks
    data = batch(np.random.default_rng(2), 240)
    source = ArraySource(data["image"], data["label"])
    configuration, found = CONFIGURATIONS[1], {}
    for name, functional in functionals.items():
        evaluator = Evaluator(functional, mesh_of(1), PREPROCESS[name])
        statistics = evaluator.recalibrate(params, configuration, [data["image"]])
        assert {value.dtype.name for value in statistics.values()} == {"float32"}
        found[name] = evaluator.accuracy(
            params, statistics, configuration, pipeline().exact(source, 80)
        )
        assert evaluator.traces == {"measure": 1, "count": 1}
        logits = evaluator._logits, params, statistics, data["image"], configuration
        assert jax.eval_shape(*logits).dtype == jnp.float32
    wide, narrow = found["float32"], found["bfloat16"]
    assert narrow.images == 240
    assert narrow.loss != wide.loss
    assert narrow.loss == pytest.approx(wide.loss, rel=0.02)
    # The network is an untrained one, so some images lie near the border of two classes.
    assert abs(narrow.top1 - wide.top1) <= 12


def test_a_search_in_bfloat16_is_traced_once_and_cut_like_any(networks, space):
    functionals, params = networks
    data = batch(np.random.default_rng(5), 60)
    batches = pipeline().training(ArraySource(data["image"], data["label"]), 20, seed=0)
    largest, candidates, found = np.full((4, 2), 6, np.int32), neighbours_of(space), {}
    for starts in ((0,), (0, 1, 3)):
        evaluate = CandidateEvaluator(
            functionals["bfloat16"],
            devices.replicate(params, mesh_of(1)),
            mesh_of(1),
            narrowed,
            batches,
            largest,
            "divergence",
            starts,
        )
        found[starts] = {metric: evaluate.by(metric)(candidates, 0) for metric in METRICS}
        cuts = len(starts)  # each is a program
        assert evaluate.traces == {"network": 1, "largest": 1, "base": 1, "candidate": cuts}
        logits = evaluate._logits, params, data["image"], largest
        assert jax.eval_shape(*logits).dtype == jnp.float32
    whole, cut = found.values()
    for metric in METRICS:
        assert np.isfinite(whole[metric]).all()
        np.testing.assert_allclose(cut[metric], whole[metric], rtol=1e-4, atol=1e-6)
    assert len(set(whole["divergence"])) > 10


def test_auto_is_bfloat16_on_gpus_alone(monkeypatch):
    assert compute_type("auto") == jnp.float32
    for backend, expected in (("gpu", jnp.bfloat16), ("tpu", jnp.float32)):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert compute_type("auto") == expected
    assert compute_type("float32") == jnp.float32


def test_an_unknown_precision_is_refused_by_name(tmp_path):
    config = quickstart.get_config()
    config.precision = "float16"
    with pytest.raises(ConfigError, match=r"config\.precision.*must be auto, float32 or bfloat16"):
        Run(config, tmp_path)


def layer_types(network):
    kinds = (nnx.Conv, nnx.Linear)
    return {m.dtype for _, m in nnx.iter_modules(network) if isinstance(m, kinds)}


def test_a_run_computes_as_its_config_says_and_can_be_had_in_float32(tmp_path):
    config = quickstart.get_config()
    config.precision, config.devices = "bfloat16", 1
    run = Run(config, tmp_path)
    wide = run.in_float32()
    pixels = np.full((1, 8, 8, 1), 200, np.uint8)
    for one, dtype, of_layers in ((run, jnp.bfloat16, jnp.bfloat16), (wide, jnp.float32, None)):
        assert one.preprocess(pixels).dtype == dtype
        assert layer_types(one.abstract_network) == {of_layers}
        params = jax.tree.leaves(nnx.state(one.abstract_network, nnx.Param))
        assert {value.dtype.name for value in params} == {"float32"}
    assert (wide.data, wide.mesh, wide.log) == (run.data, run.mesh, run.log)
    assert run.config.precision == "bfloat16"
    assert wide.in_float32() is wide
