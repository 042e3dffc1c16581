"""Damaged checkpoints: noticed whatever the damage, passed over, never deleted."""

import json
import os
import resource
import shutil

import jax
import numpy as np
import pytest

from rfquant_jax.checkpoint import verify
from rfquant_jax.checkpoint.checkpoints import Checkpoints
from rfquant_jax.errors import CheckpointError, RunFailure

IDENTITY = {"network": "tiny"}
DAMAGES = {
    "cut": lambda file: os.truncate(file, file.stat().st_size // 2),
    "emptied": lambda file: os.truncate(file, 0),
    "removed": lambda file: file.unlink(),
    "overwritten": lambda file: overwrite(file),
}


def overwrite(file, count=64):
    content = bytearray(file.read_bytes())
    start = max(len(content) // 2 - count // 2, 0)
    part = content[start : start + count]
    content[start : start + count] = bytes(255 - byte for byte in part)
    file.write_bytes(content)


def trees(step):
    """Arrays of many values, large enough for files of their own."""
    values = np.random.default_rng(step)
    kernel = values.normal(size=(40, 30)).astype(np.float32)
    moments = {"trace": (values.normal(size=7).astype(np.float32), np.int32(step))}
    ema = {"params": {"a.kernel": kernel}, "stats": {"a.mean": kernel[0]}}
    return {"ema": ema, "state": {"params": {"a.kernel": kernel + 1}, "optimizer": moments}}


def save(folder, scores, **options):
    with Checkpoints(folder, IDENTITY, write=True, **options) as checkpoints:
        for step, score in scores.items():
            checkpoints.save(step, **trees(step), about={"masks": [[step]]}, score=score)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "stage"
    save(folder, {10: 1.0, 20: 2.0}, keep=2)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "stage")


def files(folder):
    return sorted(file for file in folder.rglob("*") if file.is_file())


def contents(folder):
    return {file.relative_to(folder): file.read_bytes() for file in files(folder)}


def assert_holds(checkpoints, step):
    """Every value of a step is the one that was saved, to the bit."""
    expected, template = trees(step), trees(0)
    ema = checkpoints.restore_ema(step, template["ema"])
    state = checkpoints.restore_state(step, template["state"])
    jax.tree.map(np.testing.assert_array_equal, {"ema": ema, "state": state}, expected)
    assert checkpoints.about(step)["masks"] == [[step]]


# Of several arrays that cannot be read, orbax looks at one error and drops the others.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_is_noticed_or_changes_no_value(saved, tmp_path, damage):
    names = [file.relative_to(saved) for file in files(saved / "20")]
    assert len(names) > 15
    passed_over = set()
    for number, name in enumerate(names):
        folder, said = shutil.copytree(saved, tmp_path / str(number)), []
        DAMAGES[damage](folder / name)
        before = contents(folder)
        with Checkpoints(folder, IDENTITY, log=said.append) as reader:
            latest, best = reader.latest, reader.best
            assert_holds(reader, latest)
            assert_holds(reader, best)
        if latest == 10:
            passed_over.add(name.relative_to("20").parts[0])
            assert len(said) == 1
            assert f"{folder / '20'} is damaged (" in said[0]
            assert said[0].endswith("): resuming from step 10")
            assert "\n" not in said[0]
        else:
            assert said == [], name
        assert contents(folder) == before, "who only reads touches nothing"
    assert passed_over >= {"about", "ema", "state"}


@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "about/metadata", "ema", "state"])
@pytest.mark.parametrize("damage", ["emptied", "overwritten"])
def test_training_saves_a_damaged_step_anew_and_keeps_the_damaged_one(folder, name, damage):
    target = folder / "20" / name
    for file in files(target) if target.is_dir() else [target]:
        DAMAGES[damage](file)
    before, said = contents(folder / "20"), []
    with Checkpoints(folder, IDENTITY, write=True, keep=1, log=said.append) as writer:
        latest = writer.latest
        for step in (20, 30, 40):
            writer.save(step, **trees(step), about={"masks": [[step]]}, score=3.0)
    with Checkpoints(folder, IDENTITY) as reader:
        assert_holds(reader, reader.latest)
        assert reader.latest == 40
    if latest == 20:  # nothing needs that file
        assert name == "_CHECKPOINT_METADATA"
        return
    assert said[0].endswith(": resuming from step 10; renamed to damaged-20")
    assert contents(folder / "damaged-20") == before


def test_a_step_that_is_damaged_twice_is_kept_twice(folder):
    for _ in range(2):
        overwrite(folder / "20" / "about" / "metadata")
        with Checkpoints(folder, IDENTITY, write=True) as writer:
            assert writer.latest == 10
            writer.save(20, **trees(20), about={"masks": [[20]]}, score=2.0)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["10", "20", "damaged-20", "damaged-20-2"]


def test_the_second_best_is_taken_where_the_best_is_damaged(tmp_path):
    folder, said = tmp_path / "stage", []
    save(folder, {10: 2.0, 20: 1.0, 30: 3.0, 40: None}, keep=4)
    for file in files(folder / "30" / "ema"):
        overwrite(file)
    with Checkpoints(folder, IDENTITY, log=said.append) as reader:
        assert reader.best == 10
        assert_holds(reader, 10)
    assert len(said) == 1
    assert said[0].endswith("): using step 10")


def test_where_all_are_damaged_nothing_starts_afresh(folder):
    for step in (10, 20):
        overwrite(folder / str(step) / "about" / "metadata")
    before = contents(folder)
    with Checkpoints(folder, IDENTITY, write=True) as checkpoints:
        for asked in ("latest", "best"):
            with pytest.raises(CheckpointError, match="every checkpoint in it is damaged") as error:
                getattr(checkpoints, asked)
            assert str(folder) in str(error.value)
            assert "move the folder away" in str(error.value)
    assert contents(folder) == before


def test_another_network_is_no_damage(folder):
    """Though the one before would fit."""
    with Checkpoints(folder, {"network": "other"}, write=True) as checkpoints:
        for asked in ("latest", "best"):
            with pytest.raises(CheckpointError, match="its network is 'tiny', this run's is 'o"):
                getattr(checkpoints, asked)
    assert sorted(path.name for path in folder.iterdir()) == ["10", "20"]


@pytest.mark.parametrize("change", [np.float16, lambda x: np.zeros((3, 3), np.float32)])
def test_arrays_of_another_shape_or_type_than_asked_for_are_refused_by_name(folder, change):
    template = trees(0)["ema"]
    template["params"]["a.kernel"] = change(template["params"]["a.kernel"])
    checkpoints = Checkpoints(folder, IDENTITY)
    with pytest.raises(CheckpointError, match=r"does not fit this run: its params\.a\.kernel"):
        checkpoints.restore_ema(20, template)


def test_shapes_on_disk_are_looked_at_before_memory_is_taken(folder, monkeypatch):
    """A JSON part that agrees with itself still cannot claim more than the files hold."""
    path = folder / "20" / "about" / "metadata"
    about = verify.read_about(folder / "20")
    about["items"]["ema"]["arrays"]["params.a.kernel"][1] = [10**9, 10**9]
    path.write_text(json.dumps(about | {"sha256": verify.json_digest(about)}))
    monkeypatch.setattr(verify.ocp.PyTreeCheckpointHandler, "restore", None)
    with pytest.raises(verify.Damaged, match="names, shapes or dtypes"):
        verify.read_arrays(folder / "20", "ema", about)
    monkeypatch.setattr(verify, "signature", lambda found: about["items"]["ema"]["arrays"])
    with pytest.raises(verify.Damaged, match="fewer bytes"):
        verify.read_arrays(folder / "20", "ema", about)


def test_a_json_part_of_absurd_size_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(verify, "LARGEST_ABOUT", 10)
    with pytest.raises(verify.Damaged, match=r"about: has \d+ bytes"):
        verify.read_about(folder / "20")


def test_deeply_nested_json_is_damage(folder):
    (folder / "20" / "about" / "metadata").write_text("[" * 10**6)
    with Checkpoints(folder, IDENTITY, log=lambda message: None) as reader:
        assert reader.latest == 10


def test_what_was_read_before_is_verified_when_it_is_read_again(folder):
    with Checkpoints(folder, IDENTITY) as reader:
        assert reader.latest == 20
        assert_holds(reader, 20)
        for file in files(folder / "20" / "ema"):
            overwrite(file)
        with pytest.raises(CheckpointError, match=r"20 is damaged \(ema: "):
            reader.restore_ema(20, trees(0)["ema"])


def test_the_same_step_with_other_arrays_has_another_digest(folder, tmp_path):
    save(tmp_path / "same", {20: 5.0})
    with Checkpoints(tmp_path / "other", IDENTITY, write=True) as other:
        other.save(20, **trees(21), about={}, score=2.0)
    digests = []
    for place in (folder, tmp_path / "same", tmp_path / "other"):
        with Checkpoints(place, IDENTITY) as reader:
            digests.append(reader.digest(20))
    assert digests[0] == digests[1] != digests[2]


def save_too_much(checkpoints, large, finish):
    checkpoints.save(30, ema=large, state=large, about={}, score=None)
    if finish == "save":
        checkpoints.save(40, **trees(40), about={}, score=None)
    getattr(checkpoints, finish)()


@pytest.mark.parametrize("finish", ["wait", "close", "save"])
def test_a_checkpoint_that_cannot_be_written_is_one_line(folder, finish):
    """As on a full disk: no file may grow beyond 256 KiB."""
    large = {"params": {"a.kernel": np.random.default_rng(0).normal(size=10**6)}}
    before = contents(folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = Checkpoints(folder, IDENTITY, write=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, limits[1]))
    try:
        with pytest.raises(RunFailure) as error:
            save_too_much(checkpoints, large, finish)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = str(error.value)
    assert said.startswith(f"checkpoint of step 30 could not be written to {folder}: ")
    assert said.endswith("; earlier ones are intact")
    assert "\n" not in said
    unchanged = contents(folder)
    assert {name: unchanged[name] for name in before} == before
    with Checkpoints(folder, IDENTITY) as reader:
        assert reader.latest == 20


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "stage").write_text("a file")
    with pytest.raises(RunFailure, match="step 10 could not be written"):
        save(tmp_path / "stage", {10: 1.0})
