"""Checks on abstract passes that a network's code runs with the layers of the coupled network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
from flax import nnx

from rfquant_jax.errors import RunFailure
from rfquant_jax.quant import forward
from rfquant_jax.quant.residual import remove_quantizers

if TYPE_CHECKING:
    from rfquant_jax.quant.plan import QuantizationPlan


def check_coupled(network: nnx.Module, plan: QuantizationPlan) -> None:
    """Traces the coupled network in training and in evaluation mode; nothing is computed.

    The network's code may read values of its layers that a quantized layer holds in another form,
    for example strides as a pair.

    Args:
      network: the plain network; its arrays may be abstract.

    Raises:
      UserError: the network cannot be converted.
      RunFailure: its code fails with converted layers; names the module and the line. The cause is
        attached.
    """

    def passes(network: nnx.Module, images: jax.Array) -> None:
        coupled = plan.convert(network, initialise_steps=False)
        names = forward.module_names(coupled)
        # They change no shape and see no code of the network, but take most of the time.
        remove_quantizers(coupled)
        for mode in ("training", "evaluation"):
            coupled.train() if mode == "training" else coupled.eval()
            what = f"the network runs, but not with quantized layers in {mode} mode"
            forward.check_output(forward.call(coupled, images, what, RunFailure, names), mode)

    forward.traced(network, plan.image_shape, passes)
