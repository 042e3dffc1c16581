"""Image folders laid out like ImageNet: `train/<class>/...`, `val/<class>/...`."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rfquant_jax.data.decode import BadImageError
from rfquant_jax.data.index import FolderIndex, default_cache, index_folder
from rfquant_jax.data.layout import SEARCH, TESTS, TRAIN, Layout, find_layout
from rfquant_jax.data.sources import (
    DataSet,
    DataSettings,
    Source,
    Subset,
    hold_out_test,
    split,
)
from rfquant_jax.errors import ArgumentError, listed

MOST_BYTES = 2**29  # maximum size of an image file


class FolderSource:
    """Encoded images from files.

    Args:
      root: folder of the images.
      files: N paths below it.
      labels: int32[N].
    """

    def __init__(self, root: Path, files: Sequence[str], labels: np.ndarray):
        self._root, self._files, self.labels = root, files, labels

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict:
        """{"image": bytes, "label": int32, "name": str}.

        Raises:
          BadImageError: the file cannot be read.
        """
        path = self._root / self._files[index]
        try:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
                raise BadImageError(f"is no file of at most {MOST_BYTES >> 20} MiB", str(path))
            content = path.read_bytes()
        except OSError as error:
            raise BadImageError(f"cannot be read ({error.strerror})", str(path)) from error
        return {"image": content, "label": self.labels[index], "name": str(path)}


def image_folder(settings: DataSettings) -> DataSet:
    """The images below `settings.path`, see `find_layout`.

    If there is a folder `subImageNet` next to `train`, it is the held-out part for the search, and
    its images are excluded from training. Otherwise a fraction of the training images is held out.

    Raises:
      ArgumentError: a folder is missing or empty, or a class has no training images.
    """
    layout = find_layout(settings)
    train = _index(layout.train, complete=True)
    source, searched, version, remarks = _training_images(layout, train)
    if layout.test is None:
        source, test, test_version, found = _test_split(source, train, settings)
    else:
        test, test_version, found = _test_images(layout.test, train)
    if searched is None:
        source, searched = split(source, settings.search_fraction, settings.split_seed)
        _check_classes(source, train, "search_fraction", settings.search_fraction)
    return DataSet(
        source,
        searched,
        test,
        class_names=train.classes,
        image_shape=(0, 0, 3),
        remark="\n".join([*remarks, *found]),
        training_version=version,
        test_version=test_version,
        val_fraction=0.0 if layout.test else settings.val_fraction,
    )


def _training_images(
    layout: Layout, train: FolderIndex
) -> tuple[Source, Source | None, str, list[str]]:
    """The training images, those of `subImageNet` if it exists, their version, and remarks."""
    source, remarks = FolderSource(layout.train, train.files, train.labels), []
    remarks += _ignored(layout.train, train)
    if layout.search is None:
        return source, None, _digest(train), remarks
    index = _index(layout.search)
    source, searched, remark = _named_parts(layout, train, index, source)
    return source, searched, _digest(train, index), [*remarks, remark]


def _test_split(
    source: Source, train: FolderIndex, settings: DataSettings
) -> tuple[Source, Source, str, list[str]]:
    """The remaining training images, held-out test images, their version, and a remark."""
    rest, test = hold_out_test(source, settings)
    _check_classes(rest, train, "val_fraction", settings.val_fraction)
    version = f"{_digest(train)} {settings.val_fraction} {settings.split_seed}"
    remark = f"data: {len(test)} of {len(source)} training images are the test images"
    return rest, test, version, [remark]


def _test_images(folder: Path, train: FolderIndex) -> tuple[FolderSource, str, list[str]]:
    """The images of a test folder, their version, and remarks about them."""
    index = _index(folder)
    labels, remarks = _labels(folder, index, train), _ignored(folder, index)
    lacking = sorted(set(train.classes) - {train.classes[label] for label in labels})
    if lacking:
        remarks.append(f"data: {folder.name} has no images of {listed(lacking)}")
    others = [name for name in TESTS if name != folder.name]
    if unused := [name for name in others if os.path.isdir(folder.parent / name)]:
        remarks.append(f"data: {folder.name} holds the test images; {listed(unused)} is not used")
    return FolderSource(folder, index.files, labels), _digest(index), remarks


def _check_classes(part: Source, train: FolderIndex, argument: str, fraction: float) -> None:
    """Refuses a split that leaves a class without training images."""
    there = set(_labels_of(part).tolist())
    if lost := [name for label, name in enumerate(train.classes) if label not in there]:
        rule = f"holds out all images of {listed(lost)}: none is left to train on"
        raise ArgumentError(argument, fraction, rule)


def _labels_of(part: Source) -> np.ndarray:
    return _labels_of(part.source)[part.indices] if isinstance(part, Subset) else part.labels


def _index(folder: Path, *, complete: bool = False) -> FolderIndex:
    """The images of a folder.

    Args:
      complete: refuse a class without images.
    """
    if not os.path.isdir(folder):  # unlike Path.is_dir, does not fail on permissions
        raise ArgumentError("path", str(folder.parent), f"must hold a folder {folder.name}")
    try:
        index = index_folder(folder, default_cache(folder))
    except OSError as error:
        raise ArgumentError("path", str(folder), f"cannot be read: {error}") from error
    if not index.classes:
        raise ArgumentError("path", str(folder), "must hold a folder for each class")
    counts = np.bincount(index.labels, minlength=len(index.classes))
    empty = [name for name, count in zip(index.classes, counts, strict=True) if count == 0]
    if empty and complete:
        raise ArgumentError("path", str(folder), f"holds no image of {listed(empty)}")
    if not index.files:
        raise ArgumentError("path", str(folder), "holds no images")
    return index


def _ignored(folder: Path, index: FolderIndex) -> list[str]:
    """A message about files that are no images, if there are any."""
    if not index.ignored:
        return []
    count = len(index.ignored)
    what = "1 file is no image" if count == 1 else f"{count} files are no images"
    return [f"data: {folder}: {what}: {listed(index.ignored, 3)}"]


def _digest(*indices: FolderIndex) -> str:
    """A version that changes with the names of the files."""
    names = "\0".join(name for index in indices for name in [*index.files, ""])
    return hashlib.sha256(os.fsencode(names)).hexdigest()[:16]


def _labels(folder: Path, index: FolderIndex, train: FolderIndex) -> np.ndarray:
    """The labels of a folder's images, int32[N], as indices of the classes of `train`.

    Raises:
      ArgumentError: the folder has images of a class that `train` lacks.
    """
    unknown = sorted({index.classes[label] for label in index.labels} - set(train.classes))
    if unknown:
        rule = f"holds classes that {TRAIN} does not: {listed(unknown)}"
        raise ArgumentError("path", str(folder), rule)
    return np.searchsorted(train.classes, index.classes)[index.labels].astype(np.int32)


def _named_parts(
    layout: Layout, train: FolderIndex, index: FolderIndex, source: FolderSource
) -> tuple[Subset, FolderSource, str]:
    """The remaining training images, the images of `subImageNet` (`index`), and a remark."""
    labels = _labels(layout.search, index, train)
    held_out = set(index.files)
    kept = np.asarray([i for i, name in enumerate(train.files) if name not in held_out])
    if not len(kept):
        rule = f"holds all images of {TRAIN}: none would be left to train on"
        raise ArgumentError("path", str(layout.search), rule)
    remark = (
        f"data: {SEARCH} is the search set; {len(train.files) - len(kept)} of its "
        f"{len(index.files)} images are in {TRAIN}, too, and not trained on"
    )
    return Subset(source, kept), FolderSource(layout.search, index.files, labels), remark
