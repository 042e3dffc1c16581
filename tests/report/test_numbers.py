"""How numbers are written, and what intervals say."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfquant_jax.report import numbers
from rfquant_jax.report.numbers import MINUS, MISSING


def test_numbers_have_their_digits_signs_and_dashes():
    assert numbers.fixed(97.849, 1) == "97.8"
    assert numbers.fixed(-0.25, 3) == f"{MINUS}0.250"
    assert numbers.signed(1.25, 1) == "+1.2"  # to even
    assert numbers.signed(-1.26, 1) == f"{MINUS}1.3"
    for value in (None, math.nan, math.inf, -math.inf):
        assert numbers.fixed(value, 2) == numbers.signed(value, 2) == numbers.cost(value) == MISSING
    assert numbers.interval([-0.5, 1.3], 1, sign=True) == f"[{MINUS}0.5, +1.3]"
    assert numbers.interval([96.1, 98.7], 1) == "[96.1, 98.7]"
    assert numbers.interval(None, 1) == ""
    assert numbers.cost(0.0123456) == "0.01235"


def test_what_is_rounded_to_zero_has_no_sign():
    assert numbers.signed(0.04, 1) == numbers.signed(-0.04, 1) == numbers.signed(0.0, 1) == "0.0"


def test_a_second_decimal_is_only_written_where_images_are_enough_for_it():
    assert numbers.digits(1000) == numbers.digits(None) == 1
    assert numbers.digits(10_000) == 2


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KB"),
        (16200, "15.8 KB"),
        (2**20 - 1, "1.0 MB"),
        (2**20, "1.0 MB"),
        (5 * 2**40, "5120.0 GB"),
    ],
)
def test_sizes_in_the_unit_that_people_read(count, text):
    assert numbers.size(count) == text


@given(st.floats(-100, 100), st.floats(0, 50))
def test_a_verdict_needs_an_interval_without_zero(mean, half):
    low, high = mean - half, mean + half
    found = numbers.verdict([low, high], higher_is_better=True)
    assert (found == "cannot be told apart") == (low <= 0 <= high)
    assert (found == "better") == (low > 0)
    # Of a cross-entropy less is better: the mirrored interval says the same.
    assert numbers.verdict([-high, -low], higher_is_better=False) == found


def test_without_an_interval_there_is_no_verdict():
    assert numbers.verdict(None, higher_is_better=True) is None
