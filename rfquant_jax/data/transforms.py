"""What happens to an image between its source and the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import grain
import jax
import jax.numpy as jnp
import numpy as np


class PadAndCrop(grain.transforms.RandomMap):
    """Pads an image with zeros, crops it back at a random place, and mirrors it half of the time.

    Args:
      pixels: padding on each side.
      flip: whether it may be mirrored left to right.
    """

    def __init__(self, pixels: int, flip: bool):
        self.pixels, self.flip = pixels, flip

    def random_map(self, record: dict, rng: np.random.Generator) -> dict:
        image = record["image"]
        height, width, _ = image.shape
        padded = np.pad(image, [(self.pixels, self.pixels)] * 2 + [(0, 0)])
        top, left = rng.integers(2 * self.pixels + 1, size=2)
        image = padded[top : top + height, left : left + width]
        if self.flip and rng.random() < 0.5:
            image = image[:, ::-1]
        return {**record, "image": image}


def normalizer(mean: Sequence[float], std: Sequence[float]) -> Callable[[jax.Array], jax.Array]:
    """A function from uint8[N, H, W, C] images to the network's input, float32, on the device.

    Args:
      mean, std: of each channel, for images scaled to [0, 1].
    """
    scale = np.asarray(std, np.float32) * 255
    offset = np.asarray(mean, np.float32) * 255

    def normalize(images: jax.Array) -> jax.Array:
        return (images.astype(jnp.float32) - offset) / scale

    return normalize
