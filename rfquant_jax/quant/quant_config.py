"""Settings of the conversion to a coupled network: candidates, fixed bit-widths, rules."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from rfquant_jax.errors import ArgumentError
from rfquant_jax.quant.convert import CANDIDATES
from rfquant_jax.quant.lsq import FULL_PRECISION
from rfquant_jax.quant.rules import Rules
from rfquant_jax.quant.space import union
from rfquant_jax.runtime.setting import Rule, check_settings, documented, setting

MAX_BITS = 8  # codes with more bits do not fit the integer operands of exported models


def _is_bits(value: object) -> bool:
    return value == FULL_PRECISION or (isinstance(value, int) and 2 <= value <= MAX_BITS)


CANDIDATES_RULE = Rule(
    f"must be bit-widths from 2 to {MAX_BITS}, also {FULL_PRECISION}, largest first",
    lambda bits: (
        bool(bits)
        and all(map(_is_bits, bits))
        and all(larger > smaller for larger, smaller in itertools.pairwise(bits))
    ),
)
_FIXED_RULE = Rule(f"must be a bit-width from 2 to {MAX_BITS}, or {FULL_PRECISION}", _is_bits)


@documented
@dataclass(frozen=True)
class QuantConfig:
    """Bit-widths that the layers of a network may take; the defaults are those of RFQuant.

    Raises:
      ArgumentError: a bit-width is out of range, or a rule is malformed.

    Source: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543); LSQ (Esser et al., ICLR 2020).

    Example:
      >>> config = rfq.QuantConfig(candidates=(8, 4, 2), rules=(("last", (8,)),))
      >>> [layer.candidates for layer in rfq.plan(net, (8, 8, 3), config).layers]
      [(), (8, 4, 2), (), ()]
    """

    candidates: tuple[int, ...] = setting(
        CANDIDATES,
        f"bit-widths to choose from, largest first; 2 to {MAX_BITS}, or {FULL_PRECISION} for not "
        "quantized",
        CANDIDATES_RULE,
    )
    activation_candidates: tuple[int, ...] = setting(
        (),
        "bit-widths to choose from for the input activations of layers, largest first; empty: "
        "`candidates`",
        Rule(
            f"must be empty, or {CANDIDATES_RULE.text.removeprefix('must be ')}",
            lambda bits: not bits or CANDIDATES_RULE.holds(bits),
        ),
    )
    depthwise_min_bits: int = setting(3, "smallest bit-width of depthwise convolutions")
    fixed_bits: int = setting(
        8,
        "bit-width of the first convolution's weights, and of weights and input of the last dense "
        "layer, the classifier",
        _FIXED_RULE,
    )
    rules: Rules = setting(
        (),
        "(layer pattern, bit-widths) pairs for searched layers. Several bit-widths restrict the "
        "candidates, a single one fixes the layer. Patterns are shell patterns; if several match a "
        "layer, the last one applies. The classifier only follows a rule with its full name",
    )
    signed: tuple[str, ...] = setting(
        (),
        "patterns of layers whose input is quantized as signed, instead of by the sign that "
        "calibration finds",
    )
    unsigned: tuple[str, ...] = setting(
        (),
        "patterns of layers whose input is quantized as unsigned, instead of by the sign that "
        "calibration finds",
    )
    residual_bits: int = setting(
        FULL_PRECISION,
        f"bit-width of the inputs of residual additions: {MAX_BITS}, with one step size for each "
        f"addition; {FULL_PRECISION}: not quantized, as published",
        Rule(f"must be {MAX_BITS} or {FULL_PRECISION}", lambda b: b in (MAX_BITS, FULL_PRECISION)),
    )
    scale_gradient: bool = setting(
        False,
        "whether gradients of step sizes are multiplied by 1 / sqrt(elements * Qp), as in LSQ. "
        "RFQuant does not use it on ImageNet",
    )

    def __post_init__(self) -> None:
        for name in ("candidates", "activation_candidates", "rules", "signed", "unsigned"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_settings(self)
        for name in ("candidates", "activation_candidates"):
            bits = getattr(self, name)
            if bits and self.depthwise_min_bits > bits[0]:
                rule = f"leaves depthwise layers none of `{name}` {bits}"
                raise ArgumentError("depthwise_min_bits", self.depthwise_min_bits, rule)
        for rule in self.rules:
            _check_rule(rule)
        pairs = tuple((pattern, tuple(bits)) for pattern, bits in self.rules)
        object.__setattr__(self, "rules", pairs)

    @property
    def all_candidates(self) -> tuple[int, ...]:
        """The bit-widths of weights and of activations together, largest first."""
        return union(self.candidates, self.activation_candidates)


def _check_rule(rule: object) -> None:
    pair = isinstance(rule, tuple | list) and len(rule) == 2 and isinstance(rule[0], str)
    bits = rule[1] if pair and isinstance(rule[1], tuple | list) else ()
    if not bits or not all(map(_is_bits, bits)) or len(set(bits)) != len(bits):
        text = (
            f"must be a layer pattern and a tuple of different bit-widths from 2 to {MAX_BITS} "
            f"(or {FULL_PRECISION})"
        )
        raise ArgumentError("rules", rule, text)
