"""The PyTorch step that train_step.py compares with computes what ours does."""

from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx

from rfquant_jax import models
from rfquant_jax.data.transforms import normalizer
from rfquant_jax.nn.functional import FunctionalNetwork, dotted, zeros_like
from rfquant_jax.quant.layers import assign
from rfquant_jax.quant.plan import QuantConfig, QuantizationPlan
from rfquant_jax.train.passes import max_pass, random_pass
from rfquant_jax.train.state import PassState, StepInputs
from rfquant_jax.train.training_network import LossWeights, TrainingNetwork

torch = pytest.importorskip("torch")
peer_layers, peer_networks, peer_pytorch = (
    pytest.importorskip(f"benchmarks.peer_{name}") for name in ("layers", "networks", "pytorch")
)

CLASSES = 10
PREPROCESS = normalizer((0.5,), (0.25,))
# Larger than in training, so that a missing term would show.
CONSTANTS = peer_pytorch.Constants(idm=0.5, damping=1.0, region=-0.01)


class Pair:
    """One network in both libraries, with the same parameters."""

    def __init__(self, name, size):
        plain = models.create(name, num_classes=CLASSES, channels=3, seed=0)
        self.plan = QuantizationPlan.of(plain, (size, size, 3), QuantConfig())
        torch.manual_seed(0)
        self.network = peer_networks.create(name, CLASSES, coupled=True)
        kinds = peer_networks.FirstUnit, peer_networks.SearchedUnit
        self.units = [unit for unit in self.network.modules() if isinstance(unit, kinds)]
        convolutions = self.plan.layers[:-1]
        signed = [
            layer.name
            for layer, unit in zip(convolutions, self.units, strict=True)
            if unit.index is not None and unit.conv.input_quantizer.signed
        ]
        self.functional = FunctionalNetwork(self.plan.convert(plain, signed))
        self.params = spread_steps(self.functional.params)
        self.names = self._names()
        with torch.no_grad():
            held = dict(self.network.named_parameters())
            for theirs, ours in self.names.items():
                held[theirs].copy_(torch.tensor(arranged(self.params[ours], held[theirs])))
        self.start = {n: v.clone() for n, v in self.network.state_dict().items()}
        assert set(self.names) == set(held)
        assert set(self.names.values()) == set(self.params)

    def _names(self):
        self.places = places = {module: name for name, module in self.network.named_modules()}
        *convolutions, dense = self.plan.layers
        found = {"classifier.bias": f"{dense.name}.bias"}
        layers = [(self.network.classifier, dense)]
        for unit, layer in zip(self.units, convolutions, strict=True):
            layers.append((unit.conv, layer))
            norm, ours = places[unit.norm], dotted(layer.batch_norm)
            found |= {f"{norm}.weight": f"{ours}.scale", f"{norm}.bias": f"{ours}.bias"}
        for module, layer in layers:
            found[f"{places[module]}.weight"] = f"{layer.name}.kernel"
            for kind in ("weight_quantizer", "input_quantizer"):
                if getattr(module, kind) is not None:
                    found[f"{places[module]}.{kind}.step"] = f"{layer.name}.{kind}.step"
        return found


def spread_steps(params):
    """Input step sizes that tell the candidates apart: smaller for more bits."""
    steps = np.geomspace(0.1, 0.8, 5, dtype=np.float32)
    return {
        name: steps[: value.size] if name.endswith("input_quantizer.step") else value
        for name, value in params.items()
    }


def arranged(array, like):
    """Ours in the order of theirs: kernels with the outputs first, banks in one row."""
    array = np.asarray(array)
    if array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    elif array.ndim == 2:
        array = array.T
    return array.reshape(like.shape)


def batch_of(size, count=4):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return {"image": pixels, "label": rng.integers(0, CLASSES, count).astype(np.int32)}


def ours(pair, batch, configurations):
    """Metrics and gradients of every pass, and the statistics after the last."""
    weights = LossWeights(idm=CONSTANTS.idm, region=CONSTANTS.region)
    network = TrainingNetwork(pair.functional, PREPROCESS, weights)
    smallest = np.asarray([[unit.allowed[-1]] * 2 for unit in pair.units[1:]], np.int32)
    rates = np.float32(0), np.float32(0), np.float32(CONSTANTS.damping)
    inputs = StepInputs(configurations, smallest, *rates, jax.random.key(0))
    of_max, of_random = (jax.jit(partial(one, network)) for one in (max_pass, random_pass))
    state, passes = PassState(pair.functional.stats, {}), []
    for number in range(len(configurations)):
        one = of_random if number else of_max
        state = state._replace(gradients=zeros_like(pair.params))
        state, metrics = one(pair.params, state, batch, inputs, np.int32(number))
        passes.append((metrics, state.gradients))
    return passes, state.stats


def theirs(pair, batch, configurations):
    """Loss and gradients of every pass; the gradients of earlier ones taken off again."""
    trainer = peer_pytorch.Trainer(pair.network, 1, CONSTANTS)
    images = torch.from_numpy(batch["image"])
    labels = torch.from_numpy(batch["label"]).long()
    summed = []
    for count in range(1, len(configurations) + 1):
        pair.network.load_state_dict(pair.start)
        pair.network.zero_grad()
        losses = trainer.accumulate(images, labels, configurations[:count].tolist())
        named = pair.network.named_parameters()
        summed.append({name: value.grad.numpy().copy() for name, value in named})
    first, *others = summed
    return losses, [first, *({n: later[n] - first[n] for n in first} for later in others)]


def configurations_of(pair):
    """The largest bit-widths, and random ones with some of the smallest."""
    rng = np.random.default_rng(1)
    drawn = [[rng.choice(unit.allowed) for _ in range(2)] for unit in pair.units[1:]]
    drawn[1][0] = 2
    return np.stack([pair.plan.space.largest, np.asarray(drawn, np.int32)])


def test_passes_agree():
    # Of few pixels, none is near enough to the middle of two codes to round differently.
    pair, batch = Pair("cifar_resnet8", 16), batch_of(16)
    configurations = configurations_of(pair)
    expected, stats = ours(pair, batch, configurations)
    losses, found = theirs(pair, batch, configurations)
    for number, (metrics, gradients) in enumerate(expected):
        loss = float(metrics["loss"])
        np.testing.assert_allclose(losses[number].item(), loss, rtol=1e-5)
        for name in ("damping", "idm", "region") if number else ():
            assert abs(metrics[name]) > 1e-3 * loss  # otherwise nobody would miss it
        for theirs_named, ours_named in pair.names.items():
            own = found[number][theirs_named]
            wanted = arranged(gradients[ours_named], own)
            error = np.linalg.norm(own - wanted) / np.linalg.norm(wanted)
            assert error < 1e-3, (number, ours_named, error)
    held = dict(pair.network.named_buffers())
    for unit, layer in zip(pair.units, pair.plan.layers, strict=False):
        for kind, named in (("mean", "running_mean"), ("var", "running_var")):
            own = held[f"{pair.places[unit.norm]}.{named}"]
            wanted = arranged(stats[f"{dotted(layer.batch_norm)}.{kind}"], own)
            np.testing.assert_allclose(own.numpy(), wanted, rtol=1e-4, atol=1e-6)


def test_mobilenetv2_gives_the_same_logits():
    pair, batch = Pair("mobilenetv2", 64), batch_of(64)
    configuration = pair.plan.space.largest
    network = pair.functional.merge(pair.params, pair.functional.stats)
    network.train()
    assign(network, configuration)
    expected = nnx.jit(lambda network, x: network(PREPROCESS(x)))(network, batch["image"])
    with torch.no_grad():
        images = peer_pytorch.normalized(torch.from_numpy(batch["image"]))
        found = pair.network(images, peer_layers.Pass(configuration.tolist())).numpy()
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < 0.05
