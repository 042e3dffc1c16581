"""What is said about normalization that does not switch with the bit-widths."""

from flax import nnx

import rfquant_jax as rfq
from rfquant_jax.quant.remarks import normalization_remarks
from tests.conftest import IMAGE_SHAPE


class Mixed(nnx.Module):
    """A BatchNorm at its layer, one before its layer, a LayerNorm, and two GroupNorms."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.convs = nnx.List([nnx.Conv(2, 2, (3, 3), rngs=rngs) for _ in range(5)])
        self.first, self.own, self.before = (nnx.BatchNorm(2, rngs=rngs) for _ in range(3))
        self.layer_norm = nnx.LayerNorm(2, rngs=rngs)
        self.groups = nnx.List([nnx.GroupNorm(2, num_groups=1, rngs=rngs) for _ in range(2)])

    def __call__(self, x):
        x = self.first(self.convs[0](x))  # the first layer is not searched
        x = self.own(self.convs[1](x))
        x = self.convs[2](self.before(nnx.relu(x)))
        x = self.groups[1](self.convs[3](self.groups[0](self.layer_norm(x))))
        return self.convs[4](x).mean((1, 2))


def test_each_kind_is_said_once_with_its_names():
    network = nnx.eval_shape(Mixed)
    lines = normalization_remarks(network, rfq.plan(network, (4, 4, 2)).layers)
    assert [line.partition(":")[0] for line in lines] == [
        "no BatchNorm directly follows convs.2, convs.3, convs.4",
        "BatchNorm before does not directly follow a convolution or dense layer",
        "GroupNorm groups.0, groups.1",
        "LayerNorm layer_norm",
    ]
    assert "its statistics are recalibrated for each configuration" in lines[1]
    assert "no statistics to recalibrate" in lines[3]


def test_a_network_with_a_batch_norm_after_each_layer_needs_no_remark(plain):
    assert normalization_remarks(plain, rfq.plan(plain, IMAGE_SHAPE).layers) == []
