"""Networks that run in full precision, but not with the layers of a coupled network."""

import inspect

import jax.numpy as jnp
import pytest
from flax import nnx

import rfquant_jax as rfq
from rfquant_jax.errors import RunFailure, UserError

SHAPE = (4, 4, 2)


def conv(**options):
    return nnx.Conv(2, 2, (3, 3), rngs=nnx.Rngs(0), **options)


class Block(nnx.Module):
    """A convolution and a BatchNorm."""

    def __init__(self, **options):
        self.conv, self.norm = conv(**options), nnx.BatchNorm(2, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.norm(self.conv(x))


class Network(nnx.Module):
    """A stem, a block of some kind and a head."""

    def __init__(self, block):
        self.stem, self.block = conv(), block
        self.head = nnx.Linear(2, 3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.head(self.block(self.stem(x)).mean((1, 2)))


def line(method, text):
    """The number of the line of a method that holds a text."""
    lines, first = inspect.getsourcelines(method)
    return first + next(number for number, code in enumerate(lines) if text in code)


class Subsampling(Block):
    """Uses the stride of its convolution for its shortcut; a quantized layer has a pair."""

    def __call__(self, x):
        step = self.conv.strides
        return super().__call__(x) + x[:, ::step, ::step]


def test_code_that_fails_with_quantized_layers_is_refused_with_module_and_line():
    block = Subsampling(strides=2)
    assert Network(block)(jnp.ones((1, *SHAPE))).shape == (1, 3)
    with pytest.raises(RunFailure) as error:
        rfq.plan(Network(block), SHAPE)
    said = "the network runs, but not with quantized layers in training mode: TypeError: "
    assert str(error.value).startswith(said)
    place = f"(module block, test_coupled_check.py, line {line(Subsampling.__call__, '::step')})"
    assert str(error.value).endswith(place)
    assert isinstance(error.value.__cause__, TypeError)


class InEvaluation(Block):
    """Reads the padding of its convolution, as a string, in evaluation mode alone."""

    def __call__(self, x):
        if self.norm.use_running_average:
            assert self.conv.padding == 1
        return super().__call__(x)


def test_evaluation_mode_is_tried_as_well():
    with pytest.raises(RunFailure, match="quantized layers in evaluation mode: AssertionError"):
        rfq.plan(Network(InEvaluation(padding=1)), SHAPE)


class ByType(Block):
    """Its code looks at the types of its layers."""

    def __call__(self, x):
        for layer in (self.conv, self.norm):
            x = layer(x)
            if isinstance(layer, nnx.Conv):
                x = nnx.relu(x)
        return x


class Typed(Block):
    """Its code insists on the type of a layer."""

    def __call__(self, x):
        assert isinstance(self.conv, nnx.Conv)
        return super().__call__(x)


def test_code_that_looks_at_types_of_layers_is_refused():
    with pytest.raises(UserError) as error:
        rfq.plan(Network(ByType()), SHAPE)
    assert f"test_coupled_check.py:{line(ByType.__call__, 'relu')}" in str(error.value)
    assert "must not depend on their types (isinstance)" in str(error.value)
    with pytest.raises(UserError) as error:
        rfq.plan(Network(Typed()), SHAPE)
    said = "the network runs, but not once its layers are replaced, as conversion does: Assertion"
    assert str(error.value).startswith(said)
    assert "(module block, test_coupled_check.py, line" in str(error.value)


class InTraining(Block):
    """Calls its layers `times` in training mode, on images of other sizes."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    def __call__(self, x):
        if self.norm.use_running_average:
            return super().__call__(x)
        for number in range(self.times):
            x = self.conv(x[:, number:])
        return self.norm(x)


@pytest.mark.parametrize(("times", "said"), [(0, "never called"), (2, "called more than once")])
def test_layers_are_called_once_in_training_mode_as_well(times, said):
    with pytest.raises(UserError) as error:
        rfq.plan(Network(InTraining(times)), SHAPE)
    said = f"layer block.conv is {said} in training mode: each layer must be called once"
    assert str(error.value) == said
    assert len(rfq.plan(Network(InTraining(1)), SHAPE).layers) == 3


class Twice(Block):
    """Its BatchNorm also normalizes the input in training mode."""

    def __call__(self, x):
        return super().__call__(x if self.norm.use_running_average else self.norm(x))


def test_a_batch_norm_is_called_once_in_training_mode_as_well():
    with pytest.raises(UserError, match=r"^block\.norm is called more than once in training mode"):
        rfq.plan(Network(Twice()), SHAPE)


class Adjusted(Block):
    """Gives its convolution an argument besides the images."""

    def __call__(self, x):
        return self.norm(self.conv(x, None))


def test_arguments_that_a_quantized_layer_does_not_take_are_refused():
    with pytest.raises(UserError, match=r"layer block\.conv: an nnx\.Conv is called with None"):
        rfq.plan(Network(Adjusted()), SHAPE)


class Merged(nnx.Module):
    """Dense layers on patches whose axis is merged with that of the images."""

    def __init__(self, rows):
        self.rows = rows
        self.first, self.second, self.head = (nnx.Linear(8, 8, rngs=nnx.Rngs(0)) for _ in range(3))

    def __call__(self, x):
        patches = self.second(nnx.relu(self.first(x.reshape(-1, 8))))
        return self.head(patches.reshape(self.rows, 4, 8).mean(1))


def test_positions_in_the_axis_of_images_count():
    plan = rfq.plan(Merged(-1), SHAPE)
    assert [layer.macs for layer in plan.layers] == [4 * 64, 4 * 64, 64]


def test_code_for_one_image_at_a_time_is_refused():
    assert Merged(1)(jnp.ones((1, *SHAPE))).shape == (1, 8)
    with pytest.raises(RunFailure, match="cannot reshape array"):
        rfq.plan(Merged(1), SHAPE)


def test_marks_and_patterns_without_a_layer_are_refused_by_the_plan():
    network = Network(Block())
    network.mark = rfq.Feature("nowhere")
    with pytest.raises(UserError, match="Feature mark marks layer 'nowhere'"):
        rfq.plan(network, SHAPE)
    with pytest.raises(UserError, match="`signed`: 'blok' matches none of block"):
        rfq.plan(Network(Block()), SHAPE, rfq.QuantConfig(signed=("blok",)))
