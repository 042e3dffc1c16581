"""The solver of integer requantization, held against the runtime on every accumulator."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rfquant_jax.export.ir.boundaries import Boundaries, Target, reachable
from rfquant_jax.export.ir.model import LayerData
from rfquant_jax.export.ir.requantize import fast_codes, solve
from rfquant_jax.export.ir.runtime import finish, quantize


def layer(kernel, scale, bias, *, bits=8, input_bits=4, signed=False, step=1.0):
    kernel = np.asarray(kernel, np.int8)
    scale, bias = (np.asarray(v, np.float32) for v in (scale, bias))
    return LayerData(bits, input_bits, signed, step, kernel, scale, bias)


def random_layer(seed, bits, input_bits, signed, width):
    rng = np.random.default_rng(seed)
    kernel = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), (6, width))
    kernel[0] = 0
    sizes = 2.0 ** rng.uniform(-9, 1, 6) * rng.choice([-1, 1], 6)
    sizes[1] = rng.choice([0, sizes[1]])
    return layer(
        kernel, sizes, rng.normal(0, 3, 6), bits=bits, input_bits=input_bits, signed=signed
    )


def expected(data, accumulators, target):
    """By the runtime's own functions, in float32."""
    reader = replace(data, input_bits=8, input_signed=True, input_step=target.step)
    codes = quantize(reader, finish(data, accumulators.astype(np.int32), np.float32))
    return np.clip(codes, target.low, target.high).astype(np.int64)


def found_codes(solution, accumulators, target):
    numbers = solution.factor, solution.bias, solution.multiplier
    return fast_codes(accumulators, *numbers, target)


CASES = {
    "seed": st.integers(0, 2**31),
    "bits": st.integers(2, 8),
    "input_bits": st.integers(2, 6),
    "signed": st.booleans(),
    "width": st.integers(1, 40),
    "codes": st.integers(2, 7),
    "below_zero": st.booleans(),
    "step": st.floats(0.01, 3),
}


def target_of(codes, below_zero, step):
    high = (1 << (codes - below_zero)) - 1
    return Target(float(np.float32(step)), -high - 1 if below_zero else 0, high)


@settings(deadline=None, max_examples=60)
@given(**CASES)
def test_codes_are_equal_for_every_reachable_accumulator(
    seed, bits, input_bits, signed, width, codes, below_zero, step
):
    data = random_layer(seed, bits, input_bits, signed, width)
    target = target_of(codes, below_zero, step)
    solution = solve(data, target)
    low, high = reachable(data)
    accumulators = np.arange(low.min(), high.max() + 1)[:, None] + np.zeros(6, np.int64)
    real = (accumulators >= low) & (accumulators <= high)
    ours, theirs = found_codes(solution, accumulators, target), expected(data, accumulators, target)
    assert ((ours == theirs) | ~real)[:, solution.solved].all()
    kernel = solution.kernel(data.kernel)
    np.testing.assert_array_equal(kernel, data.kernel * solution.factor[:, None])
    assert solution.solved[0]  # its kernel is zero
    assert (solution.multiplier > 0).all()


@settings(deadline=None, max_examples=20)
@given(**CASES)
def test_multipliers_may_be_off_by_the_width(
    seed, bits, input_bits, signed, width, codes, below_zero, step
):
    """In float64, where nothing else rounds: half of the width to either side changes no code."""
    data = random_layer(seed, bits, input_bits, signed, width)
    target = target_of(codes, below_zero, step)
    solution = solve(data, target)
    low, high = reachable(data)
    accumulators = np.arange(low.min(), high.max() + 1)[:, None] + np.zeros(6, np.int64)
    real = (accumulators >= low) & (accumulators <= high) & solution.solved
    whole = accumulators * solution.factor + solution.bias
    right = expected(data, accumulators, target)
    for sign in (-1, 1):
        multiplier = solution.multiplier.astype(np.float64) * (1 + sign * solution.width / 2)
        codes_off = np.rint(np.clip(whole * multiplier, target.low, target.high))
        assert ((codes_off == right) | ~real).all()


@settings(deadline=None, max_examples=20)
@given(**CASES)
def test_boundaries_are_where_codes_change(
    seed, bits, input_bits, signed, width, codes, below_zero, step
):
    data = random_layer(seed, bits, input_bits, signed, width)
    target = target_of(codes, below_zero, step)
    found = Boundaries.of(data, target)
    for channel in range(6):
        signed_sums = np.arange(found.least[channel], found.most[channel] + 1)
        one = replace(data, scale=data.scale[channel], bias=data.bias[channel])
        all_codes = expected(one, signed_sums * found.sign[channel], target)
        assert (np.diff(all_codes) >= 0).all()
        counted = [np.searchsorted(all_codes, c) + signed_sums[0] for c in found.codes]
        np.testing.assert_array_equal(found.first[channel], counted)
        assert found.constant[channel] == (np.ptp(all_codes) == 0)


def test_a_bias_of_half_an_accumulator_needs_a_larger_kernel():
    """By hand: codes change at 2 acc + 1 = 3, 5, ..: with k = 1 at whole accumulators only.

    code = round((acc + 0.5) * 0.4): 0.5 / 0.4 = 1.25, so code 1 starts at acc + 0.5 > 1.25.
    """
    data = layer([[1, -1]], [0.4], [0.2], bits=2)
    target = Target(1.0, 0, 7)
    solution = solve(data, target)
    assert solution.solved.all()
    assert 64 <= solution.factor[0] <= 127  # -1 and 1 fit int8 up to 127 times
    # B is half an accumulator, in units of 1 / k, within what the codes leave open.
    assert abs(solution.bias[0] / solution.factor[0] - 0.5) < 0.5
    accumulators = np.arange(-15, 16)
    values = np.rint(np.clip((accumulators + 0.5) * 0.4, 0, 7))
    np.testing.assert_array_equal(found_codes(solution, accumulators, target), values)


def test_a_negative_scale_turns_the_kernel_around():
    data = layer([[3, 1]], [-0.25], [4.0625])
    target = Target(1.0, 0, 15)
    solution = solve(data, target)
    assert 22 <= -solution.factor[0] <= 42  # 127 // 3 = 42, and its upper half
    accumulators = np.arange(0, 61)
    values = np.rint(np.clip(4.0625 - accumulators / 4, 0, 15))
    np.testing.assert_array_equal(found_codes(solution, accumulators, target), values)


def test_rounding_half_to_even_has_no_solution():
    """acc / 4 has the ties 0.5, 1.5, 2.5 at 2, 6 and 10, which round to 0, 2 and 2.

    So (k * 6 + B) * M > 1.5 and (k * 2 + B) * M < 0.5, thus 4 k M > 1, but (k * 10 + B) * M < 2.5,
    thus 4 k M < 1.
    """
    target = Target(1.0, 0, 7)
    kernel = [[1, 1]]
    assert not solve(layer(kernel, [0.25], [0.0]), target).solved[0]
    assert solve(layer(kernel, [0.25], [0.03125]), target).solved[0]


def test_the_smallest_weight_is_kept_out_where_a_runtime_excludes_it():
    data = layer([[-32, 31]], [0.013], [0.1], bits=6)
    target = Target(1.0, 0, 3)
    for smallest, least in ((-128, -128), (-127, -127)):
        kernel = solve(data, target, smallest).kernel(data.kernel)
        assert kernel.min() >= least
    eight = layer([[-128, 5]], [-0.013], [0.1])
    assert not solve(eight, target).solved[0]  # 128 does not fit
