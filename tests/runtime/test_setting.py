"""Settings: what is declared once reaches docstrings, checks and other classes."""

import inspect
from dataclasses import dataclass, replace

import pytest

from rfquant_jax.errors import ArgumentError
from rfquant_jax.runtime.setting import (
    ANY,
    BELOW_ONE,
    INSIDE,
    NOT_EMPTY,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    Setting,
    at_least,
    between,
    check_settings,
    documented,
    one_of,
    same,
    setting,
    setting_of,
    some_of,
    taken_from,
)


@documented
@dataclass(frozen=True)
class Inner:
    """Constants.

    Source: nowhere.
    """

    rate: float = setting(0.5, "learning rate", POSITIVE)
    kind: str = setting("a", "what it is", one_of(("a", "b", "c")))

    def __post_init__(self):
        check_settings(self)


@dataclass(frozen=True)
class Outer:
    speed: float = same(Inner, "rate")
    rate: float = setting(0.25, "another rate", POSITIVE)
    kind: str = same(Inner, "kind")
    plain: int = 1


@pytest.mark.parametrize(
    ("rule", "held", "broken", "text"),
    [
        (at_least(3), [3, 4.5], [2, -3], "must be at least 3"),
        (between(0, 1), [0, 0.5, 1], [-0.1, 1.1], "must lie between 0 and 1"),
        (INSIDE, [0.5], [0, 1, 2], "must lie between 0 and 1, both excluded"),
        (BELOW_ONE, [0, 0.99], [1, -0.1], "must be at least 0 and below 1"),
        (SEED, [0, 2**31 - 1], [-1, 2**31], "must lie between 0 and 2147483647"),
        (POSITIVE, [1e-9], [0, -1, float("nan")], "must be positive"),
        (NOT_EMPTY, ["x", (1,)], ["", ()], "must not be empty"),
        (one_of(("a", "b", "c")), ["a", "c"], ["d", ""], "must be a, b or c"),
        (some_of(("a", "b")), [(), ("b",), ["a", "b"]], [("a", "c")], "must be among a, b"),
    ],
)
def test_rules_by_hand(rule, held, broken, text):
    assert rule.text == text
    assert all(rule.holds(value) for value in held)
    assert not any(rule.holds(value) for value in broken)


def test_a_setting_needs_a_meaning_and_a_default_within_its_rule():
    with pytest.raises(ValueError, match="default 3 has no meaning"):
        Setting(3, "  ")
    with pytest.raises(ValueError, match="learning rate: the default 0 must be positive"):
        setting(0, "learning rate", POSITIVE)


def test_numbers_must_not_be_negative_unless_declared_otherwise():
    assert Setting(0.5, "a number").rule is Setting(1, "a number").rule is NOT_NEGATIVE
    assert Setting(-1, "a number", ANY).rule is ANY
    for other in (True, "text", (), None):
        assert Setting(other, "no number").rule is ANY


def test_a_value_that_breaks_its_rule_is_named():
    assert (Inner().rate, Inner().kind, Inner(rate=2.0).rate) == (0.5, "a", 2.0)
    with pytest.raises(ArgumentError, match="`rate` = -1: must be positive"):
        Inner(rate=-1, kind="z")  # the first in the order of the fields
    with pytest.raises(ArgumentError, match="`kind` = 'z': must be a, b or c"):
        replace(Inner(), kind="z")


def test_the_docstring_has_every_meaning_after_its_first_paragraph():
    assert inspect.getdoc(Inner) == (
        "Constants.\n\nAttributes:\n  rate: learning rate.\n  kind: what it is.\n\nSource: nowhere."
    )


def test_an_undeclared_field_is_refused():
    with pytest.raises(LookupError, match="Outer has no setting 'plain'"):
        documented(Outer)
    with pytest.raises(LookupError, match="Inner has no setting 'momentum'"):
        same(Inner, "momentum")


def test_the_same_setting_in_another_class():
    assert setting_of(Outer, "speed") is setting_of(Inner, "rate")
    assert (Outer().speed, Outer().rate) == (0.5, 0.25)


def test_values_are_taken_by_name_unless_given():
    assert taken_from(Inner, Outer(rate=0.75, kind="b")) == Inner(0.75, "b")
    assert taken_from(Inner, Outer(kind="b"), rate=3.0) == Inner(3.0, "b")
