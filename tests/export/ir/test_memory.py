"""The plan of activation memory."""

import itertools

import numpy as np
from hypothesis import given, settings

from rfquant_jax.export.formats.c_program import memory_of
from rfquant_jax.export.ir.graph import INPUT
from rfquant_jax.export.ir.memory import codes_of, scratch_of
from tests.export.random_models import Builder, models


def test_a_residual_block_by_hand():
    """8x8 images, 4 channels: floats take 1024 bytes, codes 256.

    The addition needs its two operands and its result at once. The first convolution of the block
    writes the codes that the second one reads.
    """
    b = Builder(0, (8, 8, 1))
    x = b.relu(b.conv(INPUT, 4, 3, bits=8))
    y = b.relu(b.conv(x, 4, 3, bits=4, input_bits=4))
    z = b.conv(y, 4, 3, bits=4, input_bits=3)
    total = b.op("add", z, x)
    pooled = b.op("sum", total, axes=[1, 2])
    model = b.model(b.layer("dense", pooled, (5, 4), 8, 8, True))
    memory = memory_of(model)
    assert memory.size == 3 * 1024
    sizes = {name: buffer.size for name, buffer in memory.buffers.items()}
    assert sizes[codes_of(y, "layer.2")] == sizes[codes_of(x, "layer.1")] == 256
    assert sizes[x] == sizes[z] == sizes[total] == 1024
    assert sizes[scratch_of("layer.1")] == 9 * 4
    assert y not in sizes
    assert INPUT not in sizes  # its pixels are read where they are
    assert memory.fused == {model.graph.nodes[2].output: y}


@settings(deadline=None, max_examples=30)
@given(models())
def test_buffers_in_use_at_a_time_do_not_overlap(found):
    memory = memory_of(found[0])
    buffers = list(memory.buffers.values())
    assert all(b.offset % 8 == 0 and b.offset + b.size <= memory.size for b in buffers)
    for one, other in itertools.combinations(buffers, 2):
        if one.first <= other.last and other.first <= one.last:
            apart = one.offset + one.size <= other.offset or other.offset + other.size <= one.offset
            assert apart
    places = range(len(found[0].graph.nodes))
    least = max(sum(b.size for b in buffers if b.first <= p <= b.last) for p in places)
    assert least <= memory.size <= 2 * least + 8 * len(buffers)
    assert np.all([b.first <= b.last for b in buffers])
