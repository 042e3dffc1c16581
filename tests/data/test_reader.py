"""Bad images: skipped, named, counted, and too many of them."""

import numpy as np
import pytest

from rfquant_jax.data.decode import BadImageError
from rfquant_jax.data.reader import MAX_IN_A_ROW, BadFiles
from rfquant_jax.data.sources import Part
from rfquant_jax.errors import ConfigError, UserError
from tests.conftest import pipeline


class Spoilt:
    """Images that hold their own number, but for some that cannot be read."""

    def __init__(self, count, bad):
        self.count, self.bad = count, bad

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.bad:
            raise BadImageError("is spoilt")
        return {"image": np.full((2, 2, 1), index, np.uint8), "label": index}


def images_of(batches):
    return np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches]).tolist()


def test_the_next_good_image_stands_in_for_training():
    said = []
    work = pipeline(max_bad_fraction=0.5, say=said.append)
    batches = work.training(Spoilt(8, {2, 3, 7}), 8, seed=0)
    batch = batches[0]
    assert sorted(batch["image"][:, 0, 0, 0].tolist()) == [0, 0, 1, 4, 4, 4, 5, 6]
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])
    assert len(said) == 3
    list(zip(range(3), batches.starting_at(1), strict=False))
    assert len(said) == 3  # each is named once
    assert sorted(message.split(": ", 1)[1] for message in said) == [
        f"image {i}: is spoilt" for i in (2, 3, 7)
    ]
    assert said[2].startswith("skipped image 3 of 8: ")


@pytest.mark.parametrize("threads", [1, 3])
def test_no_image_counts_twice_in_an_evaluation(threads):
    work = pipeline(max_bad_fraction=1.0, threads=threads)
    batches = list(work.exact(Spoilt(10, {0, 4, 9}), 4))
    labels = np.concatenate([batch["label"] for batch in batches]).tolist()
    assert labels == [-1, 1, 2, 3, -1, 5, 6, 7, 8, -1, -1, -1]
    assert images_of(batches)[4] == 5


def test_batches_for_recalibration_are_full():
    batches = list(pipeline(max_bad_fraction=1.0).full(Spoilt(10, {1}), 5, 10, seed=0))
    assert sorted(np.concatenate(batches)[:, 0, 0, 0].tolist()) == [0, 2, 2, *range(3, 10)]


def test_too_many_bad_images_are_an_error():
    work = pipeline(max_bad_fraction=0.2)
    assert len(list(work.exact(Spoilt(10, {1, 2}), 10))) == 1
    rule = r"max_bad_fraction = 0\.2: at most 2 of 10 images may be bad, and now 3 are; .*image 5"
    with pytest.raises(ConfigError, match=rule):
        list(pipeline(max_bad_fraction=0.2).exact(Spoilt(10, {1, 2, 5}), 10))


def test_the_parts_of_a_data_set_share_one_count():
    source = Spoilt(10, {0, 9})
    work = pipeline(max_bad_fraction=0.1)
    list(work.exact(Part(source, np.arange(5)), 5))
    with pytest.raises(ConfigError, match="at most 1 of 10"):
        list(work.exact(Part(source, np.arange(5, 10)), 5))


def test_a_desert_of_bad_images_ends_the_search_for_a_good_one():
    count = MAX_IN_A_ROW + 5
    with pytest.raises(UserError, match=rf"none of {MAX_IN_A_ROW} images in a row .*image 0"):
        list(pipeline(max_bad_fraction=1.0).exact(Spoilt(count, range(count)), 4))


def test_one_complaint_is_counted_once():
    said = []
    report = BadFiles(100, 0.01, said.append)
    report(["x: is empty"])
    report(["x: is empty"])
    assert said == ["skipped image 1 of 100: x: is empty"]
