"""The weights in what training programs save."""

import numpy as np
import pytest

from rfquant_jax.models.pretrained.state_dict import find_weights, unwrapped

A, B = np.zeros(2), np.ones(2)


@pytest.mark.parametrize(
    ("content", "value", "path"),
    [
        ({"a": A, "epoch": 3}, A, ""),
        ({"state_dict": {"a": A}, "optimizer": {"a": B}}, A, "state_dict"),
        ({"model_state_dict": {"a": A}}, A, "model_state_dict"),
        ({"net": {"a": A}}, A, "net"),
        ({"model": {"a": B}, "ema": {"a": A}}, A, "ema"),  # EMA first
        ({"state_dict": {"a": B}, "state_dict_ema": {"a": A}}, A, "state_dict_ema"),
        ({"ema": {"decay": 0.9}, "state_dict": {"a": A}}, A, "state_dict"),  # no weights in there
        ({"checkpoint": 1, "model": {"state_dict": {"a": A}}}, A, "model.state_dict"),
        ({"model": {"a": A, "n_averaged": np.int64(5)}}, A, "model"),
    ],
)
def test_weights_are_found_where_programs_put_them(content, value, path):
    tensors, found = find_weights(content)
    assert list(tensors) == ["a"]
    assert tensors["a"] is value
    assert found == path


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"state_dict": {}}, {"n_averaged": A}])
def test_a_mapping_without_weights_is_refused(content):
    with pytest.raises(LookupError, match="no mapping of names to tensors"):
        find_weights(content)


def test_prefixes_go_one_by_one_while_all_names_share_them():
    names = ["module.model.a", "module.model.b"]
    assert list(unwrapped(names)) == [
        {n: n for n in names},
        {"model.a": "module.model.a", "model.b": "module.model.b"},
        {"a": "module.model.a", "b": "module.model.b"},
    ]
    assert list(unwrapped(["module.a", "b"])) == [{"module.a": "module.a", "b": "b"}]
