"""Codes of 2 to 8 bits packed without gaps.

Code `i` of a tensor occupies bits `i * bits` to `i * bits + bits - 1` of the stream, least
significant bit first. Bit `k` of the stream is bit `k % 8` of byte `k // 8`. Negative codes use
two's complement, and the unused bits of the last byte are zero.
"""

from __future__ import annotations

import numpy as np

WIDTHS = range(2, 9)


def packed_size(count: int, bits: int) -> int:
    """Number of bytes of `count` packed codes."""
    return -(-count * bits // 8)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Packs integers from -2^(bits-1) to 2^(bits-1) - 1, in C order, into uint8[bytes].

    Raises:
      ValueError: a code is outside that range.
    """
    codes = np.asarray(codes).reshape(-1)
    if codes.size and not (-(1 << (bits - 1)) <= codes.min() and codes.max() < 1 << (bits - 1)):
        raise ValueError(f"codes from {codes.min()} to {codes.max()} do not fit {bits} bits")
    low_first = np.unpackbits(
        codes.astype(np.int8).view(np.uint8)[:, None], axis=1, bitorder="little", count=bits
    )
    return np.packbits(low_first, bitorder="little")


def unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The inverse of `pack`, int8[count].

    Args:
      packed: uint8[packed_size(count, bits)].
    """
    flat = np.unpackbits(packed, bitorder="little", count=count * bits).reshape(count, bits)
    values = np.packbits(flat, axis=1, bitorder="little")[:, 0].astype(np.int16)
    return np.where(values >> (bits - 1), values - (1 << bits), values).astype(np.int8)
