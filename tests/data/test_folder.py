"""Image folders: what is found, what is refused, what is remembered."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import default
from rfquant_jax import data
from rfquant_jax.data import index as indexing
from rfquant_jax.data.decode import BadImageError
from rfquant_jax.data.folder import FolderSource
from rfquant_jax.data.index import default_cache, index_folder
from rfquant_jax.errors import ArgumentError

LONG_AGO = time.time() - 3600


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


def write(root, *names):
    """Images of one color, which is their place in the call."""
    for value, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), (value, 0, 0)).save(root / name)
    age(root)


def age(root):
    """Makes all folders look as if nothing had changed for an hour."""
    for folder in [root, *(p for p in root.rglob("*") if p.is_dir())]:
        os.utime(folder, (LONG_AGO, LONG_AGO))


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "images"
    names = [f"{part}/{c}/{i}.png" for part in ("train", "val") for c in "ab" for i in range(4)]
    write(folder, *names)
    return folder


def section(root, **changes):
    config = default.get_config().data
    config.path, config.search_fraction = str(root), 0.25
    config.update(changes)
    return config


def names(part):
    return [
        str(Path(part[i]["name"]).relative_to(Path(part[i]["name"]).parents[1]))
        for i in range(len(part))
    ]


def test_images_come_with_the_label_of_their_folder(root):
    loaded = data.load(section(root))
    assert loaded.class_names == ("a", "b")
    assert loaded.image_shape == (0, 0, 3)
    assert (len(loaded.train), len(loaded.held_out), len(loaded.test)) == (6, 2, 8)
    for part in (loaded.train, loaded.held_out, loaded.test):
        for i, name in enumerate(names(part)):
            assert part[i]["label"] == "ab".index(name[0])
    everything = sorted(names(loaded.train) + names(loaded.held_out))
    assert everything == [f"{c}/{i}.png" for c in "ab" for i in range(4)]
    assert loaded.test[3]["image"] == (root / "val" / "a" / "3.png").read_bytes()


def test_the_split_is_the_same_every_time_and_another_for_another_seed(root):
    parts = [names(data.load(section(root, split_seed=s)).held_out) for s in (0, 0, 1, 2, 3)]
    assert parts[0] == parts[1]
    assert len({tuple(part) for part in parts}) > 1


def test_sub_imagenet_is_the_search_set_and_not_trained_on(root):
    write(root / "subImageNet", "b/1.png", "b/new.png")
    loaded = data.load(section(root))
    assert names(loaded.held_out) == ["b/1.png", "b/new.png"]
    assert [loaded.held_out[i]["label"] for i in range(2)] == [1, 1]
    expected = [f"{c}/{i}.png" for c in "ab" for i in range(4)]
    expected.remove("b/1.png")
    assert names(loaded.train) == expected
    assert "1 of its 2 images are in train, too" in loaded.remark


def test_the_search_set_must_leave_images_and_know_the_classes(root):
    write(root / "subImageNet", "c/1.png")
    with pytest.raises(ArgumentError, match="holds classes that train does not: c"):
        data.load(section(root))
    (root / "subImageNet" / "c").rename(root / "subImageNet" / "a")
    write(root / "subImageNet", *(f"{c}/{i}.png" for c in "ab" for i in range(4)))
    with pytest.raises(ArgumentError, match="none would be left to train on"):
        data.load(section(root))


def test_only_images_are_taken_however_deep_and_whatever_their_case(tmp_path):
    write(tmp_path / "f", "a/deep/er/x.JPEG", "a/y.Png")
    for name in ("a/.hidden.png", "a/notes.txt", "loose.png"):
        (tmp_path / "f" / name).write_bytes(b"")
    (tmp_path / "f" / ".git").mkdir()
    index = index_folder(tmp_path / "f")
    assert index.classes == ("a",)
    assert index.files == ["a/deep/er/x.JPEG", "a/y.Png"]
    assert index.labels.tolist() == [0, 0]


def test_a_folder_may_be_called_like_an_image(tmp_path):
    write(tmp_path / "f", "a/deep.png/1.png")
    assert index_folder(tmp_path / "f").files == ["a/deep.png/1.png"]


def test_other_files_are_another_version(root):
    before = data.load(section(root))
    (root / "val" / "a" / "0.png").rename(root / "val" / "a" / "9.png")
    after = data.load(section(root))
    assert after.test_version != before.test_version
    assert after.training_version == before.training_version
    write(root / "subImageNet", "b/1.png")
    assert data.load(section(root)).training_version != before.training_version


def test_the_content_of_a_file_decides_if_its_suffix_is_unusual(tmp_path, monkeypatch):
    write(tmp_path / "f", "a/1.png", "a/2.png", "a/3.png")
    folder = tmp_path / "f" / "a"
    (folder / "2.png").rename(folder / "2.jfif")
    (folder / "3.png").rename(folder / "3")
    for name in ("Thumbs.db", "labels.csv"):
        (folder / name).write_bytes(b"a,b\n")
    (folder / "@eaDir").mkdir()
    (folder / "@eaDir" / "1.png").write_bytes((folder / "1.png").read_bytes())
    cache = tmp_path / "cache.npz"
    age(tmp_path / "f")
    for _ in range(2):
        index = index_folder(tmp_path / "f", cache)
        assert index.files == ["a/1.png", "a/2.jfif", "a/3"]
        assert index.ignored == ("a/Thumbs.db", "a/labels.csv")
        # The second time, nothing but the cache is read.
        monkeypatch.setattr(indexing, "is_known", lambda path: pytest.fail(path))


def test_folders_of_systems_are_no_classes(root):
    for name in ("@eaDir", ".ipynb_checkpoints", "__MACOSX"):
        write(root / "train" / name, "1.png")
    assert data.load(section(root)).class_names == ("a", "b")


def test_a_test_set_may_lack_classes_and_labels_stay_those_of_training(root):
    write(root / "train", *(f"{c}/0.png" for c in ("0", "z")))
    (root / "val" / "z").mkdir()
    loaded = data.load(section(root))
    assert loaded.class_names == ("0", "a", "b", "z")
    assert [loaded.test[i]["label"] for i in range(8)] == [1] * 4 + [2] * 4
    assert loaded.remark == "data: val has no images of 0, z"


def test_ignored_files_are_counted_and_said(root):
    (root / "train" / "a" / "notes.txt").write_text("x")
    (root / "val" / "b" / "list.csv").write_text("x")
    remark = data.load(section(root)).remark
    assert remark.splitlines() == [
        f"data: {root / 'train'}: 1 file is no image: a/notes.txt",
        f"data: {root / 'val'}: 1 file is no image: b/list.csv",
    ]


def test_the_test_folder_stands_in_for_val(root, monkeypatch):
    (root / "val").rename(root / "test")
    monkeypatch.setenv("PICTURES", str(root))
    loaded = data.load(section("$PICTURES"))
    assert Path(loaded.test[0]["name"]).parent == root / "test" / "a"


def test_of_two_test_folders_the_unused_one_is_said(root):
    write(root / "test", "a/0.png")
    loaded = data.load(section(root))
    assert Path(loaded.test[0]["name"]).parent == root / "val" / "a"
    assert loaded.remark == "data: val holds the test images; test is not used"


def test_links_to_folders_are_followed(tmp_path):
    write(tmp_path / "elsewhere", "1.png")
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a").symlink_to(tmp_path / "elsewhere")
    assert index_folder(tmp_path / "f").files == ["a/1.png"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "val").rename(root / "testing"), "must hold a folder val"),
        (lambda root: (root / "train" / "c").mkdir(), "train': holds no image of c"),
        (lambda root: write(root / "val", "c/0.png"), "val': holds classes that train does not: c"),
        (lambda root: [p.unlink() for p in (root / "val").rglob("*.png")], "val': holds no images"),
        (lambda root: [p.rename(root / p.name) for p in (root / "val").iterdir()], "for each c"),
    ],
)
def test_a_spoilt_folder_is_refused_by_name(root, spoil, said):
    spoil(root)
    with pytest.raises(ArgumentError, match=said):
        data.load(section(root))


def paths(part):
    return {part[i]["name"] for i in range(len(part))}


@pytest.mark.parametrize("alone", [True, False])
def test_a_fraction_of_training_images_becomes_the_test_set(root, alone):
    """With only a folder train, or with class folders alone."""
    shutil.rmtree(root / "val")
    folder = root / "train" if alone else root
    loaded = data.load(section(folder, val_fraction=0.25, search_fraction=0.5))
    # 8 images: 2 to test, 3 of the other 6 to search, 3 to train
    parts = [paths(part) for part in (loaded.train, loaded.held_out, loaded.test)]
    assert [len(part) for part in parts] == [3, 3, 2]
    assert set.union(*parts) == {
        str(root / "train" / c / f"{i}.png") for c in "ab" for i in range(4)
    }
    assert "data: 2 of 8 training images are the test images" in loaded.remark
    for i in range(2):
        assert loaded.test[i]["label"] == "ab".index(Path(loaded.test[i]["name"]).parent.name)


def test_held_out_test_images_depend_on_seed_and_fraction_alone(root):
    shutil.rmtree(root / "val")
    write(root / "train", *(f"{c}/{i}.png" for c in "ab" for i in range(4, 20)))

    def tested(**changes):
        loaded = data.load(section(root, val_fraction=0.25, **changes))
        assert not paths(loaded.test) & (paths(loaded.held_out) | paths(loaded.train))
        return loaded

    first = tested()
    assert paths(tested(search_fraction=0.5).test) == paths(first.test)
    other = tested(split_seed=1)
    assert paths(other.test) != paths(first.test)
    assert other.test_version != first.test_version


def test_held_out_test_images_are_not_in_the_search_set(root):
    shutil.rmtree(root / "val")
    write(root / "subImageNet", *(f"{c}/{i}.png" for c in "ab" for i in range(2)))
    for seed in range(5):
        loaded = data.load(section(root, val_fraction=0.25, split_seed=seed))
        assert len(loaded.test) == 1  # of the four that are not searched on
        assert not set(names(loaded.test)) & set(names(loaded.held_out))
        assert sorted(names(loaded.test) + names(loaded.train)) == [
            f"{c}/{i}.png" for c in "ab" for i in (2, 3)
        ]


def test_test_images_are_held_out_only_where_there_are_none(root):
    with pytest.raises(ArgumentError) as error:
        data.load(section(root, val_fraction=0.25))
    assert str(error.value) == (
        f"`val_fraction` = 0.25: must be 0, because {root / 'val'} holds the test images"
    )
    (root / "val").rename(root / "elsewhere")
    with pytest.raises(ArgumentError, match="a folder val or test, or `val_fraction` must be set"):
        data.load(section(root))
    with pytest.raises(ArgumentError, match=r"folder train \(class folders alone need `val_frac"):
        data.load(section(root / "train"))


def test_one_class_is_refused(root):
    for part in ("train", "val"):
        shutil.rmtree(root / part / "b")
    with pytest.raises(
        ArgumentError, match=r"`path` = .*: must have two classes or more; .* is a$"
    ):
        data.load(section(root))


@pytest.mark.parametrize("argument", ["search_fraction", "val_fraction"])
def test_a_split_must_leave_every_class_something_to_train_on(root, argument):
    shutil.rmtree(root / "val")
    refused = set()
    for seed in range(8):
        fractions = {"search_fraction": 0.2, "val_fraction": 0.2} | {argument: 0.6}
        try:
            loaded = data.load(section(root, split_seed=seed, **fractions))
        except ArgumentError as error:
            refused.add((error.argument, error.rule))
        else:
            assert {Path(p).parent.name for p in paths(loaded.train)} == {"a", "b"}
    rules = [f"holds out all images of {c}: none is left to train on" for c in "ab"]
    assert {rule for name, rule in refused if name == argument}
    assert {rule for _, rule in refused} <= set(rules)


def test_a_fraction_that_holds_out_nothing_says_what_would(root):
    with pytest.raises(ArgumentError) as error:
        data.load(section(root, search_fraction=0.01))
    said = "must leave images on both sides of the split of 8; from 0.12 on it holds out one"
    assert error.value.rule == said
    assert error.value.argument == "search_fraction"


@pytest.mark.parametrize("path", ["", "nowhere"])
def test_a_missing_folder_is_refused(path):
    with pytest.raises(ArgumentError, match=r"`path` = .*must be a folder that holds train"):
        data.load(section(path))


def scans(monkeypatch):
    """Counts how many folders are listed."""
    counted, listing = [], os.scandir
    monkeypatch.setattr(indexing.os, "scandir", lambda path: counted.append(path) or listing(path))
    return counted


def same(one, other):
    assert (one.classes, one.files) == (other.classes, other.files)
    np.testing.assert_array_equal(one.labels, other.labels)


def test_an_index_is_remembered(root, monkeypatch):
    folder, counted = root / "train", scans(monkeypatch)
    first = index_folder(folder, default_cache(folder))
    assert len(counted) == 3
    second = index_folder(folder, default_cache(folder))
    assert len(counted) == 3
    same(first, second)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: (f / "a" / "0.png").unlink(),
        lambda f: (f / "a" / "0.png").rename(f / "a" / "00.png"),
        lambda f: (f / "b").rename(f / "c"),
        lambda f: write(f, "c/0.png"),
        lambda f: write(f, "a/deep/new.png"),
    ],
)
def test_a_changed_folder_is_noticed(root, change):
    folder = root / "train"
    before = index_folder(folder, default_cache(folder))
    change(folder)
    for changed in folder.rglob("*"):  # as if it had been a while ago, but after the index
        os.utime(changed, (LONG_AGO + 60, LONG_AGO + 60))
    os.utime(folder, (LONG_AGO + 60, LONG_AGO + 60))
    after = index_folder(folder, default_cache(folder))
    assert after.files != before.files
    same(after, index_folder(folder))


def test_a_folder_that_changed_just_now_is_looked_at_again(root, monkeypatch):
    folder = root / "train"
    os.utime(folder / "a")
    index_folder(folder, default_cache(folder))
    counted = scans(monkeypatch)
    index_folder(folder, default_cache(folder))
    assert len(counted) == 3


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 garbled", b"\x93NUMPY"])
def test_a_damaged_cache_is_done_without(root, content):
    folder = root / "train"
    expected = index_folder(folder, default_cache(folder))
    default_cache(folder).write_bytes(content)
    same(index_folder(folder, default_cache(folder)), expected)
    same(index_folder(folder, default_cache(folder)), expected)


def test_a_cache_that_cannot_be_written_is_done_without(root, tmp_path):
    (tmp_path / "file").write_text("")
    index = index_folder(root / "train", tmp_path / "file" / "cache.npz")
    assert len(index.files) == 8


def test_two_folders_have_two_caches(root):
    assert default_cache(root / "train") != default_cache(root / "val")


def test_what_is_no_file_or_too_large_a_one_is_a_bad_image(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(2**40)  # takes no room
    source = FolderSource(tmp_path, ["pipe.png", "large.png"], np.zeros(2, np.int32))
    for index in range(2):
        with pytest.raises(BadImageError, match="is no file of at most 512 MiB"):
            source[index]
