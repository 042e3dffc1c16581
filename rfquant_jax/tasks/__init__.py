"""The tasks of a run, one file each.

`TASKS` maps names to functions, `check` verifies the preconditions of the tasks in a config, and
`perform` runs them. Importing this package does not import the tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rfquant_jax.tasks.dispatch import TASKS, check, perform

__all__ = ["TASKS", "check", "perform"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rfquant_jax.tasks import dispatch

    return getattr(dispatch, name)
