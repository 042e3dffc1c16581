"""How a field is declared: by itself, or by reference to a settings class of the library.

    TRAIN = section(
        "train",
        "coupled training",
        steps_per_epoch=Field(0, "updates per epoch; 0: one pass over the images"),
        random_passes=of(StepConfig, "random_passes"),
    )

A reference takes default, meaning and rule from the class, and `settings.py` passes the value of
the field on to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rfquant_jax.runtime.setting import ANY, Setting, setting_of


@dataclass(frozen=True)
class Field(Setting):
    """A field of the config: default, meaning and rule as in `Setting`.

    Attributes:
      resumable: whether it may differ when a run is resumed, because it changes no results except
        for rounding and for the grouping of images in BatchNorm.
      path: whether it names a file or folder, in which `~` and variables are expanded.
      entries: type of the entries, for a tuple that is empty by default.
      more: further paragraphs of help, a line each.
      target: the settings class and the name of its field that this field sets, if any.
    """

    resumable: bool = False
    path: bool = False
    entries: type | None = None
    more: str = ""
    target: tuple[type, str] | None = None

    @property
    def help(self) -> str:
        """The meaning and further paragraphs, a line each."""
        return f"{self.meaning}\n{self.more}".strip()

    @property
    def limits(self) -> str:
        """The rule, and whether the field may differ on resume; may be empty."""
        rule = "" if self.rule is ANY else self.rule.text
        return "; ".join(filter(None, (rule, "may change on resume" if self.resumable else "")))


def of(cls: type, name: str, meaning: str = "", **changes: Any) -> Field:
    """A field that sets a field of a settings class, with its default, meaning and rule.

    Args:
      meaning, changes: attributes of `Field` that differ.

    Raises:
      LookupError: the class has no such field.
    """
    declared = setting_of(cls, name)
    changes = {"default": declared.default, "rule": declared.rule} | changes
    return Field(meaning=meaning or declared.meaning, target=(cls, name), **changes)


@dataclass(frozen=True)
class Section:
    """Fields with a common prefix.

    Attributes:
      name: the prefix, without the period; empty for fields at the top.
      meaning: what the fields are about.
      fields: by dotted name.
    """

    name: str
    meaning: str
    fields: Mapping[str, Field]


def section(name: str, meaning: str, /, *, resumable: bool = False, **fields: Field) -> Section:
    """A section; `fields` have their own names, and all of them may be declared `resumable`."""
    prefix = f"{name}." if name else ""
    if resumable:
        fields = {own: replace(field, resumable=True) for own, field in fields.items()}
    return Section(name, meaning, {prefix + own: field for own, field in fields.items()})
