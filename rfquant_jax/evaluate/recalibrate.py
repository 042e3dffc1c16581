"""BatchNorm statistics of a coupled network at one configuration."""

from __future__ import annotations

from typing import Literal

import jax
import numpy as np

from rfquant_jax.data.arrays import Images, image_batches
from rfquant_jax.evaluate.evaluator import Evaluator
from rfquant_jax.nn.functional import Arrays, arrays_of
from rfquant_jax.quant.coupled_network import CoupledNetwork, check_coupled
from rfquant_jax.quant.statistics import install_statistics
from rfquant_jax.runtime import devices

# Images for the statistics; None: the calibration images; False: the running averages.
Recalibrate = Images | Literal[False] | None
BATCH_SIZE = 128  # images per batch


def recalibrate(
    coupled: CoupledNetwork, images: Images = None, *, batch_size: int = BATCH_SIZE
) -> None:
    """Measures the BatchNorm statistics for the current configuration of a coupled network.

    The running averages of training mix statistics of many configurations. Recalibration replaces
    them by the average over batches of the means and unbiased variances at this configuration.

    Args:
      coupled: modified in place: only the statistics of its current configuration, see `set_bits`.
      images: [N, H, W, C] or batches of one shape, in the form that `coupled.preprocess` takes.
        None: the calibration images of `couple`.
      batch_size: images per batch, for an array; each device processes whole batches.

    Raises:
      ArgumentError: there are no images, or batches of several shapes.

    Source: RFQuant (Tang et al., CVPR 2024), as in slimmable networks (Yu et al., ICLR 2019).

    Example:
      >>> rfq.set_bits(coupled, "w4a4")
      >>> rfq.recalibrate(coupled, images)
      >>> predicted = coupled(images[:4]).argmax(-1)
    """
    given = coupled.configuration, images, batch_size
    params = devices.replicate(arrays_of(check_coupled(coupled).network)[0], coupled.mesh)
    found = statistics(coupled, params, *given)
    install_statistics(coupled.network, {n: jax.numpy.asarray(v) for n, v in found.items()})


def evaluator_of(coupled: CoupledNetwork) -> Evaluator:
    """The compiled evaluation of a coupled network, shared by all configurations."""
    make = lambda: Evaluator(coupled.functional, coupled.mesh, coupled.preprocess)  # noqa: E731
    return coupled.shared.once("evaluator", make)


def statistics(
    coupled: CoupledNetwork,
    params: Arrays,
    configuration: np.ndarray,
    images: Recalibrate,
    batch_size: int = BATCH_SIZE,
) -> Arrays:
    """BatchNorm statistics of a configuration, float32[C] each.

    Args:
      params: the parameters of the network, replicated over the devices.
      configuration: int32[L, 2].
      images: see `Recalibrate`.
      batch_size: images per batch, for an array.
    """
    evaluator = evaluator_of(coupled)
    if images is False:
        stats = devices.replicate(arrays_of(coupled.network)[1], coupled.mesh)
        return evaluator.running_statistics(params, stats, configuration)
    given = coupled.shared.calibration if images is None else images
    return evaluator.recalibrate(params, configuration, image_batches(given, batch_size))
