"""The plan of activation memory."""

import itertools

import numpy as np
from hypothesis import given, settings

from rfquant_jax.export.formats.c_program import memory_of
from rfquant_jax.export.ir.graph import INPUT
from rfquant_jax.export.ir.memory import codes_of, scratch_of
from tests.export.formats.test_c import check_program
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
    assert memory.routes.keys() == {model.graph.nodes[2].output}
    [route] = memory.routes[model.graph.nodes[2].output]
    assert route.reader.layer == "layer.2"
    assert route.values == (y,)


def test_a_residual_block_of_codes_by_hand():
    """8x8 images, 4 channels: 256 codes each, and a shortcut that halves the image and pads it.

    At the first addition, both operands and what its two readers get are held, 4 * 256 bytes. No
    float is stored before the sum over the image.
    """
    b = Builder(0, (8, 8, 1))
    x = b.relu(b.conv(INPUT, 4, 3, bits=8))
    y = b.conv(x, 4, 3, bits=4, input_bits=4)
    first = b.relu(b.residual(y, x))
    z = b.conv(first, 6, 3, 2, bits=4, input_bits=3)
    cut = b.op("slice", first, starts=[0, 0, 0], limits=[8, 8, 4], strides=[2, 2, 1])
    short = b.op("pad", cut, padding=[[0, 0], [0, 0], [1, 1]], value=0.0)
    last = b.residual(z, short)
    pooled = b.op("sum", last, axes=[1, 2])
    model = b.model(b.layer("dense", pooled, (5, 6), 8, 8, True))
    memory = memory_of(model)
    sizes = {name: buffer.size for name, buffer in memory.buffers.items()}
    weights = {scratch_of(f"layer.{i}"): n for i, n in ((0, 9), (1, 36), (3, 36), (5, 6))}
    assert sizes == weights | {
        codes_of(x, "layer.1"): 256,
        codes_of(x, "layer.2"): 256,
        codes_of(y, "layer.2"): 256,
        codes_of(first, "layer.3"): 256,
        codes_of(first, "layer.4"): 256,
        codes_of(cut, "layer.4"): 4 * 4 * 4,
        codes_of(short, "layer.4"): 4 * 4 * 6,
        codes_of(z, "layer.4"): 4 * 4 * 6,
        last: 4 * 4 * 4 * 6,
        pooled: 4 * 6,
        codes_of(pooled, "layer.5"): 6,
    }
    assert memory.size == 4 * 256
    check_program((model, b.images))


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
