"""The images of a run: the data set, its agreement with the config, and the pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
from ml_collections import ConfigDict

from rfquant_jax import data
from rfquant_jax.checkpoint.checkpoints import TRAIN
from rfquant_jax.config import checks, transforms
from rfquant_jax.data.loader import Pipeline
from rfquant_jax.data.sources import DataSet
from rfquant_jax.errors import ConfigError, UserError
from rfquant_jax.runtime import cpus
from rfquant_jax.tasks.stored_data import numbered_data, stored_data

Shape = tuple[int, int, int]


def load_images(config: ConfigDict, workdir: Path) -> DataSet:
    """The data set that a config names.

    Raises:
      ConfigError: it is missing or does not match the config.
    """
    loaded = _without_images(config, workdir) or _opened(config, workdir)
    check_images(config.data, loaded.image_shape, loaded.num_classes)
    return loaded


def _without_images(config: ConfigDict, workdir: Path) -> DataSet | None:
    """The data set without its images, which prediction in full precision does not need.

    A checkpoint describes it; for imported weights without images, the classes are numbers.
    """
    if checks.tasks(config) != ("predict",) or config.configuration:
        return None
    stored = stored_data(_workdirs(config, workdir))
    known = data.described(config.data)
    if stored is None and known and config.pretrained and not config.data.path:
        return numbered_data(*known)
    return stored


def _opened(config: ConfigDict, workdir: Path) -> DataSet:
    """The data set with its images; a quantized prediction may do without them.

    `kept_statistics.check` refuses the prediction later if it needs images.
    """
    try:
        return data.load(config.data)
    except UserError:
        alone = checks.tasks(config) == ("predict",)
        stored = stored_data(_workdirs(config, workdir), TRAIN) if alone else None
        if stored is None:
            raise
        return stored


def _workdirs(config: ConfigDict, workdir: Path) -> list[Path]:
    return [workdir, *([Path(config.checkpoint)] if config.checkpoint else [])]


def described(config: ConfigDict) -> tuple[Shape, int] | None:
    """Shape of the images and number of classes, if the task `cost` can do without the images.

    Raises:
      ConfigError: they do not match the config.
    """
    known = data.described(config.data) if checks.tasks(config) == ("cost",) else None
    if known is not None:
        check_images(config.data, *known)
    return known


def check_images(wanted: ConfigDict, shape: Shape, classes: int) -> None:
    """Checks that images of this shape match the config section `data`.

    Raises:
      ConfigError: names the field and the rule.
    """
    for field in ("mean", "std"):
        if len(wanted[field]) not in (1, shape[-1]):
            rule = f"must have one number, or one for each of the {shape[-1]} channels"
            raise ConfigError(f"data.{field}", wanted[field], rule)
    if wanted.num_classes not in (0, classes):
        rule = f"does not agree with the data set, which has {classes}"
        raise ConfigError("data.num_classes", wanted.num_classes, rule)
    if not wanted.image_size and 0 in shape:
        rule = f"must be given: images of {wanted.name} have no size in common"
        raise ConfigError("data.image_size", 0, rule)


def make_pipeline(
    config: ConfigDict, shape: Shape, local_devices: int, log: Callable[[str], None]
) -> Pipeline:
    """The pipeline of this process.

    Args:
      shape: (H, W, C) of the network's input.
      local_devices: number of devices of this process.
      log: called with a message about each unreadable image.
    """
    return Pipeline(
        augmented=transforms.training_transform(config, shape[-1]),
        plain=transforms.evaluation_transform(config, shape[-1]),
        threads=config.data.threads or cpus.available(),
        shape=shape,
        max_bad_fraction=config.data.max_bad_fraction,
        log=log,
        process=jax.process_index(),
        processes=jax.process_count(),
        devices=local_devices,
    )
