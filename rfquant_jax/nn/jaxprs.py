"""Dependency analysis and partial evaluation of jaxprs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import jax
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var


def variables(atoms: Iterable) -> set[Var]:
    """The atoms that are variables, not literals."""
    return {atom for atom in atoms if not isinstance(atom, Literal)}


def reached(equations: Iterable[JaxprEqn], sources: Iterable[Var]) -> set[Var]:
    """All variables that depend on any of the sources, including the sources."""
    found = set(sources)
    for equation in equations:
        if found & variables(equation.invars):
            found.update(equation.outvars)
    return found


def needed(
    equations: Sequence[JaxprEqn], wanted: Iterable, given: Collection[Var] = ()
) -> tuple[JaxprEqn, ...]:
    """The equations needed to compute the wanted variables from the given ones."""
    wanted, kept = variables(wanted) - set(given), []
    for equation in reversed(equations):
        if wanted & set(equation.outvars):
            kept.append(equation)
            wanted |= variables(equation.invars) - set(given)
    return tuple(reversed(kept))


def bound(program: ClosedJaxpr, given: Iterable) -> dict[Var, jax.Array]:
    """The initial values for evaluating a jaxpr: its constants and its inputs, in order."""
    jaxpr = program.jaxpr
    constants = zip(jaxpr.constvars, program.consts, strict=True)
    return dict(constants) | dict(zip(jaxpr.invars, given, strict=True))


def read(values: dict[Var, jax.Array], atom) -> jax.Array:
    """The value of a variable or a literal."""
    return atom.val if isinstance(atom, Literal) else values[atom]


def evaluate(equations: Iterable[JaxprEqn], values: dict[Var, jax.Array]) -> None:
    """Evaluates the equations and adds their results to `values`; traceable and differentiable.

    Operations keep the line of code that they come from, for profilers.
    """
    names = source_info_util.current_name_stack()
    for equation in equations:
        primitive, source = equation.primitive, equation.source_info
        operands = [read(values, atom) for atom in equation.invars]
        stack = names + source.name_stack
        with source_info_util.user_context(source.traceback, name_stack=stack):
            found = primitive.bind(*operands, **primitive.get_bind_params(equation.params))
        found = found if primitive.multiple_results else [found]
        values.update(zip(equation.outvars, found, strict=True))
