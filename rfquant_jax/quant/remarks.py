"""What a network's normalization means for its configurations, in plain lines."""

from __future__ import annotations

from collections.abc import Sequence

from flax import nnx

from rfquant_jax.errors import listed
from rfquant_jax.nn.functional import dotted
from rfquant_jax.quant.layer_table import Layer

# They normalize each image by itself.
_WITHOUT_STATISTICS = (nnx.LayerNorm, nnx.GroupNorm, nnx.InstanceNorm, nnx.RMSNorm)


def normalization_remarks(network: nnx.Module, layers: Sequence[Layer]) -> list[str]:
    """Lines about layers and normalizations that are not switched by bit-width.

    Args:
      network: the plain network; its arrays may be abstract.
      layers: its layers, with their candidates.
    """
    owned = {layer.batch_norm for layer in layers}
    modules = list(nnx.iter_modules(network))
    bare = [layer.name for layer in layers if layer.candidates and layer.batch_norm is None]
    loose = [dotted(p) for p, m in modules if isinstance(m, nnx.BatchNorm) and p not in owned]
    others: dict[str, list[str]] = {}
    for path, module in modules:
        if isinstance(module, _WITHOUT_STATISTICS):
            others.setdefault(type(module).__name__, []).append(dotted(path))
    lines = []
    if bare:
        lines.append(
            f"no BatchNorm directly follows {listed(bare)}: no scale, bias and statistics are "
            "switched with the bit-widths there"
        )
    if loose:
        lines.append(
            f"BatchNorm {listed(loose)} does not directly follow a convolution or dense layer: one "
            "scale and bias for all bit-widths; its statistics are recalibrated for each "
            "configuration"
        )
    lines += [
        f"{kind} {listed(names)}: one scale and bias for all bit-widths, and no statistics to "
        "recalibrate"
        for kind, names in others.items()
    ]
    return lines
