"""One forward pass cut at several layers, so that what comes before a cut is computed once.

Candidates of one iteration of a search differ in few layers. Whatever their first different layer
does not reach has the same value in all of them: it is computed once, for a base configuration that
all are close to, and each candidate starts at the cut before its first difference. The cuts are
found in the traced program, by what depends on which bit-widths: a network need not know of them,
and branches that run beside a layer are not computed again either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Var

from rfquant_jax.nn.jaxprs import bound, evaluate, needed, read, variables


@dataclass(frozen=True)
class _Suffix:
    """What is computed again from a cut on.

    Attributes:
      equations: of the traced program, in its order.
      needs: values of the part before that they use.
    """

    equations: tuple[JaxprEqn, ...]
    needs: frozenset[Var]


class CutProgram:
    """A function of shared arrays and a configuration, split at cuts.

    `base` and `candidate` can be traced, inside `jax.jit` and `jax.shard_map`.

    Args:
      function: `function(shared, rows) -> array`, with rows a tuple of one int32[2] a layer.
      shared: arrays, or their shapes and dtypes, in any pytree.
      layers: how many rows there are.
      starts: layers to cut before, ascending, the first of them 0.
    """

    def __init__(
        self,
        function: Callable[[Any, tuple], jax.Array],
        shared: Any,
        layers: int,
        starts: Sequence[int],
    ):
        rows = (jax.ShapeDtypeStruct((2,), np.int32),) * layers
        self._program: ClosedJaxpr = jax.make_jaxpr(function)(shared, rows)
        inputs = self._program.jaxpr.invars
        self._rows = inputs[len(inputs) - layers :]
        self._starts = tuple(starts)
        self._suffixes = [self._after(start) for start in self._starts]
        needed = frozenset().union(*(suffix.needs for suffix in self._suffixes))
        self._kept = [var for var in self._defined() if var in needed]

    def start_of(self, first_different: int) -> int:
        """Number of the cut to start at, for a candidate that equals the base before this layer."""
        return int(np.searchsorted(self._starts, first_different, side="right")) - 1

    def base(self, shared: Any, configuration: jax.Array) -> list[jax.Array]:
        """All values that candidates near this configuration int32[L, 2] start from."""
        equations = needed(self._program.jaxpr.eqns, self._kept)
        values = self._inputs(shared, configuration)
        evaluate(equations, values)
        return [values[var] for var in self._kept]

    def candidate(
        self, shared: Any, kept: list[jax.Array], configuration: jax.Array, start: jax.Array
    ) -> jax.Array:
        """The function's value at a configuration int32[L, 2] near the base.

        Args:
          kept: from `base`.
          start: int32[], number of the cut, see `start_of`.
        """

        def branch(suffix: _Suffix):
            def run(kept, shared, configuration):
                values = self._inputs(shared, configuration)
                values |= dict(zip(self._kept, kept, strict=True))
                evaluate(suffix.equations, values)
                return read(values, self._program.jaxpr.outvars[0])

            return run

        branches = [branch(suffix) for suffix in self._suffixes]
        return jax.lax.switch(start, branches, kept, shared, configuration)

    def _inputs(self, shared: Any, configuration: jax.Array) -> dict[Var, jax.Array]:
        rows = (configuration[i] for i in range(len(self._rows)))
        return bound(self._program, [*jax.tree.leaves(shared), *rows])

    def _defined(self) -> Iterable[Var]:
        return (var for equation in self._program.jaxpr.eqns for var in equation.outvars)

    def _after(self, start: int) -> _Suffix:
        """What depends on the bit-widths of the layers from `start` on."""
        jaxpr = self._program.jaxpr
        given = {*jaxpr.invars, *jaxpr.constvars}
        changed, constant = set(self._rows[start:]), set(jaxpr.constvars)
        again = []
        for equation in jaxpr.eqns:
            used = variables(equation.invars)
            # A constant is cheaper to make again than to keep.
            if used <= constant:
                constant.update(equation.outvars)
            elif changed & used:
                changed.update(equation.outvars)
            else:
                continue
            again.append(equation)
        results = variables(jaxpr.outvars)
        equations = needed(again, results)
        made = {var for equation in equations for var in equation.outvars}
        used = {var for equation in equations for var in variables(equation.invars)}
        return _Suffix(equations, frozenset((used | results) - made - given))


def choose_starts(work: Sequence[float], most: int) -> tuple[int, ...]:
    """Layers to cut before, so that one changed layer costs the least on average.

    Args:
      work: of each layer, in any unit; what a candidate costs is taken to be that of all layers
        from its cut on.
      most: how many cuts there may be, at least 1.

    Returns:
      ascending layer numbers, the first of them 0.
    """
    layers = len(work)
    left = np.cumsum(np.asarray(work, float)[::-1])[::-1]  # from each layer to the end
    # best[n]: (cost, starts) of the first n layers with the cuts allowed so far.
    best = [(0.0, ())] + [(n * left[0], (0,)) for n in range(1, layers + 1)]
    for _ in range(min(most, layers) - 1):
        best = [best[0]] + [
            min((best[k][0] + (n - k) * left[k], (*best[k][1], k)) for k in range(n))
            for n in range(1, layers + 1)
        ]
    return best[layers][1]
