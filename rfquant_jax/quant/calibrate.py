"""Data-dependent initialization of a coupled network: signed inputs and activation step sizes."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from rfquant_jax.errors import UserError
from rfquant_jax.nn.features import listening_to_inputs
from rfquant_jax.nn.functional import Arrays, FunctionalNetwork
from rfquant_jax.quant import lsq
from rfquant_jax.quant.layers import assign, quantized_layers, slot
from rfquant_jax.quant.residual import remove_quantizers
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

Preprocess = Callable[[jax.Array], jax.Array]
# estimate(input of a layer, smallest code, largest code) -> step size float32[]
Estimate = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def find_signed(
    network: nnx.Module, batches: Sequence[np.ndarray], preprocess: Preprocess, mesh: Mesh
) -> list[str]:
    """Names of the quantized layers that receive a negative input in any calibration batch.

    The network runs unquantized, with batch statistics in BatchNorm and without dropout.

    Args:
      network: the coupled network.
      batches: this process's images, as `preprocess` takes them, split evenly over its devices.
      preprocess: maps a batch of images to the network's input.
    """
    functional = FunctionalNetwork(network)

    def observe(params, stats, images):
        merged = with_batch_statistics(functional, params, stats)
        watched = [m.name for m in quantized_layers(merged) if m.input_quantizer is not None]
        remove_quantizers(merged)
        negative = {}
        with listening_to_inputs(lambda layer, x: negative.update({layer.name: jnp.any(x < 0)})):
            merged(preprocess(images))
        return add_axis({name: negative[name] for name in watched})

    compiled = Compiled(observe, mesh, (REPLICATED, REPLICATED, SHARDED), SHARDED)
    params, stats = replicate((functional.params, functional.stats), mesh)
    found: set[str] = set()
    for images in batches:
        seen = fetch(compiled(params, stats, split(images, mesh)))
        found |= {name for name, negative in seen.items() if negative.any()}
    return sorted(found)


def override_signed(
    found: Sequence[str], names: Sequence[str], signed: Sequence[str], unsigned: Sequence[str]
) -> list[str]:
    """Applies the user's patterns to the result of `find_signed`.

    Args:
      names: all layers with a quantized input.
      signed, unsigned: shell patterns over `names`; `unsigned` is applied last.

    Raises:
      UserError: a pattern matches no layer.
    """
    result = set(found)
    for field, patterns in (("signed", signed), ("unsigned", unsigned)):
        for pattern in patterns:
            matched = set(fnmatch.filter(names, pattern))
            if not matched:
                known = ", ".join(names)
                raise UserError(f"`{field}`: {pattern!r} matches none of {known}")
            result = result | matched if field == "signed" else result - matched
    return sorted(result)


def initialize_activation_steps(
    functional: FunctionalNetwork,
    space: Space,
    batches: Sequence[np.ndarray],
    preprocess: Preprocess,
    mesh: Mesh,
) -> Arrays:
    """Parameters with every activation step size set from data, 2 * mean|x| / sqrt(Qp) as in LSQ.

    There is one pass for each bit-width of activations, from the largest to the smallest. In a
    pass, the step of each layer is set from its input, in forward order, and later layers already
    use it. A layer without the bit-width uses its next smaller one, else its smallest. Results are
    means over batches and devices. Layers with fixed bit-widths keep the value of the first pass.

    Returns:
      `functional.params` with the input quantizers' steps replaced.
    """
    in_specs = (REPLICATED, REPLICATED, SHARDED, REPLICATED, REPLICATED)
    measure = Compiled(measure_steps(functional, preprocess, _published), mesh, in_specs, SHARDED)
    params, stats = functional.params, replicate(functional.stats, mesh)
    for bits in space.columns[ACTIVATIONS]:
        configuration = space.uniform(bits, bits)
        # A smaller bit-width that replaces a missing one is measured here as well, so that it is
        # never used uninitialised. Its own, later pass overwrites the value.
        fresh = configuration[:, ACTIVATIONS] <= bits
        passes = [
            fetch(
                measure(replicate(params, mesh), stats, split(images, mesh), configuration, fresh)
            )
            for images in batches
        ]
        means = {
            name: np.mean([p[name] for p in passes], dtype=np.float64).astype(np.float32)
            for name in passes[0]
        }
        params = params | with_steps(params, means, space, bits)
    return params


def with_steps(params: Arrays, steps: Mapping[str, np.ndarray], space: Space, bits: int) -> Arrays:
    """The input quantizers' parameters that the pass at `bits` changes.

    Args:
      steps: float32[] by layer name; layers with fixed bit-widths are updated in the first pass
        only.
    """
    configuration = space.uniform(bits, bits)[:, ACTIVATIONS]
    used = zip(space.names, configuration, configuration <= bits, strict=True)
    candidates = space.columns[ACTIVATIONS]
    slots = {name: candidates.index(b) for name, b, new in used if new}
    if bits == candidates[0]:
        slots |= {name: 0 for name in steps if name not in space.names}
    keys = {name: f"{name}.input_quantizer.step" for name in steps if name in slots}
    return {key: params[key].at[slots[name]].set(steps[name]) for name, key in keys.items()}


def _published(x: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    return jnp.maximum(lsq.activation_step_size(x, upper), lsq.MIN_STEP)


def measure_steps(functional: FunctionalNetwork, preprocess: Preprocess, estimate: Estimate):
    """A per-device function of one pass that estimates each layer's step before the layer uses it.

    Args:
      estimate: function that estimates a layer's step from its input.

    Returns:
      measure(params, stats, images, configuration int32[L, 2], fresh bool[L]) ->
      `{layer name: float32[1]}`; searched layers that are not `fresh` keep their steps.
    """

    def measure(params, stats, images, configuration, fresh):
        network = with_batch_statistics(functional, params, stats)
        assign(network, configuration)
        measured = {}

        def listen(layer, x):
            quantizer = layer.input_quantizer
            if quantizer is None:
                return
            bits = layer.bits[...][1]
            step = estimate(x, *quantizer.bounds(bits))
            measured[layer.name] = step
            new = True if layer.index is None else fresh[layer.index]
            steps = quantizer.step[...]
            updated = steps.at[slot(bits, quantizer.candidates)].set(step)
            quantizer.step.set_value(jnp.where(new, updated, steps))

        with listening_to_inputs(listen):
            network(preprocess(images))
        return add_axis(measured)

    return measure


def with_batch_statistics(
    functional: FunctionalNetwork, params: Arrays, stats: Arrays
) -> nnx.Module:
    network = functional.merge(params, stats)
    network.eval()
    network.set_attributes(use_running_average=False, raise_if_not_found=False)
    return network
