"""The backend that programs are compiled for.

Some programs differ between backends, for example in convolutions and in the strategy of a step.
Code that chooses asks `backend`, not `jax.default_backend`, so that programs can also be compiled
for a GPU that this machine does not have (benchmarks/gpu_compile.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_other: ContextVar[str | None] = ContextVar("other_backend", default=None)


def backend() -> str:
    """The backend that functions traced now are compiled for: "cpu", "gpu" or "tpu"."""
    return _other.get() or jax.default_backend()


@contextmanager
def compiling_for(name: str) -> Iterator[None]:
    """Traces functions inside the `with` block for another backend than the default one.

    Such functions can be lowered and compiled, with devices of that backend in their mesh. They
    cannot be called.
    """
    token = _other.set(name)
    try:
        yield
    finally:
        _other.reset(token)
