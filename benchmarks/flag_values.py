"""Values of list flags, checked before any work."""

from __future__ import annotations

from collections.abc import Sequence

from absl import app, flags


def check(flag: flags.FlagHolder, known: Sequence[str]) -> None:
    """Raises for unknown values of a list flag."""
    for value in flag.value:
        if value not in known:
            raise app.UsageError(f"--{flag.name}={value}: must be of {', '.join(known)}")
