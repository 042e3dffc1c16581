"""Rates against the published formulas at the published constants."""

import math

import pytest

from rfquant_jax.train import schedules

PUBLISHED = {"epochs": 150, "peak": 0.04, "minimum": 1e-5, "warmup_epochs": 5}


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0, 1e-5),
        (1, 0.008008),  # 1e-5 + 0.03999 / 5
        (4, 0.032002),
        (5, 1e-5 + 0.03999 * (1 + math.cos(math.pi / 30)) / 2),  # the cosine runs from epoch 0
        (75, 1e-5 + 0.03999 / 2),
        (149, 1e-5 + 0.03999 * (1 + math.cos(math.pi * 149 / 150)) / 2),
    ],
)
def test_learning_rate(epoch, expected):
    assert schedules.learning_rate(epoch, **PUBLISHED) == pytest.approx(expected, rel=1e-9)


def test_without_warmup_the_rate_starts_at_its_peak():
    assert schedules.learning_rate(0, **PUBLISHED | {"warmup_epochs": 0}) == pytest.approx(0.04)


@pytest.mark.parametrize(("epoch", "expected"), [(0, 1e-5), (75, 5e-6), (150, 0.0)])
def test_step_size_learning_rate(epoch, expected):
    got = schedules.step_size_learning_rate(epoch, epochs=150, peak=1e-5)
    assert got == pytest.approx(expected, abs=1e-20)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0, 0),
        (40, 0),
        (40.99, 0),
        (41, 0.05 * (1 - math.cos(math.pi / 110))),
        (41.5, 0.05 * (1 - math.cos(math.pi * 1.5 / 110))),
        (95, 0.05),
        (150, 0.1),
    ],
)
def test_damping_rises_from_the_epoch_after_its_start(epoch, expected):
    got = schedules.damping(epoch, epochs=150, start_epoch=40, peak=0.1)
    assert got == pytest.approx(expected)


def test_damping_is_positive_in_the_first_epoch_after_its_start():
    assert schedules.damping(41, epochs=150, start_epoch=40, peak=0.1) > 0
