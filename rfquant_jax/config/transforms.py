"""The image transforms of a config: `AUGMENTATIONS` has those of training by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from rfquant_jax.data.transforms import Centre, PadAndCrop, RandomResizedCrop, Transform

RESIZED_CROP = "resized_crop"


def evaluation_transform(config: ConfigDict, channels: int) -> Transform:
    """The transform of evaluation images."""
    data = config.data
    return Centre(data.image_size, data.resize, channels, data.interpolation)


def training_transform(config: ConfigDict, channels: int) -> Transform:
    """The transform of training images."""
    return AUGMENTATIONS[config.data.augmentation](config, channels)


def _resized_crop(config: ConfigDict, channels: int) -> Transform:
    data = config.data
    return RandomResizedCrop(data.image_size, data.flip, channels, data.interpolation)


def _pad(config: ConfigDict, channels: int) -> Transform:
    data, before = config.data, evaluation_transform(config, channels)
    if not data.crop_padding and not data.flip:
        return before
    return PadAndCrop(data.crop_padding, data.flip, before)


AUGMENTATIONS: Mapping[str, Callable[[ConfigDict, int], Transform]] = {
    RESIZED_CROP: _resized_crop,
    "pad": _pad,
}
