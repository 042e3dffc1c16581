"""Which folders of an image folder hold the training, test and search images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from rfquant_jax.data.sources import DataSettings
from rfquant_jax.errors import ArgumentError
from rfquant_jax.runtime.paths import expanded

TRAIN, SEARCH = "train", "subImageNet"
TESTS = ("val", "test")  # the first one that exists


class Layout(NamedTuple):
    """Folders with a folder for each class.

    Attributes:
      train: training images.
      test: test images; None: a fraction of the training images is held out instead.
      search: images held out for the search; None: a fraction of the training images is.
    """

    train: Path
    test: Path | None
    search: Path | None


def find_layout(settings: DataSettings) -> Layout:
    """The folders below `settings.path`.

    With `val_fraction`, test images are held out from `train` or, without that folder, from class
    folders that stand below `path` themselves.

    Raises:
      ArgumentError: a folder is missing, or there are test images and `val_fraction` asks for some.
    """
    root = Path(expanded(settings.path))
    if not settings.path or not os.path.isdir(root):
        raise ArgumentError("path", settings.path, "must be a folder that holds train and val")
    train, test, search = root / TRAIN, _existing(root, *TESTS), _existing(root, SEARCH)
    if settings.val_fraction:
        if test is not None:
            rule = f"must be 0, because {test} holds the test images"
            raise ArgumentError("val_fraction", settings.val_fraction, rule)
        alone = search is None and not os.path.isdir(train)
        return Layout(root if alone else train, None, search)
    if not os.path.isdir(train):
        hint = " (class folders alone need `val_fraction`)" if test is None else ""
        raise ArgumentError("path", str(root), f"must hold a folder {TRAIN}{hint}")
    if test is None:
        rule = f"must hold a folder {' or '.join(TESTS)}, or `val_fraction` must be set"
        raise ArgumentError("path", str(root), rule)
    return Layout(train, test, search)


def _existing(root: Path, *names: str) -> Path | None:
    # os.path.isdir, unlike Path.is_dir, does not fail on permissions.
    return next((root / name for name in names if os.path.isdir(root / name)), None)
