"""The network of every evaluation: a coupled network at one configuration, on integer codes.

The exact evaluation, recalibration, the evaluation of candidates in a search and the reference of
exported models all use it, so that they compute the same numbers.
"""

from __future__ import annotations

import jax
import numpy as np
from flax import nnx

from rfquant_jax.nn.functional import Arrays, FunctionalNetwork, zeros_like
from rfquant_jax.quant.calibrate import with_batch_statistics
from rfquant_jax.quant.layers import assign, evaluate_on_codes
from rfquant_jax.quant.statistics import install_statistics


def evaluation_network(
    functional: FunctionalNetwork,
    params: Arrays,
    statistics: Arrays,
    configuration: jax.Array | np.ndarray,
) -> nnx.Module:
    """A network in evaluation mode, with the BatchNorm statistics of its configuration.

    Args:
      functional: a coupled network, or a plain one (whose configurations are int32[0, 2]).
      params: its parameters.
      statistics: `{"<BatchNorm>.mean" | ".var": float32[C]}`, see `Evaluator.recalibrate`.
      configuration: int32[L, 2]; may be traced.
    """
    network = functional.merge(params, zeros_like(functional.stats))
    network.eval()
    evaluate_on_codes(network)
    assign(network, configuration)
    install_statistics(network, statistics)
    return network


def batch_statistics_network(
    functional: FunctionalNetwork, params: Arrays, configuration: jax.Array | np.ndarray
) -> nnx.Module:
    """A network that normalizes by the statistics of its batch; arguments as above.

    It has no dropout. Its running statistics become those of the batch.
    """
    network = with_batch_statistics(functional, params, zeros_like(functional.stats))
    network.set_attributes(momentum=0.0, raise_if_not_found=False)  # keeps batch statistics
    evaluate_on_codes(network)
    assign(network, configuration)
    return network
