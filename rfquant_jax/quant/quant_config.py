"""How a plain network becomes a coupled one: candidates, fixed bit-widths, exceptions."""

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
    """Bit-widths of a network's layers; the defaults are those of RFQuant (CVPR 2024).

    Attributes:
      candidates: bit-widths that layers are searched over, largest first; 2 to 8, or 32 for not
        quantized.
      depthwise_min_bits: depthwise convolutions never go below.
      fixed_bits: of the first convolution's weights and of dense layers.
      rules: (layer pattern, bit-widths) pairs over the searched layers, the later one wins: several
        bit-widths narrow the candidates, a single one fixes the layer. Patterns are shell patterns.
      signed, unsigned: patterns of layers whose input is signed or unsigned, whatever calibration
        finds.
      scale_gradient: multiply gradients of step sizes by 1 / sqrt(elements * Qp), as LSQ does.

    Raises:
      ArgumentError: a bit-width is out of range, or a rule is malformed.

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
