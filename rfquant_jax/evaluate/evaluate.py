"""Exact accuracy of a configuration."""

from __future__ import annotations

from rfquant_jax.data.arrays import LabelledImages, labelled_batches
from rfquant_jax.evaluate.evaluator import Accuracy
from rfquant_jax.evaluate.recalibrate import BATCH_SIZE, Recalibrate, evaluator_of, statistics
from rfquant_jax.nn.functional import arrays_of
from rfquant_jax.quant.configuration import Configuration
from rfquant_jax.quant.coupled_network import CoupledNetwork, check_coupled
from rfquant_jax.runtime import devices


def evaluate(
    coupled: CoupledNetwork,
    configuration: Configuration,
    data: LabelledImages,
    *,
    recalibrate: Recalibrate = None,
    batch_size: int = BATCH_SIZE,
) -> Accuracy:
    """Counts what a coupled network gets right at a configuration; every image counts once.

    The network itself is not changed, its bit-widths included. All configurations share one
    compiled program, and the result does not depend on the number of devices.

    Args:
      coupled: the coupled network.
      configuration: see `set_bits`.
      data: a pair (images [N, H, W, C], labels int[N]) or batches {"image", "label"}; images as
        `coupled.preprocess` takes them. Images labelled -1 do not count.
      recalibrate: images to take the BatchNorm statistics from, see `recalibrate`. None: the
        calibration images that `couple` was given; False: the running averages of the training.
      batch_size: arrays are cut into batches of so many images, a whole batch for each device.

    Returns:
      counts `top1` and `top5` of `images`, the sum `loss` of the cross-entropies, and as properties
      `top1_percent`, `top5_percent`, `mean_loss` and the 95 % interval `top1_interval` in percent.
      An image with logits that are not finite counts as wrong.

    Raises:
      UserError: it is not a configuration of this network.
      ArgumentError: there are no images, or their shapes do not fit.

    Example:
      >>> accuracy = rfq.evaluate(coupled, "w4a4", (images, labels), recalibrate=images)
      >>> accuracy.images
      64
      >>> 0 <= accuracy.top1 <= accuracy.top5 <= 64
      True
      >>> low, high = accuracy.top1_interval  # percent
    """
    rows = check_coupled(coupled).plan.configuration(configuration)
    batches = labelled_batches(data, batch_size)
    params = devices.replicate(arrays_of(coupled.network)[0], coupled.mesh)
    found = statistics(coupled, params, rows, recalibrate, batch_size)
    return evaluator_of(coupled).accuracy(params, found, rows, batches)
