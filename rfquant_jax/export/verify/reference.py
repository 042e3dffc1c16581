"""The reference for exported models: the evaluation of the coupled network."""

from __future__ import annotations

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rfquant_jax.evaluate.network import evaluation_network
from rfquant_jax.export.ir.fold import weight_codes
from rfquant_jax.nn.features import listening_to_inputs
from rfquant_jax.nn.functional import Arrays, FunctionalNetwork
from rfquant_jax.quant.layers import quantized_layers
from rfquant_jax.quant.lsq import FULL_PRECISION


def fixed_network(
    functional: FunctionalNetwork, params: Arrays, statistics: Arrays, configuration: np.ndarray
) -> nnx.Module:
    """A coupled network at one configuration in evaluation mode, computing like `Evaluator`.

    Args:
      params: averaged parameters.
      statistics: recalibrated for the configuration, see `evaluate.Evaluator.recalibrate`.
      configuration: int32[L, 2].
    """
    params, statistics = jax.tree.map(jnp.asarray, jax.device_get((params, statistics)))
    return evaluation_network(functional, params, statistics, jnp.asarray(configuration))


class ReferenceModel:
    """Runs a network in evaluation mode and records the codes of its layers' inputs.

    Args:
      network: see `fixed_network`; not modified.
      dtype: np.float32, as in the evaluation, or np.float64, where rounding is too fine to change
        codes: parameters keep their float32 values, and kernels lie exactly on their grids.
    """

    def __init__(self, network: nnx.Module, dtype: type = np.float32):
        self.dtype = dtype
        with self._precision():
            network = nnx.clone(network)
            if dtype == np.float64:
                _place_on_grids(network)
            self._graphdef, state = nnx.split(network)
            self._state = jax.tree.map(self._cast, state)

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Logits [N, classes], and the input codes, int16, of each layer with a quantized input.

        Args:
          images: float32[N, H, W, C], normalised.
        """
        return self._run(_logits_and_codes, images)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """The logits, without recording codes."""
        return self._run(_logits, images)

    def _run(self, compiled, images: np.ndarray):
        with self._precision(), jax.default_matmul_precision("highest"):
            images = jnp.asarray(images, self.dtype)
            return jax.device_get(compiled(self._graphdef, self._state, images))

    def _precision(self) -> contextlib.AbstractContextManager:
        double = self.dtype == np.float64
        return jax.enable_x64(True) if double else contextlib.nullcontext()

    def _cast(self, x):
        floating = hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)
        return x.astype(self.dtype) if floating else x


# Shared: configurations and statistics are data, so a network is compiled once.
@functools.partial(jax.jit, static_argnums=0)
def _logits(graphdef: nnx.GraphDef, state: nnx.State, images: jax.Array):
    return nnx.merge(graphdef, state)(images)


@functools.partial(jax.jit, static_argnums=0)
def _logits_and_codes(graphdef: nnx.GraphDef, state: nnx.State, images: jax.Array):
    codes = {}

    def listen(layer, x):
        if layer.input_quantizer is not None:
            bits = layer.bits[...][1]
            step, bounds = layer.input_quantizer.step_size(bits), layer.input_quantizer.bounds
            codes[layer.name] = jnp.round(jnp.clip(x / step, *bounds(bits))).astype(jnp.int16)

    with listening_to_inputs(listen):
        logits = nnx.merge(graphdef, state)(images)
    return logits, codes


def _place_on_grids(network: nnx.Module) -> None:
    """Replaces every quantized kernel by its codes times its step size, in float64."""
    for layer in quantized_layers(network):
        bits, step, codes = weight_codes(layer)
        if bits < FULL_PRECISION:
            exact = np.moveaxis(codes.astype(np.float64) * step, 0, -1)
            layer.kernel.set_value(jnp.asarray(exact))
