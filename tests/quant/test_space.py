"""Configurations, masks and their text forms."""

import json

import numpy as np
import pytest

from rfquant_jax.errors import UserError
from rfquant_jax.quant.space import Space, largest_bits, smallest_bits

B = (6, 5, 4, 3, 2)


@pytest.fixture
def pair():
    """Two layers, the second of which never goes below 3 bits."""
    return Space(("a", "b.0"), B, np.asarray([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]], bool))


def test_uniform_configurations_are_clamped_to_each_layers_candidates(pair):
    assert pair.uniform(2, 5).tolist() == [[2, 5], [3, 5]]
    gap = Space(("a",), B, np.asarray([[0, 1, 0, 1, 0]], bool))
    assert gap.uniform(6, 4).tolist() == [[5, 3]]
    assert gap.uniform(2, 2).tolist() == [[3, 3]]


def test_largest_and_smallest():
    mask = np.asarray([[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]], bool)
    assert largest_bits(mask, B).tolist() == [5, 6]
    assert smallest_bits(mask, B).tolist() == [4, 2]


def test_json_round_trip(pair, tmp_path):
    configuration = np.asarray([[2, 6], [3, 5]], np.int32)
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"layers": pair.to_json(configuration), "top1": 3}))
    np.testing.assert_array_equal(pair.parse(str(file)), configuration)
    assert json.loads(file.read_text())["layers"] == {"a": [2, 6], "b.0": [3, 5]}


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ({"a": [4, 4]}, "missing layers: ['b.0']"),
        ({"a": [4, 4], "b.0": [4, 4], "c": [4, 4]}, "unknown layers: ['c']"),
        ({"a": [4, 7], "b.0": [4, 4]}, "layer a has [4, 7]; it takes"),
        ({"a": [4, 4], "b.0": [2, 4]}, "each one of [6, 5, 4, 3]"),
        ({"a": 4, "b.0": [4, 4]}, "layer a has 4"),
        ({"a": [True, 4], "b.0": [4, 4]}, "layer a has [True, 4]"),
        ([1, 2], 'has no "layers" mapping'),
    ],
)
def test_a_wrong_configuration_file_is_refused(pair, tmp_path, layers, said):
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"layers": layers}))
    with pytest.raises(UserError) as error:
        pair.parse(str(file))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("w7a4", "7 is not one of (6, 5, 4, 3, 2)"),
        ("w4", "neither a uniform one such as w4a4 nor a readable file"),
    ],
)
def test_a_wrong_uniform_configuration_is_refused(pair, text, said):
    with pytest.raises(UserError) as error:
        pair.parse(text)
    assert said in str(error.value)


def test_a_file_that_is_not_json_is_refused(pair, tmp_path):
    file = tmp_path / "c.json"
    file.write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        pair.parse(str(file))
