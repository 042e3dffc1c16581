"""Batches of one size over parts of images, and views that fill them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfquant_jax.search.image_sets import image_sets, shuffled_views


def part(*labels):
    labels = np.asarray(labels, np.int32)
    return {"image": labels[:, None] * np.ones(3, np.float32), "label": labels}


def labels(sets):
    return [batch["label"].tolist() for batch in sets.batches]


def test_parts_are_cut_into_equal_batches():
    sets = image_sets([part(*range(7)), part(*range(10, 17))], batch_size=3)
    # 7 images need 3 batches, of 2 each; the seventh is left out.
    assert labels(sets) == [[0, 1], [2, 3], [4, 5], [10, 11], [12, 13], [14, 15]]
    assert sets.each == 3
    assert list(sets.numbers(0)) == [0, 1, 2]
    assert list(sets.numbers(1)) == [3, 4, 5]
    for batch in sets.batches:
        np.testing.assert_array_equal(batch["image"][:, 0], batch["label"])


def test_of_halves_of_unequal_size_the_larger_is_cut():
    sets = image_sets([part(*range(5)), part(*range(10, 16))], batch_size=4)
    assert labels(sets) == [[0, 1], [2, 3], [10, 11], [12, 13]]


def test_few_images_are_one_batch():
    sets = image_sets([part(1, 2, 3)], batch_size=100)
    assert labels(sets) == [[1, 2, 3]]


def test_batches_repeat_after_the_last():
    """The evaluator prepares the next one ahead."""
    sets = image_sets([part(0, 1), part(2, 3)], batch_size=2)
    assert sets[2]["label"].tolist() == sets[0]["label"].tolist() == [0, 1]


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3), batch_size=st.integers(1, 50))
def test_all_batches_have_one_size_and_little_is_left_out(sizes, batch_size):
    starts = np.cumsum([0, *sizes])
    parts = [part(*range(s, s + n)) for s, n in zip(starts, sizes, strict=False)]
    sets = image_sets(parts, batch_size)
    size = {len(batch["label"]) for batch in sets.batches}
    assert len(size) == 1
    assert 1 <= size.copy().pop() <= batch_size
    for number, given_part in enumerate(parts):
        mine = [x for k in sets.numbers(number) for x in sets[k]["label"].tolist()]
        assert set(mine) <= set(given_part["label"].tolist())
        assert len(set(mine)) == len(mine) == sets.each * size.copy().pop()
        assert min(sizes) - sets.each < len(mine) <= min(sizes)


class Views:
    """Augmented copies have another image and the same label."""

    def __init__(self, count):
        self.count, self.asked = count, []

    def __call__(self, number):
        self.asked.append(number)
        found = np.arange(self.count)
        return {"image": (found + 1000.0 * number)[:, None], "label": found.astype(np.int32)}


@pytest.mark.parametrize(
    ("count", "limit", "views", "images"),
    [
        (5, 2000, 5, 50),  # all views
        (5, 34, 3, 30),  # as many whole ones as the limit takes
        (5, 30, 3, 30),
        (5, 19, 1, 10),
        (1, 2000, 1, 10),
        (5, 6, 1, 6),  # the first alone is larger than the limit
    ],
)
def test_few_images_are_filled_up_with_augmented_views(count, limit, views, images):
    view = Views(10)
    found = shuffled_views(view, count, limit, seed=3)
    assert view.asked == list(range(views))
    assert len(found["label"]) == len(found["image"]) == images
    values = found["image"][:, 0]
    assert len(set(values)) == images
    assert set(values // 1000) == set(range(views))
    np.testing.assert_array_equal(values % 1000, found["label"])
    if images == 10 * views:
        assert sorted(values) == sorted(x + 1000 * v for v in range(views) for x in range(10))


def test_the_order_is_random_and_decided_by_the_seed():
    one, same, other = (
        shuffled_views(Views(30), 2, 100, seed)["image"][:, 0].tolist() for seed in (1, 1, 2)
    )
    assert one == same
    assert sorted(one) == sorted(other)
    assert one != other
    assert one != sorted(one)
    # Views are mixed, so that each batch has something of each.
    assert {value // 1000 for value in one[:10]} == {0, 1}
