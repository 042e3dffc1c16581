"""Networks of the public ecosystem from the plan to the exported file, verified."""

import jax
import numpy as np
import pytest
from flax import nnx

import rfquant_jax as rfq
from tests.networks import convolutional, transformers

SHAPE, CLASSES, IMAGES = (6, 6, 3), 4, 24
DENSE = {
    "mixer": transformers.mixer,
    "vit": transformers.vit,
    "perceptron": transformers.Perceptron,
}
CONVOLUTIONAL = {
    name: getattr(convolutional, name)
    for name in ("resnet50", "efficientnet", "mobilenetv3", "shufflenetv2", "densenet", "convnext")
} | {"vgg": convolutional.Vgg}
FAST = ("vit",)  # the others are slow tests
NETWORKS = [
    pytest.param(build, id=name, marks=() if name in FAST else pytest.mark.slow)
    for name, build in (DENSE | CONVOLUTIONAL).items()
]


def dense_layers(net):
    """Paths of the dense layers, in no particular order."""
    return {
        ".".join(map(str, path))
        for path, module in nnx.iter_modules(net)
        if isinstance(module, nnx.Linear)
    }


@pytest.mark.parametrize("build", (DENSE | CONVOLUTIONAL).values(), ids=DENSE | CONVOLUTIONAL)
def test_all_layers_but_the_first_and_the_classifier_are_searched(build):
    net = build(SHAPE, CLASSES, nnx.Rngs(0))
    plan = rfq.plan(net, SHAPE)
    first, *inner, last = plan.layers
    assert not first.candidates
    assert not first.quantize_input
    assert last.name == "head"
    assert not last.candidates
    assert plan.space.names == tuple(layer.name for layer in inner)
    assert dense_layers(net) - {"head", first.name} <= set(plan.space.names)
    # By hand: 6 bits for both operands of each searched layer, 8 for the others.
    bits = {layer.name: 36 for layer in inner} | {first.name: 64, last.name: 64}
    expected = sum(bits[layer.name] * layer.macs for layer in plan.layers) / 1e9
    assert plan.costs("w6a6")["bitops_g"] == pytest.approx(expected)


@pytest.mark.parametrize("build", NETWORKS)
def test_from_the_plan_to_the_exported_file(build, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(IMAGES, *SHAPE)).astype(np.float32)
    labels = rng.integers(0, CLASSES, IMAGES).astype(np.int32)
    net = build(SHAPE, CLASSES, nnx.Rngs(0))
    coupled = rfq.couple(net, rfq.plan(net, SHAPE), images)
    step = rfq.CoupledStep(coupled, rfq.StepConfig(random_passes=1, ema_decay=0.5))
    state = step.init()
    for number in range(2):
        key = jax.random.key(number)
        state, metrics = step(state, (images, labels), key=key, lr=0.01, damping=0.1)
        assert not metrics.skipped
        assert np.all(np.isfinite(metrics.losses))
    step.update_network(state)
    profile = rfq.profile(coupled, images, configurations=20)
    (found,) = rfq.search(profile, ["1.02*w3a3"], evaluations=10)
    assert found.costs["bitops_g"] <= 1.02 * coupled.plan.costs("w3a3")["bitops_g"]
    names = coupled.plan.space.names
    mixed = {name: [(6, 3), (4, 5), (3, 6)][i % 3] for i, name in enumerate(names)}
    for name in ("model.onnx", "model.safetensors", "model.c"):
        files = rfq.export(coupled, [found, mixed], tmp_path / name, recalibrate=images)
        assert all(file.verified for file in files), name
