"""Names of config fields in place of the library's argument names.

The library's errors name arguments, in backquotes: "`candidates` = (2, 4): must be ...". A user of
the command line sets fields: "config.quant.candidates = (2, 4): must be ...".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from rfquant_jax.errors import ArgumentError, ConfigError, RunFailure, UserError

# argument -> field
FIELDS = {
    "budgets": "search.budgets",
    "candidates": "quant.candidates",
    "depthwise_min_bits": "quant.depthwise_min_bits",
    "devices": "devices",
    "fixed_bits": "quant.fixed_bits",
    "groups": "search.groups",
    "latency_table": "search.latency_table",
    "max_bad_fraction": "data.max_bad_fraction",
    "max_bad_steps": "train.max_bad_steps",
    "name": "model.name",
    "pins": "search.pins",
    "rules": "quant.rules",
    "signed": "quant.signed",
    "std": "data.std",
    "unsigned": "quant.unsigned",
    "use_frozen": "search.use_frozen",
    "weights": "pretrained",
}
# Of a network's constructor, which a config has as `model.options`.
_OPTIONS, _CHECKED_OPTIONS = "options.", ("padding", "width")


@contextmanager
def in_field_names() -> Iterator[None]:
    """Rewrites what the library raises inside; also a decorator.

    Raises:
      ConfigError: in place of an ArgumentError whose argument is a field's.
    """
    try:
        yield
    except ArgumentError as error:
        field = _field(error.argument)
        if field is None:
            raise
        raise ConfigError(field, error.value, _renamed(error.rule, "")) from error
    except (UserError, RunFailure) as error:
        error.args = (_renamed(str(error), "config."), *error.args[1:])
        raise


def _field(argument: str) -> str | None:
    if argument.startswith(_OPTIONS):
        return f"model.{argument}"
    if argument in _CHECKED_OPTIONS:
        return f"model.options.{argument}"
    return FIELDS.get(argument)


def _renamed(text: str, prefix: str) -> str:
    """The text with fields in place of arguments in backquotes; a rule's have no prefix."""

    def rename(match: re.Match) -> str:
        if match[1] == "workdir":
            return "--workdir"
        return f"{prefix}{FIELDS[match[1]]}" if match[1] in FIELDS else match[0]

    return re.sub(r"`(\w+)`", rename, text)
