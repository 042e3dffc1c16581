"""Which configurations a profile measures."""

import itertools

import numpy as np
import pytest

from rfquant_jax.quant.cost import CostModel
from rfquant_jax.quant.space import Space
from rfquant_jax.search.design import SPREADS, drawn_around, profile_configurations
from rfquant_jax.search.surrogate import distances
from rfquant_jax.search.variables import make_search_space
from tests.search.landscapes import B, everything, space_of


def keys(configurations):
    return {configuration.tobytes() for configuration in configurations}


@pytest.mark.parametrize("count", [10, 80, 300])
@pytest.mark.parametrize(
    "restrictions", [{}, {"groups": [("both", "l0", "l3")]}, {"pins": [("l1", (2, 3))]}]
)
def test_all_are_different_and_keep_the_restrictions(count, restrictions):
    search_space = make_search_space(space_of(6), **restrictions)
    found = profile_configurations(search_space, count, seed=3)
    assert found.dtype == np.int32
    # No fewer than the uniform pairs, with single moves for a fifth of what was asked for.
    assert len(found) == max(count, 25 + 2)
    assert len(keys(found)) == len(found)
    assert all(search_space.holds(configuration) for configuration in found)


def test_the_largest_comes_first_and_every_uniform_pair_is_there():
    search_space = make_search_space(space_of(4), pins=[("l2", (5, 3))], min_bits=3)
    found = profile_configurations(search_space, 40, seed=0)
    assert found[0].tolist() == [[6, 6], [6, 6], [5, 3], [6, 6]]
    pairs = [[[w, a], [w, a], [5, 3], [w, a]] for w, a in itertools.product((6, 5, 4, 3), repeat=2)]
    assert [c.tolist() for c in found[: len(pairs)]] == pairs


def test_every_variable_is_moved_alone_to_every_bit_width_where_there_is_room():
    """6 layers, 2 columns, 4 other bit-widths: 48 moves, a fifth of 240 configurations."""
    search_space = make_search_space(space_of(6))
    middle = search_space.uniform(4, 4)
    moves = []
    for layer, column, bits in itertools.product(range(6), range(2), (6, 5, 3, 2)):
        moved = np.array(middle)
        moved[layer, column] = bits
        moves.append(moved)
    assert keys(moves) <= keys(profile_configurations(search_space, 240, seed=5))
    fewer = profile_configurations(search_space, 100, seed=5)
    assert len(keys(moves) & keys(fewer)) == 20
    # Which of them depends on the seed.
    assert keys(moves) & keys(fewer) != keys(moves) & keys(
        profile_configurations(search_space, 100, 6)
    )


def test_draws_cover_all_costs():
    search_space, costs = (
        make_search_space(space_of(16)),
        CostModel(np.full(16, 10**9), np.ones(16), 0, 0),
    )
    found = profile_configurations(search_space, 300, seed=0)
    drawn = found[distances(found, search_space.uniform(4, 4), search_space) > 1][25:]
    logs = np.log([costs.bitops_g(c) for c in drawn])
    low, high = np.log(16 * 4.0), np.log(16 * 36.0)
    shares = np.histogram(logs, np.linspace(low, high, 7))[0] / len(drawn)
    assert shares.min() > 0.05
    # Independent draws would all lie near the middle, by the law of large numbers.
    assert shares.max() < 0.4


def test_the_same_seed_draws_the_same():
    search_space = make_search_space(space_of(5))
    one, same, other = (profile_configurations(search_space, 90, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert keys(one) != keys(other)


def test_where_there_are_few_configurations_all_are_measured():
    search_space = make_search_space(space_of(2), groups=[("both", "l*")], min_bits=4)
    found = profile_configurations(search_space, 50, seed=0)
    assert keys(found) == keys(everything(search_space))
    assert len(found) == 9
    pinned = make_search_space(space_of(2), pins=[("l*", (4, 3))])
    assert profile_configurations(pinned, 50, seed=0).tolist() == [[[4, 3], [4, 3]]]


class Told:
    """A generator of given numbers, which keeps what it was asked for."""

    def __init__(self, levels, coin, spread, noise):
        self._levels, self._coin, self._spread, self._noise = levels, coin, spread, iter(noise)
        self.bounds, self.asked = None, []

    def uniform(self, low, high, size):
        self.bounds = low, high, size
        return np.array(self._levels)

    def random(self):
        return self._coin

    def integers(self, count):
        assert count == len(SPREADS)
        return self._spread

    def normal(self, mean, deviation):
        self.asked.append((float(mean), deviation))
        return mean + next(self._noise)


@pytest.mark.parametrize(("coin", "level"), [(0.7, 2.6), (0.3, 5.2)])
def test_bit_widths_are_drawn_around_one_level_or_two(coin, level):
    space = Space(("a", "b"), (8, 6, 4, 2), np.asarray([[1, 1, 1, 1], [1, 0, 1, 0]], bool))
    search_space = make_search_space(space)
    rng = Told((5.2, 2.6), coin, 1, (0.7, 1.0, 0.5, -9.0))
    found = drawn_around(search_space, rng)
    assert rng.bounds == (1.5, 8.5, 2)
    assert rng.asked == [(5.2, SPREADS[1])] * 2 + [(level, SPREADS[1])] * 2
    # 5.9 and 6.2 for the weights; of layer b 4 is 2.2 away and 8 is 1.8. For activations 3.1 and
    # below all, or 5.7 and below all.
    assert found.tolist() == [[6, 4 if level == 2.6 else 6], [8, 4]]


def test_both_columns_share_their_level_in_half_of_the_draws():
    search_space, rng = make_search_space(space_of(400)), np.random.default_rng(0)
    means = np.stack([drawn_around(search_space, rng).mean(0) for _ in range(200)])
    near = np.abs(means[:, 0] - means[:, 1]) < 0.25
    # Two levels of their own are that near by chance in about a tenth.
    assert 0.47 < near.mean() < 0.66
    assert means.min() < 2.3
    assert means.max() > 5.7
    assert B[0] == 6
