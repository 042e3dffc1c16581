"""A small TFDS data set of our own, prepared and read without TensorFlow."""

import io
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from configs import default
from rfquant_jax import data
from rfquant_jax.data.transforms import Centre
from rfquant_jax.errors import ArgumentError
from tests.conftest import pipeline

LABELS = ["cat", "dog", "fox"]


def pixels(split, index):
    value = index + (100 if split == "test" else 0)
    return np.full((4 + index % 3, 6, 3), value, np.uint8)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    file.seek(0)
    return file


class SmallPets(tfds.core.GeneratorBasedBuilder):
    """Pictures of one color: their number."""

    VERSION = tfds.core.Version("1.0.0")
    IMAGE = "image"
    KIND = tfds.features.Image(shape=(None, None, 3))
    LABEL = tfds.features.ClassLabel(names=LABELS)

    def encoded(self, image):
        return png(image)

    def label(self, split, index):
        del split
        return index % len(LABELS)

    def _info(self):
        features = tfds.features.FeaturesDict({self.IMAGE: self.KIND, "label": self.LABEL})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        del dl_manager
        return {s: self._generate_examples(s, n) for s, n in (("train", 20), ("test", 6))}

    def _generate_examples(self, split, count):
        for i in range(count):
            image = self.encoded(pixels(split, i))
            yield i, {self.IMAGE: image, "label": self.label(split, i)}


class Unlabelled(SmallPets):
    """The same under a name that nobody looks for."""

    IMAGE = "picture"


class Masked(SmallPets):
    """Pictures with a mask, which is never decoded."""

    def _info(self):
        features = {self.IMAGE: self.KIND, "label": self.LABEL, "mask": self.KIND}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _generate_examples(self, split, count):
        for i, example in super()._generate_examples(split, count):
            yield i, example | {"mask": io.BytesIO(b"no image at all")}


class FourChannels(SmallPets):
    """Pictures with transparency."""

    KIND = tfds.features.Image(shape=(None, None, 4))

    def encoded(self, image):
        return png(np.concatenate([image, image[..., :1]], axis=-1))


class NoImage(SmallPets):
    """Numbers in place of pictures."""

    KIND = tfds.features.Tensor(shape=(2,), dtype=np.float32)

    def encoded(self, image):
        return image[0, 0, :2].astype(np.float32)


class NumberAsLabel(SmallPets):
    """Numbers in place of classes."""

    LABEL = tfds.features.Scalar(dtype=np.int64)


class OnlyTrain(SmallPets):
    """No split but train."""

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"train": self._generate_examples("train", 20)}


class HiddenLabels(SmallPets):
    """A test split that keeps its labels to itself."""

    def label(self, split, index):
        return -1 if split == "test" else index % len(LABELS)


BUILDERS = (
    SmallPets,
    Unlabelled,
    Masked,
    FourChannels,
    NoImage,
    NumberAsLabel,
    HiddenLabels,
    OnlyTrain,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tfds")
    for builder in BUILDERS:
        builder(file_format="array_record", data_dir=path).download_and_prepare()
    return path


def section(folder, name):
    config = default.get_config().data
    config.name, config.path, config.search_fraction = f"tfds:{name}", str(folder), 0.25
    return config


def test_all_images_are_there_with_their_labels(folder):
    loaded = data.load(section(folder, "small_pets"))
    assert loaded.class_names == tuple(LABELS)
    assert loaded.image_shape == (0, 0, 3)
    assert (len(loaded.train), len(loaded.held_out), len(loaded.test)) == (15, 5, 6)
    work, seen = pipeline(plain=Centre(4), threads=2), {}
    for name in ("train", "held_out", "test"):
        for batch in work.exact(getattr(loaded, name), 1):
            value = int(batch["image"][0, 0, 0, 0])
            assert np.all(batch["image"] == value)
            seen[value] = int(batch["label"][0])
    assert seen == {i + base: i % 3 for base, n in ((0, 20), (100, 6)) for i in range(n)}


def test_test_images_are_held_out_of_the_only_split(folder):
    config = section(folder, "only_train")
    with pytest.raises(ArgumentError, match=r"it has train \(`val_fraction` holds out test images"):
        data.load(config)
    config.val_fraction = 0.2
    loaded = data.load(config)
    assert (len(loaded.train), len(loaded.held_out), len(loaded.test)) == (12, 4, 4)
    names = [
        p[i]["name"] for p in (loaded.train, loaded.held_out, loaded.test) for i in range(len(p))
    ]
    assert sorted(names) == sorted(f"only_train/train[{i}]" for i in range(20))
    config.search_fraction = 0.5
    again = data.load(config).test
    assert [again[i]["name"] for i in range(4)] == names[-4:]
    config.name = "tfds:small_pets"
    with pytest.raises(
        ArgumentError, match="must be 0, because tfds:small_pets has test images of"
    ):
        data.load(config)


def test_masks_are_not_decoded(folder):
    loaded = data.load(section(folder, "masked"))
    assert len(list(pipeline(plain=Centre(4)).exact(loaded.test, 6))) == 1


def test_tensorflow_is_not_needed(folder):
    data.load(section(folder, "small_pets:1.0.0"))
    assert "tensorflow" not in sys.modules


def test_without_tfds_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    config = default.get_config().data
    config.name = "tfds:small_pets"
    with pytest.raises(ArgumentError, match=r"pip install 'rfquant-jax\[tfds\]'"):
        data.load(config)


def test_what_is_not_prepared_is_refused_with_the_way_to_prepare_it(folder):
    rule = r"`data_set` = 'tfds:cifar10': is not prepared in .*tfds build cifar10 --file_format=ar"
    with pytest.raises(ArgumentError, match=rule):
        data.load(section(folder, "cifar10"))


def test_another_format_is_refused(folder, tmp_path):
    other = tmp_path / "small_pets" / "1.0.0"
    other.mkdir(parents=True)
    for file in (folder / "small_pets" / "1.0.0").iterdir():
        content = file.read_bytes()
        if file.name == "dataset_info.json":
            content = content.replace(b'"array_record"', b'"tfrecord"')
        (other / file.name).write_bytes(content)
    with pytest.raises(ArgumentError, match="is prepared as tfrecord; only array_record"):
        data.load(section(tmp_path, "small_pets"))


@pytest.fixture
def copy(folder, tmp_path):
    shutil.copytree(folder / "small_pets", tmp_path / "small_pets")
    return tmp_path


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("how", ["missing", "cut"])
def test_a_damaged_file_is_found_before_work_starts(copy, part, how):
    (file,) = (copy / "small_pets" / "1.0.0").glob(f"*-{part}.array_record*")
    content = file.read_bytes()
    file.unlink()
    if how == "cut":
        file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ArgumentError, match=rf"is damaged: small_pets/{part}\[0\] cannot be read"):
        data.load(section(copy, "small_pets"))


def test_a_damaged_description_is_refused(copy):
    (copy / "small_pets" / "1.0.0" / "dataset_info.json").write_text("{ no json")
    with pytest.raises(ArgumentError, match=r"`data_set` = 'tfds:small_pets'"):
        data.load(section(copy, "small_pets"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("four_channels", "images of 1 or 3 channels"),
        ("no_image", "images of 1 or 3 channels"),
        ("number_as_label", "one class as its label"),
        ("hidden_labels", "has no labels in its split test"),
    ],
)
def test_features_of_another_kind_are_refused(folder, name, said):
    with pytest.raises(ArgumentError, match=said):
        data.load(section(folder, name))


def test_a_data_set_without_labelled_images_is_refused(folder):
    with pytest.raises(ArgumentError, match="must have the features image and label; it has label"):
        data.load(section(folder, "unlabelled"))
