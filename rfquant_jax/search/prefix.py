"""A forward pass split at several layers, so that shared prefixes are computed once.

The candidates of one iteration differ in few layers. Values that do not depend on the differing
layers are equal in all candidates. They are computed once, for a base configuration close to all of
them, and each candidate starts at the last cut before its first difference. The cuts are found in
the jaxpr by dependency on bit-widths. Networks need no annotations, and branches parallel to a
layer are not recomputed either.
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
    """The part of the computation after a cut.

    Attributes:
      equations: equations of the jaxpr, in order.
      needs: values from before the cut that they read.
    """

    equations: tuple[JaxprEqn, ...]
    needs: frozenset[Var]


class CutProgram:
    """A function of shared arrays and a configuration, split at cuts.

    `base` and `candidate` can be called inside `jax.jit` and `jax.shard_map`.

    Args:
      function: `function(shared, rows) -> array`, where rows is a tuple of one int32[2] per layer.
      shared: arrays, or their shapes and dtypes, in any pytree.
      layers: number of rows.
      starts: layers to cut before, ascending, starting with 0.
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
        """Index of the cut for a candidate that equals the base before this layer."""
        return int(np.searchsorted(self._starts, first_different, side="right")) - 1

    def base(self, shared: Any, configuration: jax.Array) -> list[jax.Array]:
        """All values at this base configuration, int32[L, 2], that candidates start from."""
        equations = needed(self._program.jaxpr.eqns, self._kept)
        values = self._inputs(shared, configuration)
        evaluate(equations, values)
        return [values[var] for var in self._kept]

    def candidate(
        self, shared: Any, kept: list[jax.Array], configuration: jax.Array, start: int
    ) -> jax.Array:
        """The function's value at a configuration int32[L, 2] near the base.

        Args:
          kept: result of `base`.
          start: index of the cut, see `start_of`; static, because on GPU a conditional copies its
            predicate to the host and waits for it.
        """
        suffix, values = self._suffixes[start], self._inputs(shared, configuration)
        values |= dict(zip(self._kept, kept, strict=True))
        evaluate(suffix.equations, values)
        return read(values, self._program.jaxpr.outvars[0])

    def _inputs(self, shared: Any, configuration: jax.Array) -> dict[Var, jax.Array]:
        rows = (configuration[i] for i in range(len(self._rows)))
        return bound(self._program, [*jax.tree.leaves(shared), *rows])

    def _defined(self) -> Iterable[Var]:
        return (var for equation in self._program.jaxpr.eqns for var in equation.outvars)

    def _after(self, start: int) -> _Suffix:
        """The part that depends on bit-widths of the layers from `start` on."""
        jaxpr = self._program.jaxpr
        given = {*jaxpr.invars, *jaxpr.constvars}
        changed, constant = set(self._rows[start:]), set(jaxpr.constvars)
        again = []
        for equation in jaxpr.eqns:
            used = variables(equation.invars)
            # A constant is cheaper to recompute than to keep, and so is a copy in a wider dtype.
            if used <= constant:
                constant.update(equation.outvars)
            elif changed & used:
                changed.update(equation.outvars)
            elif not _widens(equation):
                continue
            again.append(equation)
        results = variables(jaxpr.outvars)
        equations = needed(again, results)
        made = {var for equation in equations for var in equation.outvars}
        used = {var for equation in equations for var in variables(equation.invars)}
        return _Suffix(equations, frozenset((used | results) - made - given))


def _widens(equation: JaxprEqn) -> bool:
    """Whether an equation does nothing but convert to a larger dtype."""
    if equation.primitive.name != "convert_element_type":
        return False
    (given,), (found,) = equation.invars, equation.outvars
    return given.aval.dtype.itemsize < found.aval.dtype.itemsize


def choose_starts(work: Sequence[float], most: int) -> tuple[int, ...]:
    """The cuts that minimize the average cost of changing one layer.

    Args:
      work: cost of each layer, in any unit; a candidate costs the sum over layers after its cut.
      most: maximum number of cuts, at least 1.

    Returns:
      ascending layer indices, starting with 0.
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
