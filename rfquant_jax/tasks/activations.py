"""Activation memory on a device, computed before training."""

from __future__ import annotations

from flax import nnx

from rfquant_jax.export.ir import memory
from rfquant_jax.export.remarks import captured
from rfquant_jax.export.trace.values import UnsupportedNetwork
from rfquant_jax.quant.layers import QuantConv, QuantDense
from rfquant_jax.quant.plan import QuantizationPlan
from rfquant_jax.quant.residual import QuantResidualAdd


def activation_bytes(abstract: nnx.Module, plan: QuantizationPlan) -> tuple[int | None, str]:
    """Bytes of working memory of the C export for one image.

    Independent of bit-widths, because codes take one byte each.

    Args:
      abstract: the plain network with abstract arrays.
      plan: its quantization plan.

    Returns:
      the bytes, or None and the reason if the network cannot be exported.
    """
    try:
        found = captured(abstract, plan)
    except UnsupportedNetwork as error:
        return None, str(error)
    quantizes = {
        name: isinstance(module, QuantConv | QuantDense | QuantResidualAdd)
        and module.input_quantizer is not None
        for name, module in found.modules.items()
    }
    return memory.plan(found.graph, quantizes.__getitem__).size, ""


def activation_line(size: int | None, reason: str = "") -> str:
    """A sentence below the cost table; `reason` says why the network cannot be exported."""
    if size is None:
        reason = reason or "the network cannot be exported"
        return f"peak activation memory: unknown, because {reason}"
    return f"peak activation memory: {size} bytes for one image (C export, any configuration)"
