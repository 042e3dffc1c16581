"""Every example in the docstrings of the public API runs as it is printed."""

import doctest
import inspect

import jax
import pytest
from flax import nnx

import rfquant_jax as rfq
from tests.api_network import IMAGE_SHAPE, SmallNet, images_and_labels

# Types that users get, not make; and the marker of own networks, which docs/own_network.md shows.
WITHOUT = {
    "Accuracy",
    "ArgumentError",
    "Configuration",
    "CoupledNetwork",
    "ExportedFile",
    "Found",
    "Images",
    "LabelledImages",
    "NetworkProfile",
    "QuantizationPlan",
    "SchedulerConfig",
    "StepMetrics",
    "Feature",
    "TrainState",
    "UserError",
    "__version__",
    "models",
}


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """What the examples refer to: one small network, planned, coupled and profiled."""
    net = nnx.jit(lambda: SmallNet(nnx.Rngs(0)))()
    images, labels = images_and_labels()
    plan = rfq.plan(net, IMAGE_SHAPE)
    coupled = rfq.couple(net, plan, images, devices=1)
    return {
        "rfq": rfq,
        "jax": jax,
        "net": net,
        "images": images,
        "labels": labels,
        "plan": plan,
        "coupled": coupled,
        "profile": rfq.profile(coupled, images, configurations=40),
        "folder": tmp_path_factory.mktemp("examples"),
    }


@pytest.mark.parametrize("name", sorted(set(rfq.__all__) - WITHOUT))
def test_the_example_of_a_public_name_runs(name, names):
    public = getattr(rfq, name)
    documented = getattr(public, "__wrapped__", public)
    text = inspect.getdoc(documented)
    assert "Example:" in text
    example = doctest.DocTestParser().get_doctest(text, dict(names), name, None, 0)
    assert example.examples
    output = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    failed, _ = runner.run(example, out=output.append, clear_globs=False)
    assert not failed, "".join(output)
