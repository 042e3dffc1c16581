"""Packed parameters and statistics: the same numbers, by layer and bit-width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfquant_jax.quant import convert
from rfquant_jax.train.packing import Packing

CONFIGURATION = np.asarray([[6, 3], [4, 4], [2, 6], [5, 3]], np.int32)
PLACES = {bits: place for place, bits in enumerate(convert.CANDIDATES)}


@pytest.fixture(scope="module")
def packing(functional):
    return Packing(functional)


@pytest.fixture(scope="module")
def arrays(functional):
    """Parameters and statistics of which no two numbers are equal."""
    start, filled = 0, []
    for arrays in (functional.params, functional.stats):
        new = {}
        for name, value in arrays.items():
            new[name] = np.arange(start, start + value.size, dtype=np.float32).reshape(value.shape)
            start += value.size
        filled.append(new)
    return filled


# The row of a configuration that belongs to a module of the TinyNet, by the start of its name.
OWNERS = {
    "conv.": 0,
    "bn.": 0,
    "projection.": 1,
    "expand.": 2,
    "expand_bn.": 2,
    "depthwise.": 3,
    "depthwise_bn.": 3,
}


def rows_of(name, value):
    """The row that `CONFIGURATION` makes active, or None: an array without rows."""
    owner = next((index for start, index in OWNERS.items() if name.startswith(start)), None)
    if owner is None or value.shape[:1] != (len(PLACES),):
        return None
    weights, activations = (PLACES[bits] for bits in CONFIGURATION[owner])
    if name.endswith("weight_quantizer.step"):
        return value[[weights]]
    if name.endswith("input_quantizer.step"):
        return value[[activations]]
    return value[weights : weights + 1, activations : activations + 1]


def test_unpacking_is_the_inverse(packing, arrays):
    found = packing.unpacked(*packing.packed(*arrays))
    for one, other in zip(found, arrays, strict=True):
        assert set(one) == set(other)
        for name in other:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    with_axis = [{name: value[None] for name, value in own.items()} for own in arrays]
    found = packing.unpacked(*packing.packed(*with_axis))
    for one, other in zip(found, with_axis, strict=True):
        for name in other:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_everything_with_rows_is_packed(packing, arrays):
    packed = packing.packed(*arrays)
    for own, all_of in zip(packed, arrays, strict=True):
        left = {name for name in all_of if name in own}
        assert left == {n for n, value in all_of.items() if rows_of(n, value) is None}
        assert sorted(set(own) - left) in (["packed.25", "packed.5"], ["packed.25"])


def test_the_active_rows_are_those_of_the_configuration(packing, arrays):
    chosen = packing.chosen(*packing.packed(*arrays), CONFIGURATION)
    counted = 0
    for own, all_of in zip(chosen, arrays, strict=True):
        assert set(own) == set(all_of)
        for name, value in all_of.items():
            expected = rows_of(name, value)
            counted += expected is not None
            expected = value if expected is None else expected
            np.testing.assert_array_equal(own[name], expected, err_msg=name)
    assert counted > 15


def test_statistics_move_in_the_active_rows_alone(packing, arrays):
    packed, stats = packing.packed(*arrays)
    _, own = packing.chosen(packed, stats, CONFIGURATION)
    moved = packing.moved(stats, {n: -value for n, value in own.items()}, CONFIGURATION)
    _, found = packing.unpacked(packed, moved)
    for name, value in arrays[1].items():
        active = rows_of(name, value)
        negated = value if active is None else active
        expected = np.where(np.isin(value, negated), -value, value)
        np.testing.assert_array_equal(found[name], expected, err_msg=name)


def test_gradients_reach_the_active_rows_alone_whatever_the_others_hold(packing, arrays):
    packed, stats = packing.packed(*arrays)

    def total(packed):
        own, _ = packing.chosen(packed, stats, CONFIGURATION)
        return sum(jnp.sum(value) for name, value in own.items() if "step" in name)

    steps = {n: value for n, value in arrays[0].items() if n.endswith("step")}
    with_rows = {n: v for n, v in steps.items() if rows_of(n, v) is not None}
    for name, value in with_rows.items():
        hidden = np.where(np.isin(value, rows_of(name, value)), value, np.nan)
        packed = packing.packed(arrays[0] | {name: hidden}, arrays[1])[0]
        gradient = packing.unpacked(jax.grad(total)(packed), stats)[0]
        np.testing.assert_array_equal(gradient[name], np.where(np.isnan(hidden), 0, 1))


def test_nothing_is_scattered(packing, arrays):
    packed, stats = packing.packed(*arrays)

    def total(packed):
        return sum(jnp.sum(x) for x in packing.chosen(packed, stats, CONFIGURATION)[0].values())

    assert "scatter" not in str(jax.make_jaxpr(jax.grad(total))(packed))
