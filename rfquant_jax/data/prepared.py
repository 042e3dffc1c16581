"""Data sets that TFDS has prepared, read without TensorFlow."""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from rfquant_jax.data.sources import DataSet, split
from rfquant_jax.errors import ConfigError

PREFIX = "tfds:"
_TEST_SPLITS = ("validation", "test")  # the first that a data set has


class TfdsSource:
    """One split, its images as they are stored.

    Args:
      source: from `as_data_source` with `SkipDecoding` for images.
      name: what to call the split in messages.
    """

    def __init__(self, source, name: str):
        self._source, self._name = source, name

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict:
        """{"image": bytes or uint8[H, W, C], "label": int, "name": str}."""
        record = self._source[int(index)]
        name = f"{self._name}[{index}]"
        return {"image": record["image"], "label": record["label"], "name": name}


def tfds_data_set(config: ConfigDict) -> DataSet:
    """The prepared data set that `config.name` names, below `config.path`.

    Args:
      config: the config's section `data`; `name` is "tfds:NAME", "tfds:NAME/CONFIG" or either with
        ":VERSION" behind it, `path` TFDS's data_dir, by default its own.

    Raises:
      ConfigError: it is not there, not in the format array_record, or has no images and labels.
    """
    import tensorflow_datasets as tfds  # takes a second to import, and only this needs it

    name = config.name.removeprefix(PREFIX)
    folder = str(Path(config.path).expanduser()) if config.path else None
    builder = _builder(name, folder)
    features = builder.info.features
    if not {"image", "label"} <= features.keys():
        rule = f"must have the features image and label; it has {', '.join(features)}"
        raise ConfigError("data.name", config.name, rule)
    test = next((s for s in _TEST_SPLITS if s in builder.info.splits), None)
    if "train" not in builder.info.splits or test is None:
        rule = f"must have the splits train and validation or test; it has {[*builder.info.splits]}"
        raise ConfigError("data.name", config.name, rule)
    skip = {"image": tfds.decode.SkipDecoding()}

    def source(part: str) -> TfdsSource:
        return TfdsSource(builder.as_data_source(split=part, decoders=skip), f"{name}/{part}")

    train, held_out = split(source("train"), config.search_fraction, config.split_seed)
    shape = tuple(side or 0 for side in features["image"].shape)
    names = tuple(features["label"].names)
    return DataSet(train, held_out, source(test), class_names=names, image_shape=shape)


def _builder(name: str, folder: str | None):
    """The reader of what is on disk; the data set's own code is not needed."""
    from tensorflow_datasets.core import file_adapters, read_only_builder
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    try:
        builder = read_only_builder.builder_from_files(name, data_dir=folder)
    except (DatasetNotFoundError, ValueError) as error:
        rule = (
            f"is not prepared in {folder or 'the default folder of TFDS'}; prepare it once with "
            f"TensorFlow at hand: tfds build {name.split(':')[0]} --file_format=array_record"
        )
        raise ConfigError("data.name", PREFIX + name, rule) from error
    found = builder.info.file_format
    if found is not file_adapters.FileFormat.ARRAY_RECORD:
        rule = f"is prepared as {found.value}; only array_record can be read at random"
        raise ConfigError("data.name", PREFIX + name, rule)
    return builder
