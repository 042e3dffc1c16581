"""Settings: the default, the meaning and the rule of a field, declared once.

    @documented
    @dataclass(frozen=True)
    class OptimizerSettings:
        \"\"\"Constants of the update.\"\"\"

        momentum: float = setting(0.9, "Nesterov momentum of SGD", BELOW_ONE)

        def __post_init__(self) -> None:
            check_settings(self)

The docstring, the check, other settings classes (`same`) and the config (`config/schema.py`) take
them from there.
"""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rfquant_jax.errors import ArgumentError

T = TypeVar("T")
_KEY = "setting"  # in the metadata of a dataclass field


@dataclass(frozen=True)
class Rule:
    """A condition on a value.

    Attributes:
      text: the condition as the end of a sentence ("must be positive").
      holds: whether a value satisfies it.
    """

    text: str
    holds: Callable[[Any], bool]


def at_least(least: float) -> Rule:
    """For numbers from `least` on."""
    return Rule(f"must be at least {least}", lambda value: value >= least)


def between(low: float, high: float) -> Rule:
    """For numbers from `low` to `high`, both included."""
    return Rule(f"must lie between {low} and {high}", lambda value: low <= value <= high)


def one_of(names: Sequence[str]) -> Rule:
    """For one of two or more names."""
    *others, last = names
    return Rule(f"must be {', '.join(others)} or {last}", lambda value: value in names)


def some_of(names: Sequence[str]) -> Rule:
    """For any number of these names."""
    return Rule(f"must be among {', '.join(names)}", lambda value: set(value) <= set(names))


ANY = Rule("may have any value", lambda value: True)
POSITIVE = Rule("must be positive", lambda value: value > 0)
NOT_NEGATIVE = Rule("must not be negative", lambda value: value >= 0)
NOT_EMPTY = Rule("must not be empty", lambda value: len(value) > 0)
FRACTION = between(0, 1)
INSIDE = Rule("must lie between 0 and 1, both excluded", lambda value: 0 < value < 1)
BELOW_ONE = Rule("must be at least 0 and below 1", lambda value: 0 <= value < 1)
SEED = between(0, 2**31 - 1)


@dataclass(frozen=True)
class Setting:
    """What is declared about a field.

    Attributes:
      default: its value if none is given.
      meaning: unit and meaning, without a final period.
      rule: the condition on values. None: numbers must not be negative, other values are free.

    Raises:
      ValueError: there is no meaning, or the default breaks the rule.
    """

    default: Any
    meaning: str
    rule: Rule | None = None

    def __post_init__(self) -> None:
        if self.rule is None:
            number = isinstance(self.default, int | float) and not isinstance(self.default, bool)
            object.__setattr__(self, "rule", NOT_NEGATIVE if number else ANY)
        if not self.meaning.strip():
            raise ValueError(f"a setting with the default {self.default!r} has no meaning")
        if not self.rule.holds(self.default):
            raise ValueError(f"{self.meaning}: the default {self.default!r} {self.rule.text}")


def setting(default: T, meaning: str, rule: Rule | None = None) -> T:
    """A field of a dataclass, in place of `dataclasses.field`; arguments as for `Setting`."""
    return _field(Setting(default, meaning, rule))


def same(cls: type, name: str) -> Any:
    """A field with the default, the meaning and the rule of another class's field."""
    return _field(setting_of(cls, name))


def _field(declared: Setting) -> Any:
    return dataclasses.field(default=declared.default, metadata={_KEY: declared})


def setting_of(cls: type, name: str) -> Setting:
    """The setting of a field of a dataclass.

    Raises:
      LookupError: there is no such field, or it is not declared with `setting`.
    """
    for field in dataclasses.fields(cls):
        if field.name == name and _KEY in field.metadata:
            return field.metadata[_KEY]
    raise LookupError(f"{cls.__name__} has no setting {name!r}")


def check_settings(instance: Any) -> None:
    """Checks every field of a dataclass against its rule, in the order of the fields.

    Raises:
      ArgumentError: names the first field that breaks its rule.
    """
    for field in dataclasses.fields(instance):
        rule, value = setting_of(type(instance), field.name).rule, getattr(instance, field.name)
        if not rule.holds(value):
            raise ArgumentError(field.name, value, rule.text)


def documented(cls: type[T]) -> type[T]:
    """Class decorator: adds the meanings of all fields to the docstring, after its first paragraph.

    Raises:
      LookupError: a field is not declared with `setting`.
    """
    first, _, rest = inspect.cleandoc(cls.__doc__ or "").partition("\n\n")
    lines = ["Attributes:"]
    for field in dataclasses.fields(cls):
        text = f"{field.name}: {setting_of(cls, field.name).meaning}."
        lines += textwrap.wrap(text, 96, initial_indent="  ", subsequent_indent="    ")
    cls.__doc__ = "\n\n".join(part for part in (first, "\n".join(lines), rest) if part)
    return cls


def taken_from(cls: type[T], source: Any, **others: Any) -> T:
    """An instance of a dataclass whose fields have the values of the attributes of `source`.

    Args:
      others: values of fields that `source` does not have or that differ from its own.
    """
    names = {field.name for field in dataclasses.fields(cls)} - others.keys()
    return cls(**{name: getattr(source, name) for name in names}, **others)
