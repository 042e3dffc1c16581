import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfquant_jax.export.formats import stablehlo
from rfquant_jax.export.ir.packing import WIDTHS, pack, packed_size, unpack


@pytest.mark.parametrize(
    ("codes", "bits", "expected"),
    [
        # 01, 10, 11, 00, then 01: lowest bits first, four codes a byte.
        ([1, -2, -1, 0, 1], 2, [0b00111001, 0b00000001]),
        # The example of docs/integer_format.md.
        ([1, -2, 3, -4], 3, [0xF1, 0x08]),
        ([7, -8, -1], 4, [0x87, 0x0F]),
        ([-16, 15], 5, [0b11110000, 0b00000001]),
        ([-128, 127], 8, [0x80, 0x7F]),
        ([], 6, []),
    ],
)
def test_codes_lie_where_the_format_says(codes, bits, expected):
    packed = pack(np.asarray(codes, np.int8), bits)
    assert packed.dtype == np.uint8
    assert packed.tolist() == expected
    assert unpack(packed, bits, len(codes)).tolist() == codes


@st.composite
def tensors(draw):
    bits = draw(st.sampled_from(list(WIDTHS)))
    half = 1 << (bits - 1)
    return bits, draw(st.lists(st.integers(-half, half - 1), min_size=1, max_size=60))


@given(tensors())
def test_any_codes_come_back_and_the_bytes_are_a_plain_stream_of_bits(drawn):
    bits, codes = drawn
    packed = pack(np.asarray(codes, np.int8), bits)
    stream = 0
    for place, code in enumerate(codes):
        stream |= (code % (1 << bits)) << (place * bits)
    assert packed.tobytes() == stream.to_bytes(-(-len(codes) * bits // 8), "little")
    assert len(packed) == packed_size(len(codes), bits)
    assert unpack(packed, bits, len(codes)).tolist() == codes


@pytest.mark.parametrize("bits", WIDTHS)
def test_jax_unpacks_the_same(bits):
    half = 1 << (bits - 1)
    codes = np.random.default_rng(bits).integers(-half, half, 77).astype(np.int8)
    found = stablehlo.unpack(pack(codes, bits), bits, len(codes))
    assert found.dtype == np.int8
    assert np.asarray(found).tolist() == codes.tolist()


@pytest.mark.parametrize("code", [-5, 4])
def test_codes_beyond_the_bits_are_refused(code):
    with pytest.raises(ValueError, match="do not fit 3 bits"):
        pack(np.asarray([0, code], np.int8), 3)
