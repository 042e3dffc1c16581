"""What a training starts from, and what the log says about it and its moving average."""

import re

import numpy as np
import pytest

from configs import quickstart
from rfquant_jax.checkpoint.restore import Reader
from rfquant_jax.errors import CheckpointError
from rfquant_jax.tasks import dispatch
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.training_batches import averaging


def test_a_long_training_says_how_far_its_average_looks_back():
    assert averaging("train", 1500, 0.98) == [
        "train: 1500 steps; the EMA looks back over about 50 of them"
    ]


@pytest.mark.parametrize(("steps", "decay", "share"), [(30, 0.9997, 99), (600, 0.9997, 84)])
def test_a_short_one_is_warned_and_the_advice_mends_it(steps, decay, share):
    _, warning = averaging("pretrain", steps, decay)
    assert warning.startswith(f"warning: {share} % of the EMA, which is what gets evaluated, will")
    advised = float(re.search(r"set config\.pretrain\.ema_decay to at most (\S+)$", warning)[1])
    assert 0 < advised**steps < 0.002
    assert len(averaging("pretrain", steps, advised)) == 1


def test_without_steps_there_is_no_warning():
    assert len(averaging("train", 0, 0.9997)) == 1


def run_of(folder, tasks, **fields):
    config = quickstart.get_config()
    config.model.name, config.model.options.width = "cifar_resnet8", 4
    config.data.search_fraction = 0.9  # 130 images are left for training
    config.train.random_passes, config.devices = 1, 1
    config.quant.calibration_batches, config.quant.candidates = 1, (4, 2)
    config.pretrain.epochs = config.train.epochs = config.train.eval_every = 1
    config.optimizer.warmup_epochs = config.pretrain.warmup_epochs = 0
    with config.unlocked():
        config.update_from_flattened_dict({"tasks": tasks} | fields)
    return Run(config, folder)


def averages(folder, stage):
    """The moving average in the newest checkpoint."""
    reader = Reader(folder / "checkpoints" / stage, {})
    return reader.take(reader.steps[0], "ema")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "trained"
    quick = {"pretrain.ema_decay": 0.0, "train.ema_decay": 0.0}
    run = run_of(folder, ("pretrain", "train"), **quick)
    dispatch.perform(run)
    run.close()
    return folder


STILL = {
    "optimizer.lr": 1e-12,  # nothing but statistics changes
    "optimizer.min_lr": 0.0,
    "optimizer.step_size_lr": 0.0,
    "losses.damping": 0.0,
}


@pytest.mark.parametrize(
    ("init", "said"),
    [
        ("checkpoint", "train: starts from the moving average of the coupled network {}/train/2 "),
        ("pretrained", "train: starts from the full-precision network {}/pretrain/2 sha256:"),
    ],
)
def test_a_training_starts_from_the_network_it_says(trained, tmp_path, init, said):
    fields = STILL | {"checkpoint": str(trained), "train.init": init}
    run = run_of(tmp_path / "next", ("train",), **fields)
    dispatch.perform(run)
    run.close()
    log = (tmp_path / "next" / "log.txt").read_text()
    assert said.format(trained / "checkpoints") in log
    assert ("train.init=checkpoint continues it" in log) == (init == "pretrained")
    after = averages(tmp_path / "next", "train")
    before = averages(trained, {"checkpoint": "train", "pretrained": "pretrain"}[init])
    kernels = [name for name in before if name.endswith("kernel")]
    assert len(kernels) == 8
    for name in kernels:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-5, atol=1e-7)
    steps = [name for name in after if name.endswith("step")]
    assert len(steps) == 15
    coupled = averages(trained, "train")
    same = [np.allclose(after[name], coupled[name], rtol=1e-5) for name in steps]
    assert all(same) == (init == "checkpoint")
    # The average with decay 0.98 moves by 4 % of the way to those of new batches in two steps.
    moved = [
        np.allclose(after[name], coupled[name], rtol=0.05, atol=0.01)
        for name in coupled
        if name.endswith((".mean", ".var"))
    ]
    assert all(moved) == (init == "checkpoint")


def test_without_a_coupled_network_there_is_nothing_to_continue(trained, tmp_path):
    fields = {"checkpoint": str(trained.parent), "train.init": "checkpoint"}
    with pytest.raises(CheckpointError, match=r"config\.checkpoint=.*: has no train checkpoint"):
        dispatch.perform(run_of(tmp_path / "next", ("train",), **fields))
    other = {"checkpoint": str(trained), "train.init": "checkpoint", "quant.candidates": (5, 2)}
    with pytest.raises(CheckpointError, match=r"candidates is \[4, 2\], this run's is \[5, 2\]"):
        dispatch.perform(run_of(tmp_path / "next", ("train",), **other))
    assert not (tmp_path / "next").exists()
