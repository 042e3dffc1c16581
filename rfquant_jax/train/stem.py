"""The part of the network that all passes of a step share: up to its first searched layer.

All passes see the same images, so every value that depends on no bit-width and no key (dropout) is
equal in all of them. The stem computes these values once per step. Its backward pass also runs
once, on the summed cotangents of the passes, because gradients are linear in cotangents. The split
is found in the jaxpr of the forward pass; networks need no annotations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rfquant_jax.nn.functional import Arrays
from rfquant_jax.nn.jaxprs import bound, evaluate, needed, reached, read, variables
from rfquant_jax.ops.ordering import again


class Start(NamedTuple):
    """The activations that a pass starts from.

    Attributes:
      learned: values that depend on parameters; a pass returns gradients with respect to them.
      fixed: all other values, such as images that enter a searched layer directly.
    """

    learned: tuple[jax.Array, ...]
    fixed: tuple[jax.Array, ...]


class Stem:
    """A forward pass, split where it begins to depend on the configuration.

    Its methods can be called inside `jax.jit` and `jax.shard_map`.

    Args:
      forward: `forward(params, stats, images, configuration, key) -> (outputs, stats)`.
      params, stats, images, configuration, key: its arguments, or their shapes and dtypes.
      passes: number of passes per step on the same images.
    """

    def __init__(
        self, forward: Callable, params, stats, images, configuration, key, *, passes: int
    ):
        arguments = (params, stats, images, configuration, key)
        self._program, shapes = jax.make_jaxpr(forward, return_shape=True)(*arguments)
        self._passes, self._shapes = passes, shapes[0]
        self._outputs = jax.tree.structure(self._shapes)
        variable = jax.tree.unflatten(jax.tree.structure(arguments), self._program.jaxpr.invars)
        self._params, self._stats, images, *differing = variable
        outputs = self._program.jaxpr.outvars
        self._results = outputs[: self._outputs.num_leaves]
        after = dict(zip(sorted(stats), outputs[self._outputs.num_leaves :], strict=True))
        differing = jax.tree.leaves(differing)
        while feedback := self._split(images, differing, after):
            differing += feedback

    def _split(self, images, differing: list, after: dict) -> list:
        """Splits the jaxpr; returns statistics that a pass reads after an earlier one updated them.

        Values that depend on those differ between passes, so the split must be repeated with them.
        """
        equations = self._program.jaxpr.eqns
        differs = reached(equations, differing)
        # Values that do not depend on the images are cheaper to recompute than to keep.
        common = reached(equations, [images]) - differs
        learned = reached(equations, self._params.values())
        # Statistics updated by the stem; every pass computes the others itself.
        self._moved = {name: var for name, var in after.items() if variables([var]) & common}
        self._after = {name: var for name, var in after.items() if name not in self._moved}
        self._rest = needed(equations, [*self._results, *self._after.values()], common)
        used = variables(atom for equation in self._rest for atom in equation.invars)
        used = (used | variables(self._results)) & common
        defined = [images, *(var for equation in equations for var in equation.outvars)]
        self._learned = [var for var in defined if var in used & learned]
        self._fixed = [var for var in defined if var in used - learned]
        moved = [self._stats[name] for name in self._moved]
        return [var for var in moved if used & reached(equations, [var])]

    def start(self, params: Arrays, stats: Arrays, images: jax.Array) -> tuple[Start, Arrays]:
        """Activations of the stem, and its BatchNorm statistics after all passes.

        n passes on the same batch give `r <- m^n r + (1 - m^n) batch`. The updates are applied one
        by one, as n separate passes would.
        """
        values = self._given(params, stats, images)
        wanted = [*self._learned, *self._fixed, *self._moved.values()]
        equations = needed(self._program.jaxpr.eqns, wanted)
        evaluate(equations, values)
        moving = reached(equations, [self._stats[name] for name in self._moved])
        repeated = [e for e in equations if moving & variables(e.invars)]
        repeated = needed(repeated, self._moved.values())
        for _ in range(self._passes - 1):
            values |= {self._stats[name]: values[var] for name, var in self._moved.items()}
            evaluate(repeated, values)
        moved = {name: values[var] for name, var in self._moved.items()}
        parts = (tuple(values[var] for var in part) for part in (self._learned, self._fixed))
        # Otherwise XLA updates the statistics late and keeps activations for that until then.
        return again((Start(*parts), moved))

    def rest(
        self, params: Arrays, stats: Arrays, start: Start, configuration: jax.Array, key: jax.Array
    ) -> tuple[Any, Arrays]:
        """The outputs of `forward` and the updated statistics; those of the stem are unchanged."""
        values = self._given(params, stats, None, configuration, key)
        values |= dict(zip(self._learned, start.learned, strict=True))
        values |= dict(zip(self._fixed, start.fixed, strict=True))
        evaluate(self._rest, values)
        outputs = jax.tree.unflatten(self._outputs, [read(values, v) for v in self._results])
        return outputs, stats | {name: read(values, var) for name, var in self._after.items()}

    def zeros(self) -> Any:
        """Zeros of the shapes and dtypes of the outputs of `forward`."""
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self._shapes)

    def backward(
        self, params: Arrays, stats: Arrays, images: jax.Array, cotangents: tuple[jax.Array, ...]
    ) -> Arrays:
        """Gradients with respect to the parameters of the stem alone, by name.

        Args:
          cotangents: gradients with respect to `Start.learned`, summed over passes, float32.
        """
        equations = needed(self._program.jaxpr.eqns, self._learned)
        used = variables(atom for equation in equations for atom in equation.invars)
        own = {name: params[name] for name, var in self._params.items() if var in used}
        # Otherwise, if a step is one program, XLA keeps the forward pass in memory until here. With
        # the cotangents, so that it is not computed again before the passes.
        own, images, cotangents = again((own, images, cotangents))

        def learned(own):
            values = self._given(params | own, stats, images)
            evaluate(equations, values)
            return tuple(values[var] for var in self._learned)

        values, transposed = jax.vjp(learned, own)
        cotangents = tuple(s.astype(v.dtype) for s, v in zip(cotangents, values, strict=True))
        return transposed(cotangents)[0]

    def _given(
        self, params: Arrays, stats: Arrays, images=None, configuration=None, key=None
    ) -> dict:
        """Values of the jaxpr's inputs; None for inputs that no evaluated equation reads."""
        leaves = jax.tree.leaves((params, stats))
        return bound(self._program, [*leaves, images, configuration, key])
