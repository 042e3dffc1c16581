"""A run that fails while it goes on, not by a mistake in the call."""

from tests.launch.conftest import SHRUNK


def test_a_training_that_explodes_says_where_in_one_line(launch, tmp_path):
    exploding = [
        "--config.tasks=pretrain",
        "--config.pretrain.lr=1e30",
        "--config.pretrain.warmup_epochs=0",
        "--config.train.max_bad_steps=3",
    ]
    done = launch(*SHRUNK, *exploding, f"--workdir={tmp_path}")
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: pretrain: step ")
    assert "updates were skipped for 3 steps in a row (config.train.max_bad_steps)" in done.stderr
    assert "first non-finite value: the running var of bn1;" in done.stderr
    assert "lower config.pretrain.lr = 1e+30" in done.stderr
    assert not list((tmp_path / "checkpoints").rglob("*"))
