"""The tasks of a run, each in a file of its own.

`perform` does the tasks that a run's config asks for, `check` looks at what they need before they
start, and `TASKS` has the function of each. Importing this package imports none of them.
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
