"""Exact accuracy of a configuration."""

from __future__ import annotations

from rfquant_jax.data.arrays import LabelledImages, labelled_batches
from rfquant_jax.data.grouped import share
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
    """The exact accuracy of a coupled network at a configuration; every image counts once.

    The network is not modified, including its bit-widths. All configurations share one compiled
    program. The result does not depend on the number of devices.

    Args:
      coupled: the coupled network.
      configuration: in any form that `set_bits` takes.
      data: a pair (images [N, H, W, C], labels int[N]) or batches {"image", "label"}, with images
        in the form that `coupled.preprocess` takes. Images with the label -1 are ignored.
      recalibrate: images for the BatchNorm statistics of the configuration, see `recalibrate`.
        None: the calibration images of `couple`; False: the running averages of training.
      batch_size: images per batch over all devices, for arrays. Statistics are measured on whole
        batches, one per device, so that they do not depend on the number of devices.

    Returns:
      the counts `top1`, `top5` and `images`, the sum of cross-entropies `loss`, and the properties
      `top1_percent`, `top5_percent`, `mean_loss` and `top1_interval` (95 %, in percent). An image
      with a logit that is not finite counts as wrong.

    Raises:
      UserError: not a configuration of this network.
      ArgumentError: there are no images, their shapes do not fit, or the network has no logit for
        a label.

    Source: RFQuant (Tang et al., CVPR 2024): evaluation with recalibrated BatchNorm.

    Example:
      >>> accuracy = rfq.evaluate(coupled, "w4a4", (images, labels), recalibrate=images)
      >>> accuracy.images
      64
      >>> 0 <= accuracy.top1 <= accuracy.top5 <= 64
      True
      >>> low, high = accuracy.top1_interval  # percent
    """
    plan = check_coupled(coupled).plan
    rows = plan.configuration(configuration)
    batches = labelled_batches(data, share(batch_size, coupled.mesh), plan.logits_shape[-1])
    params = devices.replicate(arrays_of(coupled.network)[0], coupled.mesh)
    found = statistics(coupled, params, rows, recalibrate, batch_size)
    return evaluator_of(coupled).accuracy(params, found, rows, batches)
