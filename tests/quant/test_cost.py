"""Costs and budgets against published figures and hand calculations."""

import re

import numpy as np
import pytest

from rfquant_jax.errors import ArgumentError
from rfquant_jax.quant.cost import CostModel
from rfquant_jax.quant.layer_table import Layer
from rfquant_jax.quant.space import Space
from rfquant_jax.search.budget import Budget, Limit, parse_budget

B = (6, 5, 4, 3, 2)


def resnet18():
    """ResNet18 at 224x224 layer by layer (He et al., CVPR 2016), classifier 512 -> 1000."""
    layers = [Layer("conv1", (), (7, 7, 3, 64), 1, 112 * 112 * 49 * 3 * 64, quantize_input=False)]
    width_in, size = 64, 56
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        size = 56 // 2 ** (stage - 1)
        for block in (0, 1):
            name = f"layer{stage}.{block}"
            shapes = {"conv1": (3, 3, width_in, width), "conv2": (3, 3, width, width)}
            if width_in != width:
                shapes["downsample.0"] = (1, 1, width_in, width)
            for part, shape in shapes.items():
                macs = size * size * int(np.prod(shape))
                layers.append(Layer(f"{name}.{part}", (), shape, 1, macs, candidates=B))
            width_in = width
    return [*layers, Layer("fc", (), (512, 1000), 1, 512_000)]


@pytest.fixture(scope="module")
def costs():
    return CostModel.of(resnet18())


@pytest.fixture(scope="module")
def space():
    return Space.of(resnet18(), B)


@pytest.mark.parametrize(
    ("w", "a", "bitops", "size"),
    # the figures of ResNet18 at 224x224 with first convolution and classifier at 8 x 8 bits
    [
        (2, 2, 14.36785, 3.15741),
        (3, 5, 33.018872, 4.487488),
        (4, 4, 34.714419, 5.817566),
        (5, 5, 49.974346, 7.147644),
        (6, 6, 68.625367, 8.477722),
    ],
)
def test_costs_of_uniform_resnet18(costs, space, w, a, bitops, size):
    configuration = space.uniform(w, a)
    assert round(costs.bitops_g(configuration), 6) == bitops
    assert round(costs.size_mb(configuration), 6) == size


def test_costs_of_a_mixed_configuration_by_hand():
    layers = [
        Layer("first", (), (3, 3, 1, 2), 1, 1000, quantize_input=False),
        Layer("a", (), (1, 1, 2, 4), 1, 3000, candidates=B),
        Layer("b", (), (1, 1, 4, 4), 1, 5000, candidates=B),
        Layer("kept", (), (1, 1, 4, 4), 1, 100, fixed_bits=(32, 32)),
        Layer("last", (), (4, 10), 1, 40),
    ]
    model = CostModel.of(layers)
    configuration = np.asarray([[2, 6], [5, 3]])
    bitops = 64 * 1000 + 12 * 3000 + 15 * 5000 + 1024 * 100 + 64 * 40
    assert model.bitops_g(configuration) == pytest.approx(bitops / 1e9, rel=1e-12)
    size_bits = 8 * 18 + 2 * 8 + 5 * 16 + 32 * 16 + 8 * 40
    assert model.size_mb(configuration) == pytest.approx(size_bits / 8 / 2**20, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "bitops", "size"),
    [
        ("33.9", 33.9, None),
        ("33.9G", 33.9, None),
        ("33.9GBitOPs", 33.9, None),
        ("2.3MB", None, 2.3),
        ("33.9G + 2.3MB", 33.9, 2.3),
        ("1.05*w4a4", 1.05 * 34.714419, None),
        ("0.5*w4a4:MB", None, 0.5 * 5.817566),
        # 1,814,073,344 MACs and 11,678,912 weights at 8 bits, which are no candidates
        ("50%", 0.5 * 64 * 1.814073344, None),
        ("25%:MB", None, 0.25 * 11_678_912 / 2**20),
        ("50% + 25%:MB", 0.5 * 64 * 1.814073344, 0.25 * 11_678_912 / 2**20),
        ("1e1G", 10.0, None),
        ("60KB", None, 60 / 1024),
        ("33.9G+512KB", 33.9, 0.5),
        ("0.9*w4a4:KB", None, 0.9 * 5.817566),
    ],
)
def test_budgets_as_users_write_them(costs, space, text, bitops, size):
    budget = parse_budget(text, costs.kinds(), space)
    limits = budget.as_dict()
    assert limits["budget_g"] == (None if bitops is None else pytest.approx(bitops, rel=1e-6))
    assert limits["budget_mb"] == (None if size is None else pytest.approx(size, rel=1e-6))
    assert budget.moves_activations == (bitops is not None)


@pytest.mark.parametrize(
    "text", ["", "big", "-3G", "0", "3G+4G", "3TB", "1.05*w7a7", "2*w4", "5ms", "0%", "50%:ms"]
)
def test_malformed_budgets_are_refused(costs, space, text):
    with pytest.raises(ArgumentError, match="`budgets`"):
        parse_budget(text, costs.kinds(), space)


def test_a_kilobyte_is_1024_bytes(costs):
    """The kernels of this network take 8 bits for 25 weights and 3 for 100: 62.5 bytes in all."""
    small = CostModel(np.asarray([1]), np.asarray([100]), 0, 8 * 25)
    space = Space(("l",), (3,), np.ones((1, 1), bool))
    exact = 62.5 / 1024
    assert parse_budget(f"{exact!r}KB", small.kinds(), space).load(space.uniform(3, 3)) == 1
    assert not parse_budget("0.061KB", small.kinds(), space).fits(space.uniform(3, 3))


@pytest.mark.parametrize("text", ["60KB+0.1MB", "3G+4GBitOPs", "0.9*w4a4:KB+3MB", "1*w4a4+2G"])
def test_two_limits_of_one_kind_are_refused(costs, space, text):
    both = " and ".join(text.split("+"))
    with pytest.raises(ArgumentError, match=re.escape(f"several limits of one kind ({both})")):
        parse_budget(text, costs.kinds(), space)


def test_of_two_limits_the_one_used_up_further_counts(costs, space):
    both = parse_budget("40G+4MB", costs.kinds(), space)
    configuration = space.uniform(4, 4)
    assert both.load(configuration) == pytest.approx(5.817566 / 4.0, rel=1e-6)
    assert not both.fits(configuration)
    assert both.fits(space.uniform(2, 6))


def test_a_configuration_exactly_on_budget_fits(costs, space):
    configuration = space.uniform(4, 4)
    exact = costs.bitops_g(configuration)
    assert Budget("b", (Limit(costs.kinds()["G"], exact),)).fits(configuration)
    assert not Budget("b", (Limit(costs.kinds()["G"], np.nextafter(exact, 0)),)).fits(configuration)
