"""What a checkpoint must match: the network, and the images it was trained on and without."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from rfquant_jax.checkpoint.checkpoints import PRETRAIN
from rfquant_jax.config import checks
from rfquant_jax.data.sources import DataSet
from rfquant_jax.quant.plan import QuantizationPlan


def checkpoint_identity(
    config: ConfigDict, stage: str, data: DataSet, image_shape: tuple, plan: QuantizationPlan | None
) -> dict[str, Any]:
    """The identity of a stage's checkpoints, JSON.

    Args:
      stage: `checkpoint.PRETRAIN` or `checkpoint.TRAIN`.
      image_shape: (H, W, C) of the network's input.
      plan: of the coupled network; None for a full-precision network.
    """
    images = ["name", "search_fraction", "split_seed", "mean", "std"]
    if config.data.val_fraction:  # absent from checkpoints of earlier releases
        images.append("val_fraction")
    found = {
        "number of training and held-out images": [len(data.train), len(data.held_out)],
        "version": data.training_version,
    }
    identity = {
        "stage": stage,
        "network": config.model.name,
        "options": dict(config.model.options),
        "classes": data.num_classes,
        "class_names": list(data.class_names),
        "image_shape": list(image_shape),
        "data": {name: checks.to_plain(config.data[name]) for name in images} | found,
    }
    return identity if stage == PRETRAIN else identity | dict(plan.identity())
