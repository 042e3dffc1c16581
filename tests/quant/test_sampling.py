"""Which configurations the passes of a step run."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rfquant_jax.quant.sampling import PUBLISHED, Sampling, sample_step
from rfquant_jax.quant.space import largest_bits, smallest_bits

B = (6, 5, 4, 3, 2)
FULL = np.ones((1, 5), bool)

masks = st.lists(
    st.lists(st.booleans(), min_size=5, max_size=5).filter(any), min_size=3, max_size=3
)
samplings = st.builds(
    Sampling,
    st.sampled_from(("independent", "levels")),
    st.floats(0.1, 3),
    st.sampled_from((0.0, 0.5, 1)),
)


def draws(mask, sampling, count, key=0):
    """Configurations of random passes, int[count, L, 2], each of a step of its own."""
    one = jax.jit(lambda key: sample_step(key, mask, mask, B, 1, sampling)[1])
    return np.asarray(jax.vmap(one)(jax.random.split(jax.random.key(key), count)))


def level_probabilities(allowed, spread):
    """P(b) of each allowed bit-width: the mean over levels of a softmax, in float64."""
    levels = np.linspace(1.5, 6.5, 200_001)
    weights = np.exp(-((np.asarray(allowed)[:, None] - levels) ** 2) / (2 * spread**2))
    return (weights / weights.sum(0)).mean(1), levels, weights / weights.sum(0)


def assert_frequencies(values, allowed, expected):
    """A chi-square test at the level of one in a million: the keys are fixed."""
    counts = [np.sum(values == b) for b in allowed]
    assert sum(counts) == len(values)
    assert stats.chisquare(counts, np.asarray(expected) * len(values)).pvalue > 1e-6


@given(mask=masks, seed=st.integers(0, 2**31), sampling=samplings)
def test_samples_are_always_allowed(mask, seed, sampling):
    mask = np.asarray(mask)
    drawn = np.asarray(sample_step(jax.random.key(seed), mask, mask[::-1], B, 3, sampling))
    assert drawn.shape == (4, len(mask), 2)
    for configuration in drawn:
        for row, (w, a) in enumerate(configuration):
            assert mask[row, B.index(w)]
            assert mask[::-1][row, B.index(a)]
    np.testing.assert_array_equal(drawn[0, :, 0], largest_bits(mask, B))
    np.testing.assert_array_equal(drawn[0, :, 1], largest_bits(mask[::-1], B))


def test_published_samples_are_those_of_earlier_releases():
    """As drawn before there was another sampling: a run of an old version can be repeated."""
    mask = np.asarray([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [0, 1, 0, 1, 1]], bool)
    drawn = sample_step(jax.random.key(20), mask, mask[::-1], B, 3)
    assert np.asarray(drawn).tolist() == [
        [[6, 5], [6, 6], [5, 6]],
        [[6, 5], [5, 5], [3, 2]],
        [[6, 5], [3, 3], [5, 6]],
        [[5, 5], [4, 4], [2, 4]],
    ]


def test_published_samples_are_uniform_and_independent():
    mask = np.asarray([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1]], bool)
    drawn = draws(mask, PUBLISHED, 3000)
    for row, share in ((0, 0.2), (1, 1 / 3)):
        allowed = [b for b, has in zip(B, mask[row], strict=True) if has]
        for column in (0, 1):
            assert_frequencies(drawn[:, row, column], allowed, [share] * len(allowed))
    # Weights and activations, and neighbouring layers, are drawn apart.
    for x, y in ((drawn[:, 0, 0], drawn[:, 0, 1]), (drawn[:, 0, 0], drawn[:, 1, 0])):
        assert abs(np.corrcoef(x, y)[0, 1]) < 0.1


@pytest.mark.parametrize("spread", [0.3, 0.8, 2.0])
@pytest.mark.parametrize("allowed", [(6, 5, 4, 3, 2), (6, 5, 4, 3), (5, 2)])
def test_bits_around_a_level_have_their_exact_probabilities(allowed, spread):
    mask = np.asarray([[b in allowed for b in B]])
    drawn = draws(mask, Sampling("levels", spread), 20_000)
    expected, _, _ = level_probabilities(allowed, spread)
    for column in (0, 1):
        assert_frequencies(drawn[:, 0, column], allowed, expected)


def test_all_layers_of_a_pass_share_its_level():
    """Pairs of bits have the mean over levels of a product, not the product of the means."""
    drawn = draws(np.ones((2, 5), bool), Sampling("levels"), 20_000, key=1)
    _, levels, given_level = level_probabilities(B, 0.8)
    expected = given_level @ given_level.T / len(levels)
    pairs = [(drawn[:, 0, 0], drawn[:, 1, 0]), (drawn[:, 0, 0], drawn[:, 0, 1])]
    codes = [6 - first + 5 * (6 - second) for first, second in pairs]
    for code in codes:
        assert_frequencies(code, range(25), expected.ravel())


def test_passes_of_a_step_have_levels_of_their_own():
    wide = np.ones((200, 5), bool)
    drawn = np.asarray(sample_step(jax.random.key(3), wide, wide, B, 6, Sampling("levels", 0.3)))
    means = drawn[1:].mean(axis=(1, 2))
    assert np.ptp(means) > 1
    assert len(set(means.tolist())) == 6
    # Independent draws of as many layers all have the same mean, 4 within a tenth.
    drawn = np.asarray(sample_step(jax.random.key(3), wide, wide, B, 6))
    np.testing.assert_allclose(drawn[1:].mean(axis=(1, 2)), 4, atol=0.3)


@pytest.mark.parametrize("rule", ["independent", "levels"])
@pytest.mark.parametrize(("probability", "expected"), [(0.0, 0), (0.5, 0.5), (1.0, 1)])
def test_the_first_random_pass_is_the_smallest_one_as_often_as_asked(rule, probability, expected):
    mask = np.ones((12, 5), bool)
    mask[3, 4] = mask[5, 3:] = False
    sampling = Sampling(rule, 0.8, probability)
    smallest = np.stack([smallest_bits(mask, B)] * 2, axis=1)
    step = jax.jit(lambda key: sample_step(key, mask, mask, B, 2, sampling))
    drawn = np.asarray(jax.vmap(step)(jax.random.split(jax.random.key(4), 2000)))
    share = np.mean([(c == smallest).all() for c in drawn[:, 1]])
    assert share == pytest.approx(expected, abs=5 * np.sqrt(0.25 / 2000) * (0 < expected < 1))
    # Random draws of 24 bit-widths hardly ever are the smallest ones by chance.
    assert np.mean([(c == smallest).all() for c in drawn[:, 2]]) < 0.05
    np.testing.assert_array_equal(drawn[:, 0], np.broadcast_to(6, drawn[:, 0].shape))


def test_the_other_passes_do_not_depend_on_the_smallest_one():
    mask = np.ones((4, 5), bool)
    key = jax.random.key(5)
    with_it = sample_step(key, mask, mask, B, 3, Sampling("levels", 0.8, 1.0))
    without = sample_step(key, mask, mask, B, 3, Sampling("levels", 0.8, 0.0))
    np.testing.assert_array_equal(with_it[2:], without[2:])
    assert np.all(np.asarray(with_it[1]) == 2)


def test_full_precision_steps_have_the_max_pass_alone():
    none = np.zeros((0, 5), bool)
    drawn = sample_step(jax.random.key(0), none, none, B, 0, Sampling("levels", 0.8, 1.0))
    assert drawn.shape == (1, 0, 2)
