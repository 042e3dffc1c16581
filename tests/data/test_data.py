"""Sources and batches."""

import numpy as np
import pytest

from configs import default, quickstart
from rfquant_jax import data
from rfquant_jax.data.loader import Filler, prefetch
from rfquant_jax.data.sources import ArraySource, split
from rfquant_jax.data.transforms import PadAndCrop
from rfquant_jax.errors import ArgumentError
from tests.conftest import pipeline


def numbered(count):
    """Images that hold their own number, labelled with it."""
    images = np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 2, 2, 1)
    )
    return ArraySource(images, np.arange(count))


def all_images(source):
    return np.stack([source[i]["image"] for i in range(len(source))])


def digits(fraction=0.25, seed=0):
    config = quickstart.get_config().data
    config.search_fraction, config.split_seed = fraction, seed
    return data.load(config)


def test_digits_come_in_three_parts_without_overlap():
    parts = digits()
    assert len(parts.test) == 500
    assert len(parts.train) + len(parts.held_out) == 1297
    assert len(parts.held_out) == 324
    assert parts.image_shape == (8, 8, 1)
    assert parts.num_classes == 10
    indices = [p.source.indices[p.indices] for p in (parts.train, parts.held_out)]
    everything = np.concatenate([*indices, parts.test.indices])
    assert sorted(everything.tolist()) == list(range(1797))


def test_data_sets_are_described_as_they_are_read():
    config, parts = quickstart.get_config().data, digits()
    assert data.described(config) == (parts.image_shape, parts.num_classes)
    config = default.get_config().data
    assert data.described(config) is None  # num_classes is 0
    config.num_classes = 7
    assert data.described(config) == ((0, 0, 3), 7)
    config.image_size = 0
    assert data.described(config) is None
    config.name = "elsewhere"
    assert data.described(config) is None


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    raw, test = load_digits(), digits().test
    record = test[7]
    assert record["label"] == raw.target[test.indices[7]]
    expected = raw.images[test.indices[7]] * 255 / 16
    np.testing.assert_allclose(record["image"][..., 0], expected, atol=0.5)


def test_the_test_part_never_changes():
    parts = [digits(0.1, 0), digits(0.5, 9)]
    np.testing.assert_array_equal(*(all_images(p.test) for p in parts))


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_a_split_without_images_on_one_side_is_refused(fraction):
    with pytest.raises(ArgumentError, match="search_fraction"):
        split(numbered(10), fraction, 0)


def test_a_data_set_with_test_images_takes_no_fraction():
    config = quickstart.get_config().data
    config.val_fraction = 0.5
    said = "`val_fraction` = 0.5: must be 0, because digits has test images of its own"
    with pytest.raises(ArgumentError, match=said):
        data.load(config)


def test_an_unknown_data_set_is_refused():
    config = default.get_config().data
    config.name = "mnist"
    with pytest.raises(ArgumentError, match=r"`data_set` = 'mnist': must be tfds:NAME or one of"):
        data.load(config)


def test_every_image_is_seen_once_an_epoch_in_a_new_order():
    batches = pipeline().training(numbered(12), 4, seed=1)
    assert batches.per_epoch == 3
    epochs = [
        np.concatenate([batches[3 * e + i]["label"] for i in range(3)]).tolist() for e in range(3)
    ]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_an_incomplete_last_batch_is_dropped():
    assert pipeline().training(numbered(11), 4, seed=1).per_epoch == 2


@pytest.mark.parametrize("threads", [1, 3])
def test_any_start_gives_the_same_batches_whatever_the_threads(threads):
    crop = PadAndCrop(1, flip=True)
    batches = pipeline(augmented=crop, threads=threads).training(numbered(10), 3, seed=2)
    reference = pipeline(augmented=crop).training(numbered(10), 3, seed=2)
    stream = batches.starting_at(4)
    for step in range(4, 9):
        for name, values in next(stream).items():
            np.testing.assert_array_equal(values, reference[step][name])


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_every_batch(processes):
    crop = PadAndCrop(1, flip=True)
    whole = pipeline(augmented=crop).training(numbered(19), 8, seed=2)
    shares = [
        pipeline(augmented=crop, process=p, processes=processes).training(numbered(19), 8, seed=2)
        for p in range(processes)
    ]
    assert {share.per_epoch for share in shares} == {whole.per_epoch} == {2}
    for step in range(7):
        for name, values in whole[step].items():
            together = np.concatenate([share[step][name] for share in shares])
            np.testing.assert_array_equal(together, values)


def labels_of(batch):
    return batch if isinstance(batch, Filler) else batch["label"]


@pytest.mark.parametrize(("images", "fillers"), [(27, 1), (17, 3), (1, 3)])
def test_processes_share_whole_batches(images, fillers):
    """Two processes of two devices: batches 0 1 | 2 3, then 4 5 | 6 and so on."""
    crop = PadAndCrop(1, flip=True)
    alone = pipeline(augmented=crop)
    both = [pipeline(augmented=crop, process=p, processes=2, devices=2) for p in range(2)]
    for of in (
        lambda p: [
            b if isinstance(b, Filler) else b["label"] for b in p.exact(numbered(images), 4)
        ],
        lambda p: list(p.full(numbered(images), 4, limit=99, seed=3, augment=True)),
    ):
        whole, shares = of(alone), [of(p) for p in both]
        assert len(shares[0]) == len(shares[1])
        assert len(shares[0]) % 2 == 0
        pairs = [share[i : i + 2] for i in range(0, len(shares[0]), 2) for share in shares]
        together = [batch for pair in pairs for batch in pair]
        real = [batch for batch in together if not isinstance(batch, Filler)]
        assert not any(isinstance(batch, Filler) for batch in together[: len(real)])
        assert len(together) - len(real) == fillers
        np.testing.assert_array_equal(np.stack(real), np.stack(whole))


def test_every_process_may_have_whole_batches():
    shared = pipeline(process=1, processes=2).training(numbered(9), 4, seed=2, whole=True)
    np.testing.assert_array_equal(
        shared[3]["label"], pipeline().training(numbered(9), 4, seed=2)[3]["label"]
    )


def test_the_seed_changes_the_order():
    one, other = (pipeline().training(numbered(50), 50, seed=s) for s in (1, 2))
    assert np.any(one[0]["label"] != other[0]["label"])


def test_augmentation_can_be_left_out():
    crop = PadAndCrop(1, flip=False)
    batches = pipeline(augmented=crop).training(numbered(50), 50, seed=1, augment=False)
    batch = batches[0]
    assert np.all(batch["image"] == batch["label"][:, None, None, None])


def test_exact_batches_hold_every_image_once():
    batches = list(pipeline().exact(numbered(10), 4))
    assert [b["image"].shape[0] for b in batches] == [4, 4, 4]
    labels = np.concatenate([b["label"] for b in batches])
    assert labels.tolist() == [*range(10), -1, -1]


def test_full_batches_cover_the_images_and_are_full():
    batches = list(pipeline().full(numbered(10), 4, limit=7000, seed=0))
    assert [len(b) for b in batches] == [4, 4, 4]
    assert {int(v) for b in batches for v in b[:, 0, 0, 0]} == set(range(10))
    again = list(pipeline(threads=2).full(numbered(10), 4, limit=7000, seed=0))
    np.testing.assert_array_equal(np.concatenate(batches), np.concatenate(again))


@pytest.mark.parametrize(("limit", "sizes"), [(6, [4, 4]), (3, [3])])
def test_full_batches_take_at_most_so_many_images(limit, sizes):
    batches = list(pipeline().full(numbered(10), 4, limit=limit, seed=0))
    assert [len(b) for b in batches] == sizes
    assert len({int(v) for b in batches for v in b[:, 0, 0, 0]}) == limit


def test_items_are_taken_ahead_of_use():
    taken = []

    def source():
        for i in range(5):
            taken.append(i)
            yield i

    stream = prefetch(source(), depth=2)
    assert next(stream) == 0
    assert taken == [0, 1, 2]
    assert list(stream) == [1, 2, 3, 4]
