"""Which held-out images propose, and which confirm."""

import numpy as np
import pytest

from rfquant_jax.config import default_config
from rfquant_jax.data.sources import ArraySource
from rfquant_jax.errors import ConfigError
from rfquant_jax.search.search_images import CROSS_BELOW
from rfquant_jax.tasks.search_images import split_held_out


def images_of(count, algorithm="trust_region", confirm_fraction=0.25, split_seed=0):
    source = ArraySource(np.zeros((count, 1, 1, 1), np.uint8), np.arange(count))
    config = default_config()
    config.search.algorithm, config.search.confirm_fraction = algorithm, confirm_fraction
    config.data.split_seed, config.data.search_fraction = split_seed, 0.001
    return split_held_out(config, source)


def labels(part):
    return [int(part[i]["label"]) for i in range(len(part))]


@pytest.mark.parametrize("count", [2, 7, 324, CROSS_BELOW - 1])
def test_with_few_images_each_half_proposes_and_the_other_confirms(count):
    images = images_of(count)
    halves = [set(labels(part)) for part in images.proposing]
    assert not halves[0] & halves[1]
    assert halves[0] | halves[1] == set(range(count))
    assert abs(len(halves[0]) - len(halves[1])) <= 1
    assert labels(images.confirming) == list(range(count))
    for half, unseen in zip(halves, images.unseen, strict=True):
        assert set(np.flatnonzero(unseen)) == set(range(count)) - half


@pytest.mark.parametrize(
    ("count", "algorithm"), [(CROSS_BELOW, "trust_region"), (100, "greedy"), (100, "evolution")]
)
def test_otherwise_one_part_proposes_and_one_confirms(count, algorithm):
    images = images_of(count, algorithm)
    (part,) = images.proposing
    assert len(images.confirming) == count // 4
    assert set(labels(part)) | set(labels(images.confirming)) == set(range(count))
    assert len(part) == count - count // 4
    (unseen,) = images.unseen
    assert unseen.all()
    assert len(unseen) == count // 4


def test_the_halves_are_drawn_by_the_seed_of_the_split():
    one, same, other = (images_of(50, split_seed=s).proposing[0] for s in (0, 0, 1))
    assert labels(one) == labels(same) != labels(other)


def test_a_part_without_images_is_refused_by_the_field_that_decides_it():
    said = "config.data.search_fraction = 0.001: must hold out two images or more for the search"
    with pytest.raises(ConfigError, match=said):
        images_of(1)
    with pytest.raises(ConfigError, match=r"config\.search\.confirm_fraction = 0\.001: must leave"):
        images_of(100, "greedy", 0.001)
    images_of(100, "trust_region", 0.001)  # which decides nothing there
