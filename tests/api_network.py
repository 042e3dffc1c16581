"""The small network of the public API's tests: two searched convolutions on 8x8 images."""

import numpy as np
from flax import nnx

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
