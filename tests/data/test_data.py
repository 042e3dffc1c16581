"""Sources, transforms and batches."""

import jax.numpy as jnp
import numpy as np
import pytest

from rfquant_jax import data
from rfquant_jax.data.loader import TrainingBatches, exact_batches, full_batches
from rfquant_jax.data.sources import ArraySource, split
from rfquant_jax.data.transforms import PadAndCrop, normalizer
from rfquant_jax.errors import ConfigError


def numbered(count):
    """Images that hold their own number, labelled with it."""
    images = np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 2, 2, 1)
    )
    return ArraySource(images, np.arange(count))


def all_images(source):
    return np.stack([source[i]["image"] for i in range(len(source))])


def test_digits_come_in_three_parts_without_overlap():
    digits = data.load("digits", search_fraction=0.25, split_seed=0)
    assert len(digits.test) == 500
    assert len(digits.train) + len(digits.held_out) == 1297
    assert len(digits.held_out) == 324
    assert digits.image_shape == (8, 8, 1)
    assert digits.num_classes == 10
    indices = [p.source.indices[p.indices] for p in (digits.train, digits.held_out)]
    everything = np.concatenate([*indices, digits.test.indices])
    assert sorted(everything.tolist()) == list(range(1797))


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    raw = load_digits()
    digits = data.load("digits", search_fraction=0.25, split_seed=0)
    index = digits.test.indices[7]
    record = digits.test[7]
    assert record["label"] == raw.target[index]
    np.testing.assert_allclose(record["image"][..., 0], raw.images[index] * 255 / 16, atol=0.5)


def test_the_test_part_never_changes():
    parts = [data.load("digits", search_fraction=f, split_seed=s) for f, s in ((0.1, 0), (0.5, 9))]
    np.testing.assert_array_equal(*(all_images(p.test) for p in parts))


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_a_split_without_images_on_one_side_is_refused(fraction):
    with pytest.raises(ConfigError, match="search_fraction"):
        split(numbered(10), fraction, 0)


def test_an_unknown_data_set_is_refused():
    with pytest.raises(ConfigError, match=r"data\.name = 'mnist': must be one of digits"):
        data.load("mnist", search_fraction=0.1, split_seed=0)


def test_every_image_is_seen_once_an_epoch_in_a_new_order():
    batches = TrainingBatches(numbered(12), 4, augmentation=None, seed=1)
    assert batches.per_epoch == 3
    epochs = [
        np.concatenate([batches[3 * e + i]["label"] for i in range(3)]).tolist() for e in range(3)
    ]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_an_incomplete_last_batch_is_dropped():
    assert TrainingBatches(numbered(11), 4, augmentation=None, seed=1).per_epoch == 2


@pytest.mark.parametrize("threads", [1, 3])
def test_any_start_gives_the_same_batches_whatever_the_threads(threads):
    crop = PadAndCrop(1, flip=True)
    batches = TrainingBatches(numbered(10), 3, augmentation=crop, seed=2, threads=threads)
    reference = TrainingBatches(numbered(10), 3, augmentation=crop, seed=2)
    stream = batches.starting_at(4)
    for step in range(4, 9):
        for name, values in next(stream).items():
            np.testing.assert_array_equal(values, reference[step][name])


def test_the_seed_changes_order_and_augmentation():
    one, other = (TrainingBatches(numbered(50), 50, augmentation=None, seed=s) for s in (1, 2))
    assert np.any(one[0]["label"] != other[0]["label"])


def test_pad_and_crop_moves_the_image_inside_its_padding():
    image = np.arange(1, 10, dtype=np.uint8).reshape(3, 3, 1)
    seen = set()
    random = np.random.default_rng(0)
    for _ in range(200):
        moved = PadAndCrop(1, flip=False).random_map({"image": image}, random)["image"]
        assert moved.shape == image.shape
        seen.add(moved.tobytes())
        row, column = np.argwhere(moved[..., 0] == 5)[0]  # the centre always stays inside
        shift = (row - 1, column - 1)
        for (r, c), value in np.ndenumerate(moved[..., 0]):
            source = (r - shift[0], c - shift[1])
            inside = all(0 <= i < 3 for i in source)
            assert value == (image[*source, 0] if inside else 0)
    assert len(seen) == 9


def test_flipping_mirrors_about_half_of_the_images():
    image = np.asarray([[[1], [2]]], np.uint8)
    random = np.random.default_rng(0)
    flips = [
        PadAndCrop(0, flip=True).random_map({"image": image}, random)["image"][0, 0, 0] == 2
        for _ in range(400)
    ]
    assert 150 < sum(flips) < 250


def test_normalization_is_per_channel():
    images = jnp.asarray([[[[0, 255]]]], jnp.uint8)
    got = normalizer((0.5, 0.25), (0.5, 0.125))(images)
    np.testing.assert_allclose(got[0, 0, 0], [-1.0, 6.0], rtol=1e-6)


def test_exact_batches_hold_every_image_once():
    batches = list(exact_batches(numbered(10), 4))
    assert [b["image"].shape[0] for b in batches] == [4, 4, 4]
    labels = np.concatenate([b["label"] for b in batches])
    assert labels.tolist() == [*range(10), -1, -1]


def test_full_batches_cover_the_images_and_are_full():
    batches = list(full_batches(numbered(10), 4, limit=7000))
    assert [len(b) for b in batches] == [4, 4, 4]
    assert {int(v) for b in batches for v in b[:, 0, 0, 0]} == set(range(10))
    again = list(full_batches(numbered(10), 4, limit=7000))
    np.testing.assert_array_equal(np.concatenate(batches), np.concatenate(again))


@pytest.mark.parametrize(("limit", "sizes"), [(6, [4, 4]), (3, [3])])
def test_full_batches_take_at_most_so_many_images(limit, sizes):
    batches = list(full_batches(numbered(10), 4, limit=limit))
    assert [len(b) for b in batches] == sizes
    assert len({int(v) for b in batches for v in b[:, 0, 0, 0]}) == limit
