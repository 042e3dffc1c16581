"""Checks of single fields: that they exist, their types and their rules."""

from __future__ import annotations

from collections.abc import Iterator

from ml_collections import ConfigDict

from rfquant_jax.config.declaration import Field
from rfquant_jax.config.schema import FIELDS
from rfquant_jax.errors import ConfigError, UserError

OPTIONS = "model.options"  # a section with arguments of the network's constructor
_KINDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "True or False",
    tuple: "a pair of a layer pattern and bit-widths",
}


def check_fields(config: ConfigDict) -> None:
    """Checks that every field exists, with the right type and within its range.

    Raises:
      UserError: a field is missing or unknown.
      ConfigError: names the field, its value and the violated rule.
    """
    declared, given = {n: f for n, f in FIELDS.items() if n != OPTIONS}, dict(leaves(config))
    for name in declared.keys() - given.keys():
        raise UserError(
            f"config.{name} is missing: a recipe starts from rfquant_jax.config.default_config()"
        )
    for name in given.keys() - declared.keys():
        raise UserError(f"config.{name} is not a field: --help lists them")
    for name, field in declared.items():
        _check_type(name, given[name], field)
    for name, field in declared.items():
        if not field.rule.holds(given[name]):
            raise ConfigError(name, given[name], field.rule.text)


def leaves(config: ConfigDict) -> Iterator[tuple[str, object]]:
    """Dotted names and values of all fields except the network's options."""
    return ((n, v) for n, v in flat(config) if not n.startswith(f"{OPTIONS}."))


def flat(content: dict | ConfigDict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted names and values of nested fields."""
    for name, value in content.items():
        if isinstance(value, dict | ConfigDict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _check_type(name: str, value: object, field: Field) -> None:
    example = field.default
    if not isinstance(example, tuple):
        _check_one(name, value, value, type(example))
        return
    if not isinstance(value, tuple | list):
        # The command line turns a comma-separated list of tasks into a string.
        if not (name == "tasks" and isinstance(value, str)):
            raise ConfigError(name, value, "must be a tuple")
        return
    for entry in value:
        _check_one(name, value, entry, field.entries or type(example[0]))


def _check_one(name: str, value: object, entry: object, expected: type) -> None:
    allowed = {float: (float, int), tuple: (tuple, list)}.get(expected, (expected,))
    # A bool is an int in Python, but not for users.
    if isinstance(entry, allowed) and isinstance(entry, bool) == (expected is bool):
        return
    subject = "every entry " if isinstance(value, tuple | list) else ""
    raise ConfigError(name, value, f"{subject}must be {_KINDS[expected]}")
