"""Index of the images in class folders, cached between starts."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rfquant_jax.data.decode import is_known
from rfquant_jax.runtime.files import user_cache
from rfquant_jax.runtime.npz import read_npz

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
# Folders that systems and programs leave behind; hidden ones are skipped anyway.
_NOT_CLASSES = ("@eaDir", "__MACOSX", "__pycache__", "lost+found", "$RECYCLE.BIN")
_VERSION = 2  # version of the cache format
# A scan may miss changes within this time, because file system clocks are coarse.
_RACY_NS = 2_000_000_000
_UNKNOWN = -1  # modification time that forces a new scan


@dataclass(frozen=True)
class FolderIndex:
    """Images by class.

    Attributes:
      classes: names of the class folders, sorted; also those without images.
      files: paths below the root with `/`, class by class, sorted.
      labels: int32[N], index of each file's class in `classes`.
      ignored: files in class folders that are no images, without hidden ones.
    """

    classes: tuple[str, ...]
    files: list[str]
    labels: np.ndarray
    ignored: tuple[str, ...] = ()


def index_folder(root: Path, cache: Path | None = None) -> FolderIndex:
    """The images below `root/<class>/`, at any depth.

    A file is an image if it has a usual suffix, or if Pillow knows its format. Hidden files and
    folders are skipped.

    Args:
      root: an existing folder.
      cache: cache file. It is valid as long as no folder below `root` has changed, and is ignored
        if it cannot be read or written.

    Raises:
      OSError: a folder cannot be read.
    """
    if cache is not None and (known := _load(cache, root)) is not None:
        return known
    folders: dict[str, int] = {}
    started = time.time_ns()
    classes = tuple(_subfolders(root, "", folders))
    files, labels, ignored = [], [], []
    for label, name in enumerate(classes):
        found, others = _images(root, name, folders)
        files += sorted(found)
        labels += [label] * len(found)
        ignored += sorted(others)
    index = FolderIndex(classes, files, np.asarray(labels, np.int32), tuple(ignored))
    if cache is not None:
        _save(cache, root, index, folders, started)
    return index


def image_files(root: Path) -> list[str]:
    """All images below a folder, as paths below it with `/`, sorted.

    Raises:
      OSError: a folder cannot be read.
    """
    return sorted(_images(root, "", {})[0])


def default_cache(root: Path) -> Path:
    """The path of the cache file of a folder's index."""
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]
    return user_cache("index") / f"{name}.npz"


def _subfolders(root: Path, below: str, folders: dict[str, int]) -> list[str]:
    folders[below] = os.stat(root / below).st_mtime_ns
    with os.scandir(root / below) as entries:
        return sorted(e.name for e in entries if not _is_skipped(e.name) and e.is_dir())


def _images(root: Path, below: str, folders: dict[str, int]) -> tuple[list[str], list[str]]:
    """The images and the other files below a folder."""
    folders[below] = os.stat(root / below).st_mtime_ns
    found: tuple[list[str], list[str]] = [], []
    with os.scandir(root / below) as entries:
        for entry in entries:
            if _is_skipped(entry.name):
                continue
            path = f"{below}/{entry.name}" if below else entry.name
            if entry.is_dir():
                for names, inner in zip(found, _images(root, path, folders), strict=True):
                    names += inner
            else:
                found[not _is_image(entry)].append(path)
    return found


def _is_skipped(name: str) -> bool:
    return name.startswith(".") or name in _NOT_CLASSES


def _is_image(entry: os.DirEntry) -> bool:
    return entry.name.lower().endswith(SUFFIXES) or (entry.is_file() and is_known(entry.path))


def _save(
    cache: Path, root: Path, index: FolderIndex, folders: dict[str, int], started: int
) -> None:
    times = [t if t < started - _RACY_NS else _UNKNOWN for t in folders.values()]
    temporary = cache.with_name(f"{cache.name}.{os.getpid()}.npz")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            temporary,
            version=_VERSION,
            root=_packed([str(root.resolve())]),
            folders=_packed(list(folders)),
            times=np.asarray(times, np.int64),
            classes=_packed(list(index.classes)),
            files=_packed(index.files),
            labels=index.labels,
            ignored=_packed(list(index.ignored)),
        )
        temporary.replace(cache)
    except OSError:  # the next start scans again
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _load(cache: Path, root: Path) -> FolderIndex | None:
    try:
        kept = read_npz(cache)
        if kept["version"] != _VERSION or _unpacked(kept["root"]) != [str(root.resolve())]:
            return None
        folders = zip(_unpacked(kept["folders"]), kept["times"].tolist(), strict=True)
        if any(os.stat(root / below).st_mtime_ns != then for below, then in folders):
            return None
        classes, files = tuple(_unpacked(kept["classes"])), _unpacked(kept["files"])
        ignored = tuple(_unpacked(kept["ignored"]))
        return FolderIndex(classes, files, kept["labels"].astype(np.int32), ignored)
    except Exception:  # a damaged file can raise almost anything; the folder can still be scanned
        return None


def _packed(names: list[str]) -> np.ndarray:
    return np.frombuffer(b"\0".join(map(os.fsencode, names)), np.uint8)


def _unpacked(packed: np.ndarray) -> list[str]:
    content = packed.tobytes()
    return [os.fsdecode(name) for name in content.split(b"\0")] if content else []
