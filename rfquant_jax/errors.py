"""The errors that end a run with one clear line instead of a traceback."""

from __future__ import annotations

from collections.abc import Sequence


def listed(names: Sequence[str], most: int = 5, separator: str = ", ") -> str:
    """Names for an error's text: so many of them, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + more


def one_line(text: object, most: int = 400) -> str:
    """What a foreign file made of an error's text, in one line and not longer than that.

    What cannot be printed, line ends among it, is written as in a Python string.
    """
    text = str(text)
    if len(text) > most:
        text = f"{text[: most // 2]} ... {text[-most // 4 :]}"
    return printable(text)


def printable(text: str, keep: str = "") -> str:
    """The text with everything that a terminal would obey written as in a Python string.

    Args:
      keep: characters to leave as they are.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


class UserError(Exception):
    """Something the user can mend; `launch.py` prints it as one line and exits with code 2."""


class ArgumentError(UserError, ValueError):
    """An argument of a library function breaks a rule.

    Names of arguments stand in backquotes, so that the command line can put the names of config
    fields in their place.

    Args:
      argument: its name.
      value: what was given.
      rule: what it must satisfy, as the end of a sentence ("must be positive").
    """

    def __init__(self, argument: str, value: object, rule: str):
        super().__init__(f"`{argument}` = {value!r}: {rule}")
        self.argument, self.value, self.rule = argument, value, rule


class ConfigError(UserError):
    """A config field breaks a rule.

    Args:
      field: dotted name of the field, without the leading "config.".
      value: what it holds.
      rule: what it must satisfy, as the end of a sentence ("must be positive").
    """

    def __init__(self, field: str, value: object, rule: str):
        super().__init__(f"config.{field} = {value!r}: {rule}")
        self.field = field


class CheckpointError(UserError):
    """A checkpoint is missing, broken, or belongs to another network."""


class RunFailure(Exception):  # noqa: N818 - what it tells of is the run, not the call
    """Something failed while the run was going on, not by a mistake in the call.

    `launch.py` prints it as one line and exits with code 1.
    """


class Interrupted(Exception):  # noqa: N818 - not an error: everything done so far is saved
    """A signal asked the run to stop; the state is saved, and the same command resumes."""
