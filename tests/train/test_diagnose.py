"""A number that is not finite, put somewhere into a network, is found there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfquant_jax.nn.functional import FunctionalNetwork
from rfquant_jax.quant import convert
from rfquant_jax.quant.sampling import sample_step
from rfquant_jax.runtime import devices
from rfquant_jax.train.diagnose import IMAGES, DispatchedStep, diagnose
from rfquant_jax.train.state import FAILURES, StepInputs, StepReport
from rfquant_jax.train.step import TrainStep
from rfquant_jax.train.training_network import LossWeights, TrainingNetwork
from tests.conftest import batch, identity, mesh_of
from tests.train.test_step import settings

RATES = {"lr": 0.1, "step_size_lr": 0.0, "damping": 0.1}
KEY = jax.random.key(3)
DEVICES, PASSES = 2, 2


def found(functional, space, changes, losses, *, parts=None, teachers=None):
    """Diagnoses a step of a network with changed parameters, whose losses were these."""
    sample_key, dropout = jax.random.split(KEY)
    drawn = np.zeros((1, 0, 2), np.int32)
    if space:
        masks = [space.full_mask] * 2
        drawn = sample_step(sample_key, *masks, space.candidates, PASSES - 1)
    smallest = np.full(drawn[0].shape, 2, np.int32)
    inputs = StepInputs(drawn, smallest, *map(np.float32, RATES.values()), dropout)
    step = TrainStep(functional, mesh_of(DEVICES), identity, settings(random_passes=0))
    state = step.init(functional.params | changes)
    parts = parts or [batch(np.random.default_rng(0), 8)]
    metrics = [{"loss": np.asarray(row, np.float32)} for row in losses]
    report = StepReport(np.ones(len(FAILURES), bool), np.int32(0))
    taken = DispatchedStep(1, parts, inputs, teachers, metrics, report)
    network = TrainingNetwork(functional, identity, LossWeights())
    return diagnose(network, state, taken), drawn


@pytest.mark.parametrize("strategy", ["loop", "scan"])
def test_a_step_of_any_strategy_is_diagnosed(functional, space, strategy):
    step = TrainStep(functional, mesh_of(1), identity, settings(strategy, random_passes=1))
    state = step.init(functional.params)
    inputs = step.inputs(np.stack([space.full_mask] * 2), KEY, **RATES)
    metrics = [{"loss": np.ones(1, np.float32)}] * 2
    report = StepReport(np.ones(len(FAILURES), bool), np.int32(0))
    parts = [batch(np.random.default_rng(0), 8)]
    found = step.diagnose(state, DispatchedStep(1, parts, inputs, None, metrics, report))
    assert found == (None, 0, None, None)  # all is finite, run pass by pass


NAN, BOTH = np.nan, [[1, 1], [np.nan, 1]]


def at(functional, name, value, index=(0,)):
    """One element of a parameter replaced."""
    values = functional.params[name]
    index = index + (0,) * (values.ndim - len(index))
    return {name: values.at[index].set(value)}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("conv.kernel", "the kernel of conv"),
        ("bn.scale", "the scale of bn"),
        ("fc.bias", "the bias of fc"),
    ],
)
def test_a_plain_network(plain, name, place):
    functional = FunctionalNetwork(plain)
    finding, _ = found(functional, None, at(functional, name, NAN), [[1, NAN]])
    assert (finding.number, finding.device, finding.place) == (0, 1, place)


def test_a_coupled_network_under_the_configuration_of_the_pass(functional, space):
    finding, drawn = found(functional, space, at(functional, "expand.kernel", np.inf), BOTH)
    assert (finding.number, finding.device) == (1, 0)
    assert finding.place == "the kernel of expand"
    np.testing.assert_array_equal(finding.configuration, drawn[1])
    assert not np.array_equal(drawn[0], drawn[1])


@pytest.mark.parametrize(("operand", "column"), [("weight", 0), ("input", 1)])
def test_a_step_size_counts_only_where_it_is_in_use(functional, space, operand, column):
    drawn = sample_step(
        jax.random.split(KEY)[0], space.full_mask, space.full_mask, space.candidates, 1
    )
    layer = space.names.index("depthwise")
    slots = [convert.CANDIDATES.index(b) for b in np.asarray(drawn)[:, layer, column]]
    unused = next(i for i in range(4) if i not in slots)
    name = f"depthwise.{operand}_quantizer.step"
    finding, _ = found(functional, space, at(functional, name, NAN, (slots[1],)), BOTH)
    what = {"weight": "weights", "input": "input"}[operand]
    assert finding.place == f"the step size of the {what} of depthwise"
    changes = at(functional, name, NAN, (unused,)) | at(functional, "fc.kernel", NAN)
    assert found(functional, space, changes, BOTH)[0].place == "the kernel of fc"


def test_an_image_of_the_second_device_of_the_second_micro_batch(functional, space):
    good, bad = (batch(np.random.default_rng(i), 8) for i in range(2))
    bad["image"][6, 2, 2, 1] = NAN
    losses = [[1, 1], [1, 1], [1, NAN], [1, NAN]]
    finding, drawn = found(functional, space, {}, losses, parts=[good, bad])
    assert (finding.number, finding.device, finding.place) == (2, 1, IMAGES)
    np.testing.assert_array_equal(finding.configuration, drawn[0])


def test_a_variance_that_overflows_where_every_loss_is_finite(plain):
    functional = FunctionalNetwork(plain)
    finding, _ = found(
        functional, None, {"conv.kernel": functional.params["conv.kernel"] * 1e25}, [[1, 1]]
    )
    assert (finding.number, finding.place) == (0, "the running var of bn")


def test_the_teachers_logits(functional, space):
    teachers = [np.full((8, 5), NAN, np.float32)]
    finding, _ = found(functional, space, {}, [[NAN, 1], [1, 1]], teachers=teachers)
    assert finding.place == "the logits of the external teacher"


def test_a_gradient_where_the_forward_pass_is_finite(plain, monkeypatch):
    """The backward pass meets bn first, everything before it later."""
    functional = FunctionalNetwork(plain)

    @jax.custom_vjp
    def spoil(x):
        return x

    spoil.defvjp(lambda x: (x, None), lambda _, g: (g * jnp.nan,))
    feature = type(plain.feature)
    monkeypatch.setattr(
        feature, "__call__", lambda self, x: spoil(x) if self.layer == "conv" else x
    )
    finding, _ = found(functional, None, {}, [[1, 1]])
    assert finding.place in ("the gradient of bn.bias", "the gradient of bn.scale")


def test_what_is_finite_when_repeated_is_not_made_up(plain):
    functional = FunctionalNetwork(plain)
    finding, _ = found(functional, None, {}, [[1, NAN]])
    assert (finding.number, finding.device, finding.place) == (0, 1, None)
    finding, _ = found(functional, None, {}, [[1, 1]])
    assert (finding.number, finding.place) == (None, None)


def test_a_step_diagnoses_itself(plain):
    """From the arrays on the devices to the layer, dropout and statistics included."""
    functional = FunctionalNetwork(plain)
    step = TrainStep(functional, mesh_of(DEVICES), identity, settings(random_passes=0))
    inputs = step.inputs(np.zeros((2, 0, 4), bool), KEY, **RATES)
    parts = [devices.split(batch(np.random.default_rng(0), 8), step.mesh)]
    state = step.init(functional.params | at(functional, "expand_bn.bias", NAN))
    state, metrics, report = step(state, parts, inputs)
    taken = DispatchedStep(1, parts, inputs, None, metrics, report)
    assert step.diagnose(state, taken).place == "the bias of expand_bn"


def test_a_step_of_explicit_configurations_is_diagnosed_under_these(functional, space):
    """The key would draw other bits for the layer that fails at 4 bits alone."""
    step = TrainStep(functional, mesh_of(1), identity, settings(random_passes=1))
    masks, layer = np.stack([space.full_mask] * 2), space.names.index("expand")
    slot = convert.CANDIDATES.index(4)
    state = step.init(
        functional.params | at(functional, "expand.weight_quantizer.step", NAN, (slot,))
    )
    given = space.uniform(4, 3)[None]
    drawn = np.asarray(step.inputs(masks, KEY, **RATES).configurations)
    assert 4 not in drawn[:, layer, 0]
    parts = [devices.split(batch(np.random.default_rng(0), 8), step.mesh)]
    inputs = step.inputs(masks, KEY, **RATES, configurations=given)
    state, metrics, report = step(state, parts, inputs)
    finding = step.diagnose(state, DispatchedStep(1, parts, inputs, None, metrics, report))
    assert finding.number == 1
    assert finding.place == "the step size of the weights of expand"
    np.testing.assert_array_equal(finding.configuration, given[0])
