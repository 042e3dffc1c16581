"""Codes of 2 to 8 bits packed without gaps.

Code `i` of a tensor takes the bits `i * bits` to `i * bits + bits - 1` of the stream, its lowest
bit first; bit `k` of the stream is bit `k % 8` of byte `k // 8`. Negative codes are in two's
complement, and what is left of the last byte is zero.
"""

from __future__ import annotations

import numpy as np

WIDTHS = range(2, 9)


def packed_size(count: int, bits: int) -> int:
    """Bytes that so many codes take."""
    return -(-count * bits // 8)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Packs whole numbers from -2^(bits-1) to 2^(bits-1) - 1, in C order, to uint8[bytes].

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
    """The codes that `pack` got, int8[count].

    Args:
      packed: uint8[packed_size(count, bits)].
    """
    flat = np.unpackbits(packed, bitorder="little", count=count * bits).reshape(count, bits)
    values = np.packbits(flat, axis=1, bitorder="little")[:, 0].astype(np.int16)
    return np.where(values >> (bits - 1), values - (1 << bits), values).astype(np.int8)
