"""What a checkpoint knows about the data of its run, for prediction without that data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rfquant_jax.checkpoint.checkpoints import PRETRAIN, stage_folder
from rfquant_jax.checkpoint.restore import Reader
from rfquant_jax.data.sources import DataSet, Source, Subset


def stored_data(workdirs: list[Path], stage: str = PRETRAIN) -> DataSet | None:
    """The data set of the newest checkpoint of a stage, without its images.

    Args:
      workdirs: folders of runs; the first one with checkpoints counts.
      stage: `checkpoint.PRETRAIN` or `checkpoint.TRAIN`.

    Returns:
      None if there is no readable checkpoint that describes its data.
    """
    for workdir in workdirs:
        reader = Reader(stage_folder(workdir, stage), {})
        if reader.steps:
            readable = reader.readable(reader.steps)
            return _described(reader.unchecked(readable[0])) if readable else None
    return None


def _described(about: Mapping[str, Any]) -> DataSet | None:
    identity = about.get("identity", {})
    try:
        data, shape = identity["data"], identity["image_shape"]
        training, held_out = data["number of training and held-out images"]
        height, width, channels = (int(side) for side in shape)
        return DataSet(
            _unread(int(training)),
            _unread(int(held_out)),
            _unread(0),
            class_names=tuple(str(name) for name in identity["class_names"]),
            image_shape=(height, width, channels),
            training_version=str(data["version"]),
            val_fraction=float(data.get("val_fraction", 0.0)),
        )
    except (KeyError, TypeError, ValueError):  # of an earlier release
        return None


def numbered_data(image_shape: tuple[int, int, int], classes: int) -> DataSet:
    """A data set without images, whose classes are called 0, 1, 2, ..."""
    names = tuple(str(number) for number in range(classes))
    return DataSet(_unread(0), _unread(0), _unread(0), names, image_shape)


def is_stored(data: DataSet) -> bool:
    """Whether a data set has no images, because a checkpoint describes it."""
    return isinstance(data.held_out, Subset) and isinstance(data.held_out.source, _Unread)


class _Unread:
    """A source whose images are elsewhere."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> dict:
        raise IndexError("the images of this data set were not opened")


def _unread(count: int) -> Source:
    return Subset(_Unread(), np.arange(count))
