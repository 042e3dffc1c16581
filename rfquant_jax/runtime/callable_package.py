"""Packages that can be called: `rfq.search(...)` runs `rfquant_jax.search.search.search`.

`search`, `evaluate` and `export` are both a room of the package and a verb of the public API. The
package's module object becomes callable; imports of its modules work as before.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """A package that stands for the function of its own name in its module of that name.

    The function's module is imported at the first call, or when its documentation is asked for.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)

    @property
    def __wrapped__(self) -> Callable:
        verb = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module(f"{self.__name__}.{verb}"), verb)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.__wrapped__)

    # A property shadows the module's own docstring, because `help` shows this one.
    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self.__wrapped__.__doc__


def make_callable(package: str) -> None:
    """Makes a package callable; its `__init__.py` calls this with its `__name__`."""
    sys.modules[package].__class__ = CallablePackage
