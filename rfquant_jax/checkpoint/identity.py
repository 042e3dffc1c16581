"""Compares the identity stored in a checkpoint with that of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """A description of the first difference, or ""."""
    for name in [*expected, *(n for n in found if n not in expected)]:
        old, new = found.get(name), expected.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            if inner := difference(old, new):
                return f"{name}: {inner}"
        elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new) > 3:
            # One entry is enough; there may be a thousand class names.
            for place, (was, wanted) in enumerate(zip(old, new, strict=True)):
                if was != wanted:
                    return f"{name}[{place}] is {was!r}, this run's is {wanted!r}"
        elif old != new:
            return f"{name} is {old!r}, this run's is {new!r}"
    return ""
