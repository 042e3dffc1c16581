"""What the log says about the moving average of a training."""

import re

import pytest

from rfquant_jax.tasks.train import averaging


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
