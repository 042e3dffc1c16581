"""Names of search algorithms: each leads to its own algorithm, an unknown one to an error."""

import pytest

from configs import default
from rfquant_jax.config.fields import check_fields
from rfquant_jax.config.search_algorithms import ALGORITHMS, ON_PROFILE, search_algorithm
from rfquant_jax.errors import ConfigError
from rfquant_jax.search.problem import greedy_search
from rfquant_jax.search.sampling import evolution, random_search


def build(name, **fields):
    config = default.get_config()
    config.search.algorithm = name
    config.search.update(fields)
    return search_algorithm(config, 3, lambda move, configuration: None)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("greedy", greedy_search),
        ("paper", greedy_search),
        ("evolution", evolution),
        ("random", random_search),
    ],
)
def test_each_name_builds_its_own_algorithm(name, function):
    assert build(name).func is function


def test_only_paper_normalizes_by_the_maximum():
    assert build("paper").keywords["settings"].normalize == "max"
    assert build("greedy").keywords["settings"].normalize == "minmax"


def test_the_fields_of_a_search_reach_its_algorithm():
    assert build("random", evaluations=17, keep=2, min_load=0.5).keywords == {
        "evaluations": 17,
        "keep": 2,
        "least": 0.5,
    }
    settings = build("evolution", population=11, generations=7, keep=3).keywords["settings"]
    assert (settings.population, settings.generations, settings.parents) == (11, 7, 3)
    assert (settings.mutations, settings.crossovers) == (5, 5)


@pytest.mark.parametrize("name", [ON_PROFILE, "magic"])
def test_a_name_without_such_an_algorithm_is_an_error(name):
    with pytest.raises(ConfigError, match=rf"config.search.algorithm = '{name}'.*greedy, paper"):
        build(name)


def test_the_config_takes_exactly_the_known_names():
    config = default.get_config()
    for name in (ON_PROFILE, *ALGORITHMS):
        config.search.algorithm = name
        check_fields(config)
    config.search.algorithm = "magic"
    with pytest.raises(ConfigError) as found:
        check_fields(config)
    rule = str(found.value).partition("must be ")[2].replace(" or ", ", ")
    assert set(rule.split(", ")) == {ON_PROFILE, *ALGORITHMS}
