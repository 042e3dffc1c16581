"""Limits, pins and groups of a search."""

import numpy as np
import pytest

from rfquant_jax.errors import ConfigError
from rfquant_jax.quant.space import ACTIVATIONS, WEIGHTS, Space
from rfquant_jax.search.variables import make_knobs, without_frozen

B = (6, 5, 4, 3, 2)
SPACE = Space(
    ("a.conv1", "a.conv2", "b.dw"), B, np.asarray([[1] * 5, [1] * 5, [1, 1, 1, 1, 0]], bool)
)


def allowed(knobs):
    return {(knob.layers, knob.column): knob.allowed for knob in knobs.knobs}


def test_without_restrictions_every_layer_turns_by_itself():
    knobs = make_knobs(SPACE)
    assert allowed(knobs) == {
        ((layer,), column): (B if layer < 2 else B[:4])
        for layer in range(3)
        for column in (WEIGHTS, ACTIVATIONS)
    }
    np.testing.assert_array_equal(knobs.uniform(2, 5), SPACE.uniform(2, 5))


def test_limits_hold_for_all_and_leave_something():
    assert set(allowed(make_knobs(SPACE, min_bits=3, max_bits=5)).values()) == {(5, 4, 3)}
    only = make_knobs(SPACE, min_bits=2, max_bits=2)
    assert [knob.allowed for knob in only.of(WEIGHTS)] == [(2,), (2,), (3,)]
    assert {knob.allowed for knob in make_knobs(SPACE, min_bits=7).knobs} == {(6,)}


def test_a_pinned_layer_keeps_its_bits_whatever_the_limits():
    knobs = make_knobs(SPACE, min_bits=4, pins=[("a.*", (4, 4)), ("a.conv2", (2, 6))])
    found = knobs.uniform(5, 5)
    assert found.tolist() == [[4, 4], [2, 6], [5, 5]]
    turned = {knob.layers for knob, _ in knobs.neighbours(found)}
    assert turned == {(2,)}
    assert not knobs.holds(SPACE.uniform(5, 5))


def test_tied_layers_turn_together():
    knobs = make_knobs(SPACE, groups=[("activations", "a.conv2", "b.*")])
    assert [knob.layers for knob in knobs.of(ACTIVATIONS)] == [(0,), (1, 2)]
    assert [knob.layers for knob in knobs.of(WEIGHTS)] == [(0,), (1,), (2,)]
    (tied,) = [knob for knob in knobs.of(ACTIVATIONS) if len(knob.layers) == 2]
    assert tied.allowed == (6, 5, 4, 3)  # the depthwise layer has no 2 bits
    assert tied.turned(knobs.uniform(5, 5), 4).tolist() == [[5, 5], [5, 4], [5, 4]]
    assert knobs.holds(knobs.uniform(2, 2))
    assert not knobs.holds(np.asarray([[5, 5], [5, 4], [5, 3]]))


def test_samples_keep_every_restriction_and_reach_everything():
    knobs = make_knobs(SPACE, pins=[("a.conv1", (3, 3))], groups=[("weights", "a.conv2", "b.dw")])
    rng = np.random.default_rng(0)
    samples = [knobs.sample(rng) for _ in range(300)]
    assert all(knobs.holds(sample) for sample in samples)
    assert {int(sample[2, WEIGHTS]) for sample in samples} == {6, 5, 4, 3}
    assert {int(sample[1, ACTIVATIONS]) for sample in samples} == set(B)


def test_neighbours_are_one_step_away_down_before_up():
    moves = [
        (knob.layers[0], bits)
        for knob, bits in make_knobs(SPACE).neighbours(
            np.asarray([[6, 6], [4, 4], [3, 3]]), WEIGHTS
        )
    ]
    assert moves == [(0, 5), (1, 3), (1, 5), (2, 4)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pins": [("c", (4, 4))]}, "search.pins = 'c': matches none of a.conv1"),
        ({"pins": [("b.dw", (2, 4))]}, "layer b.dw takes"),
        ({"groups": [("both", "c*")]}, "search.groups = 'c.': matches none of"),
        ({"groups": [("both", "a.*"), ("weights", "a.conv1")]}, "a.conv1 is in another group"),
        (
            {"groups": [("both", "a.*")], "pins": [("a.conv1", (4, 4)), ("a.conv2", (5, 5))]},
            "have no bit-width in common",
        ),
    ],
)
def test_restrictions_that_do_not_fit_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        make_knobs(SPACE, **options)


def test_frozen_bit_widths_can_be_left_out():
    masks = np.stack([SPACE.full_mask, SPACE.full_mask])
    masks[WEIGHTS, 1, 4] = masks[WEIGHTS, 2, 3] = masks[ACTIVATIONS, 0, 4] = False
    pinned = [("a.conv1", (3, 2))]
    left = without_frozen(make_knobs(SPACE, max_bits=4, pins=pinned), masks)
    assert allowed(left) == {
        ((0,), WEIGHTS): (3,),
        ((1,), WEIGHTS): (4, 3),
        ((2,), WEIGHTS): (4,),
        ((0,), ACTIVATIONS): (2,),  # the pin is the user's own word
        ((1,), ACTIVATIONS): (4, 3, 2),
        ((2,), ACTIVATIONS): (4, 3),
    }
    masks[WEIGHTS, 1, 2] = False
    tied = make_knobs(SPACE, max_bits=4, groups=[("weights", "a.conv2", "b.dw")])
    with pytest.raises(ConfigError, match=r"a\.conv2, b\.dw.*that is not frozen"):
        without_frozen(tied, masks)
