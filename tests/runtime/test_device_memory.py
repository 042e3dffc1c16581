"""How much a failed program asked for, in the words of XLA's allocators."""

import jax
import pytest

from rfquant_jax.runtime.device_memory import shortage


class Device:
    """A GPU with some memory."""

    def __init__(self, limit, used):
        self.stats = {"bytes_limit": limit, "bytes_in_use": used}

    def memory_stats(self):
        return self.stats


GIB = 2**30


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ("Out of memory while trying to allocate 4770354232 bytes.\nBufferAssig", 4770354232),
        ("Out of memory while trying to allocate 5.50GiB.", 5.5 * GIB),
        ("Failed to allocate request for 32.00MiB (33554432B) on device ordinal 0", 33554432),
    ],
)
def test_what_was_asked_for_is_read_from_the_error(said, asked):
    error = jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {said}")
    found = shortage(error, [Device(8 * GIB, 6 * GIB), Device(8 * GIB, 7 * GIB)])
    assert (found.asked, found.free) == (asked, GIB)  # of the fuller device


@pytest.mark.parametrize(("asked", "factor"), [(2, 2), (3, 2), (6, 3), (7, 4), (8, 4)])
def test_the_batch_shrinks_until_the_allocation_fits(asked, factor):
    """2.0 GiB are free; an allocation that fails although it would fit still halves the batch."""
    error = jax.errors.JaxRuntimeError(f"Out of memory while trying to allocate {asked}.00GiB.")
    assert shortage(error, [Device(8 * GIB, 6 * GIB)]).factor == factor


def test_nothing_is_known_without_sizes():
    said = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: allocate 3.00GiB")
    assert shortage(said, jax.devices()) is None  # CPUs do not count their memory
    assert shortage(said, [Device(8, 8)]) is None
    unlimited = Device(8, 4)
    del unlimited.stats["bytes_limit"]
    assert shortage(said, [Device(8, 4), unlimited]) is None
    assert shortage(jax.errors.JaxRuntimeError("out of memory"), [Device(8, 4)]) is None
