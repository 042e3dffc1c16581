"""Limits, pins, groups and equal bits of a search."""

import numpy as np
import pytest

from rfquant_jax.errors import ArgumentError
from rfquant_jax.quant.space import ACTIVATIONS, WEIGHTS, Space
from rfquant_jax.search.variables import make_search_space, without_frozen

B = (6, 5, 4, 3, 2)
SPACE = Space(
    ("a.conv1", "a.conv2", "b.dw"), B, np.asarray([[1] * 5, [1] * 5, [1, 1, 1, 1, 0]], bool)
)


def allowed(search_space):
    return {
        (variable.layers, variable.column): variable.allowed for variable in search_space.variables
    }


def test_without_restrictions_every_layer_turns_by_itself():
    search_space = make_search_space(SPACE)
    assert allowed(search_space) == {
        ((layer,), column): (B if layer < 2 else B[:4])
        for layer in range(3)
        for column in (WEIGHTS, ACTIVATIONS)
    }
    np.testing.assert_array_equal(search_space.uniform(2, 5), SPACE.uniform(2, 5))


def test_limits_hold_for_all_and_leave_something():
    assert set(allowed(make_search_space(SPACE, min_bits=3, max_bits=5)).values()) == {(5, 4, 3)}
    only = make_search_space(SPACE, min_bits=2, max_bits=2)
    assert [variable.allowed for variable in only.of(WEIGHTS)] == [(2,), (2,), (3,)]
    assert {variable.allowed for variable in make_search_space(SPACE, min_bits=7).variables} == {
        (6,)
    }


def test_a_pinned_layer_keeps_its_bits_whatever_the_limits():
    search_space = make_search_space(SPACE, min_bits=4, pins=[("a.*", (4, 4)), ("a.conv2", (2, 6))])
    found = search_space.uniform(5, 5)
    assert found.tolist() == [[4, 4], [2, 6], [5, 5]]
    turned = {variable.layers for variable, _ in search_space.neighbours(found)}
    assert turned == {(2,)}
    assert not search_space.holds(SPACE.uniform(5, 5))


def test_tied_layers_turn_together():
    search_space = make_search_space(SPACE, groups=[("activations", "a.conv2", "b.*")])
    assert [variable.layers for variable in search_space.of(ACTIVATIONS)] == [(0,), (1, 2)]
    assert [variable.layers for variable in search_space.of(WEIGHTS)] == [(0,), (1,), (2,)]
    (tied,) = [variable for variable in search_space.of(ACTIVATIONS) if len(variable.layers) == 2]
    assert tied.allowed == (6, 5, 4, 3)  # the depthwise layer has no 2 bits
    assert tied.assign(search_space.uniform(5, 5), 4).tolist() == [[5, 5], [5, 4], [5, 4]]
    assert search_space.holds(search_space.uniform(2, 2))
    assert not search_space.holds(np.asarray([[5, 5], [5, 4], [5, 3]]))


def test_weights_and_activations_with_equal_bits_are_one_variable():
    search_space = make_search_space(SPACE, same_bits=["a.*"])
    first, second, third, last = search_space.variables
    assert first.places == ((0, WEIGHTS), (0, ACTIVATIONS))
    assert second.places == ((1, WEIGHTS), (1, ACTIVATIONS))
    assert (third.places, last.places) == (((2, WEIGHTS),), ((2, ACTIVATIONS),))
    # Uniform configurations do not exceed either limit.
    assert search_space.uniform(5, 3).tolist() == [[3, 3], [3, 3], [5, 3]]
    assert search_space.uniform(2, 6).tolist() == [[2, 2], [2, 2], [3, 6]]
    assert second.assign(search_space.uniform(4, 4), 2).tolist() == [[4, 4], [2, 2], [4, 4]]
    assert search_space.lowest.tolist() == [[2, 2], [2, 2], [3, 3]]
    assert search_space.holds(np.asarray([[4, 4], [2, 2], [3, 6]]))
    assert not search_space.holds(np.asarray([[4, 4], [2, 3], [3, 6]]))
    floor = search_space.floor(search_space.uniform(5, 5), ACTIVATIONS)
    assert floor.tolist() == [[5, 5], [5, 5], [5, 3]]  # only activations that move alone


def test_equal_bits_reach_through_groups():
    search_space = make_search_space(
        SPACE, same_bits=["a.conv2"], groups=[("activations", "a.conv1", "a.conv2", "b.dw")]
    )
    places = [variable.places for variable in search_space.variables]
    assert places == [
        ((0, WEIGHTS),),
        ((1, WEIGHTS), (0, ACTIVATIONS), (1, ACTIVATIONS), (2, ACTIVATIONS)),
        ((2, WEIGHTS),),
    ]
    assert search_space.variables[1].allowed == (6, 5, 4, 3)  # the depthwise layer has no 2 bits


def test_samples_keep_every_restriction_and_reach_everything():
    search_space = make_search_space(
        SPACE, pins=[("a.conv1", (3, 3))], groups=[("weights", "a.conv2", "b.dw")]
    )
    rng = np.random.default_rng(0)
    samples = [search_space.sample(rng) for _ in range(300)]
    assert all(search_space.holds(sample) for sample in samples)
    assert {int(sample[2, WEIGHTS]) for sample in samples} == {6, 5, 4, 3}
    assert {int(sample[1, ACTIVATIONS]) for sample in samples} == set(B)


def test_neighbours_are_one_step_away_down_before_up():
    moves = [
        (variable.layers[0], bits)
        for variable, bits in make_search_space(SPACE).neighbours(
            np.asarray([[6, 6], [4, 4], [3, 3]]), WEIGHTS
        )
    ]
    assert moves == [(0, 5), (1, 3), (1, 5), (2, 4)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pins": [("c", (4, 4))]}, "`pins` = 'c': matches none of a.conv1"),
        ({"pins": [("b.dw", (2, 4))]}, "layer b.dw takes"),
        ({"groups": [("both", "c*")]}, "`groups` = 'c.': matches none of"),
        ({"groups": [("both", "a.*"), ("weights", "a.conv1")]}, "a.conv1 is in another group"),
        ({"same_bits": ["c*"]}, "`same_bits` = 'c.': matches none of a.conv1, a.conv2, b.dw"),
        (
            {"same_bits": ["a.*"], "pins": [("a.conv2", (4, 3))]},
            r"`same_bits` = 'a.\*': layer a.conv2 has no bit-width in common: its weights take "
            r"\(4,\), its activations \(3,\)",
        ),
        (
            {
                "same_bits": ["a.conv1"],
                "groups": [("weights", "a.conv1", "b.dw")],
                "pins": [("a.conv1", (2, 2)), ("b.dw", (3, 2 + 1))],
            },
            "`groups` = 'a.conv1, b.dw': have no bit-width in common",
        ),
        (
            {"groups": [("both", "a.*")], "pins": [("a.conv1", (4, 4)), ("a.conv2", (5, 5))]},
            "have no bit-width in common",
        ),
    ],
)
def test_restrictions_that_do_not_fit_are_refused(options, said):
    with pytest.raises(ArgumentError, match=said):
        make_search_space(SPACE, **options)


def test_frozen_bit_widths_can_be_left_out():
    masks = np.stack([SPACE.full_mask, SPACE.full_mask])
    masks[WEIGHTS, 1, 4] = masks[WEIGHTS, 2, 3] = masks[ACTIVATIONS, 0, 4] = False
    pinned = [("a.conv1", (3, 2))]
    left = without_frozen(make_search_space(SPACE, max_bits=4, pins=pinned), masks)
    assert allowed(left) == {
        ((0,), WEIGHTS): (3,),
        ((1,), WEIGHTS): (4, 3),
        ((2,), WEIGHTS): (4,),
        ((0,), ACTIVATIONS): (2,),  # the pin is the user's own word
        ((1,), ACTIVATIONS): (4, 3, 2),
        ((2,), ACTIVATIONS): (4, 3),
    }
    equal = without_frozen(make_search_space(SPACE, same_bits=["a.*"]), masks)
    assert [variable.allowed for variable in equal.variables[:2]] == [B[:4], B[:4]]
    masks[WEIGHTS, 1, 2] = False
    tied = make_search_space(SPACE, max_bits=4, groups=[("weights", "a.conv2", "b.dw")])
    with pytest.raises(ArgumentError, match=r"a\.conv2, b\.dw.*that is not frozen"):
        without_frozen(tied, masks)
