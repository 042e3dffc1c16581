"""The file of a profile: copies from other runs, and the snapshot that a search starts from."""

import json

import numpy as np
import pytest

from rfquant_jax.search.profile import Profile
from rfquant_jax.search.snapshot import copy_record, mismatch, snapshot_length
from rfquant_jax.search.variables import make_search_space
from tests.search.landscapes import B, space_of

SEARCH_SPACE = make_search_space(space_of(2))


def test_a_profile_starts_from_a_copy_of_another_runs(tmp_path):
    source = tmp_path / "trained" / "search" / "profile.jsonl"
    path = tmp_path / "mine" / "search" / "profile.jsonl"
    assert copy_record(source, path, {"images": 1}) is None
    assert not path.parent.exists()
    source.parent.mkdir(parents=True)
    source.write_text('{"images": 1}\none\n')
    assert copy_record(source, path, {"images": 1}) is None
    assert path.read_text() == '{"images": 1}\none\n'
    source.write_text('{"images": 1}\ntwo\n')
    assert copy_record(source, path, {"images": 1}) is None
    assert path.read_text() == '{"images": 1}\none\n'  # its own by now
    assert [file.name for file in path.parent.iterdir()] == ["profile.jsonl"]


def test_a_profile_of_other_images_is_not_copied(tmp_path):
    source, path = tmp_path / "profile.jsonl", tmp_path / "mine" / "p.jsonl"
    wanted = {"precision": "float32", "images": {"views": 5, "mean": [0.3]}}
    for header, reason in (
        (wanted | {"images": {"views": 3, "mean": [0.3]}}, "was measured with other images.views"),
        (wanted | {"precision": "bfloat16"}, "was measured with other precision"),
        ({"precision": "float32", "images": {"views": 5}}, "was measured with other images.mean"),
        ([1], "is damaged"),
    ):
        source.write_text(json.dumps(header) + "\n")
        assert copy_record(source, path, wanted) == mismatch(source, wanted) == reason
        assert not path.parent.exists()


def profile_in(folder):
    path = folder / "profile.jsonl"
    profile = Profile(SEARCH_SPACE.space, path, {}, lambda cs, part: cs.sum(axis=(1, 2)) / 10)
    profile.measure(np.stack([SEARCH_SPACE.uniform(w, 4) for w in B]), 0)
    return profile


def test_a_snapshot_is_that_of_the_first_start(tmp_path):
    profile, file = profile_in(tmp_path), tmp_path / "snapshot.json"
    assert snapshot_length(file, {"seed": 0}, profile) == 5
    first = json.loads(file.read_text())
    assert (first["length"], first["sha256"]) == (5, profile.digest(5))
    profile.measure(np.stack([SEARCH_SPACE.uniform(4, a) for a in B]), 1)
    assert snapshot_length(file, {"seed": 0}, profile) == 5
    # Another request is another search, which may use all there is.
    assert snapshot_length(file, {"seed": 1}, profile) == 10
    assert snapshot_length(file, {"seed": 0}, profile) == 10


@pytest.mark.parametrize(
    "change",
    [{"sha256": "0"}, {"length": 3}, {"length": "5"}, {"length": None}, {"length": 9}],
)
def test_a_snapshot_that_is_not_of_this_profile_is_replaced(tmp_path, change):
    profile, file = profile_in(tmp_path), tmp_path / "snapshot.json"
    snapshot_length(file, {}, profile)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    profile.measure(SEARCH_SPACE.lowest[None], 1)
    assert snapshot_length(file, {}, profile) == 6
    assert json.loads(file.read_text())["sha256"] == profile.digest(6)
