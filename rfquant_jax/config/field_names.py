"""Translates argument names in the library's errors to names of config fields.

The library names its arguments, in backquotes: "`candidates` = (2, 4): must be ...". Users of the
command line set fields: "config.quant.candidates = (2, 4): must be ...".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rfquant_jax.config import settings
from rfquant_jax.errors import ArgumentError, ConfigError, RunFailure, UserError
from rfquant_jax.quant.quant_config import QuantConfig

# argument -> field
FIELDS = {
    **settings.targets(settings.COUPLED, QuantConfig),
    "budgets": "search.budgets",
    "confirm_fraction": "search.confirm_fraction",
    "coordinator": "distributed.coordinator",
    "data_set": "data.name",
    "devices": "devices",
    "groups": "search.groups",
    "latency_table": "search.latency_table",
    "max_bad_fraction": "data.max_bad_fraction",
    "max_bad_steps": "train.max_bad_steps",
    "max_unequal": "export.max_unequal",
    "max_unequal_float": "export.max_unequal_float",
    "name": "model.name",
    "path": "data.path",
    "pins": "search.pins",
    "same_bits": "search.same_bits",
    "search_fraction": "data.search_fraction",
    "std": "data.std",
    "use_frozen": "search.use_frozen",
    "val_fraction": "data.val_fraction",
    "weights": "pretrained",
}
# Arguments of a network's constructor, which are `model.options` in a config.
_OPTIONS, _CHECKED_OPTIONS = "options.", ("padding", "width")


@contextmanager
def in_field_names(names: Mapping[str, str] = FIELDS) -> Iterator[None]:
    """Translates errors raised inside the context; also usable as a decorator.

    Args:
      names: field of each argument.

    Raises:
      ConfigError: instead of an ArgumentError whose argument is a config field.
    """
    try:
        yield
    except ArgumentError as error:
        field = _field(error.argument, names)
        if field is None:
            raise
        raise ConfigError(field, error.value, _renamed(error.rule, "", names)) from error
    except (UserError, RunFailure) as error:
        error.args = (_renamed(str(error), "config.", names), *error.args[1:])
        raise


def _field(argument: str, names: Mapping[str, str]) -> str | None:
    if argument.startswith(_OPTIONS):
        return f"model.{argument}"
    if argument in _CHECKED_OPTIONS:
        return f"model.options.{argument}"
    return names.get(argument)


def _renamed(text: str, prefix: str, names: Mapping[str, str]) -> str:
    """The text with field names, preceded by `prefix`, instead of arguments in backquotes."""

    def rename(match: re.Match) -> str:
        if match[1] == "workdir":
            return "--workdir"
        return f"{prefix}{names[match[1]]}" if match[1] in names else match[0]

    return re.sub(r"`(\w+)`", rename, text)
