"""Step sizes of a coupled network without training (post-training quantization).

Each step size minimises the squared error of its tensor at its bit-width, see `step_search`.
Batches are not sharded: each device processes whole ones, so that the result does not depend on the
number of devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rfquant_jax.data.grouped import grouped
from rfquant_jax.nn.features import listening_to_inputs
from rfquant_jax.nn.functional import Arrays, FunctionalNetwork
from rfquant_jax.quant import step_search
from rfquant_jax.quant.calibrate import (
    Preprocess,
    measure_steps,
    with_batch_statistics,
    with_steps,
)
from rfquant_jax.quant.layers import assign, quantized_layers
from rfquant_jax.quant.space import ACTIVATIONS, Space
from rfquant_jax.runtime.devices import (
    REPLICATED,
    SHARDED,
    Compiled,
    add_axis,
    fetch,
    replicate,
    split,
)

SAMPLE = 2**16  # values of a layer's input per batch used in the search
ROUGH = 33  # steps of the second grid of a single batch; the sum over batches uses a finer grid


def search_weight_steps(functional: FunctionalNetwork) -> Arrays:
    """`functional.params` with the weight quantizers' steps replaced."""
    params = dict(functional.params)
    for layer in quantized_layers(functional.merge(functional.params, functional.stats)):
        if layer.weight_quantizer is not None:
            kernel = np.asarray(layer.kernel[...])
            steps = step_search.weight_steps(kernel, layer.weight_quantizer.candidates)
            params[f"{layer.name}.weight_quantizer.step"] = jnp.asarray(steps)
    return params


def search_activation_steps(
    functional: FunctionalNetwork,
    params: Arrays,
    space: Space,
    batches: Sequence,
    preprocess: Preprocess,
    mesh: Mesh,
    check: Callable[[], None] = lambda: None,
) -> Arrays:
    """`params` with every activation step size set by a line search on data.

    For each bit-width of activations, from the largest to the smallest, there are two passes over
    the batches. The first searches each layer's step on each batch separately, in forward order, as
    `calibrate.initialize_activation_steps` does. The second uses the means of these steps in all
    layers and sums the errors of a fine grid around them over the batches; the step with the
    smallest sum is selected. Layers without a bit-width and layers with fixed bit-widths are
    treated as in `calibrate`.

    Args:
      functional: the coupled network, with signs of the inputs set.
      params: its parameters, with weight steps set.
      batches: this process's batches of images, of equal size, see `Pipeline.full`.
      check: called before each batch; may raise to stop.
    """
    specs = (REPLICATED, REPLICATED, SHARDED, REPLICATED, REPLICATED)
    search = Compiled(measure_steps(functional, preprocess, _search), mesh, specs, SHARDED)
    compare = Compiled(_compare(functional, preprocess), mesh, specs, SHARDED)
    stats = replicate(functional.stats, mesh)

    def over_batches(function: Compiled, params: Arrays, *given) -> dict[str, np.ndarray]:
        """Results of the function for each batch, by layer: float32[batches, ...]."""
        params, found = replicate(params, mesh), []
        for images, real in grouped(batches, mesh):
            check()
            result = fetch(function(params, stats, split(images, mesh), *given))
            found.append({name: values[real] for name, values in result.items()})
        return {name: np.concatenate([part[name] for part in found]) for name in found[0]}

    for bits in space.columns[ACTIVATIONS]:
        configuration = space.uniform(bits, bits)
        # As in `calibrate`: the replacement of a missing bit-width is measured as well.
        fresh = configuration[:, ACTIVATIONS] <= bits
        found = over_batches(search, params, configuration, fresh)
        means = {name: _geometric_mean(steps) for name, steps in found.items()}
        params = params | with_steps(params, means, space, bits)
        grids = {name: step_search.fine_grid(steps) for name, steps in found.items()}
        errors = over_batches(compare, params, configuration, grids)
        best = {name: _least(errors[name], grid) for name, grid in grids.items()}
        params = params | with_steps(params, best, space, bits)
    return params


def _search(x: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    return step_search.line_search(sample(x), lower, upper, ROUGH)


def _compare(functional: FunctionalNetwork, preprocess: Preprocess):
    def compare(params, stats, images, configuration, grids: Mapping[str, jax.Array]):
        network = with_batch_statistics(functional, params, stats)
        assign(network, configuration)
        errors = {}

        def listen(layer, x):
            if layer.input_quantizer is not None:
                bounds = layer.input_quantizer.bounds(layer.bits[...][1])
                grid = grids[layer.name]
                errors[layer.name] = step_search.squared_errors(sample(x), grid, *bounds)

        with listening_to_inputs(listen):
            network(preprocess(images))
        return add_axis(errors)

    return compare


def sample(x: jax.Array) -> jax.Array:
    """At most `SAMPLE` values of x, spread evenly over images, positions and channels."""
    stride = -(-x.size // SAMPLE)
    # A stride coprime to the shape reaches every channel and column.
    while math.gcd(stride, x.size) > 1:
        stride += 1
    return x.reshape(-1)[::stride]


def _geometric_mean(steps: np.ndarray) -> np.float32:
    return np.float32(np.exp(np.mean(np.log(steps, dtype=np.float64))))


def _least(errors: np.ndarray, grid: np.ndarray) -> np.float32:
    """The step with the smallest error summed over all batches, in their order."""
    total = np.zeros(len(grid))
    for row in errors.astype(np.float64):
        total += row
    return grid[np.argmin(total)]
