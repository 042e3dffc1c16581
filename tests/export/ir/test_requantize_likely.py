"""Constants for channels without a solution, held against the runtime on every accumulator."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rfquant_jax.export.ir.boundaries import Target, reachable
from rfquant_jax.export.ir.model import LayerData
from rfquant_jax.export.ir.requantize import fast_codes, solve
from rfquant_jax.export.ir.requantize_likely import LARGEST_OFF_TIE, complete
from rfquant_jax.export.ir.runtime import finish, quantize


def layer(kernel, scale, bias, spread, bits=8, input_bits=6):
    kernel = np.asarray(kernel, np.int8)
    scale, bias = (np.asarray(v, np.float32) for v in (scale, bias))
    return LayerData(bits, input_bits, False, 1.0, kernel, scale, bias, spread)


def completed(data, target, gain=1):
    found = solve(data, target, gain=gain)
    complete(found, data, target)
    return found


def codes_of(data, solution, accumulators, target):
    """Those of the constants and of the runtime, int64[accumulators, O] each."""
    numbers = solution.factor, solution.bias, solution.multiplier
    reader = LayerData(8, 8, True, target.step, data.kernel, data.scale, data.bias)
    right = quantize(reader, finish(data, accumulators.astype(np.int32), np.float32))
    right = np.clip(right, target.low, target.high).astype(np.int64)
    return fast_codes(accumulators, *numbers, target), right


def test_the_chance_is_that_of_the_accumulators_with_wrong_codes():
    """6-bit weights and inputs, 256 codes: nearly every channel is without a solution."""
    rng = np.random.default_rng(0)
    kernel = rng.integers(-32, 32, (24, 60))
    scale = rng.uniform(0.5, 2, 24) * rng.choice([-1, 1], 24) / 2000
    mean, deviation = rng.normal(0, 1, 24), rng.uniform(0.5, 2, 24)
    data = layer(kernel, scale, rng.normal(0, 1, 24), np.stack([mean, deviation]))
    target = Target(float(np.float32(0.1)), -128, 127)
    solution = completed(data, target)
    assert (~solution.solved).sum() > 12
    found = np.isfinite(solution.wrong)
    assert found.sum() > 20
    np.testing.assert_array_equal(solution.wrong[solution.solved], 0)
    low, high = reachable(data)
    accumulators = np.arange(low.min(), high.max() + 1)[:, None] + np.zeros(24, np.int64)
    ours, right = codes_of(data, solution, accumulators, target)
    assert np.abs(ours - right)[:, found].max() <= 1
    scale, bias = data.scale.astype(np.float64), data.bias.astype(np.float64)
    outputs = accumulators * scale + bias
    densities = [
        stats.norm.pdf(outputs, mean, deviation),
        stats.laplace.pdf(outputs, mean, deviation / np.sqrt(2)),
    ]
    chances = np.maximum(*densities) * np.abs(scale)
    wrong = found & (ours != right) & (accumulators >= low) & (accumulators <= high)
    assert 0 < wrong.sum() < 24 * 256 / 4
    # Accumulators nearer to a tie than float32 resolves count as wrong, too.
    expected = np.where(wrong, chances, 0).sum(0)
    assert (solution.wrong >= 0.98 * expected - 1e-12).all()
    np.testing.assert_allclose(solution.wrong[found], expected[found], rtol=0.02, atol=1e-6)
    off_tie = np.abs(outputs / target.step - (ours + right) / 2)[wrong & (chances > 1e-15)]
    assert off_tie.max(initial=0) <= LARGEST_OFF_TIE


def test_ties_that_no_constants_round_are_put_where_nothing_occurs():
    """acc / 4 has the ties 0.5, 1.5, 2.5 at 2, 6 and 10, which round to 0, 2 and 2.

    All three together have no solution, see test_requantize. With outputs of 0.5 +- 0.25, the last
    one is 8 standard deviations away.
    """
    data = layer([[1, 1]], [0.25], [0.0], np.asarray([[0.5], [0.25]]), input_bits=4)
    target = Target(1.0, 0, 7)
    solution = completed(data, target)
    assert not solution.solved[0]
    assert 0 < solution.wrong[0] < 1e-4
    accumulators = np.arange(0, 10)[:, None]
    ours, _ = codes_of(data, solution, accumulators, target)
    np.testing.assert_array_equal(ours[:, 0], [0, 0, 0, 1, 1, 1, 2, 2, 2, 2])


def test_a_dead_channel_keeps_its_code():
    """Both channels are outputs of 1/64 per accumulator; the second one is always 5."""
    spread = np.asarray([[0.5, 5], [0.25, 0]])
    data = layer([[3, 3], [3, 3]], [1 / 64] * 2, [0, 0], spread)
    target = Target(1.0, 0, 7)
    solution = completed(data, target)
    assert not solution.solved.any()
    assert 0 < solution.wrong[0] < 1e-4
    assert solution.wrong[1] == 0
    # 4.5 and 5.5 round to 4 and 6.
    accumulators = np.arange(64 * 4.5 + 1, 64 * 5.5).astype(np.int64)[:, None] + [0, 0]
    ours, _ = codes_of(data, solution, accumulators, target)
    np.testing.assert_array_equal(ours[:, 1], 5)


@pytest.mark.parametrize(("mean", "accumulator", "code"), [(-10.0, 0, 0), (40.0, 30, 7)])
def test_a_mean_beyond_all_accumulators_stands_for_the_nearest_one(mean, accumulator, code):
    """Running averages can lie there after the step sizes have changed."""
    data = layer([[1, 1]], [0.25], [0.0], np.asarray([[mean], [0.1]]), input_bits=4)
    target = Target(1.0, 0, 7)
    solution = completed(data, target)
    assert not solution.solved[0]
    assert np.isfinite(solution.wrong[0])
    ours, _ = codes_of(data, solution, np.asarray([[accumulator]]), target)
    assert ours[0, 0] == code


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.02, 0.1, 0.5]))
def test_likely_accumulators_only_get_other_codes_at_ties(seed, deviation):
    """1/64 per accumulator, more than LARGEST_OFF_TIE: only ties themselves may be displaced."""
    rng = np.random.default_rng(seed)
    scale, bias = rng.choice([-1, 1], 16) / 64, rng.integers(-4, 5, 16) / 2
    spread = np.stack([rng.uniform(-6, 8, 16), np.full(16, deviation)])
    data, target = layer(np.full((16, 2), 3), scale, bias, spread), Target(1.0, -4, 7)
    solution = completed(data, target)
    found = np.isfinite(solution.wrong) & ~solution.solved
    assert found.sum() > 8
    accumulators = np.arange(0, 3 * 2 * 63 + 1)[:, None] + np.zeros(16, np.int64)
    ours, right = codes_of(data, solution, accumulators, target)
    width = np.maximum(deviation * 64, 1)
    distance = (accumulators - np.clip((spread[0] - bias) / scale, 0, 378)) / width
    densities = stats.norm.pdf(distance), stats.laplace.pdf(distance, scale=1 / np.sqrt(2))
    likely = (np.maximum(*densities) / width > 1.001e-15) & found
    outputs = accumulators * scale + bias
    assert not (likely & (ours != right) & (np.abs(outputs % 1 - 0.5) > 1e-9)).any()
    assert np.abs(ours - right)[likely].max() <= 1


def test_without_a_spread_there_are_none():
    data = layer([[1, 1]], [0.25], [0.0], None, input_bits=4)
    assert completed(data, Target(1.0, 0, 7)).wrong[0] == np.inf


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(3, 8), st.sampled_from([1, 4]))
def test_other_constants_are_not_better(seed, bits, gain):
    """The exact bias, rounded, with the exact multiplier, for two k."""
    rng = np.random.default_rng(seed)
    kernel = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), (8, 30))
    scale, bias = rng.uniform(0.5, 2, 8) / 300, rng.normal(0, 1, 8)
    spread = np.stack([rng.normal(0, 1, 8), rng.uniform(0.5, 2, 8)])
    data, target = layer(kernel, scale, bias, spread, bits=bits), Target(0.0625, -128, 127)
    solution = completed(data, target, gain)
    finite = np.isfinite(solution.wrong)
    # With less room for k, most channels have ties that no constants round.
    assert finite.sum() > (4 if bits < 6 or (bits == 6 and gain == 4) else -1)
    low, high = reachable(data)
    accumulators = np.arange(low.min(), high.max() + 1)[:, None] + np.zeros(8, np.int64)
    real = (accumulators >= low) & (accumulators <= high)
    outputs = accumulators * data.scale.astype(np.float64) + data.bias
    densities = [
        stats.norm.pdf(outputs, *spread),
        stats.laplace.pdf(outputs, spread[0], spread[1] / np.sqrt(2)),
    ]
    chances = np.maximum(*densities) * data.scale
    largest = np.abs(kernel).max(1)
    _, right = codes_of(data, solution, accumulators, target)
    for part in (1.0, 0.7):
        factor = gain * np.maximum((part * 127 // largest).astype(np.int64), 1)
        naive = np.rint(data.bias / data.scale * factor).astype(np.int64)
        multiplier = (data.scale / target.step / factor).astype(np.float32)
        plain = fast_codes(accumulators, factor, naive, multiplier, target)
        wrong = (plain != right) & real
        expected = np.where(wrong, chances, 0).sum(0)
        off_tie = np.where(wrong, np.abs(outputs / target.step - (plain + right) / 2), 0).max(0)
        compared = finite & (off_tie <= LARGEST_OFF_TIE)
        assert (solution.wrong <= 1.02 * expected + 1e-5)[compared].all()
