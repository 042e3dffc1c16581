"""Traced programs, read and run again in parts: what depends on what, equation by equation."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var


def variables(atoms: Iterable) -> set[Var]:
    """Those that are not literals."""
    return {atom for atom in atoms if not isinstance(atom, Literal)}


def reached(equations: Iterable[JaxprEqn], sources: Iterable[Var]) -> set[Var]:
    """All values that depend on one of the sources, the sources included."""
    found = set(sources)
    for equation in equations:
        if found & variables(equation.invars):
            found.update(equation.outvars)
    return found


def needed(
    equations: Sequence[JaxprEqn], wanted: Iterable, given: Collection[Var] = ()
) -> tuple[JaxprEqn, ...]:
    """Those of the equations that the wanted values come from, where the given ones are there."""
    wanted, kept = variables(wanted) - set(given), []
    for equation in reversed(equations):
        if wanted & set(equation.outvars):
            kept.append(equation)
            wanted |= variables(equation.invars) - set(given)
    return tuple(reversed(kept))


def bound(program: ClosedJaxpr, given: Iterable) -> dict[Var, jax.Array]:
    """The values to evaluate a program's equations from: its constants and its inputs, in order."""
    jaxpr = program.jaxpr
    constants = zip(jaxpr.constvars, program.consts, strict=True)
    return dict(constants) | dict(zip(jaxpr.invars, given, strict=True))


def read(values: dict[Var, jax.Array], atom) -> jax.Array:
    """The value of a variable or a literal."""
    return atom.val if isinstance(atom, Literal) else values[atom]


def evaluate(equations: Iterable[JaxprEqn], values: dict[Var, jax.Array]) -> None:
    """Adds to `values` what the equations compute; can be traced and differentiated."""
    for equation in equations:
        primitive = equation.primitive
        operands = [read(values, atom) for atom in equation.invars]
        found = primitive.bind(*operands, **primitive.get_bind_params(equation.params))
        found = found if primitive.multiple_results else [found]
        values.update(zip(equation.outvars, found, strict=True))
