"""Deterministic computation, and the cores of this process."""

import os

import jax
import numpy as np
import pytest

from rfquant_jax.runtime import cpus, devices
from rfquant_jax.runtime.devices import REPLICATED, Compiled, compute_deterministically, make_mesh


@pytest.fixture
def jitted(monkeypatch):
    """The keyword arguments of every `jax.jit` of a `Compiled`."""
    monkeypatch.setattr(devices, "_compiler_options", {})
    given, real = [], jax.jit
    monkeypatch.setattr(
        jax, "jit", lambda f, **options: given.append(options) or real(f, **options)
    )
    return given


def test_programs_are_deterministic_even_after_jax_has_started(jitted):
    jax.devices()  # starts the backends
    mesh = make_mesh(1)

    def double():
        return Compiled(lambda x: 2 * x, mesh, REPLICATED, REPLICATED)

    before = double()
    compute_deterministically()
    after = double()
    assert [options["compiler_options"] for options in jitted] == [
        {},
        {"xla_gpu_deterministic_ops": True},
    ]
    # The compiler knows the option on every backend; it refuses options that it does not know.
    for compiled in (before, after):
        np.testing.assert_array_equal(compiled(np.arange(3.0)), [0, 2, 4])


def test_cores_are_those_of_this_process(monkeypatch):
    assert cpus.available() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert cpus.available() == 3
