"""The small network of the public API's tests: two searched convolutions on 8x8 images."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from rfquant_jax.nn.functional import arrays_of

CLASSES = 3
IMAGE_SHAPE = (8, 8, 3)


class SmallNet(nnx.Module):
    """Three convolutions of four channels, the last two of them searched, and a classifier."""

    def __init__(self, rngs: nnx.Rngs):
        def conv(channels):
            return nnx.Conv(channels, 4, (3, 3), use_bias=False, rngs=rngs)

        def norm():
            return nnx.BatchNorm(4, momentum=0.9, rngs=rngs)

        self.stem, self.stem_bn = conv(3), norm()
        self.conv, self.bn = conv(4), norm()
        self.last, self.last_bn = conv(4), norm()
        self.classifier = nnx.Linear(4, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem_bn(self.stem(x)))
        x = nnx.relu(self.bn(self.conv(x)))
        x = nnx.relu(self.last_bn(self.last(x)))
        return self.classifier(x.mean((1, 2)))


def images_and_labels(count=64, seed=0):
    """Noise around one pattern for each class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count).astype(np.int32)
    patterns = np.random.default_rng(7).normal(size=(CLASSES, *IMAGE_SHAPE))
    noise = rng.normal(size=(count, *IMAGE_SHAPE))
    return (patterns[labels] + 0.3 * noise).astype(np.float32), labels


def varied():
    """A plain network whose BatchNorms do something in evaluation."""
    net = nnx.jit(lambda: SmallNet(nnx.Rngs(0)))()
    rng = np.random.default_rng(3)
    for norm in (net.stem_bn, net.bn, net.last_bn):
        norm.mean.set_value(jnp.asarray(rng.normal(size=4) / 10, jnp.float32))
        norm.var.set_value(jnp.asarray(rng.uniform(0.5, 2, 4), jnp.float32))
        norm.scale.set_value(jnp.asarray(rng.uniform(0.5, 2, 4), jnp.float32))
        norm.bias.set_value(jnp.asarray(rng.normal(size=4) / 10, jnp.float32))
    return net


# By hand: 64 places, 9 * 3 * 4 weights of the stem, 9 * 4 * 4 of each searched layer, 4 * 3 of the
# classifier; the stem and the classifier have 8 bits.
FIXED_BITOPS, FIXED_BITS = 64 * (64 * 108 + 12), 8 * (108 + 12)


def bitops(rows):
    return FIXED_BITOPS + sum(int(w) * int(a) * 64 * 144 for w, a in rows)


def size_bits(rows):
    return FIXED_BITS + sum(int(w) * 144 for w, _ in rows)


def quantized(x, step, low, high):
    return step * np.round(np.clip((x / step).astype(np.float32), low, high))


def convolved(x, kernel):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = np.stack(
        [padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)], axis=3
    )
    return np.einsum("nhwkc,kco->nhwo", patches.astype(np.float64), kernel.reshape(9, -1, 4))


def by_numpy(coupled, x, rows, weights=(6, 5, 4, 3, 2), activations=(6, 5, 4, 3, 2)):
    """Logits in evaluation, from the network's arrays alone.

    Args:
      weights, activations: candidates, in the order of step sizes and of BatchNorm banks.
    """
    params, stats = ({n: np.asarray(v) for n, v in a.items()} for a in arrays_of(coupled.network))

    def kernel(layer, bits, place):
        step = params[f"{layer}.weight_quantizer.step"][place]
        return quantized(params[f"{layer}.kernel"], step, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)

    def inputs(layer, x, bits, place):
        step = params[f"{layer}.input_quantizer.step"][place]
        return quantized(x.astype(np.float32), step, 0, 2**bits - 1)

    def normalized(name, x, bank):
        mean, var = (stats[f"{name}.{kind}"][bank].astype(np.float64) for kind in ("mean", "var"))
        scale, bias = params[f"{name}.scale"][bank], params[f"{name}.bias"][bank]
        return np.maximum((x - mean) / np.sqrt(var + 1e-5) * scale + bias, 0)

    x = normalized("stem_bn", convolved(x, kernel("stem", 8, 0)), ())
    for layer, norm, (w, a) in zip(("conv", "last"), ("bn", "last_bn"), rows, strict=True):
        bank = weights.index(w), activations.index(a)
        x = convolved(inputs(layer, x, a, bank[1]), kernel(layer, w, bank[0]))
        x = normalized(norm, x, bank)
    x = inputs("classifier", x.mean((1, 2)), 8, 0)
    return x @ kernel("classifier", 8, 0) + params["classifier.bias"]
