"""The built-in data set of handwritten digits."""

from __future__ import annotations

import numpy as np

from rfquant_jax.data.sources import ArraySource, DataSet, DataSettings, Subset, split

TEST_IMAGES = 500
IMAGE_SHAPE, CLASSES = (8, 8, 1), 10


def digits(settings: DataSettings) -> DataSet:
    """The 1,797 handwritten digits of scikit-learn, 8x8, 500 of them for testing.

    The test part does not depend on the settings.
    """
    from sklearn.datasets import load_digits  # takes a second to import

    raw = load_digits()
    images = np.round(raw.images * (255 / 16)).astype(np.uint8)[..., None]
    order = np.random.default_rng(0).permutation(len(images))
    everything = ArraySource(images, raw.target)
    train, held_out = split(
        Subset(everything, order[TEST_IMAGES:]), settings.search_fraction, settings.split_seed
    )
    return DataSet(
        train=train,
        held_out=held_out,
        test=Subset(everything, order[:TEST_IMAGES]),
        class_names=tuple(str(name) for name in raw.target_names),
        image_shape=images.shape[1:],
    )
