"""Image transforms: cropping, resizing, augmentation, normalization."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from PIL import Image

from rfquant_jax.data.decode import decode, jpeg_size

# transform(an encoded or a decoded image, random numbers) -> uint8[H, W, C] of one fixed size
Transform = Callable[[bytes | np.ndarray, np.random.Generator], np.ndarray]

_PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
INTERPOLATIONS = tuple(_PILLOW)
LONGEST = 8


@dataclass(frozen=True)
class Centre:
    """Centre crop for evaluation.

    Decoding and resizing equal torchvision's on Pillow images, with antialiasing, bit for bit,
    except for images with an aspect ratio above `LONGEST`, which are cropped first.

    Attributes:
      size: height and width of the result in pixels; 0: no change.
      resize: size of the shorter side before cropping; 0: `size`.
      channels: channels of the result.
      interpolation: one of `INTERPOLATIONS`.
    """

    size: int
    resize: int = 0
    channels: int = 3
    interpolation: str = "bilinear"

    def __call__(self, image: bytes | np.ndarray, rng: np.random.Generator) -> np.ndarray:
        del rng
        pixels = _decoded(image, self.channels)
        if not self.size:
            return pixels
        pixels = _without_ends(pixels)
        height, width, _ = pixels.shape
        shorter = self.resize or self.size
        if min(height, width) != shorter:
            if height < width:
                height, width = shorter, int(shorter * width / height)
            else:
                height, width = int(shorter * height / width), shorter
            resized = _to_pillow(pixels).resize((width, height), _PILLOW[self.interpolation])
            pixels = np.asarray(resized).reshape(height, width, self.channels)
        top, left = (round((side - self.size) / 2) for side in (height, width))
        return pixels[top : top + self.size, left : left + self.size]


@dataclass(frozen=True)
class RandomResizedCrop:
    """Random resized crop with horizontal flip (Inception augmentation).

    Attributes:
      size: height and width of the result in pixels.
      flip: whether to flip left to right with probability 0.5.
      channels: channels of the result.
      interpolation: one of `INTERPOLATIONS`, for crops smaller than the result; larger crops use
        area averaging.
      area: range of the crop's area as a fraction of the image.
      aspect: range of width / height, drawn uniformly on a log scale.
    """

    size: int
    flip: bool = True
    channels: int = 3
    interpolation: str = "bilinear"
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(self, image: bytes | np.ndarray, rng: np.random.Generator) -> np.ndarray:
        shape = jpeg_size(image) if isinstance(image, bytes) else None
        shrink = 1
        if shape is None:
            image = _decoded(image, self.channels)
            shape = image.shape[:2]
        top, left, height, width = self.region(*shape, rng)
        if isinstance(image, bytes):
            # Large crops are decoded at reduced size, at least twice the result's, so that rounding
            # of the crop position to pixels is negligible.
            while shrink < 8 and min(height, width) >= 4 * shrink * self.size:
                shrink *= 2
            image = decode(image, channels=self.channels, fast=True, shrink=shrink)
        edges = (top, top + height, left, left + width)
        top, bottom, left, right = (round(edge / shrink) for edge in edges)
        crop = image[top:bottom, left:right]
        cv2 = _opencv()
        enlarged = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}[self.interpolation]
        method = cv2.INTER_AREA if min(height, width) >= self.size else enlarged
        result = cv2.resize(np.ascontiguousarray(crop), (self.size,) * 2, interpolation=method)
        if self.flip and rng.random() < 0.5:
            result = cv2.flip(result, 1)
        return result.reshape(self.size, self.size, self.channels)

    def region(
        self, height: int, width: int, rng: np.random.Generator
    ) -> tuple[int, int, int, int]:
        """Top, left, height and width of the crop; the centre if ten draws do not fit."""
        for _ in range(10):
            area = height * width * rng.uniform(*self.area)
            aspect = math.exp(rng.uniform(*(math.log(bound) for bound in self.aspect)))
            wide, high = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < wide <= width and 0 < high <= height:
                top, left = rng.integers(height - high + 1), rng.integers(width - wide + 1)
                return int(top), int(left), high, wide
        wide, high = width, height
        if width < self.aspect[0] * height:
            high = round(width / self.aspect[0])
        elif width > self.aspect[1] * height:
            wide = round(height * self.aspect[1])
        return (height - high) // 2, (width - wide) // 2, high, wide


@dataclass(frozen=True)
class PadAndCrop:
    """Zero padding, random crop to the original size, and horizontal flip.

    Attributes:
      pixels: padding on each side.
      flip: whether to flip left to right with probability 0.5.
      before: transform that brings all images to one size.
    """

    pixels: int
    flip: bool
    before: Transform = Centre(0)

    def __call__(self, image: bytes | np.ndarray, rng: np.random.Generator) -> np.ndarray:
        image = self.before(image, rng)
        height, width, _ = image.shape
        padded = np.pad(image, [(self.pixels, self.pixels)] * 2 + [(0, 0)])
        top, left = rng.integers(2 * self.pixels + 1, size=2)
        image = padded[top : top + height, left : left + width]
        if self.flip and rng.random() < 0.5:
            image = image[:, ::-1]
        return image


@cache
def _opencv():
    """OpenCV, imported where a crop first needs it, with one thread: crops run side by side."""
    import cv2

    cv2.setNumThreads(1)
    return cv2


def _decoded(image: bytes | np.ndarray, channels: int) -> np.ndarray:
    return decode(image, channels=channels) if isinstance(image, bytes) else image


def _without_ends(pixels: np.ndarray) -> np.ndarray:
    """The centre of an image with an aspect ratio above `LONGEST`.

    No centre crop reaches its ends, and resizing all of it could exhaust memory.
    """
    keep = LONGEST * min(pixels.shape[:2])
    starts = [max((side - keep) // 2, 0) for side in pixels.shape[:2]]
    return pixels[starts[0] : starts[0] + keep, starts[1] : starts[1] + keep]


def _to_pillow(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def normalizer(
    mean: Sequence[float], std: Sequence[float], dtype: DTypeLike = jnp.float32
) -> Callable[[jax.Array], jax.Array]:
    """A function that maps uint8[N, H, W, C] images to the network's input, on the device.

    Args:
      mean, std: per channel, for images scaled to [0, 1].
      dtype: dtype of the result; the computation is in float32.
    """
    scale = np.asarray(std, np.float32) * 255
    offset = np.asarray(mean, np.float32) * 255

    def normalize(images: jax.Array) -> jax.Array:
        return ((images.astype(jnp.float32) - offset) / scale).astype(dtype)

    return normalize
