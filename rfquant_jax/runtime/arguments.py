"""Flags of a command line that is not parsed, or not parsed yet."""

from __future__ import annotations

from collections.abc import Sequence


def flag_value(arguments: Sequence[str], flag: str) -> str | None:
    """The value of `--flag=VALUE` or `--flag VALUE`, with one or two dashes; None without it."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if argument.lstrip("-") == flag and argument.startswith("-"):
            return following
        if argument.startswith((f"--{flag}=", f"-{flag}=")):
            return argument.split("=", 1)[1]
    return None
