"""Settings of a measured training step, exchanged between processes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rfquant_jax.data.folder import FolderSource
from rfquant_jax.data.index import index_folder
from rfquant_jax.data.loader import Pipeline
from rfquant_jax.data.transforms import Centre, RandomResizedCrop


@dataclass(frozen=True)
class StepTask:
    """The network, its images, and settings shared by all compared steps.

    Attributes:
      size: height and width of the images.
      batch: images per device.
      precision: one of `rfquant_jax.nn.precision.TYPES`.
      folder: folder of class folders with images; empty: random pixels.
      random_classes: number of logits without a folder.
      deterministic: whether GPUs compute deterministically.
    """

    network: str = "cifar_resnet20"
    size: int = 32
    batch: int = 64
    random_passes: int = 3
    precision: str = "float32"
    folder: str = ""
    random_classes: int = 10
    deterministic: bool = False

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.size, self.size, 3

    @property
    def classes(self) -> int:
        """Number of logits."""
        if self.folder:
            return len(index_folder(Path(self.folder)).classes)
        return self.random_classes


def images(task: StepTask, count: int) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches: constant random pixels, or randomly cropped images of a folder."""
    if task.folder:
        root = Path(task.folder)
        index = index_folder(root)
        source = FolderSource(root, index.files, index.labels)
        crop, shape = RandomResizedCrop(task.size), task.image_shape
        pipeline = Pipeline(crop, Centre(task.size), shape, 1, max_bad_fraction=0.1, log=print)
        return pipeline.training(source, count, seed=0).starting_at(0)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, *task.image_shape), dtype=np.uint8)
    labels = rng.integers(0, task.classes, count).astype(np.int32)
    return itertools.repeat({"image": pixels, "label": labels})
