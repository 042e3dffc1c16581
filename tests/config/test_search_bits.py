"""Where a search starts and what it stays within, given and left open."""

import numpy as np
import pytest

from configs import quickstart
from rfquant_jax.config import checks, search_bits
from rfquant_jax.config.search_algorithms import greedy_settings
from rfquant_jax.errors import ConfigError
from rfquant_jax.quant.cost import CostModel
from rfquant_jax.quant.space import Space
from rfquant_jax.search.budget import parse_budget
from rfquant_jax.search.greedy import GreedySearch
from rfquant_jax.search.variables import make_search_space


def config_of(candidates, activations=(), **fields):
    config = quickstart.get_config()
    config.quant.candidates, config.quant.activation_candidates = candidates, activations
    config.search.update(fields)
    return config


@pytest.mark.parametrize(
    ("candidates", "fields", "start", "limits"),
    [
        ((6, 5, 4, 3, 2), {}, 5, (2, 6)),
        ((8, 4, 2), {}, 4, (2, 8)),
        ((8, 6, 4, 2), {}, 4, (2, 8)),
        ((32, 8, 3), {}, 8, (3, 32)),
        ((7,), {}, 7, (7, 7)),
        ((6, 5, 4, 3, 2), {"max_bits": 4}, 3, (2, 4)),
        ((8, 6, 4, 3), {"min_bits": 4}, 6, (4, 8)),
        ((8, 6, 5, 4), {"start_bits": 8, "min_bits": 5}, 8, (5, 8)),
        ((5, 3), {"activations": (8, 4)}, 5, (3, 8)),
        ((6, 4), {"activations": (4, 3)}, 4, (3, 6)),
    ],
)
def test_what_is_left_open_follows_the_candidates(candidates, fields, start, limits):
    config = config_of(candidates, **fields)
    checks.validate(config)
    assert search_bits.start(config) == start
    assert search_bits.limits(config) == limits
    assert greedy_settings(config, 3).start_bits == start


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"start_bits": 5}, "search.start_bits = 5: must be 0 or one of quant.candidates"),
        ({"start_bits": 4, "min_bits": 8}, "min_bits = 8: must not be above search.start_bits 4"),
        ({"start_bits": 4, "max_bits": 2}, "max_bits = 2: must not be below search.start_bits 4"),
        ({"min_bits": 5, "max_bits": 7}, "min_bits = 5: no bit-width from 5 to 7"),
        ({"min_bits": 4, "max_bits": 2}, "min_bits = 4: no bit-width from 4 to 2"),
    ],
)
def test_limits_that_leave_nothing_are_refused(fields, said):
    with pytest.raises(ConfigError) as error:
        checks.validate(config_of((8, 4, 2), **fields))
    assert said in str(error.value)


def test_the_greedy_search_of_8_4_2_finds_the_layer_that_bears_2_bits():
    """Two layers of one multiply-accumulate; 4 and 4 bits cost 32 in all, the budget is 24.

    Bits of activations hurt a hundred times as much as those of weights, and weights of the first
    layer ten times as much as those of the second: its weights go to 2 bits, 16 + 8 = 24.
    """
    config = config_of((8, 4, 2), normalize="max")
    space = Space(("a", "b"), (8, 4, 2), np.ones((2, 3), bool))
    costs = CostModel(np.full(2, 10**9), np.full(2, 100), 0, 0)
    smallest, largest = search_bits.limits(config)
    search_space = make_search_space(space, min_bits=smallest, max_bits=largest)
    budget = parse_budget("24G", costs.kinds(), space)

    def evaluate(configurations, iteration):
        lost = 8 - np.asarray(configurations, float)
        return (lost * [[10, 1000], [1, 100]]).sum(axis=(1, 2))

    (found,) = GreedySearch(
        search_space,
        greedy_settings(config, 2),
        [budget],
        evaluate,
        on_move=lambda *_: None,
    ).run()
    assert found.tolist() == [[4, 4], [2, 4]]
