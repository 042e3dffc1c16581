"""A small TFDS data set of our own, prepared and read without TensorFlow."""

import io
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from configs import default
from rfquant_jax import data
from rfquant_jax.data.transforms import Centre
from rfquant_jax.errors import ConfigError
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

    def _info(self):
        features = tfds.features.FeaturesDict(
            {
                self.IMAGE: tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=LABELS),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        del dl_manager
        return {s: self._generate_examples(s, n) for s, n in (("train", 20), ("test", 6))}

    def _generate_examples(self, split, count):
        for i in range(count):
            yield i, {self.IMAGE: png(pixels(split, i)), "label": i % len(LABELS)}


class Unlabelled(SmallPets):
    """The same under a name that nobody looks for."""

    IMAGE = "picture"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tfds")
    for builder in (SmallPets, Unlabelled):
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


def test_tensorflow_is_not_needed(folder):
    data.load(section(folder, "small_pets:1.0.0"))
    assert "tensorflow" not in sys.modules


def test_what_is_not_prepared_is_refused_with_the_way_to_prepare_it(folder):
    rule = r"data\.name = 'tfds:cifar10': is not prepared in .*tfds build cifar10 --file_format=ar"
    with pytest.raises(ConfigError, match=rule):
        data.load(section(folder, "cifar10"))


def test_another_format_is_refused(folder, tmp_path):
    other = tmp_path / "small_pets" / "1.0.0"
    other.mkdir(parents=True)
    for file in (folder / "small_pets" / "1.0.0").iterdir():
        content = file.read_bytes()
        if file.name == "dataset_info.json":
            content = content.replace(b'"array_record"', b'"tfrecord"')
        (other / file.name).write_bytes(content)
    with pytest.raises(ConfigError, match="is prepared as tfrecord; only array_record"):
        data.load(section(tmp_path, "small_pets"))


def test_a_data_set_without_labelled_images_is_refused(folder):
    with pytest.raises(ConfigError, match="must have the features image and label; it has label"):
        data.load(section(folder, "unlabelled"))
