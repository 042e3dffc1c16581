"""A pass cut before its layers: what is computed again, with which result, and where to cut."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfquant_jax.search.prefix import CutProgram, choose_starts

SHARED = {"a": np.asarray([1.0, 2.0, 3.0], np.float32), "b": np.float32(0.5)}


def forward(shared, rows):
    """Three "layers" in a row, the second with a branch beside it that a skip connection adds."""
    x = jnp.sin(shared["a"]) * rows[0][0] + rows[0][1]
    y = jnp.cos(x * rows[1][0]) + shared["b"] * rows[1][1]
    z = y + jnp.tanh(x) + jnp.arange(3.0)
    return jnp.sum(jnp.exp(z * rows[2][0] / 100) - rows[2][1])


def by_hand(configuration):
    rows = np.asarray(configuration, np.float64)
    a = SHARED["a"].astype(np.float64)
    x = np.sin(a) * rows[0, 0] + rows[0, 1]
    y = np.cos(x * rows[1, 0]) + 0.5 * rows[1, 1]
    z = y + np.tanh(x) + np.arange(3)
    return np.sum(np.exp(z * rows[2, 0] / 100) - rows[2, 1])


BASE = np.asarray([[6, 5], [4, 3], [2, 6]], np.int32)


@pytest.mark.parametrize("starts", [(0,), (0, 1, 2), (0, 2)])
@pytest.mark.parametrize("changed", [(), (0,), (1,), (2,), (1, 2), (0, 2)])
def test_a_candidate_has_the_value_of_a_whole_pass(starts, changed):
    program = CutProgram(forward, SHARED, 3, starts)
    kept = jax.jit(program.base)(SHARED, BASE)
    candidate = BASE.copy()
    candidate[np.asarray(changed, int)] = 3, 2
    start = program.start_of(min(changed, default=3))
    found = jax.jit(program.candidate, static_argnums=3)(SHARED, kept, candidate, start)
    assert found == pytest.approx(by_hand(candidate), rel=1e-5)


def test_a_candidate_starts_at_the_last_cut_that_it_may():
    program = CutProgram(forward, SHARED, 3, (0, 2))
    assert [program.start_of(layer) for layer in range(4)] == [0, 0, 1, 1]


def test_what_lies_before_the_cut_is_not_computed_again():
    """With other values from before the cut, a candidate has another result."""
    program = CutProgram(forward, SHARED, 3, (0, 1, 2))
    kept = program.base(SHARED, BASE)
    for start in (1, 2):
        true = program.candidate(SHARED, kept, BASE, start)
        assert program.candidate(SHARED, [value + 0.1 for value in kept], BASE, start) != true


def primitives(jaxpr):
    return [equation.primitive.name for equation in jaxpr.eqns]


def test_a_cut_leaves_only_what_comes_after_it():
    program = CutProgram(forward, SHARED, 3, (0, 1, 2))
    kept = program.base(SHARED, BASE)
    suffix = jax.make_jaxpr(program.candidate, static_argnums=3)
    from_0, from_1, from_2 = (primitives(suffix(SHARED, kept, BASE, k).jaxpr) for k in range(3))
    assert "sin" not in from_0  # it depends on no bit-width
    assert {"cos", "tanh", "exp"} <= set(from_0)
    # The branch beside the second layer does not see its bit-widths.
    assert {"cos", "exp"} <= set(from_1)
    assert not {"tanh", "sin"} & set(from_1)
    assert {"exp"} <= set(from_2)
    assert not {"cos", "tanh", "sin"} & set(from_2)
    # Nor does the base compute what every candidate computes for itself.
    base = primitives(jax.make_jaxpr(program.base)(SHARED, BASE).jaxpr)
    assert {"sin", "cos", "tanh"} <= set(base)
    assert "exp" not in base


def test_values_are_kept_in_their_narrow_dtype():
    def narrow(shared, rows):
        x = (jnp.sin(shared["a"]) * rows[0][0]).astype(jnp.bfloat16).astype(jnp.float32)
        return jnp.sum(x * rows[1][0] + x * rows[1][1])

    program = CutProgram(narrow, SHARED, 2, (0, 1))
    kept = program.base(SHARED, BASE[:2])
    assert sorted(str(value.dtype) for value in kept) == ["bfloat16", "float32"]  # x, and sin(a)
    whole, cut = (program.candidate(SHARED, kept, BASE[:2], start) for start in (0, 1))
    assert whole == cut


@given(
    st.lists(st.floats(0.1, 10), min_size=1, max_size=7),
    st.integers(1, 4),
)
def test_no_other_cuts_are_cheaper(work, most):
    def cost(starts):
        return sum(sum(work[max(s for s in starts if s <= layer) :]) for layer in range(len(work)))

    others = itertools.combinations(range(1, len(work)), min(most, len(work)) - 1)
    best = min(cost((0, *starts)) for starts in others)
    found = choose_starts(work, most)
    assert found[0] == 0
    assert list(found) == sorted(set(found))
    assert len(found) <= most
    assert cost(found) == pytest.approx(best)
