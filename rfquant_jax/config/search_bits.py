"""Initial bit-width and limits of a search, with defaults for fields left at 0."""

from __future__ import annotations

from ml_collections import ConfigDict

from rfquant_jax.errors import ConfigError

PREFERRED_START = 5  # start of the paper's searches


def limits(config: ConfigDict) -> tuple[int, int]:
    """The smallest and the largest bit-width of a search.

    0 in `search.min_bits` or `search.max_bits` means the smallest or largest candidate.
    """
    search, quant = config.search, config.quant
    candidates = (*quant.candidates, *quant.activation_candidates)
    return search.min_bits or min(candidates), search.max_bits or max(candidates)


def start(config: ConfigDict) -> int:
    """The uniform bit-width a search starts from.

    0 in `search.start_bits` means 5 if allowed, else the middle of the allowed candidates, the
    smaller of two.
    """
    if config.search.start_bits:
        return config.search.start_bits
    within = _within(config)
    return PREFERRED_START if PREFERRED_START in within else within[len(within) // 2]


def check(config: ConfigDict) -> None:
    """Checks the three fields against each other and against the candidates.

    Raises:
      ConfigError: the limits leave no candidate, or the start is not an allowed candidate.
    """
    search, candidates = config.search, config.quant.candidates
    smallest, largest = limits(config)
    if not _within(config):
        field = "min_bits" if search.min_bits else "max_bits"
        rule = f"no bit-width from {smallest} to {largest} is in quant.candidates {candidates}"
        raise ConfigError(f"search.{field}", search[field], rule)
    if not search.start_bits:
        return
    if search.start_bits not in candidates:
        rule = f"must be 0 or one of quant.candidates {candidates}"
        raise ConfigError("search.start_bits", search.start_bits, rule)
    if smallest > search.start_bits:
        rule = f"must not be above search.start_bits {search.start_bits}"
        raise ConfigError("search.min_bits", search.min_bits, rule)
    if largest < search.start_bits:
        rule = f"must not be below search.start_bits {search.start_bits}"
        raise ConfigError("search.max_bits", search.max_bits, rule)


def _within(config: ConfigDict) -> list[int]:
    smallest, largest = limits(config)
    return [bits for bits in config.quant.candidates if smallest <= bits <= largest]
