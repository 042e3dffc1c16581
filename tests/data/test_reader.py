"""Bad images: skipped, named, counted, and too many of them."""

import numpy as np
import pytest
from PIL import Image

from rfquant_jax.data.decode import BadImageError
from rfquant_jax.data.folder import FolderSource
from rfquant_jax.data.reader import ATTEMPTS, BadFiles, Complaint
from rfquant_jax.data.sources import Subset
from rfquant_jax.data.transforms import Centre
from rfquant_jax.errors import ArgumentError, UserError
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
        return {"image": np.full((2, 2, 1), index % 256, np.uint8), "label": index}


def images_of(batches):
    return np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches]).tolist()


def test_another_image_stands_in_for_training():
    said = []
    work = pipeline(max_bad_fraction=0.5, log=said.append)
    batches = work.training(Spoilt(8, {2, 3, 7}), 8, seed=0)
    batch = batches[0]
    seen = batch["image"][:, 0, 0, 0].tolist()
    assert len(seen) == 8
    assert set(seen) == {0, 1, 4, 5, 6}
    np.testing.assert_array_equal(seen, batch["label"])
    assert len(said) == 3
    list(zip(range(3), batches.starting_at(1), strict=False))
    assert len(said) == 3  # each is named once
    assert sorted(message.split(": ", 1)[1] for message in said) == [
        f"image {i}: is spoilt" for i in (2, 3, 7)
    ]
    assert said[2].startswith("skipped image 3 of 8: ")
    again = pipeline(max_bad_fraction=0.5, threads=3).training(Spoilt(8, {2, 3, 7}), 8, seed=0)
    np.testing.assert_array_equal(next(again.starting_at(0))["label"], batch["label"])


def test_a_row_of_bad_images_is_no_desert():
    """Files of one class can all be spoilt: the next good one may be far away."""
    work = pipeline(max_bad_fraction=0.5)
    batch = work.training(Spoilt(1000, range(300)), 500, seed=0)[0]
    assert batch["label"].min() >= 300
    assert len(set(batch["label"].tolist())) > 250  # and no single image stands in for all


@pytest.mark.parametrize("threads", [1, 3])
def test_no_image_counts_twice_in_an_evaluation(threads):
    work = pipeline(max_bad_fraction=1.0, threads=threads)
    batches = list(work.exact(Spoilt(10, {0, 4, 9}), 4))
    labels = np.concatenate([batch["label"] for batch in batches]).tolist()
    assert labels == [-1, 1, 2, 3, -1, 5, 6, 7, 8, -1, -1, -1]
    assert images_of(batches)[4] == 0


def test_an_evaluation_bears_nothing_but_bad_images():
    batches = list(pipeline(max_bad_fraction=1.0).exact(Spoilt(5, range(5)), 4))
    assert [batch["label"].tolist() for batch in batches] == [[-1] * 4] * 2


def test_batches_for_recalibration_are_full():
    batches = list(pipeline(max_bad_fraction=1.0).full(Spoilt(10, {1}), 5, 10, seed=0))
    values = np.concatenate(batches)[:, 0, 0, 0].tolist()
    assert len(values) == 10
    assert set(values) == {0, *range(2, 10)}


def test_a_file_that_is_no_image_counts_once_however_often_it_is_read(tmp_path):
    """Reading it again must not make another bad image of it."""
    files = [f"{i}.png" for i in range(20)]
    for name in files:
        Image.new("L", (2, 2)).save(tmp_path / name)
    (tmp_path / "7.png").write_bytes(b"hello")
    source = FolderSource(tmp_path, files, np.zeros(20, np.int32))
    said = []
    work = pipeline(plain=Centre(2, channels=1), max_bad_fraction=0.05, log=said.append)
    batches = work.training(source, 20, seed=0, augment=False)
    for epoch in range(10):
        assert len(batches[epoch]["label"]) == 20
    assert said == [
        f"skipped image 1 of 20: {tmp_path}/7.png: cannot be decoded (of no known format)"
    ]


def test_too_many_bad_images_are_an_error():
    work = pipeline(max_bad_fraction=0.2)
    assert len(list(work.exact(Spoilt(10, {1, 2}), 10))) == 1
    rule = r"`max_bad_fraction` = 0\.2: at most 2 of 10 images may be bad, but 3 are; .*image 5"
    with pytest.raises(ArgumentError, match=rule):
        list(pipeline(max_bad_fraction=0.2).exact(Spoilt(10, {1, 2, 5}), 10))


def test_the_parts_of_a_data_set_share_one_count():
    source = Spoilt(10, {0, 9})
    work = pipeline(max_bad_fraction=0.1)
    list(work.exact(Subset(source, np.arange(5)), 5))
    with pytest.raises(ArgumentError, match="at most 1 of 10"):
        list(work.exact(Subset(source, np.arange(5, 10)), 5))


def test_where_no_image_can_be_read_the_search_for_one_ends():
    with pytest.raises(
        UserError, match=rf"none of {ATTEMPTS} images can be read; image \d+: is sp"
    ):
        pipeline(max_bad_fraction=1.0).training(Spoilt(200, range(200)), 4, seed=0)[0]


def test_one_image_is_counted_once():
    said = []
    report = BadFiles(100, 0.01, said.append)
    report([Complaint("x", "is empty")])
    report([Complaint("x", "is empty again")])
    assert said == ["skipped image 1 of 100: x: is empty"]
