"""Checkpoints: newest and best are kept, foreign and broken ones are refused."""

import numpy as np
import pytest

from rfquant_jax.checkpoint.checkpoints import Checkpoints
from rfquant_jax.errors import CheckpointError

IDENTITY = {"network": "tiny", "candidates": [6, 4], "layers": {"a": [3, 3], "b": [1, 1]}}


def trees(value):
    ema = {"params": {"a.kernel": np.full((2, 2), value, np.float32)}}
    return {"ema": ema, "state": {"params": ema["params"], "count": np.int32(value)}}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "stage"


def save(folder, scores, keep=1):
    checkpoints = Checkpoints(folder, IDENTITY, write=True, keep=keep)
    for step, score in scores.items():
        checkpoints.save(step, **trees(step), about={"masks": [[step]]}, score=score)
    checkpoints.wait()
    return checkpoints


def test_the_newest_and_the_best_are_kept(folder):
    checkpoints = save(folder, {10: 1.0, 20: 5.0, 30: 2.0, 40: None})
    assert checkpoints.latest == 40
    assert checkpoints.best == 20
    assert sorted(p.name for p in folder.iterdir()) == ["20", "40"]


def test_of_equally_good_ones_the_later_is_best(folder):
    assert save(folder, {10: 3.0, 20: 3.0, 30: 1.0}).best == 20


def test_without_a_score_there_is_no_best(folder):
    checkpoints = save(folder, {10: None})
    assert checkpoints.latest == 10
    assert checkpoints.best is None


def test_what_was_saved_comes_back_after_a_restart(folder):
    save(folder, {10: 1.0}).close()
    checkpoints = Checkpoints(folder, IDENTITY)
    assert checkpoints.about(10)["masks"] == [[10]]
    template = trees(0)
    ema = checkpoints.restore_ema(10, template["ema"])
    np.testing.assert_array_equal(ema["params"]["a.kernel"], np.full((2, 2), 10))
    assert checkpoints.restore_state(10, template["state"])["count"] == 10


def test_what_is_saved_is_a_copy(folder):
    content = trees(1)
    checkpoints = Checkpoints(folder, IDENTITY, write=True)
    checkpoints.save(5, **content, about={}, score=None)
    content["ema"]["params"]["a.kernel"][:] = 99
    checkpoints.wait()
    restored = checkpoints.restore_ema(5, trees(0)["ema"])
    assert restored["params"]["a.kernel"][0, 0] == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"network": "other"}, "its network is 'tiny', this run's is 'other'"),
        ({"candidates": [6, 5, 4]}, "its candidates is [6, 4], this run's is [6, 5, 4]"),
        ({"layers": {"a": [3, 3], "b": [5, 5]}}, "its layers: b is [1, 1], this run's is [5, 5]"),
        ({"layers": {"a": [3, 3]}}, "its layers: b is [1, 1], this run's is None"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused_by_name(folder, change, said):
    save(folder, {10: 1.0}).close()
    with pytest.raises(CheckpointError) as error:
        Checkpoints(folder, IDENTITY | change).about(10)
    assert said in str(error.value)


def test_who_only_reads_touches_nothing(folder):
    """Another process may be saving there just now."""
    save(folder, {10: 1.0}).close()
    unfinished = folder / "20.orbax-checkpoint-tmp"
    (unfinished / "ema").mkdir(parents=True)
    reader = Checkpoints(folder, IDENTITY)
    assert (reader.latest, reader.best) == (10, 10)
    reader.close()
    assert unfinished.exists()
    Checkpoints(folder, IDENTITY, write=True).close()
    assert not unfinished.exists()


def test_reading_where_nothing_is(folder):
    reader = Checkpoints(folder, IDENTITY)
    assert (reader.latest, reader.best) == (None, None)
    reader.close()
    assert not folder.exists()
