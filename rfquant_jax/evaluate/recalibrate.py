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

# Images to take statistics from; None: the calibration images; False: the running averages.
Recalibrate = Images | Literal[False] | None
BATCH_SIZE = 128  # images a device works on at a time


def recalibrate(
    coupled: CoupledNetwork, images: Images = None, *, batch_size: int = BATCH_SIZE
) -> None:
    """Sets the BatchNorm statistics of the configuration that a coupled network runs at.

    Training moves the statistics of sampled configurations only. Here they are measured: the plain
    average over batches of means and unbiased variances.

    Args:
      coupled: changed in place: the statistics of its configuration, see `set_bits`.
      images: [N, H, W, C], or batches of one shape, as `coupled.preprocess` takes them. None: the
        calibration images that `couple` was given.
      batch_size: an array is cut into batches of so many images.

    Raises:
      ArgumentError: there are no images, or batches of several shapes.

    Source: RFQuant (Tang et al., CVPR 2024), section 4; as in slimmable networks (Yu et al., 2019).

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
    """The compiled evaluation of a coupled network, the same one for all its configurations."""
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
      params: of the network, replicated.
      configuration: int32[L, 2].
      images: see `Recalibrate`.
      batch_size: an array is cut into batches of so many images.
    """
    evaluator = evaluator_of(coupled)
    if images is False:
        stats = devices.replicate(arrays_of(coupled.network)[1], coupled.mesh)
        return evaluator.running_statistics(params, stats, configuration)
    given = coupled.shared.calibration if images is None else images
    return evaluator.recalibrate(params, configuration, image_batches(given, batch_size))
