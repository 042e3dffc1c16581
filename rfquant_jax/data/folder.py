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
from rfquant_jax.data.sources import DataSet, DataSettings, Subset, split
from rfquant_jax.errors import ArgumentError, listed

TRAIN, TEST, SEARCH = "train", "val", "subImageNet"
OTHER_TEST = "test"  # the test images if there is no `val`
MOST_BYTES = 2**29  # maximum size of an image file


class FolderSource:
    """Encoded images from files.

    Args:
      root: folder of the images.
      files: N paths below it.
      labels: int32[N].
    """

    def __init__(self, root: Path, files: Sequence[str], labels: np.ndarray):
        self._root, self._files, self._labels = root, files, labels

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
        return {"image": content, "label": self._labels[index], "name": str(path)}


def image_folder(settings: DataSettings) -> DataSet:
    """The images below `settings.path`.

    If there is a folder `subImageNet` next to `train`, it is the held-out part for the search, and
    its images are excluded from training. Otherwise a fraction of the training images is held out.

    Without a folder `val`, the test images are those of `test`. They may lack classes.

    Raises:
      ArgumentError: a folder is missing or empty, or a class has no training images.
    """
    root = Path(os.path.expandvars(settings.path)).expanduser()
    if not settings.path or not os.path.isdir(root):
        raise ArgumentError("path", settings.path, "must be a folder that holds train and val")
    train, tested = _index(root / TRAIN, complete=True), root / TEST
    if not os.path.isdir(tested) and os.path.isdir(root / OTHER_TEST):
        tested = root / OTHER_TEST
    test = _index(tested)
    source = FolderSource(root / TRAIN, train.files, train.labels)
    remarks = [*_ignored(root / TRAIN, train), *_ignored(tested, test)]
    test_labels = _labels(tested, test, train)
    lacking = sorted(set(train.classes) - {train.classes[label] for label in test_labels})
    if lacking:
        remarks.append(f"data: {tested.name} has no images of {listed(lacking)}")
    if os.path.isdir(root / SEARCH):
        parts, remark, searched = *_named_parts(root, train, source), [_index(root / SEARCH)]
        remarks.append(remark)
    else:
        parts = split(source, settings.search_fraction, settings.split_seed)
        searched = []
    return DataSet(
        *parts,
        FolderSource(tested, test.files, test_labels),
        class_names=train.classes,
        image_shape=(0, 0, 3),
        remark="\n".join(remarks),
        training_version=_digest(train, *searched),
        test_version=_digest(test),
    )


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
    root: Path, train: FolderIndex, source: FolderSource
) -> tuple[tuple[Subset | FolderSource, FolderSource], str]:
    """The remaining training images, and the images of `subImageNet`."""
    index = _index(root / SEARCH)
    labels = _labels(root / SEARCH, index, train)
    held_out = set(index.files)
    kept = np.asarray([i for i, name in enumerate(train.files) if name not in held_out])
    if not len(kept):
        rule = f"holds all images of {TRAIN}: none would be left to train on"
        raise ArgumentError("path", str(root / SEARCH), rule)
    remark = (
        f"data: {SEARCH} is the search set; {len(train.files) - len(kept)} of its "
        f"{len(index.files)} images are in {TRAIN}, too, and not trained on"
    )
    return (Subset(source, kept), FolderSource(root / SEARCH, index.files, labels)), remark
