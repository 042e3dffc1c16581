"""The uniform finalists of a budget."""

import itertools

import numpy as np
import pytest

from rfquant_jax.quant.cost import CostModel
from rfquant_jax.search.budget import Budget, Limit
from rfquant_jax.search.finalists import best_pair
from rfquant_jax.search.variables import make_search_space
from tests.search.landscapes import B, space_of

SEARCH_SPACE = make_search_space(space_of(2))
KIND = CostModel(np.full(2, 10**9), np.ones(2), 0, 0).kinds()["G"]


def best_of(values, limit, search_space=SEARCH_SPACE):
    """The best pair where pairs diverge by these values, the others by nothing known."""
    known = {search_space.uniform(*pair).tobytes(): value for pair, value in values.items()}

    def divergences(configurations):
        return np.asarray([known.get(c.tobytes(), np.nan) for c in configurations])

    return best_pair(search_space, Budget("x", (Limit(KIND, limit),)), divergences)


def test_the_best_pair_is_the_one_that_diverges_least_within_the_budget():
    values = {(w, a): 10.0 - w - a / 10 for w, a in itertools.product(B, B)}
    # 2 w a <= 30: of w6a2, w5a3, w4a3 and others w6a2 diverges least.
    ((name, configuration),) = best_of(values, 30)
    assert name == "w6a2"
    np.testing.assert_array_equal(configuration, SEARCH_SPACE.uniform(6, 2))
    values[3, 5] = 0.5
    assert best_of(values, 30)[0][0] == "w3a5"
    assert best_of(values, 29)[0][0] == "w6a2"


@pytest.mark.parametrize("missing", [np.nan, None])
def test_a_pair_without_a_number_is_never_the_best(missing):
    values = dict.fromkeys(itertools.product(B, B), 1.0)
    values[2, 5] = 0.5
    for pair in ((6, 2), (3, 4), (2, 2)):
        values[pair] = missing
    values = {pair: value for pair, value in values.items() if value is not None}
    assert best_of(values, 24)[0][0] == "w2a5"


def test_of_pairs_that_are_one_configuration_the_name_has_the_most_bits():
    pinned = make_search_space(space_of(2), pins=[("l*", (4, 3))])
    assert best_of({(6, 6): 1.0}, 24, pinned)[0][0] == "w6a6"
    assert best_of({(6, 6): 1.0}, 23.9, pinned) == []


def test_with_equal_bits_of_weights_and_activations_the_name_is_that_of_a_level():
    equal = make_search_space(space_of(2), same_bits=["*"])
    values = {(b, b): float(7 - b) for b in B}
    ((name, configuration),) = best_of(values, 50, equal)
    assert (name, configuration.tolist()) == ("w5a5", [[5, 5], [5, 5]])  # w6a5 is the same one
