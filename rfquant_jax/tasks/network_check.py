"""Checks the network of a run against its images, for every task."""

from __future__ import annotations

from rfquant_jax.errors import ConfigError, RunFailure, UserError
from rfquant_jax.quant.forward import check_classes, logits_shape
from rfquant_jax.tasks.run import Run


def check_network(run: Run) -> None:
    """Checks that the network returns one logit for each class; nothing is computed.

    Raises:
      UserError: it does not, or it does not map images to logits.
    """
    shape = logits_shape(run.abstract_network, run.image_shape)
    if len(shape) > 1:
        raise UserError(
            f"the network returns logits of shape {shape} for one image, at several positions: "
            f"the images have one label each, so there must be {run.num_classes}"
        )
    check_classes(shape, run.num_classes)


def warn_if_not_quantizable(run: Run) -> None:
    """Logs why coupled training would refuse the network, before it is trained in vain."""
    try:
        run.build("plan")
    except ConfigError:  # of the fields of quantization, which this run does not use
        return
    except (UserError, RunFailure) as error:
        run.log.info(f"warning: the task train will refuse this network: {error}")
