"""Settings of the conversion to a coupled network: candidates, fixed bit-widths, rules."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from rfquant_jax.errors import ArgumentError
from rfquant_jax.quant.convert import CANDIDATES, Rules
from rfquant_jax.quant.lsq import FULL_PRECISION

MAX_BITS = 8  # codes with more bits do not fit the integer operands of exported models
CANDIDATES_RULE = f"must be bit-widths from 2 to {MAX_BITS}, also {FULL_PRECISION}, largest first"


@dataclass(frozen=True)
class QuantConfig:
    """Bit-widths that the layers of a network may take; the defaults are those of RFQuant.

    Attributes:
      candidates: bit-widths to choose from, largest first; 2 to 8, or 32 for not quantized.
      depthwise_min_bits: smallest bit-width of depthwise convolutions.
      fixed_bits: bit-width of the first convolution's weights, and of weights and input of the last
        dense layer, the classifier.
      rules: (layer pattern, bit-widths) pairs for searched layers. Several bit-widths restrict the
        candidates, a single one fixes the layer. Patterns are shell patterns; if several match a
        layer, the last one applies. The classifier only follows a rule with its full name.
      signed, unsigned: patterns of layers whose input is quantized as signed or unsigned, instead
        of by the sign that calibration finds.
      scale_gradient: whether gradients of step sizes are multiplied by 1 / sqrt(elements * Qp), as
        in LSQ. RFQuant does not use it on ImageNet.

    Raises:
      ArgumentError: a bit-width is out of range, or a rule is malformed.

    Source: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543); LSQ (Esser et al., ICLR 2020).

    Example:
      >>> config = rfq.QuantConfig(candidates=(8, 4, 2), rules=(("last", (8,)),))
      >>> [layer.candidates for layer in rfq.plan(net, (8, 8, 3), config).layers]
      [(), (8, 4, 2), (), ()]
    """

    candidates: tuple[int, ...] = CANDIDATES
    depthwise_min_bits: int = 3
    fixed_bits: int = 8
    rules: Rules = ()
    signed: tuple[str, ...] = ()
    unsigned: tuple[str, ...] = ()
    scale_gradient: bool = False

    def __post_init__(self) -> None:
        for name in ("candidates", "rules", "signed", "unsigned"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_bits()
        for rule in self.rules:
            _check_rule(rule)

    def _check_bits(self) -> None:
        bits = self.candidates
        known = all(2 <= b <= MAX_BITS or b == FULL_PRECISION for b in bits)
        falling = all(a > b for a, b in itertools.pairwise(bits))
        if not bits or not known or not falling:
            raise ArgumentError("candidates", bits, CANDIDATES_RULE)
        if self.depthwise_min_bits > bits[0]:
            rule = f"leaves depthwise layers none of `candidates` {bits}"
            raise ArgumentError("depthwise_min_bits", self.depthwise_min_bits, rule)
        if not 2 <= self.fixed_bits <= MAX_BITS and self.fixed_bits != FULL_PRECISION:
            rule = f"must be a bit-width from 2 to {MAX_BITS}, or {FULL_PRECISION}"
            raise ArgumentError("fixed_bits", self.fixed_bits, rule)


def _check_rule(rule: object) -> None:
    pair = isinstance(rule, tuple | list) and len(rule) == 2 and isinstance(rule[0], str)
    bits = rule[1] if pair and isinstance(rule[1], tuple | list) else ()
    valid = [b for b in bits if b == FULL_PRECISION or (isinstance(b, int) and 2 <= b <= MAX_BITS)]
    if not bits or len(valid) != len(bits) or len(set(bits)) != len(bits):
        text = (
            f"must be a layer pattern and a tuple of different bit-widths from 2 to {MAX_BITS} "
            f"(or {FULL_PRECISION})"
        )
        raise ArgumentError("rules", rule, text)
