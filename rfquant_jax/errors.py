"""Errors with a one-line message for users, and helpers for the text of messages."""

from __future__ import annotations

from collections.abc import Sequence


def listed(names: Sequence[str], most: int = 5, separator: str = ", ") -> str:
    """The first `most` names, and the number of further ones, for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + more


def one_line(text: object, most: int = 400) -> str:
    """Text that may come from an untrusted file, as one printable line of limited length.

    Characters that cannot be printed, including line ends, are escaped as in a Python string.
    """
    text = str(text)
    if len(text) > most:
        text = f"{text[: most // 2]} ... {text[-most // 4 :]}"
    return printable(text)


def printable(text: str, keep: str = "") -> str:
    """The text with control characters escaped as in a Python string, safe for a terminal.

    Args:
      keep: characters that are not escaped.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


class UserError(Exception):
    """A mistake that the user can correct; the command line prints it and exits with code 2."""


class ArgumentError(UserError, ValueError):
    """An argument of a library function breaks a rule.

    The message has names of arguments in backquotes. The command line replaces them by names of
    config fields, see `config/field_names.py`.

    Args:
      argument: name of the argument.
      value: its value.
      rule: the rule, as the end of a sentence ("must be positive").
    """

    def __init__(self, argument: str, value: object, rule: str):
        super().__init__(f"`{argument}` = {value!r}: {rule}")
        self.argument, self.value, self.rule = argument, value, rule


class ConfigError(UserError):
    """A config field breaks a rule.

    Args:
      field: dotted name of the field, without the leading "config.".
      value: its value.
      rule: the rule, as the end of a sentence ("must be positive").
    """

    def __init__(self, field: str, value: object, rule: str):
        super().__init__(f"config.{field} = {value!r}: {rule}")
        self.field = field


class CheckpointError(UserError):
    """A checkpoint is missing, broken, or belongs to another network."""


class RunFailure(Exception):  # noqa: N818 - the run failed, not the call
    """A failure during a run that is not a mistake of the user, such as a full disk.

    The command line prints it as one line and exits with code 1.
    """


class Interrupted(Exception):  # noqa: N818 - not an error: everything done so far is saved
    """A run was stopped by a signal after saving its state; the same command resumes it."""
