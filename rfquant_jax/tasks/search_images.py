"""The images of the task `search`."""

from __future__ import annotations

import numpy as np
from ml_collections import ConfigDict

from rfquant_jax.config import settings
from rfquant_jax.config.field_names import in_field_names
from rfquant_jax.config.search_algorithms import ON_PROFILE
from rfquant_jax.data.loader import Pipeline, TrainingBatches
from rfquant_jax.data.sources import Source, Subset
from rfquant_jax.errors import ConfigError
from rfquant_jax.search.image_sets import ImageSets, image_sets, shuffled_views
from rfquant_jax.search.search_images import SearchImages, search_images


@in_field_names()
def split_held_out(config: ConfigDict, held_out: Source) -> SearchImages:
    """The proposing and confirming images of a run's search.

    Raises:
      ConfigError: a part would be empty.
    """
    cross, data = config.search.algorithm == ON_PROFILE, config.data
    if cross and len(held_out) < 2:
        rule = f"must hold out two images or more for the search; it holds out {len(held_out)}"
        raise ConfigError("data.search_fraction", data.search_fraction, rule)
    fraction = config.search.confirm_fraction
    return search_images(held_out, fraction, data.split_seed + 1, cross=cross)


def profile_images(config: ConfigDict, pipeline: Pipeline, images: SearchImages) -> ImageSets:
    """The images of the profile."""
    search, seed = config.search, settings.derived_seed(config, "profile")

    def joined(number: int) -> dict[str, np.ndarray]:
        part = images.proposing[number]

        def view(index: int) -> dict[str, np.ndarray]:
            batches = pipeline.training(
                part, len(part), seed=seed + index, augment=index > 0, whole=True
            )
            return batches[0]

        return shuffled_views(view, search.views, search.images, seed + number)

    return image_sets([joined(part) for part in range(len(images.proposing))], search.batch_size)


def fresh_batches(config: ConfigDict, pipeline: Pipeline, part: Subset) -> TrainingBatches:
    """Shuffled batches of a part, with the evaluation transform."""
    seed = settings.derived_seed(config, "search")
    size = min(config.search.batch_size, len(part))
    return pipeline.training(part, size, seed=seed, augment=False, whole=True)
