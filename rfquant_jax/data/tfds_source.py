"""Reads prepared TFDS data sets without TensorFlow."""

from __future__ import annotations

from rfquant_jax.data.decode import BadImageError
from rfquant_jax.data.sources import DataSet, DataSettings, hold_out_test, split
from rfquant_jax.errors import ArgumentError
from rfquant_jax.runtime.extras import missing
from rfquant_jax.runtime.paths import expanded

PREFIX = "tfds:"
_TEST_SPLITS = ("validation", "test")  # the first existing split is used


class TfdsSource:
    """One split, with images as stored.

    Args:
      source: from `as_data_source` with `SkipDecoding` for images.
      name: name of the split in messages.
    """

    def __init__(self, source, name: str):
        self._source, self._name = source, name

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict:
        """{"image": bytes or uint8[H, W, C], "label": int, "name": str}.

        Raises:
          BadImageError: the record cannot be read.
        """
        name = f"{self._name}[{index}]"
        try:
            record = self._source[int(index)]
        except Exception as error:  # array_record and protobuf raise their own
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BadImageError(f"cannot be read ({reason})", name) from error
        if record["image"] is None or record["label"] is None:  # from a truncated file
            raise BadImageError("cannot be read (the record is empty)", name)
        return {"image": record["image"], "label": record["label"], "name": name}


def tfds_data_set(settings: DataSettings) -> DataSet:
    """A prepared TFDS data set.

    Args:
      settings: `name` is "tfds:NAME" or "tfds:NAME/CONFIG", optionally with ":VERSION"; `path` is
        TFDS's data_dir, or "" for its default.

    Raises:
      ArgumentError: the data set is missing, not in array_record format, damaged, or has no
        labelled images.
    """
    name = settings.name.removeprefix(PREFIX)
    builder = _builder(name, expanded(settings.path) or None)
    features, splits = builder.info.features, builder.info.splits
    _check_features(settings.name, features)
    test = next((part for part in _TEST_SPLITS if part in splits), None)
    if "train" not in splits or (test is None and not settings.val_fraction):
        there = ", ".join(sorted(splits))
        rule = (
            f"must have the splits train and validation or test; it has {there} (`val_fraction` "
            "holds out test images from train)"
        )
        raise ArgumentError("data_set", settings.name, rule)
    source = _source(builder, "train", settings.name)
    if test is None:
        source, test_source = hold_out_test(source, settings)
    else:
        test_source = _source(builder, test, settings.name)
    train, held_out = split(source, settings.search_fraction, settings.split_seed)
    return DataSet(
        train,
        held_out,
        test_source,
        class_names=tuple(features["label"].names),
        image_shape=tuple(side or 0 for side in features["image"].shape),
        training_version=str(builder.version),
        test_version=str(builder.version),
        val_fraction=0.0 if test else settings.val_fraction,
    )


def _builder(name: str, folder: str | None):
    """The reader of what is on disk; the data set's own code is not needed."""
    if lack := missing("tensorflow_datasets"):
        raise ArgumentError("data_set", PREFIX + name, lack)
    # Takes a second to import, and only this needs it.
    from tensorflow_datasets.core import file_adapters, read_only_builder
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    try:
        builder = read_only_builder.builder_from_files(name, data_dir=folder)
        found = builder.info.file_format
    except (DatasetNotFoundError, ValueError, OSError) as error:
        rule = (
            f"is not prepared in {folder or 'the default folder of TFDS'}; prepare it once with "
            f"TensorFlow at hand: tfds build {name.split(':')[0]} --file_format=array_record"
        )
        raise ArgumentError("data_set", PREFIX + name, rule) from error
    except Exception as error:  # protobuf's exceptions for damaged descriptions
        rule = f"cannot be read from {folder}: {str(error).splitlines()[0]}"
        raise ArgumentError("data_set", PREFIX + name, rule) from error
    if found is not file_adapters.FileFormat.ARRAY_RECORD:
        rule = f"is prepared as {found.value}; only array_record can be read at random"
        raise ArgumentError("data_set", PREFIX + name, rule)
    return builder


def _check_features(name: str, features) -> None:
    import tensorflow_datasets as tfds

    if not {"image", "label"} <= features.keys():
        rule = f"must have the features image and label; it has {', '.join(sorted(features))}"
        raise ArgumentError("data_set", name, rule)
    image, label = features["image"], features["label"]
    if not isinstance(image, tfds.features.Image) or image.shape[-1] not in (1, 3):
        raise ArgumentError("data_set", name, "must have images of 1 or 3 channels as its image")
    if not isinstance(label, tfds.features.ClassLabel):
        raise ArgumentError("data_set", name, "must have one class as its label")


def _source(builder, part: str, name: str) -> TfdsSource:
    """One split, checked by reading the first and last record of every file."""
    import tensorflow_datasets as tfds

    # Images are decoded later; other features, such as masks, are never decoded.
    decoders = {
        feature: tfds.decode.SkipDecoding()
        for feature, kind in builder.info.features.items()
        if isinstance(kind, tfds.features.Image)
    }
    source = TfdsSource(
        builder.as_data_source(split=part, decoders=decoders),
        f"{name.removeprefix(PREFIX)}/{part}",
    )
    ends, last = {0, len(source) - 1}, -1
    for length in builder.info.splits[part].shard_lengths:
        ends |= {last + 1, last + length}
        last += length
    for index in sorted(ends):
        try:
            label = source[index]["label"]
        except BadImageError as error:
            raise ArgumentError("data_set", name, f"is damaged: {error.name} {error}") from error
        if label < 0:
            raise ArgumentError("data_set", name, f"has no labels in its split {part}")
    return source
