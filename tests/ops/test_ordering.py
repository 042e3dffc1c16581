"""What is made late is what it would have been."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rfquant_jax.ops.ordering import after, again, alone, apart, replaced, unless_skipped
from rfquant_jax.runtime.backend import compiling_for


@pytest.fixture(autouse=True)
def _optimised():
    """LLVM without any optimisation sets numbers below float32's normal range to zero."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


EVENTS = [0.0, -0.0, 1.5, -3e38, 1e-40, np.inf, -np.inf, np.nan]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("event", EVENTS)
def test_no_event_changes_a_bit(event, dtype):
    values = jnp.asarray([0.1, -0.0, 1e-40, 3e38, np.inf, np.nan], jnp.float32)
    given = jnp.full((2, 3), event, dtype)
    got = jax.jit(after)(values, given)
    np.testing.assert_array_equal(got, values)
    assert np.signbit(got[1])
    made = jax.jit(lambda values, event: alone(lambda: values + 1, event))(values, given)
    np.testing.assert_array_equal(made, values + 1)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_what_is_computed_again_has_the_same_bits(backend):
    values = jnp.asarray([0.1, -0.0, 1e-40, 3e38, np.inf, np.nan], jnp.float32)
    with compiling_for(backend):
        got = jax.jit(apart)(values, jnp.full(2, np.nan))
        tree = again({"a": values, "b": (jnp.arange(3),)})
        program = str(jax.make_jaxpr(lambda x: apart(x, x))(values))
    np.testing.assert_array_equal(got, values)
    assert np.signbit(got[1])
    np.testing.assert_array_equal(tree["a"], values)
    assert tree["b"][0].tolist() == [0, 1, 2]
    # A barrier alone on GPUs, a product with a one that depends on the event on CPUs.
    found = [name for name in ("optimization_barrier", " mul ") if name in program]
    assert found == ["optimization_barrier" if backend == "gpu" else " mul "]


def test_float64_events_are_known_too():
    with jax.enable_x64(True):
        value, event = jnp.asarray(0.1), jnp.asarray([np.nan])
        assert after(value, event) == 0.1
        assert alone(lambda: 2 * value, event) == 0.2


@pytest.mark.parametrize("late", [False, True])
def test_the_compiler_makes_it_again_where_it_is_late(late):
    def twice(x, event):
        one = jnp.tanh(x)
        return one, jnp.tanh(after(x, event) if late else x)

    x = jnp.ones(8)
    program = jax.jit(lambda x: twice(x, jnp.sin(x))).lower(x).compile().as_text()
    assert program.count(" tanh(") == (2 if late else 1)


def test_a_processor_merges_nothing_with_what_is_made_alone(monkeypatch):
    x = jnp.ones((4, 4))

    def program():
        return str(jax.make_jaxpr(lambda x: alone(lambda: x / 3, x).T)(x))

    assert "cond" in program()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "cond" not in program()


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_what_is_skipped_is_zero_even_where_it_would_be_no_number(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)

    @jax.jit
    def made(wanted, x):
        return unless_skipped(wanted, lambda: 1 / x)

    x = jnp.asarray([0.0, 4.0])
    np.testing.assert_array_equal(made(True, x), [np.inf, 0.25])
    np.testing.assert_array_equal(made(False, x), [0, 0])


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_the_new_array_replaces_the_old_one_where_it_is_wanted(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    new, old = jnp.asarray([1.0, 2.0]), jnp.asarray([np.nan, 4.0])
    pick = jax.jit(lambda wanted: replaced(wanted, new, old))
    np.testing.assert_array_equal(pick(True), new)
    np.testing.assert_array_equal(pick(False), old)


def test_an_old_array_that_is_donated_stays_where_it_is():
    new, old = jnp.ones(10_000), jnp.arange(10_000.0)
    place = old.unsafe_buffer_pointer()
    kept = jax.jit(replaced, donate_argnums=2)(False, new, old)
    assert kept.unsafe_buffer_pointer() == place
    np.testing.assert_array_equal(kept, np.arange(10_000.0))
