"""What the machine may do to a run, each in one line that tells what to try."""

import errno
import os

import jax
import jax.numpy as jnp
import pytest

from configs import quickstart
from rfquant_jax.errors import Interrupted, RunFailure, UserError
from rfquant_jax.report.log import LOG_FILE
from rfquant_jax.runtime.device_memory import Shortage
from rfquant_jax.runtime.devices import make_mesh
from rfquant_jax.tasks import failures
from rfquant_jax.tasks.context import Context
from rfquant_jax.tasks.failures import explain, explained

EXHAUSTED = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Failed to allocate 3 GiB")


def run_of(folder, devices=1, **fields):
    config = quickstart.get_config()
    config.precision = "bfloat16"
    with config.unlocked():
        config.update_from_flattened_dict(fields)
    return Context(config, folder, mesh=make_mesh(devices))


def full(number=errno.ENOSPC, name=None):
    return OSError(number, os.strerror(number), *([str(name)] if name else []))


INTACT = "checkpoints written before are intact"
AGAIN = "start the same command again"


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EROFS, "make it writable"),
        (errno.EACCES, "make it writable"),
        (errno.EPERM, "make it writable"),
        (errno.EISDIR, "move away what is in its place"),
        (errno.EIO, "see to the disk"),
        (errno.EFBIG, "raise the limit on the size of files"),
    ],
)
def test_a_file_that_cannot_be_written_is_named(tmp_path, number, remedy):
    path = tmp_path / "results.json"
    assert explain(full(number, path), run_of(tmp_path), "evaluate") == (
        f"{path}: could not be written ({os.strerror(number)}); {INTACT}: {remedy} and {AGAIN}"
    )


def test_without_a_name_it_is_the_folder_and_elsewhere_it_may_be_reading(tmp_path):
    assert explain(full(), run_of(tmp_path), "train").startswith(f"{tmp_path}: could not be writt")
    said = explain(full(errno.EIO, "/images/1.jpg"), run_of(tmp_path), "train")
    assert said.startswith("/images/1.jpg: could not be read or written (")


def test_a_relative_workdir_is_known_by_its_absolute_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = run_of("x")
    assert "could not be written" in explain(full(name=tmp_path / "x" / "lock"), run, "train")


OWN = "which makes another run: use a separate --workdir"
TRAIN = {"train.batch_size": 64, "train.accumulate": 1}


@pytest.mark.parametrize(
    ("task", "devices", "fields", "said"),
    [
        (
            "train",
            1,
            TRAIN,
            "config.train.batch_size=64, config.train.accumulate=1 and 1 device; "
            f"{INTACT}: try --config.train.accumulate=2 (as many images an update as before)",
        ),
        ("train", 4, TRAIN | {"train.accumulate": 3, "train.batch_size": 96}, "accumulate=6 ("),
        ("train", 4, TRAIN | {"train.batch_size": 36}, "config.train.accumulate=3 (as"),
        ("train", 4, TRAIN | {"train.accumulate": 16}, "no smaller setting is left; use"),
        ("train", 1, TRAIN | {"train.accumulate": 32}, "--config.train.accumulate=64 ("),
        ("train", 2, TRAIN | {"train.batch_size": 31}, "--config.train.batch_size=14, "),
        ("pretrain", 1, {"pretrain.batch_size": 64}, "try --config.pretrain.batch_size=32, "),
        ("evaluate", 1, {"evaluate.batch_size": 9}, "try --config.evaluate.batch_size=4, "),
        ("predict", 1, {"evaluate.batch_size": 9}, "try --config.evaluate.batch_size=4, "),
        ("export", 1, {"evaluate.batch_size": 1}, "no smaller setting is left; use"),
        (
            "search",
            1,
            {"search.algorithm": "greedy", "search.batch_size": 50, "search.starts": 8},
            "try --config.search.starts=4 (slower, with the same result) or "
            f"--config.search.batch_size=25, {OWN}",
        ),
        (
            "search",
            1,
            {"search.algorithm": "random", "search.batch_size": 1, "search.starts": 8},
            "(slower, with the same",
        ),
        (  # it evaluates whole passes
            "search",
            1,
            {"search.algorithm": "trust_region", "search.batch_size": 50, "search.starts": 8},
            f"search.batch_size=50 and 1 device; {INTACT}: try --config.search.batch_size=25",
        ),
    ],
)
def test_memory_that_is_too_small_leads_to_a_proposal(tmp_path, task, devices, fields, said):
    found = explain(EXHAUSTED, run_of(tmp_path, devices, **fields), task)
    assert found.startswith(f"{task}: out of memory on a device with config.")
    assert said in found
    trained_there = f"--config.checkpoint={tmp_path} to reuse trained networks"
    assert (trained_there in found) == (task != "pretrain" and OWN in found)


@pytest.mark.parametrize(
    ("task", "fields", "said"),
    [
        ("train", TRAIN, "try --config.train.accumulate=4 (as many images"),
        ("train", TRAIN | {"train.accumulate": 64}, "no smaller setting is left; use"),
        ("train", TRAIN | {"train.batch_size": 66}, "try --config.train.accumulate=6 ("),
        ("pretrain", {"pretrain.batch_size": 64}, "try --config.pretrain.batch_size=16, "),
        ("evaluate", {"evaluate.batch_size": 9}, "try --config.evaluate.batch_size=2, "),
        ("evaluate", {"evaluate.batch_size": 3}, "try --config.evaluate.batch_size=1, "),
    ],
)
def test_where_sizes_are_known_the_proposal_fits(tmp_path, monkeypatch, task, fields, said):
    monkeypatch.setattr(
        failures, "shortage", lambda error, devices: Shortage(35_000_000_000, 10_000_000_000)
    )
    found = explain(EXHAUSTED, run_of(tmp_path, **fields), task)
    assert "(a program asked for 35.0 GB, 10.0 GB were free); checkpoints" in found
    assert said in found


def test_precision_is_proposed_where_it_can_be_lowered(tmp_path):
    for precision, proposed in (("float32", True), ("auto", True), ("bfloat16", False)):
        run = run_of(tmp_path, **TRAIN, precision=precision)
        said = explain(EXHAUSTED, run, "train")
        assert ("or --config.precision=bfloat16, which" in said) == proposed


def test_a_field_that_may_change_needs_no_other_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(failures, "RESUMABLE", ("train.accumulate",))
    assert "--workdir" not in explain(EXHAUSTED, run_of(tmp_path, **TRAIN), "train")


def test_the_memory_of_this_machine_is_told_from_that_of_a_device(tmp_path):
    with pytest.raises(jax.errors.JaxRuntimeError) as real:
        jax.jit(lambda: jnp.zeros(2**43, jnp.float32) + 1)().block_until_ready()
    for error, where in (
        (real.value, "a device"),
        (jax.errors.JaxRuntimeError("INTERNAL: CUDA_ERROR_OUT_OF_MEMORY: out of memory"), "a dev"),
        (MemoryError(), "the host"),
    ):
        said = explain(error, run_of(tmp_path), "train")
        assert said.startswith(f"train: out of memory on {where}")


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("INTERNAL: something else\nand its details"),
        RuntimeError("out of memory"),
        ValueError("wrong"),
        KeyError("missing"),
        FileNotFoundError(errno.ENOENT, "No such file"),
    ],
)
def test_a_bug_is_one_line_and_its_traceback_is_in_the_log(tmp_path, error, capfd):
    with pytest.raises(RunFailure) as failure, explained(run_of(tmp_path), "train"):
        raise error
    said, log = str(failure.value), (tmp_path / LOG_FILE).read_text()
    assert said.startswith(f"train: {type(error).__name__}: ")
    assert said.endswith(f"; the traceback is in {tmp_path / LOG_FILE}")
    assert "\n" not in said
    assert "Traceback (most recent call last)" in log
    assert "in test_a_bug_is_one_line" in log
    assert capfd.readouterr() == ("", "")


def test_a_bug_without_a_log_file_shows_its_traceback(tmp_path, capfd):
    (tmp_path / LOG_FILE).mkdir()
    guarded = explained(run_of(tmp_path), "train")
    with pytest.raises(RunFailure, match=r"^train: ValueError: wrong$"), guarded:
        raise ValueError("wrong")
    assert "in test_a_bug_without_a_log_file" in capfd.readouterr().err


def test_the_cause_of_a_failure_of_the_library_is_in_the_log(tmp_path):
    """As where orbax cannot write a checkpoint."""
    failure = RunFailure("checkpoint of step 3 could not be written")
    failure.__cause__ = full()
    with pytest.raises(RunFailure) as passed, explained(run_of(tmp_path), "train"):
        raise failure
    assert passed.value is failure
    log = (tmp_path / LOG_FILE).read_text()
    assert "checkpoint of step 3 could not be written" in log
    assert "OSError: [Errno 28] No space left on device" in log


@pytest.mark.parametrize("error", [UserError("x"), Interrupted()])
def test_mistakes_and_signals_pass_as_they_are(tmp_path, error):
    with pytest.raises(type(error)) as passed, explained(run_of(tmp_path), "train"):
        raise error
    assert passed.value is error
    assert not (tmp_path / LOG_FILE).exists()


def test_the_traceback_is_in_the_log_and_not_on_the_terminal(tmp_path, capfd):
    guarded = explained(run_of(tmp_path), "train")
    with pytest.raises(RunFailure, match="could not be written") as failure, guarded:
        raise full()
    assert isinstance(failure.value.__cause__, OSError)
    log = (tmp_path / LOG_FILE).read_text()
    assert str(failure.value) in log
    assert "Traceback (most recent call last)" in log
    assert "raise full()" in log
    assert capfd.readouterr() == ("", "")


def test_a_log_that_cannot_be_written_does_not_hide_the_failure(tmp_path):
    (tmp_path / LOG_FILE).mkdir()
    with pytest.raises(RunFailure, match="No space left"), explained(run_of(tmp_path), "train"):
        raise full()
