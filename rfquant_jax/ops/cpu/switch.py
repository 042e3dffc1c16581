"""The switch of the kernels for CPU: they run on CPU only, and each can be turned off.

Without a kernel, `ops.convolution.convolve` computes the same with `jax.lax`, up to the order of
sums. `python -m benchmarks.train_step --without=depthwise,pointwise` measures each on the whole
step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token

from rfquant_jax.runtime.backend import backend

KERNELS = ("batch_strip", "depthwise", "kernel_gradient", "pointwise")
DENSE = ("batch_strip", "kernel_gradient")  # parts of `dense.dense`

_off: ContextVar[frozenset[str]] = ContextVar("kernels_off", default=frozenset())


def is_on(*kernels: str) -> bool:
    """Whether one of these kernels may run: on CPU, and not all are turned off."""
    return backend() == "cpu" and not _off.get().issuperset(kernels)


def turn_off(*kernels: str) -> Token:
    """Turns kernels off for functions traced from now on; compiled ones keep theirs.

    Raises:
      ValueError: unknown kernel.
    """
    if unknown := set(kernels) - set(KERNELS):
        raise ValueError(f"unknown kernels {sorted(unknown)}; there are {', '.join(KERNELS)}")
    return _off.set(_off.get() | set(kernels))


@contextmanager
def without(*kernels: str) -> Iterator[None]:
    """Turns kernels off for functions traced inside the `with` block, see `turn_off`."""
    token = turn_off(*kernels)
    try:
        yield
    finally:
        _off.reset(token)
